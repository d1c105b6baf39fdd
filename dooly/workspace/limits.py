"""Limits of a device and an engine: weights, KV cache, context, requests and tokens; and what would fit."""

from collections.abc import Iterable

from dooly.batch import MOST_CACHED, Batch
from dooly.engine.defaults import OTHER_BYTES, UTILIZATION
from dooly.errors import PredictError, SimulationError
from dooly.ir import Graph, Kind, Operation
from dooly.ir.types import ITEM_BYTES
from dooly.predict import SavedModel, weight_bytes

__all__ = ["check_context", "check_step", "check_weights", "context_of", "kv_bytes"]

_RANKS = (2, 4, 8, 16, 32, 64)


def check_weights(graph: Graph, device: str, memory_bytes: int) -> None:
    """Check that the weights of a rank leave room for a KV cache.

    Raises:
        PredictError: they do not; says with how many ranks they would.
    """
    weights, room = weight_bytes(graph), UTILIZATION * memory_bytes - OTHER_BYTES
    if weights < room:
        return
    sizes = graph.config_values
    ranks, heads = sizes.get("TP", 1), sizes.get("Nq", 1)
    fitting = [each for each in _RANKS if each > ranks and heads % each == 0 and weights * ranks / each < room]
    way_out = f"--tp {fitting[0]} would fit" if fitting else "no tensor-parallel size would fit"
    raise PredictError(
        f"{graph.name}: {weights / 1e9:,.0f} GB of weights on each of {ranks} x {device}, which has "
        f"{memory_bytes / 1e9:,.0f} GB, {room / 1e9:,.0f} for weights and KV cache; {way_out}"
    )


def context_of(model: SavedModel) -> int:
    """Most tokens of a request: the model's positions, or to what they are stretched; `MOST_CACHED` if unknown."""
    sizes = model.config
    if "Np" not in sizes:
        return MOST_CACHED
    return max(sizes["Np"], sizes.get("No", sizes["Np"]) * sizes.get("Fp", 1))


def check_context(model: SavedModel, max_model_len: int) -> None:
    """Check that the engine would take requests of so many tokens.

    Raises:
        SimulationError: the model's context is shorter.
    """
    if max_model_len > (positions := context_of(model)):
        raise SimulationError(
            f"--max-model-len is {max_model_len:,d}, the context of {model.name} is {positions:,d}; give that or less"
        )


def check_step(model: SavedModel, step: Batch, max_num_seqs: int, max_num_batched_tokens: int) -> None:
    """Check that the engine would run such a step: its limits, the model's context, and the memory of the device.

    Raises:
        PredictError: it would not; says what the limit is, and what would fit.
    """
    requests = len(step.requests)
    if requests > max_num_seqs:
        raise PredictError(
            f"--batch: {requests:,d} requests in one step, the engine's limit is {max_num_seqs:,d}; "
            "give fewer, or raise --max-num-seqs as the engine's"
        )
    if step.tokens > max_num_batched_tokens:
        raise PredictError(
            f"--batch: {step.tokens:,d} new tokens in one step, the engine's limit is {max_num_batched_tokens:,d}; "
            "give fewer, or raise --max-num-batched-tokens as the engine's"
        )
    contexts = [new + cached for new, cached in step.requests]
    longest, positions = max(contexts), context_of(model)
    if longest > positions:
        raise PredictError(
            f"--batch: a request of {longest:,d} tokens, the context of {model.name} is {positions:,d}; shorten it"
        )
    room = UTILIZATION * model.memory_bytes - OTHER_BYTES - model.weight_bytes
    needed = kv_bytes(model.operations, contexts)
    if model.weight_bytes and needed > room:
        raise PredictError(
            f"--batch: the KV cache of its requests takes {needed / 1e9:,.1f} GB, {model.device} has "
            f"{room / 1e9:,.1f} GB beside the weights: about {int(requests * room / needed):,d} of {requests:,d} fit; "
            "give fewer or shorter ones, or more ranks (--tp)"
        )


def kv_bytes(operations: Iterable[Operation], contexts: Iterable[int]) -> int:
    """Bytes that requests with so many tokens take in the KV caches of one rank; recurrent states are left out."""
    lengths, total = list(contexts), 0
    for operation in operations:
        facts = dict(operation.attrs)
        if operation.kind is not Kind.ATTENTION or operation.target not in ("attention", "mla_attention"):
            continue
        window = facts.get("window")
        rows = sum(lengths) if window is None else sum(min(each, int(str(window))) for each in lengths)
        if operation.target == "attention":
            width = 2 * int(str(facts["kv_heads"])) * int(str(facts["head_size"]))
        else:
            width = int(str(facts["latent"])) + int(str(facts["rope"]))
        total += operation.count * width * rows * ITEM_BYTES[str(facts.get("kv_dtype") or operation.results[0].dtype)]
    return total
