"""How many KV cache blocks fit beside a model's weights, by the engine's own arithmetic.

The engine fills a share of the device's memory: what weights, activations, captured graphs and libraries leave of it
is cut into blocks.  Weights and bytes per block follow from the IR; the rest is one number, which must be measured.
"""

from __future__ import annotations

from collections.abc import Iterable

from dooly.engine.defaults import OTHER_BYTES, UTILIZATION
from dooly.engine.settings import EngineSettings
from dooly.errors import SimulationError
from dooly.ir import Kind, Operation
from dooly.ir.types import ITEM_BYTES
from dooly.predict import SavedModel

__all__ = ["check_compact", "kv_blocks", "kv_row_bytes"]


def kv_row_bytes(operations: Iterable[Operation]) -> int:
    """Bytes that one token takes in the KV caches of all layers on one rank.

    Raises:
        SimulationError: a layer's cache does not grow with all tokens (window, state), so that there is no such number.
    """
    total = 0
    for operation in operations:
        if operation.kind is not Kind.ATTENTION:
            continue
        facts = dict(operation.attrs)
        if facts.get("window") is not None:
            raise SimulationError(
                f"{operation.name}: a window of {facts['window']} tokens is not cached as the rest is"
            )
        item = ITEM_BYTES[str(facts.get("kv_dtype") or operation.results[0].dtype)]
        if operation.target == "attention":
            width = 2 * int(str(facts["kv_heads"])) * int(str(facts["head_size"]))
        elif operation.target == "mla_attention":
            width = int(str(facts["latent"])) + int(str(facts["rope"]))
        else:
            raise SimulationError(f"{operation.name}: the cache of {operation.target} does not grow with the tokens")
        total += operation.count * width * item
    if not total:
        raise SimulationError("no attention among the operations: there is no KV cache to size")
    return total


def kv_blocks(
    model: SavedModel,
    block_size: int,
    *,
    memory_bytes: float | None = None,
    utilization: float = UTILIZATION,
    other_bytes: float = OTHER_BYTES,
) -> int:
    """KV cache blocks on one rank.

    Args:
        model: whose weights and layers.
        block_size: tokens in a block.
        memory_bytes: of the device; None for the one that was measured.
        utilization: share of it that the engine fills, above 0 and at most 1.
        other_bytes: of that share, what neither weights nor KV cache take.

    Raises:
        SimulationError: nothing is left, or the model's weights or bytes per token are not known.
    """
    if not 0 < utilization <= 1:
        raise SimulationError(f"memory utilization of {utilization:g}; expected above 0, at most 1")
    if not model.weight_bytes:
        raise SimulationError(
            f"{model.name}: the bytes of its weights are not known; give the number of KV blocks "
            "(--num-gpu-blocks-override)"
        )
    try:
        row = kv_row_bytes(model.operations)
    except SimulationError as error:
        raise SimulationError(
            f"{model.name}: {error}; give the number of KV blocks (--num-gpu-blocks-override)"
        ) from error
    total = model.memory_bytes if memory_bytes is None else memory_bytes
    left = total * utilization - model.weight_bytes - other_bytes
    blocks = int(left // (block_size * row))
    if blocks < 2:
        raise SimulationError(
            f"{model.name}: {utilization:.0%} of {total / 2**30:.1f} GiB holds {model.weight_bytes / 2**30:.1f} GiB of "
            f"weights and {other_bytes / 2**30:.1f} GiB of other data, and leaves no KV cache"
        )
    return blocks


def check_compact(operations: Iterable[Operation], settings: EngineSettings) -> None:
    """Whether the compact scheduler composes this model's batches.

    Raises:
        SimulationError: KV blocks matter (they may run out, or are shared) and the layers cache in different ways.
    """
    if settings.num_blocks is not None or settings.prefix_caching:
        try:
            kv_row_bytes(operations)
        except SimulationError as error:
            raise SimulationError(
                f"{error}; the fast mode needs room for all requests and no prefix caching here"
            ) from error
