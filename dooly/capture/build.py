"""The engine's own model, built on the meta device from a configuration whose integers are symbols."""

# pyright: reportPrivateUsage=false
# PyTorch and vLLM have no public way to do this.
from __future__ import annotations

import copy
import json
import tempfile
import warnings
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import sympy
import torch
from transformers import PreTrainedConfig
from vllm.config import CompilationMode, set_current_vllm_config
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.layers import rotary_embedding
from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner
from vllm.model_executor.layers.linear import LinearBase
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.model_executor.models.registry import ModelRegistry

from dooly.capture.checked import Amounts, amounts
from dooly.capture.config import TIED, Field, fields_of
from dooly.capture.configint import ConfigInt, Facts, expression
from dooly.capture.experts import placed_without_data, show_experts
from dooly.capture.options import Options
from dooly.capture.parallel_groups import group_kind, world_of
from dooly.capture.rounding import whole_numbers_kept
from dooly.capture.sizes import SizeRecorder
from dooly.capture.values import SmallValues
from dooly.capture.weights import as_loaded
from dooly.engine.fake_cuda import OnMeta
from dooly.engine.settings import stated_dtype
from dooly.errors import CaptureError
from dooly.hardware.gpus import PLATFORMS
from dooly.ir.expr import Expr, normal, symbol

__all__ = ["Built", "build", "explained", "imported"]


@dataclass(frozen=True)
class Built:
    """A model whose module attributes are ``ConfigInt`` where they come from the configuration.

    Attributes:
        model: the engine's model for causal generation, parameters on the meta device.
        vllm_config: its ``VllmConfig``; opaque operations find their modules in it by layer name.
        values: configuration symbols that occur, with their values.
        facts: divisibility asserted while building.
        sizes: shape of each parameter and buffer by name.
        transposed: matrices that the model's code takes the other way round than ``sizes`` says.
        groups: parallel group coordinators whose size is a symbol.
        registered: parameters as the engine makes them, before a checkpoint is loaded.
    """

    model: torch.nn.Module
    vllm_config: Any
    values: Mapping[str, int]
    facts: Facts
    sizes: Mapping[str, tuple[Expr, ...]]
    transposed: frozenset[str]
    groups: tuple[Any, ...]
    registered: Amounts


@contextmanager
def build(
    config: Mapping[str, Any],
    options: Options,
    place: str,
    *,
    stage: int = 0,
    plain: bool = False,
    loaded: bool = True,
    ties: Mapping[str, Expr] | None = None,
) -> Generator[Built]:
    """Build the model that ``config`` (the text of a config.json) describes, as rank 0 sees it; alive in the block.

    Args:
        stage: the pipeline stage.
        plain: from the numbers as they are, no symbol anywhere: what ``verify_provenance`` compares with.
        loaded: with parameters as they are once a checkpoint is loaded.
        ties: fields that are expressions of others, whatever the file says of them.

    Raises:
        CaptureError: the engine refuses the configuration.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(dict(config)), encoding="utf-8")
        vllm_config = _engine_config(folder, options, place)
        facts, values = Facts(), dict[str, int]()
        with (
            whole_numbers_kept(),
            set_current_vllm_config(vllm_config),
            world_of(options.parallel, stage) as groups,
            OnMeta() if PLATFORMS[options.platform].is_cuda else nullcontext(),
        ):
            if not plain:
                with explained(place, "the engine refuses this configuration"):
                    values = _symbolize(vllm_config, config, facts, ties or {})
                values |= options.parallel.symbols
                for group in groups:
                    group.world_size = ConfigInt(*options.parallel.group(group_kind(group)), facts)
                if options.parallel.tp > 1 and options.parallel.pp > 1:
                    facts.require(symbol("H"), symbol("TP"))
            recorder = SizeRecorder()
            with ExitStack() as stack:
                stack.enter_context(explained(place, "the engine cannot build this model"))
                stack.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
                stack.enter_context(_fresh_rotary_tables())
                stack.enter_context(placed_without_data())
                stack.enter_context(_default_dtype(vllm_config.model_config.dtype))
                stack.enter_context(torch.device("meta"))
                stack.enter_context(SmallValues())
                stack.enter_context(recorder)
                model = initialize_model(vllm_config=vllm_config)
            sizes, registered = _sizes(model, recorder), amounts(model)
            transposed: frozenset[str] = frozenset()
            with explained(place, "the engine cannot load this model"):
                if loaded:
                    transposed = as_loaded(model, sizes, values, facts)
            _take_common_path(model)
            yield Built(model, vllm_config, values, facts, sizes, transposed, tuple(groups), registered)


def _engine_config(folder: str, options: Options, place: str) -> Any:
    parallel = options.parallel
    settings: dict[str, Any] = {
        "attention_backend": options.backend,
        "quantization": options.quantization,
        "kv_cache_dtype": options.kv_cache_dtype or "auto",
        "enforce_eager": options.eager,
        "enable_prefix_caching": False,  # a captured step is the same, and some models are refused with it
        "compilation_config": {"pass_config": {"fuse_allreduce_rms": False}},  # nothing is compiled while capturing
    }
    if parallel.ranks > 1:
        settings |= {
            "tensor_parallel_size": parallel.tp,
            "data_parallel_size": parallel.dp,
            "enable_expert_parallel": parallel.expert,
            "pipeline_parallel_size": parallel.pp,
            "distributed_executor_backend": "mp",
        }
    with explained(place, "the engine refuses this configuration"), warnings.catch_warnings(), imported(place, folder):
        warnings.simplefilter("ignore")  # libraries of formats comment on what a checkpoint says
        config = EngineArgs(
            model=folder,
            load_format="dummy",
            skip_tokenizer_init=True,
            trust_remote_code=False,
            allow_deprecated_quantization=True,  # what is served with that option has a cost, too
            dtype=stated_dtype(Path(folder)),
            **settings,
        ).create_engine_config()
    _check_quantization(config.model_config, place)
    config.compilation_config.mode = CompilationMode.NONE  # the choice of custom operations stays
    return config


@contextmanager
def imported(place: str, folder: str) -> Generator[None]:
    """Say why the engine cannot import a model, where it only says that its log tells.

    Raises:
        CaptureError: the module of the model needs a package that is not here.
    """
    try:
        yield
    except ValueError:
        said = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        for name in said.get("architectures") or ():
            try:
                if (known := ModelRegistry.models.get(name)) is not None:
                    known.load_model_cls()
            except ImportError as error:
                raise CaptureError(f"{place}: the engine cannot import {name}: {error}") from error
        raise


def _check_quantization(model_config: Any, place: str) -> None:
    """Weights that are said to be quantized must not be taken for plain ones.

    Raises:
        CaptureError: the engine does not know how they are quantized, and would ignore it.
    """
    said = getattr(model_config.hf_config, "quantization_config", None)
    if said and model_config.quantization is None:
        raise CaptureError(
            f"{place}: the engine ignores its quantization_config, which names no method that it knows: "
            f"quant_method is {said.get('quant_method')!r}"
        )


@contextmanager
def explained(place: str, what: str) -> Generator[None]:
    """Turn whatever the engine raises in the block into one line.

    Raises:
        CaptureError: always when the block raises.
    """
    try:
        yield
    except CaptureError:
        raise
    except Exception as error:  # third-party code: any kind of mistake in a configuration surfaces somewhere in it
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        text = " ".join([type(error).__name__ + ":", *lines])
        raise CaptureError(f"{place}: {what}: {text[:300]}") from error


def _symbolize(vllm_config: Any, config: Mapping[str, Any], facts: Facts, ties: Mapping[str, Expr]) -> dict[str, int]:
    """Replace integers of the engine's configuration object, and what its class computed from them."""
    known, cache_config = vllm_config.model_config.hf_config, vllm_config.cache_config
    values: dict[str, int] = {}
    tied = {name: e for name, e in (*TIED.items(), *ties.items()) if name in config}
    for e in tied.values():
        facts.require(*sympy.fraction(e))
    for e in ties.values():
        facts.take(*sympy.fraction(e))
    given: dict[str, Any] = copy.deepcopy(dict(config))
    for field in fields_of(config):
        e = tied.get(str(field.place[0]), symbol(field.symbol))
        if field.place[0] not in tied:
            values[field.symbol] = field.value
        _put(given, field, ConfigInt(field.value, e, facts))
    asserted = set(facts)
    computed = type(known).from_dict(given)
    if not any(_is_quotient(value) for value in vars(computed).values()):
        facts.keep(asserted)  # what the class checks of its fields, without using it
    _take_over(known, computed)
    if cache_config.sliding_window is not None and cache_config.sliding_window == values.get("W"):
        object.__setattr__(cache_config, "sliding_window", known.sliding_window)
    return values


def _is_quotient(value: object) -> bool:
    return isinstance(value, ConfigInt) and sympy.fraction(value.expr)[1] != 1


def _take_over(known: Any, symbolic: Any) -> Any:
    """Return what is known, its integers replaced by the symbolic ones that equal them at the same place."""
    if isinstance(symbolic, ConfigInt):
        return symbolic if isinstance(known, int | float) and known == int(symbolic) else known
    if isinstance(known, PreTrainedConfig) and isinstance(symbolic, PreTrainedConfig):
        _take_over(vars(known), vars(symbolic))
    elif type(known) is dict and isinstance(symbolic, dict):
        known.update({key: _take_over(known[key], value) for key, value in symbolic.items() if key in known})
    elif type(known) is list and isinstance(symbolic, list) and len(known) == len(symbolic):
        known[:] = map(_take_over, known, symbolic)
    return known


def _put(into: Any, field: Field, value: ConfigInt) -> None:
    for part in field.place[:-1]:
        into = into[part]
    into[field.place[-1]] = value


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Generator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _fresh_rotary_tables() -> Generator[None]:
    """The engine shares rotary modules by their numbers; ours must not meet another model's with equal numbers."""
    shared = rotary_embedding._ROPE_DICT
    before = dict(shared)
    shared.clear()
    try:
        yield
    finally:
        shared.clear()
        shared.update(before)


_FUSED_GATE = "use_fused_qk_norm_rope_gate"


def _take_common_path(model: torch.nn.Module) -> None:
    """Make a CPU build run what every platform runs, plain GEMMs, and show what a mixture of experts consists of.

    On a CPU the engine packs weights after loading and then calls ``cpu_linear``; there are no weights here.  Norms,
    rotation and gate of Qwen3-Next's attention are one Triton kernel on GPUs, called directly: here they are the parts
    that it fuses, which ``fuse-regions`` puts into one region again.
    """
    for module in model.modules():
        if isinstance(module, LinearBase | VocabParallelEmbedding):
            cast(Any, module).cpu_linear = torch.nn.functional.linear
        elif isinstance(module, MoERunner):
            show_experts(module)
        elif getattr(module, _FUSED_GATE, False):
            setattr(module, _FUSED_GATE, False)


def _sizes(model: torch.nn.Module, recorder: SizeRecorder) -> dict[str, tuple[Expr, ...]]:
    """Sizes of each parameter and buffer under every name: layers share some, and the first of them may be left out."""
    sizes: dict[str, tuple[Expr, ...]] = {}
    first: dict[int, str] = {}
    tables = _rotary_tables(model)
    named = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    for name, tensor in named:
        if (same := first.setdefault(id(tensor), name)) != name:
            sizes[name] = sizes[same]
            continue
        found = tables.get(name) or recorder.sizes(tensor)
        sizes[name] = found if found is not None else tuple(sympy.Integer(dim) for dim in tensor.shape)
    return sizes


def _rotary_tables(model: torch.nn.Module) -> dict[str, tuple[Expr, ...]]:
    """Rotary tables are computed, not allocated by size: a row per position, a column per rotated feature.

    The engine computes ``rotary_dim`` in floating point as a fraction of the head size, so that is restored here.
    Where it turns neighbours in pairs, their number is even.
    """
    tables: dict[str, tuple[Expr, ...]] = {}
    modules: Any = model.named_modules()
    for name, module in modules:
        table, head = getattr(module, "cos_sin_cache", None), getattr(module, "head_size", None)
        if not isinstance(table, torch.Tensor) or not isinstance(head, ConfigInt):
            continue
        positions, rotary = module.max_position_embeddings, int(module.rotary_dim)
        width = normal(head.expr * sympy.Rational(rotary, int(head)))
        module.rotary_dim = ConfigInt(rotary, width, head.facts)
        head.facts.require(width, sympy.Integer(2))  # features are rotated in pairs
        rows, columns = table.shape
        stretched = positions * getattr(module, "scaling_factor", 1)
        known = [size for size in (positions, stretched) if size == rows and isinstance(size, ConfigInt)]
        tables[f"{name}.cos_sin_cache"] = (
            expression(known[0]) if known else normal(expression(positions) * sympy.Rational(rows, int(positions))),
            width if columns == rotary else sympy.Integer(columns),
        )
    return tables
