"""Whether more work is predicted to take longer: random pairs of steps, on the data that ships.

    python -m benchmarks.surfaces -o docs/results/prediction-surfaces.md

The second step of a pair has all the work of the first and some more: another request, a longer context, more new
tokens of a prompt.  Every time must be finite and above 0.  Where the second step is predicted faster by more than 3 %
the pair is counted under its cause: the row of the step's breakdown that gained most, and the CUDA graphs of both.
"""

import argparse
import math
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dooly.batch import Batch
from dooly.engine.defaults import gpu_limits
from dooly.errors import DoolyError
from dooly.escape import show
from dooly.predict import SavedModel
from dooly.workspace.limits import check_step
from dooly.workspace.models import saved_model

__all__ = ["MODELS", "Surface", "pairs", "surface", "table"]

MODELS = (
    *("llama-3.1-8b", "qwen2.5-7b", "qwen3-8b", "gemma-2-9b", "phi-3-mini", "gpt-oss-20b"),
    *("qwen3-30b-a3b", "deepseek-v2-lite"),
)
GPUS = ("h100", "h200")
FASTER = 0.03
"""Share of the time by which more work may be predicted faster without being listed."""

Requests = tuple[tuple[int, int], ...]


@dataclass
class Cause:
    """Pairs of one cause: how many, and the one that gains the largest share of its time."""

    count: int = 0
    gain: float = 0.0
    example: str = ""


@dataclass
class Surface:
    """Pairs of one model on one GPU.

    Attributes:
        wrong: predictions that are infinite, not a number, or not above 0.
        faster: pairs of more work in less time, beyond `FASTER`.
        most: largest share of its time that any pair gains.
    """

    model: str
    gpu: str
    tried: int = 0
    wrong: int = 0
    faster: int = 0
    most: float = 0.0
    causes: dict[str, Cause] = field(default_factory=dict[str, Cause])


def pairs(chance: random.Random, limits: tuple[int, int], context: int) -> Iterator[tuple[Batch, Batch]]:
    """Steps within the engine's limits, and each with more work.

    Args:
        limits: most requests and most new tokens of a step.
        context: most tokens of a request.
    """
    while True:
        first = _requests(chance, context)
        second = _more(chance, first, context)
        if len(second) <= limits[0] and sum(new for new, _ in second) <= limits[1]:
            yield Batch.of(*first), Batch.of(*second)


def _upto(chance: random.Random, most: int) -> int:
    """From 1 to `most`, as likely between 10 and 20 as between 100 and 200."""
    return min(most, int(math.exp(chance.uniform(0, math.log(most + 1)))))


def _decode(chance: random.Random, context: int) -> tuple[int, int]:
    return 1, _upto(chance, context - 1)


def _prompt(chance: random.Random, context: int) -> tuple[int, int]:
    new = 1 + _upto(chance, min(4096, context) - 1)
    return new, chance.choice((0, _upto(chance, context - new) if context > new else 0))


def _requests(chance: random.Random, context: int) -> Requests:
    prompts = chance.choice((0, 0, 1, 2, 4))
    decodes = _upto(chance, 256) if prompts == 0 or chance.random() < 0.7 else 0
    alike = chance.random() < 0.5
    one = _decode(chance, context)
    decoding = [one if alike else _decode(chance, context) for _ in range(decodes)]
    return (*decoding, *(_prompt(chance, context) for _ in range(prompts)))


def _more(chance: random.Random, requests: Requests, context: int) -> Requests:
    how, at = chance.randrange(3), chance.randrange(len(requests))
    new, cached = requests[at]
    room = context - new - cached
    if how == 0 or room < 1:
        return (*requests, chance.choice((_decode, _prompt))(chance, context))
    further = _upto(chance, room)
    longer = (new + further, cached) if how == 1 and new > 1 else (new, cached + further)
    return (*requests[:at], longer, *requests[at + 1 :])


def surface(model: str, gpu: str, count: int, seed: int = 0) -> Surface:
    """So many pairs of one model on one GPU."""
    saved = saved_model(model, "dooly.sqlite", platform=gpu)
    limits = gpu_limits(saved.device, saved.memory_bytes)
    saved = saved.under(*limits)
    context = min(32768, saved.config.get("Np", 32768))
    found = Surface(model, gpu)
    drawn = pairs(random.Random(f"{model} {gpu} {seed}"), limits, context)
    fitting: list[tuple[Batch, Batch]] = []
    while len(fitting) < count:
        pair = next(drawn)
        if _fits(saved, pair[1], limits):
            fitting.append(pair)
    times = [saved.steps.step_times([pair[side] for pair in fitting]).total_us for side in (0, 1)]
    found.tried = count
    found.wrong = sum(int(np.sum(~((each > 0) & np.isfinite(each)))) for each in times)
    with np.errstate(all="ignore"):
        gains = np.nan_to_num(1 - times[1] / times[0], nan=0.0, neginf=0.0)
    found.most = max(0.0, float(gains.max()))
    for at in np.flatnonzero(gains > FASTER):
        found.faster += 1
        cause = found.causes.setdefault(_cause(saved, *fitting[at]), Cause())
        cause.count += 1
        if gains[at] > cause.gain:
            cause.gain, cause.example = float(gains[at]), _difference(*fitting[at])
    return found


def _fits(saved: SavedModel, batch: Batch, limits: tuple[int, int]) -> bool:
    try:
        check_step(saved, batch, *limits)
    except DoolyError:
        return False
    return True


def _cause(saved: SavedModel, first: Batch, second: Batch) -> str:
    """The row that gained most, and the graphs that the engine has for the two steps."""
    sums: tuple[dict[str, float], dict[str, float]] = {}, {}
    for place, batch in enumerate((first, second)):
        for row in saved.steps.breakdown(batch).rows:
            sums[place][row.name] = sums[place].get(row.name, 0.0) + row.total_us
    most = min(sums[0], key=lambda name: sums[1].get(name, 0.0) - sums[0][name])
    plan = saved.steps.graphs
    graphs = [plan.at(each.tokens, each.count)[0] if plan else "none" for each in (first, second)]
    return f"{most} | {_both(first.kind, second.kind)} | {_both(*graphs)}"


def _both(first: str, second: str) -> str:
    return first if first == second else f"{first} to {second}"


def _difference(first: Batch, second: Batch) -> str:
    """What the second step has that the first has not, in short."""
    if second.count > first.count:
        new, cached = second.requests[-1]
        change = f"+ {new}:{cached}"
    else:
        at = next(i for i, each in enumerate(first.requests) if each != second.requests[i])
        change = "{}:{} -> {}:{}".format(*first.requests[at], *second.requests[at])
    return f"{first.count} requests, {first.tokens:,d} tokens; {change}"


def table(surfaces: Sequence[Surface]) -> str:
    """The counts, and the causes."""
    lines = ["| model | GPU | pairs | not finite or not above 0 | more work faster by over 3 % | by most (%) |"]
    lines += ["|---|---|---:|---:|---:|---:|"]
    for each in surfaces:
        lines.append(
            f"| {each.model} | {each.gpu} | {each.tried:,d} | {each.wrong} | {each.faster:,d} | {100 * each.most:.1f} |"
        )
    if any(each.causes for each in surfaces):
        lines += [
            "",
            "| model | GPU | what gained most | steps | graphs | pairs | by most (%) | the one that gains most |",
        ]
        lines += ["|---|---|---|---|---|---:|---:|---|"]
    for each in surfaces:
        for name, cause in sorted(each.causes.items(), key=lambda item: -item[1].count):
            lines.append(
                f"| {each.model} | {each.gpu} | {name} | {cause.count:,d} | {100 * cause.gain:.1f} | {cause.example} |"
            )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables, or replace those of a page; status 1 if a time is not one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=1000, help="of each model on each GPU")
    parser.add_argument("--models", nargs="*", default=MODELS)
    parser.add_argument("--gpus", nargs="*", default=GPUS)
    parser.add_argument("-o", "--output", type=Path, help="page whose tables are replaced")
    options = parser.parse_args(arguments)
    surfaces = [surface(model, gpu, options.pairs) for gpu in options.gpus for model in options.models]
    text = table(surfaces)
    show(text)
    if options.output is not None:
        page = options.output.read_text()
        before, _, after = page.partition("\n| model |")
        rest = after.rpartition("|\n")[2]
        options.output.write_text(f"{before}\n{text}\n{rest}")
    return int(any(each.wrong for each in surfaces))


if __name__ == "__main__":
    sys.exit(main())
