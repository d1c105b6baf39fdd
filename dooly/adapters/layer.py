"""The place of an operation in a transformer layer, in the words that simulators share."""

from collections.abc import Iterator

from dooly.ir.graph import Block
from dooly.ir.operation import Operation, Use
from dooly.ir.opset import Kind
from dooly.predict import Work

__all__ = ["LAYER_PARTS", "STEP_PARTS", "part_of", "shares_of"]

LAYER_PARTS = (
    "attn_norm",
    "attn_pre_proj",
    "rope",
    "attention",
    "attn_post_proj",
    "mlp_norm",
    "mlp_up_proj",
    "mlp_act",
    "mlp_down_proj",
    "moe",
    "all_reduce",
    "other",
)
"""Parts of each layer; the router of a mixture of experts counts to ``moe``, query and key norms to ``rope``."""

STEP_PARTS = ("embedding", "final_norm", "lm_head", "sampler", "communication")
"""Parts of each step: outside of the layers; there, what ranks tell each other counts to ``communication``."""

_BY_MODULE = {
    "attn_pre_proj": ("qkv_proj", "q_proj", "k_proj", "v_proj", "query_key_value", "W_pack", "c_attn"),
    "attn_post_proj": ("o_proj", "out_proj", "dense"),
    "mlp_up_proj": ("gate_up_proj", "gate_proj", "up_proj", "fc1", "w1", "w3"),
    "mlp_down_proj": ("down_proj", "fc2", "w2"),
    "moe": ("gate", "router", "experts"),
    "mlp_act": ("act_fn", "act"),
    "attn_norm": ("input_layernorm",),
    "mlp_norm": ("post_attention_layernorm", "pre_feedforward_layernorm"),
}
_PART_OF_MODULE = {module: part for part, modules in _BY_MODULE.items() for module in modules}
_PART_OF_KIND = {Kind.ATTENTION: "attention", Kind.MOE: "moe", Kind.COLLECTIVE: "all_reduce"}


def part_of(operation: Operation, use: Use) -> str:
    """The part that one use of an operation belongs to."""
    targets = set(_targets(operation))
    modules = use.path.split(".")
    if "layers" not in modules:
        return "communication" if operation.kind is Kind.COLLECTIVE else _step_part(targets)
    if operation.kind in _PART_OF_KIND:
        return _PART_OF_KIND[operation.kind]
    if "rotary_embedding" in targets:
        return "rope"
    part = _PART_OF_MODULE.get(modules[-1])
    if part is not None:
        return part
    if "silu_and_mul" in targets:
        return "mlp_act"
    return "other"


def _step_part(targets: set[str]) -> str:
    if targets & {"embedding", "vocab_parallel_embedding"}:
        return "embedding"
    if "linear" in targets:
        return "lm_head"
    if "argmax" in targets:
        return "sampler"
    return "final_norm"


def _targets(operation: Operation) -> Iterator[str]:
    yield operation.target
    if operation.body is not None:
        yield from _block_targets(operation.body)


def _block_targets(block: Block) -> Iterator[str]:
    for op in block.ops:
        yield op.target


def shares_of(work: Work) -> dict[str, float]:
    """Parts of a line of work as fractions: uses of the same operation at several places."""
    uses = [use for use in work.operation.uses if use.bind == work.bind]
    total = sum(use.count for use in uses)
    shares: dict[str, float] = {}
    for use in uses:
        part = part_of(work.operation, use)
        shares[part] = shares.get(part, 0.0) + use.count / total
    return shares
