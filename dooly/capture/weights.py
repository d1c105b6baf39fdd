"""Parameters as the engine leaves them once a checkpoint is loaded: its own code, run on sizes without data."""

# pyright: reportPrivateUsage=false
# PyTorch and vLLM have no public way to do this.
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, cast

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental import _config as _fx_config
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.overrides import TorchFunctionMode
from vllm.model_executor.layers.fused_moe import RoutedExperts
from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase

from dooly.capture.configint import ConfigInt, Facts
from dooly.capture.symbolic_attributes import replace_numbers
from dooly.capture.symbols import Reader
from dooly.capture.trace_inputs import Atoms, compute
from dooly.errors import CaptureError
from dooly.ir.expr import Expr

__all__ = ["Sizes", "as_loaded", "quantized_modules"]

Sizes = dict[str, tuple[Expr, ...]]
"""Shapes of parameters and buffers by name."""


def as_loaded(model: torch.nn.Module, sizes: Sizes, values: Mapping[str, int], facts: Facts) -> frozenset[str]:
    """Do to quantized parameters on the meta device what the engine does once it has loaded a checkpoint.

    Returns names of matrices that the engine's kernels take transposed; ``sizes`` has one row per output for them.

    Args:
        sizes: of the parameters as they were made; brought up to date.
        values: of the configuration symbols.
    """
    transposed: set[str] = set()
    loading = _Loading(values, facts)
    for path, module in quantized_modules(model):
        own = {name: sizes.pop(f"{path}.{name}") for name, _ in _tensors(module) if f"{path}.{name}" in sizes}
        made, turned = loading.load(module, own)
        sizes |= {f"{path}.{name}": size for name, size in made.items()}
        transposed |= {f"{path}.{name}" for name in turned}
    return frozenset(transposed)


def quantized_modules(model: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """Modules whose parameters, or whose cache, are not of the model's own type, with their paths.

    Experts are left out: loading puts one after the other into the layout of their kernel, in as many bytes.
    """
    for path, module in model.named_modules():
        method = getattr(module, "quant_method", None)
        plain = not isinstance(method, QuantizeMethodBase) or type(method).__name__.startswith("Unquantized")
        if not plain and not isinstance(module, RoutedExperts):
            yield path, module


def _tensors(module: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]


class _Loading:
    """Sizes of the configuration as symbols of PyTorch, for modules that are loaded one after the other."""

    def __init__(self, values: Mapping[str, int], facts: Facts) -> None:
        self._facts, self._atoms = facts, Atoms(values, facts)
        self._environment = ShapeEnv(duck_shape=False, specialize_zero_one=False)
        fake = FakeTensorMode(shape_env=self._environment)
        dynamic: Any = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC])
        self._inputs: dict[str, Any] = {
            name: fake.from_tensor(torch.empty(value, device="meta"), symbolic_context=dynamic).shape[0]
            for name, value in self._atoms.values.items()
        }
        meanings = {size.node.expr: self._atoms.meanings[name] for name, size in self._inputs.items()}
        self._reader = Reader(meanings, facts)

    def load(self, module: Any, sizes: Mapping[str, tuple[Expr, ...]]) -> tuple[Sizes, frozenset[str]]:
        """Sizes of the tensors that the module has then, and which are matrices that are stored the other way round."""
        shared = {name for name, _ in _tensors(module)} - sizes.keys()  # another module's, which has their sizes
        for name, size in sizes.items():
            tensor = getattr(module, name)
            tensor.data = torch.empty([self._size(dim) for dim in size], dtype=tensor.dtype, device="meta")
        self._run(module)
        for name, value in list(vars(module).items()):
            if isinstance(value, torch.Tensor):
                delattr(module, name)
                module.register_buffer(name, value)
        made: Sizes = {}
        turned: set[str] = set()
        for name, tensor in _tensors(module):
            if name in shared:
                continue
            made[name] = tuple(self._reader.size(dim) for dim in tensor.shape)
            if tensor.dim() == 2 and tensor.stride()[0] == 1 != tensor.stride()[1]:
                turned.add(name)
                made[name] = made[name][::-1]
            tensor.data = torch.empty([_hint(dim) for dim in tensor.shape], dtype=tensor.dtype, device="meta")
        return made, frozenset(turned)

    def _run(self, module: Any) -> None:
        replace_numbers((module,), ConfigInt, self._size)
        with ExitStack() as stack:
            stack.enter_context(enable_python_dispatcher())
            stack.enter_context(torch.device("meta"))
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.enter_context(cast(Any, _fx_config).patch(meta_nonzero_assume_all_nonzero=True))
            stack.enter_context(_Ones())
            module.quant_method.process_weights_after_loading(module)
        replace_numbers((module,), torch.SymInt, self._number)
        if self._environment.replacements:
            raise CaptureError(f"loading fixes sizes: {self._environment.replacements}")

    def _size(self, value: ConfigInt | Expr) -> Any:
        return compute(self._atoms.rewrite(value.expr if isinstance(value, ConfigInt) else value), self._inputs)

    def _number(self, size: torch.SymInt) -> ConfigInt:
        return ConfigInt(_hint(size), self._reader.size(size), self._facts)


def _hint(size: Any) -> int:
    return int(size.node.hint) if isinstance(size, torch.SymInt) else int(size)


class _Ones(TorchFunctionMode):
    """Answers ones to code that looks at values (scales, above all): there is no data, and no size depends on it."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        answer = _ANSWERS.get(func)
        if answer is not None:
            return answer(args[0])
        if func is _MOVE:
            return _moved(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _one(tensor: torch.Tensor) -> float | int:
    return 1.0 if tensor.dtype.is_floating_point else 1


_MOVE = cast("Callable[..., Any]", torch.Tensor.to)


def _moved(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """``tensor.to(...)``: whatever the device, it is the one without data."""
    rest = [each for each in args if not isinstance(each, str | torch.device)]
    kwargs.pop("device", None)
    here = tensor if tensor.is_meta else torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    return here.to(*rest, **kwargs) if rest or kwargs else here


class _Nowhere:
    """Which elements are no numbers."""

    def any(self) -> bool:
        return False


def _ones(tensor: torch.Tensor) -> Any:
    return [_one(tensor)] * _hint(tensor.shape[0]) if tensor.dim() else _one(tensor)


_ANSWERS: Mapping[Callable[..., Any], Callable[[torch.Tensor], Any]] = {
    cast("Callable[..., Any]", torch.Tensor.item): _one,
    cast("Callable[..., Any]", torch.Tensor.tolist): _ones,
    torch.Tensor.__bool__: lambda _: True,
    torch.Tensor.__float__: lambda _: 1.0,
    torch.Tensor.__int__: lambda _: 1,
    torch.isnan: lambda _: _Nowhere(),
    torch.unique: lambda tensor: torch.empty(1, dtype=tensor.dtype),
    torch.equal: lambda _: True,
    torch.allclose: lambda _: True,
}
