"""Cost of predicting a step, on one core: ``python benchmarks/step_time.py``.

Formulas come from synthetic measurements of a Llama-3.1-8B-like model (residuals included), so that it runs anywhere.
Prints microseconds per call of `step_time` and per step of `step_times`, for decode, prefill and mixed steps.
"""
# ruff: noqa: T201 - a script prints

import math
import random
import time
from collections.abc import Callable

import sympy

from dooly.batch import Batch, BatchColumns
from dooly.fit import Formula, Observation, fit, fit_host
from dooly.ir.expr import symbol
from dooly.ir.operation import Operation, Use
from dooly.ir.types import TensorType, attributes
from dooly.predict import StepModel

MODEL = "llama-like"
HEADS, KV_HEADS, HEAD, HIDDEN, INNER, VOCABULARY, LAYERS = 32, 8, 128, 4096, 14336, 128256, 32


def tensor(*shape: int | str) -> TensorType:
    """A bf16 tensor; names are request symbols."""
    return TensorType("bf16", tuple(symbol(d) if isinstance(d, str) else sympy.Integer(d) for d in shape))


def operations() -> list[Operation]:
    """The distinct operations of the model with their counts."""

    def linear(path: str, k: int, n: int, count: int, *bind: tuple[str, str]) -> Operation:
        operands = (tensor("T", k), tensor(n, k))
        return Operation("linear", operands, (tensor("T", n),), uses=(Use(MODEL, path, count, bind),))

    def small(target: str, path: str, k: int, n: int, count: int) -> Operation:
        return Operation(target, (tensor("T", k),), (tensor("T", n),), uses=(Use(MODEL, path, count),))

    query, key = tensor("T", HEADS * HEAD), tensor("T", KV_HEADS * HEAD)
    facts = attributes(heads=HEADS, kv_heads=KV_HEADS, head_size=HEAD, kv_dtype="bf16", window=None)
    return [
        linear("qkv_proj", HIDDEN, (HEADS + 2 * KV_HEADS) * HEAD, LAYERS),
        linear("o_proj", HEADS * HEAD, HIDDEN, LAYERS),
        linear("gate_up_proj", HIDDEN, 2 * INNER, LAYERS),
        linear("down_proj", INNER, HIDDEN, LAYERS),
        linear("lm_head", HIDDEN, VOCABULARY, 1, ("T", "L")),
        small("rms_norm", "norm", HIDDEN, HIDDEN, 2 * LAYERS + 1),
        small("silu_and_mul", "act", 2 * INNER, INNER, LAYERS),
        Operation("attention", (query, key, key), (query,), facts, uses=(Use(MODEL, "attn", LAYERS),)),
    ]


def measured(operation: Operation, noise: random.Random) -> list[Observation]:
    """Synthetic points: a roofline with a wave on it that only a residual can follow."""
    law = sympy.lambdify(["T", "S", "P"], [operation.flops, operation.bytes])

    def observe(sizes: tuple[tuple[str, int], ...], batch: Batch | None) -> Observation:
        values = batch.symbols() if batch else {"S": 0, "P": 0, **dict(sizes)}
        flops, moved = law(values["T"], values["S"], values["P"])
        latency = 3.0 + max(flops / 600e6, moved / 2.5e6)
        wave = 1 + 0.1 * math.sin(math.log(values["T"] + values["P"]))
        return Observation(sizes, batch, latency * wave * noise.lognormvariate(0, 0.01))

    if operation.target != "attention":
        return [observe((("T", n),), None) for n in sorted({round(1.5**i) for i in range(23)})]
    shapes = [[(1, c)] * n for n in (1, 8, 64, 256) for c in (64, 512, 4096)]
    shapes += [[(q, c)] for q in (64, 512, 2048) for c in (0, 2048)]
    shapes += [[*[(1, noise.randrange(50, 4000))] * noise.randrange(1, 128), (512, 0)] for _ in range(20)]
    return [observe((), Batch.of(*shape)) for shape in shapes]


def model() -> StepModel:
    """Fitted from synthetic points."""
    noise = random.Random(0)
    table = operations()
    formulas: dict[str, Formula] = {op.signature: fit(op, measured(op, noise)) for op in table}
    steps = [(r, t) for r in (1, 16, 256) for t in (1, 256, 2048) if t >= r]
    for part, base in (("host_before", 900.0), ("host_after", 500.0)):
        rows = [Observation((("R", r), ("T", t)), None, base + 8 * r + 0.05 * t) for r, t in steps]
        formulas[part] = fit_host(part, rows)
    rows = [Observation((("N", n),), None, 20 + 4.0 * n) for n in (20, 100, 400)]
    formulas["host_dispatch"] = fit_host("host_dispatch", rows)
    return StepModel.build(table, formulas, MODEL)


def microseconds(run: Callable[[], object], steps: int, repeats: int = 7) -> float:
    """Best of `repeats`, per step."""
    best = math.inf
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best / steps * 1e6


def main() -> None:
    """Print the table."""
    start = time.perf_counter()
    predictor = model()
    print(f"fitted {len(predictor.work)} operations and the host in {time.perf_counter() - start:.1f} s")
    noise = random.Random(1)

    def decodes(n: int) -> list[tuple[int, int]]:
        return [(1, noise.randrange(1, 4000)) for _ in range(n)]

    shapes = {
        "decode, 1 request": lambda: decodes(1),
        "decode, 16 requests": lambda: decodes(16),
        "decode, 128 requests": lambda: decodes(128),
        "prefill, 2,048 tokens": lambda: [(2048, 0)],
        "mixed, 64 requests": lambda: [*decodes(63), (512, 1024)],
    }
    print(f"{'step':24}{'one call, us':>14}{'vectorized, us':>16}{'from Batch objects, us':>24}")
    for name, shape in shapes.items():
        batches = [Batch.of(*shape()) for _ in range(2000)]
        columns = BatchColumns.of(batches)
        for batch in batches:
            predictor.step_time(batch)
        one = microseconds(lambda b=batches: [predictor.step_time(batch) for batch in b], len(batches))
        many = microseconds(lambda c=columns: predictor.step_times(c), len(batches))
        objects = microseconds(lambda b=batches: predictor.step_times(b), len(batches))
        print(f"{name:24}{one:14.1f}{many:16.2f}{objects:24.2f}")


if __name__ == "__main__":
    main()
