"""From a configuration to the IR of one engine step, through vLLM's own model code."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Set
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import Any, cast

import sympy
import torch

from dooly.capture.build import Built, build, explained
from dooly.capture.canonical import canonical
from dooly.capture.checked import amounts, check_counts, check_sizes
from dooly.capture.config import FIELDS
from dooly.capture.fx import Converter
from dooly.capture.layers import plan_layers
from dooly.capture.opaque_modules import DTYPES, opaque_kind, owners
from dooly.capture.options import Options
from dooly.capture.schemes import schemes_of
from dooly.capture.stages import Stage, distinct_stages
from dooly.capture.step import INPUTS
from dooly.capture.structure import keep_layers, layer_kinds, layers_path
from dooly.capture.symbols import Reader
from dooly.capture.time_limit import limited
from dooly.capture.trace import trace
from dooly.errors import CaptureError
from dooly.ir import Divides, Expr, Graph, Op, Owner, leaves, symbol, symbols_of

__all__ = ["capture_config", "counted_ops", "described", "kinds_of", "names_of"]


def capture_config(name: str, config: Mapping[str, Any], options: Options) -> tuple[Graph, ...]:
    """Capture a checked configuration on the active platform: a graph for each distinct pipeline stage.

    Raises:
        CaptureError: the engine refuses the configuration, or its code does something that a graph cannot say.
    """
    with limited(name):
        config = canonical(config)
        kinds = kinds_of(name, config, options)
    capture = partial(_captured, name, config, options, len(kinds))
    return tuple(
        _with_free_heads(config, partial(capture, stage)) for stage in distinct_stages(kinds, options.parallel.pp)
    )


def kinds_of(name: str, config: Mapping[str, Any], options: Options) -> tuple[Hashable, ...]:
    """One value for each layer of a model; layers with equal values are built alike.

    Raises:
        CaptureError: the engine refuses the configuration.
    """
    alone = replace(options, parallel=replace(options.parallel, pp=1))
    with build(config, alone, name, plain=True, loaded=False) as built:
        return layer_kinds(built.model)


def _with_free_heads(config: Mapping[str, Any], capture: Callable[[Mapping[str, Expr]], Graph]) -> Graph:
    """The graph of a stage.  The head size is a symbol of its own where the model's code lets it be one.

    Args:
        capture: with fields that are expressions of others.
    """
    tied = {"head_dim": symbol("H") / symbol("Nq")}
    heads, hidden = config.get("num_attention_heads"), config["hidden_size"]
    if not isinstance(heads, int) or config.get("head_dim", hidden // heads) * heads != hidden:
        return capture({})
    try:
        graph = capture({})
    except CaptureError:
        return capture(tied)
    return graph if not graph.fixed else min(graph, capture(tied), key=lambda each: len(each.fixed))


def _captured(
    name: str, config: Mapping[str, Any], options: Options, depth: int, stage: Stage, ties: Mapping[str, Expr]
) -> Graph:
    plan = plan_layers(stage.kinds)
    numbers = [stage.start + layer for layer in plan.layers]
    with limited(name), build(config, options, name, stage=stage.rank, ties=ties) as built:
        keep_layers(built.model, numbers, stage.start)
        path = layers_path(built.model)
        names = names_of(built.model)
        with explained(name, "the engine's code for this model cannot be traced"):
            traced = trace(built)
        parameters = frozenset(parameter for parameter, _ in built.model.named_parameters())
        converter = Converter(
            Reader(traced.meanings, built.facts),
            traced.weights,
            parameters,
            lambda group: options.parallel.group(group)[1],
            schemes_of(built.model, built.vllm_config),
        )
        converter.convert(traced.module.graph, INPUTS)
        calls = [(op.target, str(op.attr("layer_name"))) for op in converter.ops]
        found = described(built, names, calls)
        loaded, whole = amounts(built.model), built.registered
        kept = {each: amount for each, amount in whole.items() if _layer(each, path) in {None, *numbers}}
    backends = sorted({str(dict(owner.attrs)["backend"]) for owner in found if "attention" in owner.kind})
    pipeline = (("stages", stage.ranks),) if options.parallel.pp > 1 else ()
    layers = {symbol("Nl"): stage.layers}
    counts = {number: cast(Expr, count.xreplace(layers)) for number, count in zip(numbers, plan.counts)}
    graph = Graph(
        name=f"{name} stages {stage.ranks}" if pipeline else name,
        config=(),
        request=("L", "T"),
        settings=(
            ("backend", ",".join(backends)),
            ("dtype", DTYPES[built.vllm_config.model_config.dtype]),
            ("engine", f"vllm {_engine_version()}"),
            ("mode", "eager" if options.eager else "compiled"),
            ("platform", options.platform),
            *pipeline,
        ),
        fixed=traced.fixed,
        owners=found,
        captured=converter.captured,
        ops=counted_ops(converter.ops, counts, path),
        outputs=converter.outputs,
        free=tuple(converter.free),
    )
    values = {**built.values, **plan.values, **options.parallel.symbols, "Nl": depth}
    graph = _with_symbols(graph, values, {*FIELDS.values(), *plan.values, *options.parallel.symbols}, built.facts)
    check_sizes(graph, loaded, name)
    check_counts(kept, graph, counted_by(counts, path), whole, name)
    return graph


def _with_symbols(graph: Graph, values: Mapping[str, int], short: Set[str], facts: Iterable[Any]) -> Graph:
    """The graph with its symbols and what is known of them: those with short names, and of all others what occurs."""
    found = [e for _, e in (*graph.expressions(), *graph.attribute_expressions())]
    found += [e for each in graph.fixed for e in (each.size, each.value)]
    found += [e for owner in graph.owners for e in leaves(tuple(value for _, value in owner.attrs))]
    used = short | {name for e in found for name in symbols_of(e)}
    known = {name: value for name, value in values.items() if name in used}
    stated = [Divides(*fact) for fact in facts if symbols_of(fact[0]) | symbols_of(fact[1]) <= known.keys()]
    needed = [each for each in stated if not any(_follows(each, other) for other in stated)]
    ordered = sorted(needed, key=lambda fact: bool(fact.divisor.is_Integer))  # what numbers divide comes last
    return replace(graph, config=tuple(known.items()), facts=tuple(ordered))


def _follows(fact: Divides, other: Divides) -> bool:
    """Whether a number divides what a multiple of it divides."""
    if fact == other or fact.dividend != other.dividend or not (fact.divisor.is_Integer and other.divisor.is_Integer):
        return False
    return int(cast(int, other.divisor)) % int(cast(int, fact.divisor)) == 0


def names_of(model: torch.nn.Module) -> dict[int, str]:
    """Paths of modules and parameters by ``id``."""
    return {id(item): name for name, item in (*model.named_modules(), *model.named_parameters())}


def described(built: Built, names: Mapping[int, str], calls: Iterable[tuple[str, str]]) -> tuple[Owner, ...]:
    """Return what the modules behind opaque operations say, of all operations as ``(target, layer name)``."""
    opaque = [(kind, layer) for target, layer in calls if (kind := opaque_kind(target)) is not None]
    return owners(opaque, built.vllm_config.compilation_config.static_forward_context, names)


def counted_ops(ops: Iterable[Op], counts: Mapping[int, Expr], path: str) -> tuple[Op, ...]:
    """Operations with the number of times that the stage does them; layers share their rotary tables.

    Args:
        counts: how many layers each layer in the list at ``path`` stands for, by its number.
    """
    count_of = counted_by(counts, path)
    return tuple(op if op.path.endswith(".cos_sin_cache") else replace(op, count=count_of(op.path)) for op in ops)


def counted_by(counts: Mapping[int, Expr], path: str) -> Callable[[str], Expr]:
    """How many layers of the stage that of a module or parameter stands for; one outside of the layers is once.

    Raises:
        CaptureError: of the function, for a layer that was not asked for.
    """

    def count(name: str) -> Expr:
        number = _layer(name, path)
        if number is None:
            return sympy.Integer(1)
        if number not in counts:
            raise CaptureError(
                f"{name}: a layer beyond the {len(counts)} that were asked for; the model does not go by its "
                "num_hidden_layers, which is not captured"
            )
        return counts[number]

    return count


def _layer(name: str, path: str) -> int | None:
    """Number of the layer that a module or parameter is in; None for one outside of the layers."""
    inside = name.startswith(f"{path}.")
    return int(name.removeprefix(f"{path}.").partition(".")[0]) if inside else None


def _engine_version() -> str:
    import vllm

    return str(getattr(vllm, "__version__", None) or version("vllm"))
