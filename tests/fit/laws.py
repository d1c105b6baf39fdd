"""Operations with known laws, shared by the tests of fit and predict."""

import random
from collections.abc import Callable, Iterable

import sympy

from dooly.batch import Batch
from dooly.fit import Observation
from dooly.ir.expr import evaluate, symbol
from dooly.ir.operation import Operation, Use
from dooly.ir.types import TensorType, attributes

SIZES = sorted({round(1.45**i) for i in range(25)})


def tensor(*shape: int | str) -> TensorType:
    return TensorType("bf16", tuple(symbol(d) if isinstance(d, str) else sympy.Integer(d) for d in shape))


def linear(k: int, n: int, *uses: Use) -> Operation:
    return Operation("linear", (tensor("T", k), tensor(n, k)), (tensor("T", n),), uses=uses)


def norm(k: int, *uses: Use) -> Operation:
    return Operation("rms_norm", (tensor("T", k), tensor(k)), (tensor("T", k),), attributes(eps=1e-5), uses=uses)


def attention(*uses: Use, window: int | None = None, backend: str | None = None) -> Operation:
    query, key = tensor("T", 32 * 128), tensor("T", 8 * 128)
    attrs = attributes(heads=32, kv_heads=8, head_size=128, window=window, kv_dtype="bf16", backend=backend)
    return Operation("attention", (query, key, key), (query,), attrs, uses=uses)


def moe(*uses: Use) -> Operation:
    operands = (tensor("T", 512), tensor("T", 8), tensor(8, 2048, 512), tensor(8, 512, 1024))
    attrs = attributes(experts=8, hidden=512, intermediate=1024, top_k=2)
    return Operation("moe", operands, (tensor("T", 512),), attrs, uses=uses)


def latent_attention(*uses: Use) -> Operation:
    operands = (tensor("T", 16, 192), tensor("T", 512), tensor("T", 1, 64), tensor(4096, 512))
    attrs = attributes(heads=16, latent=512, nope=128, rope=64, value=128, kv_dtype="bf16")
    return Operation("mla_attention", operands, (tensor("T", 2048),), attrs, uses=uses)


def flops(operation: Operation, values: dict[str, float]) -> float:
    return float(evaluate(operation.flops, values))


def moved(operation: Operation, values: dict[str, float]) -> float:
    return float(evaluate(operation.bytes, values))


def noisy(law: Callable[[dict[str, float]], float], sigma: float, seed: int) -> Callable[[dict[str, float]], float]:
    noise = random.Random(seed)
    return lambda values: law(values) * noise.lognormvariate(0.0, sigma)


def over_tokens(law: Callable[[dict[str, float]], float], sizes: Iterable[int] = SIZES) -> list[Observation]:
    return [Observation((("T", n),), None, law({"T": float(n)})) for n in sizes]


def over_batches(
    law: Callable[[dict[str, float]], float], batches: Iterable[Batch], window: int | None = None
) -> list[Observation]:
    return [
        Observation((), batch, law({name: float(v) for name, v in batch.attention(window).items()}))
        for batch in batches
    ]


def batches(seed: int = 0) -> list[Batch]:
    """Decodes, prefills, chunks with history, mixed and skewed ones."""
    pick = random.Random(seed)
    shapes = [[(1, c)] * n for n in (1, 4, 16, 64) for c in (16, 128, 512, 2048)]
    shapes += [[(q, c)] for q in (16, 64, 256, 1024) for c in (0, 512)]
    for _ in range(20):
        decodes = [(1, pick.randrange(10, 2000)) for _ in range(pick.randrange(1, 40))]
        shapes.append([*decodes, (pick.randrange(10, 512), pick.choice((0, 256)))])
    return [Batch.of(*shape) for shape in shapes]
