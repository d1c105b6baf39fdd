"""Any PyTorch module through ``torch.export``: its configuration values are inputs of the graph, and so its symbols."""

# pyright: reportPrivateUsage=false
# PyTorch has no public way to do this.
from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

import sympy
import torch
from torch._dynamo.exc import UserError
from torch.export import Dim, export
from torch.fx.experimental import _config
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from dooly.capture.build import explained
from dooly.capture.configint import ConfigInt, Facts
from dooly.capture.fx import Converter
from dooly.capture.opaque_modules import DTYPES
from dooly.capture.sizes import SizeRecorder
from dooly.capture.symbolic_attributes import rebound
from dooly.capture.symbols import Reader
from dooly.capture.trace_hooks import ModelCode, annotated, last_node
from dooly.capture.trace_inputs import Atoms, compute
from dooly.errors import CaptureError
from dooly.ir import Divides, Graph, TensorType, format_expr, parse_expr, symbol, symbols_of
from dooly.ir.expr import Expr

__all__ = ["TORCH_DTYPES", "Exported", "Inputs", "export_built", "export_module"]

_HINTS = (1021, 17, 211, 31)
"""Sizes of request symbols that decide data-independent branches; no dimension of the result depends on them."""

Inputs = Mapping[str, tuple[str, Sequence[str | int]]]
"""Element type and dimensions of each tensor input; dimensions are expressions, as text."""


@dataclass(frozen=True)
class Exported:
    """A module built from integers that carry their expressions, before it is exported.

    Attributes:
        model: parameters on the meta device.
        call: runs the model on the tensor inputs, in their order.
        values: configuration symbols with their values; facts: divisibility asserted while building.
        sizes: shape of each parameter and buffer by name.
        roots: objects beside the model whose attributes are such integers.
    """

    model: torch.nn.Module
    call: Callable[..., Any]
    values: Mapping[str, int]
    facts: Facts
    sizes: Mapping[str, tuple[Expr, ...]]
    roots: tuple[object, ...] = ()


def export_module(
    name: str, factory: Callable[[Mapping[str, int]], torch.nn.Module], config: Mapping[str, int], inputs: Inputs
) -> Graph:
    """Graph of a module's forward pass in which every dimension is an expression of ``config`` and of request symbols.

    Args:
        factory: builds the module from values that are integers, and remember what became of them.
        config: symbols with their values, each at least 2.
        inputs: tensors of ``forward`` by name: ``{"x": ("f32", ("T", "H"))}``; symbols that ``config`` does not have
            are request symbols.

    Raises:
        CaptureError: the module cannot be built or exported, or fixes a size that ``config`` decides.
    """
    facts = Facts()
    symbols = {key: ConfigInt(value, symbol(key), facts) for key, value in config.items()}
    recorder = SizeRecorder()
    with explained(name, "the module cannot be built"), torch.device("meta"), recorder:
        model = factory(symbols)
    sizes = {
        key: recorder.sizes(tensor) or tuple(sympy.Integer(dim) for dim in tensor.shape)
        for key, tensor in (*model.named_parameters(), *model.named_buffers())
    }
    return export_built(name, Exported(model, lambda *tensors: model(*tensors), config, facts, sizes), inputs)


def export_built(name: str, exported: Exported, inputs: Inputs) -> Graph:
    """Graph of a built module; layers are counted once each.

    Raises:
        CaptureError: as for ``export_module``.
    """
    atoms = Atoms(exported.values, exported.facts, divisor=None)
    types = {
        key: TensorType(dtype, tuple(parse_expr(str(dim)) for dim in dims)) for key, (dtype, dims) in inputs.items()
    }
    used = {each for type_ in types.values() for dim in type_.shape for each in symbols_of(dim)}
    request = sorted(used - {*exported.values})
    hints = {**exported.values, **dict(zip(request, _HINTS))}
    tensors = tuple(
        torch.empty([compute(dim, hints) for dim in type_.shape], dtype=TORCH_DTYPES[type_.dtype], device="meta")
        for type_ in types.values()
    )
    dynamic = tuple(
        {axis: Dim.DYNAMIC for axis, dim in enumerate(type_.shape) if not dim.is_Integer} for type_ in types.values()
    )
    numbers = tuple(atoms.values.values())
    with ExitStack() as stack:
        stack.enter_context(explained(name, "the module cannot be exported"))
        stack.enter_context(cast(Any, _config).patch(use_duck_shape=False))
        stack.enter_context(torch.no_grad())
        try:
            program = export(
                _Step(exported, atoms),
                (tensors, numbers),
                dynamic_shapes={"tensors": dynamic, "numbers": tuple(Dim.DYNAMIC for _ in numbers)},
                strict=False,
            )
        except UserError as error:
            text = _fixed(error, tuple(atoms.values), atoms.meanings)
            raise CaptureError(f"{name}: the module cannot be exported: {text}") from error
    graph = program.graph
    for node in reversed(graph.nodes):
        if node.op == "call_function" and str(node.target).startswith(_CHECKS):
            graph.erase_node(node)
        elif node.target is torch.ops.aten.slice.Tensor and _takes_all(*node.args[2:]):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    meanings: dict[Any, Expr] = {}
    for node, type_ in zip(placeholders, types.values()):
        for size, dim in zip(node.meta["val"].shape, type_.shape):
            if dim.is_Symbol and isinstance(size, torch.SymInt):
                meanings[size.node.expr] = dim
    for node, key in zip(placeholders[len(types) :], atoms.values):
        known = meanings.setdefault(node.meta["val"].node.expr, atoms.meanings[key])
        if known != atoms.meanings[key]:
            raise CaptureError(f"{name}: the module takes {known} and {atoms.meanings[key]} for one size")
    weights = {node.name: node.meta["weight"] for node in graph.nodes if "weight" in node.meta}
    parameters = frozenset(key for key, _ in exported.model.named_parameters())
    converter = Converter(Reader(meanings, exported.facts), weights, parameters, lambda _: cast(Expr, sympy.Integer(1)))
    converter.convert(graph, tuple(types))
    return Graph(
        name=name,
        config=tuple(exported.values.items()),
        request=tuple(request),
        facts=tuple(Divides(divisor, dividend) for divisor, dividend in exported.facts),
        settings=(("engine", f"torch.export {torch.__version__}"),),
        captured=converter.captured,
        ops=tuple(converter.ops),
        outputs=converter.outputs,
        free=tuple(converter.free),
    )


TORCH_DTYPES = {name: dtype for dtype, name in DTYPES.items()}
"""PyTorch's element types by the name that the IR uses."""

_CHECKS = ("aten._assert", "aten.sym_constrain", "aten._check")
"""Notes of export about sizes and types; nothing runs."""


def _places(model: torch.nn.Module) -> dict[str, list[tuple[Any, str]]]:
    """Return where each parameter and buffer is kept: tables and names, several where modules share a tensor."""
    names = {id(tensor): name for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    found: dict[str, list[tuple[Any, str]]] = {name: [] for name in names.values()}
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for leaf, tensor in held.items():
                if tensor is not None:
                    found[names[id(tensor)]].append((held, leaf))
    return found


def _fixed(error: UserError, names: Sequence[str], meanings: Mapping[str, Expr]) -> str:
    """The inputs that the code takes as plain numbers, in our symbols; what PyTorch says where there are none."""
    numbers = sorted({int(index) for index in re.findall(r"L\['numbers'\]\[(\d+)\]", str(error))})
    if not numbers:
        return " ".join(str(error).split())[:300]
    return f"its code takes {', '.join(format_expr(meanings[names[index]]) for index in numbers)} as plain numbers"


def _refuse(value: ConfigInt) -> None:
    raise CaptureError(f"an operation got the number {int(value)} for {value.expr}")


def _takes_all(start: Any = None, end: Any = None, step: Any = 1) -> bool:
    """Whether a slice is ``:``, which export writes and PyTorch does not run."""
    return start in (None, 0) and end in (None, sys.maxsize) and step == 1


class _Step(torch.nn.Module):
    """The module's forward pass with its configuration as inputs; parameters are made of their sizes."""

    def __init__(self, exported: Exported, atoms: Atoms) -> None:
        super().__init__()
        self._held = (exported, atoms)  # not as a submodule: its parameters are no inputs

    def forward(self, tensors: tuple[torch.Tensor, ...], numbers: tuple[int, ...]) -> Any:
        exported, atoms = self._held
        bound = dict(zip(atoms.values, numbers))
        tracer = cast(Any, get_proxy_mode()).tracer
        box = torch.nn.Module()
        box.model = exported.model

        def size(value: ConfigInt | Expr) -> Any:
            return compute(atoms.rewrite(value.expr if isinstance(value, ConfigInt) else value), bound)

        with ExitStack() as stack:
            stack.enter_context(annotated(tracer.graph, box))
            places = _places(exported.model)
            for name, shape in exported.sizes.items():
                first, leaf = places[name][0]
                made = torch.empty([size(dim) for dim in shape], dtype=first[leaf].dtype, device="meta")
                last_node(tracer.graph).meta["weight"] = name
                for held, leaf in places[name]:
                    stack.callback(held.__setitem__, leaf, held[leaf])
                    held[leaf] = made
            stack.enter_context(rebound((exported.model, *exported.roots), size))
            stack.enter_context(ModelCode(tracer.graph, _refuse))
            return exported.call(*tensors)
