"""Models of four layers whose operations obey known laws, as `dooly export steps` would keep them."""

import random
from collections.abc import Iterable

import pytest

from dooly.fit import Formula, Observation, fit, fit_host
from dooly.ir.graph import Block, Graph, Op, Value
from dooly.ir.operation import Operation, Use
from dooly.ir.program import Program
from dooly.ir.types import Origin, attributes
from dooly.predict import SavedModel
from tests.fit import laws

LAYERS = 4
SETTINGS = (("backend", "FLASH_ATTN"), ("dtype", "bf16"), ("engine", "vllm 0.26.0"))
CONFIG = {"D": 128, "H": 512, "I": 1024, "Nkv": 8, "Nq": 32, "Np": 8192, "V": 32000}


def layer(name: str, path: str) -> tuple[Use, Use]:
    """The first layer and the others, as captured."""
    return Use(name, f"model.layers.0.{path}", 1), Use(name, f"model.layers.1.{path}", LAYERS - 1)


def region(target: str, *uses: Use) -> Operation:
    """A region of one operation over rows of 512."""
    row = laws.tensor("T", 512)
    value = Value("1", row, (Origin.REQUEST, Origin.CONFIG))
    argument = Value("0", row, (Origin.REQUEST, Origin.CONFIG))
    body = Block((argument,), (Op(target, ("0",), (value,)),), ("1",))
    return Operation("region", (row,), (row,), body=body, uses=uses)


def dense(name: str) -> list[Operation]:
    up, down = (
        laws.linear(512, 2048, *layer(name, "mlp.gate_up_proj")),
        laws.linear(1024, 512, *layer(name, "mlp.down_proj")),
    )
    return [*common(name), up, down]


def mixture(name: str) -> list[Operation]:
    return [
        *common(name),
        laws.linear(512, 8, *layer(name, "block_sparse_moe.gate")),
        laws.moe(*layer(name, "block_sparse_moe.experts")),
    ]


def common(name: str) -> list[Operation]:
    norms = (
        *layer(name, "post_attention_layernorm"),
        Use(name, "model.layers.1.input_layernorm", LAYERS - 1),
        Use(name, "model.norm", 1),
    )
    return [
        laws.linear(512, 768, *layer(name, "self_attn.qkv_proj")),
        laws.linear(4096, 512, *layer(name, "self_attn.o_proj")),
        laws.norm(512, *norms),
        laws.attention(*layer(name, "self_attn.attn")),
        region("silu_and_mul", *layer(name, "mlp.act_fn")),
        laws.linear(512, 32000, Use(name, "logits_processor", 1, (("T", "L"),))),
    ]


def shared(name: str) -> list[Operation]:
    """A dense model's share of one of two ranks, which tell each other their sums."""
    row = laws.tensor("T", 512)
    reduces = (*layer(name, "self_attn.o_proj"), *layer(name, "mlp.down_proj"), Use(name, "model.embed_tokens", 1))
    gathered = laws.tensor("T", 16000), laws.tensor("T", 32000)
    facts = attributes(group="tp", ranks=2)
    return [
        *dense(name),
        Operation("all_reduce", (row,), (row,), facts, uses=reduces),
        Operation(
            "all_gather",
            gathered[:1],
            gathered[1:],
            attributes(dim=1, group="tp", ranks=2),
            uses=(Use(name, "logits_processor", 1, (("T", "L"),)),),
        ),
    ]


def stage(name: str) -> list[Operation]:
    """A dense model's first pipeline stage, which hands two tensors on."""
    row = laws.tensor("T", 512)
    return [*dense(name), Operation("send", (row,), (row,), attributes(group="pp"), uses=(Use(name, "", 2),))]


def observed(operation: Operation, noise: random.Random) -> list[Observation]:
    def law(values: dict[str, float]) -> float:
        work = laws.flops(operation, values) / 50e6 + laws.moved(operation, values) / 1e6
        return (2.0 + work) * noise.uniform(0.9, 1.1)

    if operation.target == "attention":
        return laws.over_batches(law, laws.batches())
    if operation.target == "moe":
        points = [(t, a) for t in (1, 4, 16, 64, 256, 1024) for a in (2, 4, 8) if a <= 2 * t]
        return [Observation((("A", a), ("T", t)), None, law({"A": float(a), "T": float(t)})) for t, a in points]
    return laws.over_tokens(law)


def saved(name: str, operations: Iterable[Operation], **config: int) -> SavedModel:
    noise = random.Random(0)
    table = tuple(operations)
    formulas: dict[str, Formula] = {op.signature: fit(op, observed(op, noise)) for op in table}
    steps = [(r, t) for r in (1, 4, 16, 64) for t in (1, 64, 2048) if t >= r]
    for part, base in (("host_before", 400.0), ("host_after", 250.0)):
        rows = [Observation((("R", r), ("T", t)), None, base + 8.0 * r + 0.1 * t) for r, t in steps]
        formulas[part] = fit_host(part, rows)
    formulas["host_dispatch"] = fit_host(
        "host_dispatch", [Observation((("N", n),), None, 10.0 + 5.0 * n) for n in (5, 30, 90)]
    )
    graph = Graph(name, tuple((CONFIG | config).items()), ("T", "L"), (), (), settings=SETTINGS)
    return SavedModel.of(Program((graph,), table), name, formulas, "NVIDIA H200", 141 << 30)


@pytest.fixture(scope="session")
def model() -> SavedModel:
    return saved("small", dense("small"))


@pytest.fixture(scope="session")
def mixed() -> SavedModel:
    """With a mixture of experts."""
    return saved("small-moe", mixture("small-moe"), E=8, K=2)


@pytest.fixture(scope="session")
def first() -> SavedModel:
    """The first of two pipeline stages."""
    return saved("small stages 0", stage("small stages 0"), PP=2)


@pytest.fixture(scope="session")
def ranks() -> SavedModel:
    """On two ranks."""
    return saved("small", shared("small"), TP=2)
