"""One captured graph serves every phase: at the T and L of a batch it says what the real engine runs on this CPU.

Products, attention and mixtures of experts are compared call by call, module by module and with their shapes; of small
operations, which a CPU composes of others, the shapes of what each module computes.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest

from dooly.batch import Batch
from dooly.capture import capture
from dooly.capture.config import ARCHITECTURES
from dooly.engine.local import Engine, start_engine
from dooly.engine.settings import EngineSettings
from dooly.ir import Graph, Kind, Program, TensorType, evaluate, kind_of
from dooly.ir.expr import Expr
from dooly.passes import run, select
from dooly.provenance.observed import Call, Tensor
from tests.amx import latent_settings, taken_for_amx
from tests.tiny_models import tiny_models

pytestmark = pytest.mark.engine

PRODUCTS = frozenset({"aten.mm", "aten.addmm", "aten.linear", "_C.onednn_mm", "_C.weight_packed_linear"})
ATTENTION = frozenset({"vllm.unified_attention_with_output", "vllm.unified_mla_attention_with_output"})
MIXER = re.compile(r".*\.mamba(\.(x_proj|dt_proj|\w+_layernorm))?")
CHUNKED = EngineSettings(max_num_seqs=4, max_num_batched_tokens=40, max_model_len=160)

Anchor = tuple[str, str, tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Step:
    """What one engine step was given and what it ran."""

    batch: Batch
    calls: tuple[Call, ...]


def steps(engine: Engine, random: Random) -> Iterator[Step]:
    """Run random requests: prompts that need several chunks, joined by others while they decode."""
    import torch

    from dooly.capture.trace_hooks import module_paths
    from dooly.provenance.watch import Watch

    box = torch.nn.Module()
    box.model, box.sampler = engine.runner.model, engine.runner.sampler
    batches: list[Batch] = []
    execute = engine.core.model_executor.execute_model

    def noted(scheduled: Any, *args: Any, **kwargs: Any) -> Any:
        cached = dict(zip(scheduled.scheduled_cached_reqs.req_ids, scheduled.scheduled_cached_reqs.num_computed_tokens))
        new = scheduled.num_scheduled_tokens
        if new:
            batches.append(Batch.of(*((tokens, cached.get(name, 0)) for name, tokens in new.items())))
        return execute(scheduled, *args, **kwargs)

    engine.core.model_executor.execute_model = noted
    mixtures: list[Call] = []
    for path, module in box.model.named_modules():
        for name in ("forward_modular", "forward_monolithic"):
            if hasattr(module, name):
                setattr(module, name, watched(path, getattr(module, name), mixtures))
        if type(module).__name__ == "MambaMixer":
            open_mixer(module)
    arrivals = {0: 2, 4: 1, 5: 1}
    for step in range(40):
        for index in range(arrivals.get(step, 0)):
            prompt = [random.randrange(engine.vocab_size) for _ in range(random.randint(20, 70))]
            engine.add(f"{step}.{index}", prompt, random.randint(3, 6))
        if not engine.busy():
            return
        before = len(batches)
        with ExitStack() as stack:
            watch = stack.enter_context(Watch(stack.enter_context(module_paths(box))))
            engine.step()
        if len(batches) > before:
            yield Step(batches[-1], (*watch.calls, *mixtures))
        mixtures.clear()


def open_mixer(mixer: Any) -> None:
    """Run a Mamba-1 mixer outside the one operation that hides it; the CPU's products want features side by side."""

    def contiguous(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(tensor.contiguous() for tensor in inputs)

    mixer.forward = mixer.forward_impl
    for projection in (mixer.x_proj, mixer.out_proj):
        projection.register_forward_pre_hook(contiguous)


def watched(path: str, forward: Any, calls: list[Call]) -> Any:
    """The routed experts of a mixture, which on a CPU are no operation of PyTorch."""

    def run_and_note(x: Any, *args: Any, **kwargs: Any) -> Any:
        result = forward(x, *args, **kwargs)
        before, after = (Tensor(str(each.dtype), tuple(each.shape), each.numel()) for each in (x, result))
        calls.append(Call(path.removesuffix(".routed_experts"), "moe", (before,), (after,), {}, 1))
        return result

    return run_and_note


def any_layer(path: str) -> str:
    return re.sub(r"\.\d+(?=\.|$)", ".*", path)


def at(e: Expr, values: Mapping[str, int]) -> int:
    return int(evaluate(e, values))


def size(type_: TensorType, values: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(at(dim, values) for dim in type_.shape)


def parts(path: str, batch: Batch) -> tuple[Batch, ...]:
    """A Mamba-1 mixer takes the decodes and the prompts of a mixed step apart, between its outer projections."""
    if batch.kind != "mixed" or not MIXER.fullmatch(path):
        return (batch,)
    decodes = [(new, cached) for new, cached in batch.requests if new == 1 and cached]
    return Batch.of(*decodes), Batch.of(*(request for request in batch.requests if request not in decodes))


def claimed(graph: Graph, batch: Batch) -> tuple[Counter[Anchor], dict[str, set[tuple[int, ...]]]]:
    """Anchors with their operand and result shapes, and the result shapes of every module, as the graph has them.

    Modules that take a batch apart are compared shape by shape in steps of one kind, and here by their products.
    """
    types = graph.values()
    anchors: Counter[Anchor] = Counter()
    shapes: defaultdict[str, set[tuple[int, ...]]] = defaultdict(set)
    for op in graph.work():
        batches = parts(op.path, batch)
        for part in batches:
            values = {**graph.config_values, **part.symbols()}
            results = [size(value.type, values) for value in op.results]
            if kind_of(op.target) in (Kind.GEMM, Kind.ATTENTION, Kind.MOE):
                operand = size(types[op.operands[0]].type, values)
                anchor = kind_of(op.target).value, any_layer(op.path), operand, results[0]
                anchors[anchor] += at(op.count, values)
            elif op.path and len(batches) == 1:
                shapes[any_layer(op.path)].update(results)
    return anchors, shapes


def ran(calls: Sequence[Call]) -> tuple[Counter[Anchor], Mapping[str, set[tuple[int, ...]]]]:
    """The same of what the engine ran."""
    anchors: Counter[Anchor] = Counter()
    shapes: defaultdict[str, set[tuple[int, ...]]] = defaultdict(set)
    for call in calls:
        path = any_layer(call.path)
        if call.target in PRODUCTS:
            operand = next(tensor for tensor in call.reads[-2 if call.target == "aten.addmm" else 0 :])
            anchors["gemm", path, operand.shape, call.results[0].shape] += 1
        elif call.target in ATTENTION:
            anchors["attention", path, call.reads[0].shape, call.results[0].shape] += 1
        elif call.target == "moe":
            anchors["moe", path, call.reads[0].shape, call.results[0].shape] += 1
        shapes[path].update(tensor.shape for tensor in call.results)
    return anchors, shapes


def test_every_architecture_has_a_small_model() -> None:
    assert set(tiny_models()) == set(ARCHITECTURES)


@pytest.mark.parametrize("architecture", ["DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"])
def test_the_graph_at_a_batch_is_what_the_engine_runs_with_amx(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with taken_for_amx():
        test_the_graph_at_a_batch_is_what_the_engine_runs(architecture, tmp_path, monkeypatch)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_graph_at_a_batch_is_what_the_engine_runs(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.model_executor.layers.mamba import mamba_mixer

    from tests.capture.selective_scan import selective_scan, selective_state_update

    monkeypatch.setattr(mamba_mixer, "selective_scan_fn", selective_scan)
    monkeypatch.setattr(mamba_mixer, "selective_state_update", selective_state_update)
    (tmp_path / "config.json").write_text(json.dumps(tiny_models()[architecture]), encoding="utf-8")
    names = "annotate-shapes,propagate-taint,expand-opaque,canonicalize"
    graph = run(Program((capture(tmp_path, eager=True),)), select(names)).graphs[0]  # as the CPU engine runs it
    phases: set[str] = set()
    settings = latent_settings(4, 160) if any(op.target == "mla_attention" for op in graph.work()) else CHUNKED
    with start_engine(tmp_path, settings) as engine:
        for step in steps(engine, Random(architecture)):
            phases.add(step.batch.kind)
            expected, small = claimed(graph, step.batch)
            found, computed = ran(step.calls)
            assert expected == found, step.batch
            for path, shapes in small.items():
                assert shapes <= computed[path], (path, step.batch)
    assert phases == {"prefill", "decode", "mixed"}
