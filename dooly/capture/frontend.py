"""From a configuration to the IR of one engine step, through vLLM's own model code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any, cast

import sympy
import torch
from transformers import AutoConfig

from dooly.capture.build import Built, build, explained
from dooly.capture.checked import amounts, check_counts, check_sizes
from dooly.capture.config import config_values
from dooly.capture.fx import Converter
from dooly.capture.layers import DERIVED, can_thin, layer_kinds, plan_layers, shorten
from dooly.capture.numbering import renumbered
from dooly.capture.opaque_modules import DTYPES, opaque_kind, owners
from dooly.capture.options import Options
from dooly.capture.parallel_groups import layers_of
from dooly.capture.schemes import schemes_of
from dooly.capture.stages import Stage, distinct_stages
from dooly.capture.step import INPUTS
from dooly.capture.symbols import Reader
from dooly.capture.time_limit import limited
from dooly.capture.trace import trace
from dooly.errors import CaptureError
from dooly.ir import Divides, Expr, Graph, Op, Owner, symbol

__all__ = ["capture_config", "counted_ops", "derived", "described", "layers_path", "names_of"]


def capture_config(name: str, config: Mapping[str, Any], options: Options) -> tuple[Graph, ...]:
    """Capture a checked configuration on the active platform: a graph for each distinct pipeline stage.

    Raises:
        CaptureError: the engine refuses the configuration, or its code does something that a graph cannot say.
    """
    with limited(name), explained(name, "the engine refuses this configuration"):
        config = {**derived(config), **config}
    stages = distinct_stages(layer_kinds(config), options.parallel.pp)
    return tuple(_capture(name, config, options, stage) for stage in stages)


def _capture(name: str, config: Mapping[str, Any], options: Options, stage: Stage) -> Graph:
    with limited(name):
        return _captured(name, config, options, stage)


def _captured(name: str, config: Mapping[str, Any], options: Options, stage: Stage) -> Graph:
    plan = plan_layers(stage.kinds, thin=can_thin(config))
    depth = stage.start + plan.depth
    layers = (*range(stage.start), *(stage.start + layer for layer in plan.layers))
    with layers_of(stage, plan.depth), build(shorten(config, layers), options, name, stage=stage.rank) as built:
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
        loaded = amounts(built.model)
    values = {**config_values(config), **plan.values, **options.parallel.symbols}
    backends = sorted({str(dict(owner.attrs)["backend"]) for owner in found if "attention" in owner.kind})
    pipeline = (("stages", stage.ranks),) if options.parallel.pp > 1 else ()
    counts = [cast(Expr, count.xreplace({symbol("Nl"): stage.layers})) for count in plan.counts]
    path = layers_path(built.model, depth)
    graph = Graph(
        name=f"{name} stages {stage.ranks}" if pipeline else name,
        config=tuple(values.items()),
        request=("L", "T"),
        facts=tuple(Divides(divisor, dividend) for divisor, dividend in built.facts),
        settings=(
            ("backend", ",".join(backends)),
            ("dtype", DTYPES[built.vllm_config.model_config.dtype]),
            ("engine", f"vllm {_engine_version()}"),
            ("mode", "eager" if options.eager else "compiled"),
            ("platform", options.platform),
            *pipeline,
        ),
        owners=found,
        captured=converter.captured,
        ops=counted_ops(converter.ops, counts, path, stage.start),
        outputs=converter.outputs,
        free=tuple(converter.free),
    )
    check_sizes(graph, loaded, name)
    whole = shorten(config, range(stage.start + len(stage.kinds)))
    with (
        layers_of(stage, len(stage.kinds)),
        build(whole, options, name, stage=stage.rank, plain=True, loaded=False) as full,
    ):
        check_counts(built.registered, graph, counted_by(counts, path, stage.start), full.registered, name)
    return renumbered(graph, path, lambda layer: layers[layer])


def derived(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the model's configuration class knows about its layers, beside what it computes from fields."""
    fields = {key: value for key, value in config.items() if key != "model_type"}
    known = AutoConfig.for_model(config["model_type"], **fields)
    stored = (key for key in DERIVED if not isinstance(getattr(type(known), key, None), property))
    return {key: getattr(known, key) for key in stored if getattr(known, key, None) is not None}


def names_of(model: torch.nn.Module) -> dict[int, str]:
    """Paths of modules and parameters by ``id``."""
    return {id(item): name for name, item in (*model.named_modules(), *model.named_parameters())}


def described(built: Built, names: Mapping[int, str], calls: Iterable[tuple[str, str]]) -> tuple[Owner, ...]:
    """Return what the modules behind opaque operations say, of all operations as ``(target, layer name)``."""
    opaque = [(kind, layer) for target, layer in calls if (kind := opaque_kind(target)) is not None]
    return owners(opaque, built.vllm_config.compilation_config.static_forward_context, names)


def layers_path(model: torch.nn.Module, depth: int) -> str:
    """Path of the list of decoder layers."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth:
            return name
    raise CaptureError(f"{type(model).__name__} has no list of {depth} layers")


def counted_ops(ops: list[Op], counts: Sequence[Expr], path: str, start: int = 0) -> tuple[Op, ...]:
    """Operations with the number of times that the stage does them; layers share their rotary tables."""
    count_of = counted_by(counts, path, start)
    return tuple(op if op.path.endswith(".cos_sin_cache") else replace(op, count=count_of(op.path)) for op in ops)


def counted_by(counts: Sequence[Expr], path: str, start: int = 0) -> Callable[[str], Expr]:
    """How many layers of the stage that of a module or parameter stands for; one outside of the layers is once."""
    prefix = f"{path}."

    def count(name: str) -> Expr:
        if not name.startswith(prefix):
            return sympy.Integer(1)
        return counts[int(name.removeprefix(prefix).partition(".")[0]) - start]

    return count


def _engine_version() -> str:
    import vllm

    return str(getattr(vllm, "__version__", None) or version("vllm"))
