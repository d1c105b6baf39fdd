import pytest

from dooly.adapters.layer import LAYER_PARTS, STEP_PARTS, part_of, shares_of
from dooly.ir.operation import Operation, Use
from dooly.ir.types import attributes
from dooly.predict import SavedModel
from tests.adapters.conftest import region
from tests.fit import laws

REDUCE = Operation("all_reduce", (laws.tensor("T", 512),), (laws.tensor("T", 512),), attributes(group="tp", ranks=2))
GATHER = Operation(
    "all_gather", (laws.tensor("T", 16),), (laws.tensor("T", 32),), attributes(dim=1, group="tp", ranks=2)
)


@pytest.mark.parametrize(
    ("operation", "path", "part"),
    [
        (laws.linear(8, 8), "model.layers.0.self_attn.qkv_proj", "attn_pre_proj"),
        (laws.linear(8, 8), "model.layers.3.self_attn.o_proj", "attn_post_proj"),
        (laws.linear(8, 8), "model.layers.3.mlp.gate_up_proj", "mlp_up_proj"),
        (laws.linear(8, 8), "model.layers.3.mlp.down_proj", "mlp_down_proj"),
        (laws.linear(8, 8), "model.layers.3.mlp.gate", "moe"),
        (laws.moe(), "model.layers.3.mlp.experts", "moe"),
        (laws.attention(), "model.layers.3.self_attn.attn", "attention"),
        (laws.norm(8), "model.layers.3.input_layernorm", "attn_norm"),
        (laws.norm(8), "model.layers.3.post_attention_layernorm", "mlp_norm"),
        (region("silu_and_mul"), "model.layers.3.mlp", "mlp_act"),
        (region("add"), "model.layers.3", "other"),
        (REDUCE, "model.layers.3.mlp.down_proj", "all_reduce"),
        (REDUCE, "model.embed_tokens", "communication"),
        (GATHER, "logits_processor", "communication"),
        (laws.linear(8, 8), "logits_processor", "lm_head"),
        (region("embedding"), "model", "embedding"),
        (region("argmax"), "logits_processor", "sampler"),
        (laws.norm(8), "model.norm", "final_norm"),
    ],
)
def test_each_operation_has_its_place(operation: Operation, path: str, part: str) -> None:
    assert part in (*LAYER_PARTS, *STEP_PARTS)
    assert part_of(operation, Use("m", path, 1)) == part


def test_one_operation_at_several_places_is_shared_by_count(model: SavedModel) -> None:
    work = next(work for work in model.steps.work if work.operation.target == "rms_norm")
    assert shares_of(work) == {"mlp_norm": 0.5, "attn_norm": 0.375, "final_norm": 0.125}
