"""Records of a run of a trace, simulated or measured: one per request and one per step.

Both kinds share these types, so that predicted and measured compare one to one.  A run is stored as one JSON file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from dooly.batch import Batch
from dooly.engine.settings import EngineSettings
from dooly.errors import SimulationError
from dooly.files import read_text, write_text
from dooly.simulate.reading import check_format, finite, named, reading, whole
from dooly.simulate.tokens import TokenTimes

__all__ = ["RequestRecord", "Run", "StepRecord", "load_run", "save_run"]

# 1: first version
# 2: steps may be left out
# 3: launch time, graph mode and padding of steps
FORMAT = "dooly-run 3"


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One served request; times in seconds since the start of the run.

    Attributes:
        arrival_s: when it was sent: once it was due, and the client had less under way than it may.
        first_token_s: end of the step that gave its first output token.
        finish_s: end of the step that gave its last.
        prompt_tokens, output_tokens: its lengths.
        cached_tokens: prompt tokens found in the prefix cache when it was first scheduled.
        preemptions: how often it lost its KV blocks and started over.
    """

    arrival_s: float
    first_token_s: float
    finish_s: float
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int
    preemptions: int

    @classmethod
    def read(cls, row: Sequence[object]) -> RequestRecord:
        """A request from the values of its fields, in order, as a file has them.

        Raises:
            ValueError: not that many, a time that is not finite, a count that is none, or no output.
        """
        arrival_s, first_token_s, finish_s, *counts = row
        prompt, output, cached, preemptions = map(whole, counts)
        if output < 1:
            raise ValueError("a request without output tokens")
        return cls(finite(arrival_s), finite(first_token_s), finite(finish_s), prompt, output, cached, preemptions)

    @property
    def ttft_s(self) -> float:
        """Time to first token: from arrival, queueing included."""
        return self.first_token_s - self.arrival_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first; None for a single token."""
        if self.output_tokens == 1:
            return None
        return (self.finish_s - self.first_token_s) / (self.output_tokens - 1)

    @property
    def e2e_s(self) -> float:
        """End-to-end latency: from arrival to last token."""
        return self.finish_s - self.arrival_s


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One engine step that computed something.

    Attributes:
        start_s: since the start of the run.
        batch: what it worked on.
        host_before_us: scheduling and input preparation, until the model is called.
        device_us: the model's operations: forward pass, logits, argmax.
        host_after_us: everything else: bookkeeping of sampled tokens, update.
        total_us: from start to the moment its tokens were out.
        launch_us: the host queues the kernels while the device works through them; 0 where it waits for each.
        mode: CUDA graph mode: FULL, PIECEWISE or NONE; empty where there are none.
        padded: tokens computed, padding included; 0 where nothing is padded.
        detail: finer parts of a measured step by name, us.
    """

    start_s: float
    batch: Batch
    host_before_us: float
    device_us: float
    host_after_us: float
    total_us: float
    launch_us: float = 0.0
    mode: str = ""
    padded: int = 0
    detail: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Run:
    """One pass over a trace.

    Attributes:
        source: whether the clock was simulated or real.
        model, trace: names.
        settings: of the engine.
        clipped: requests whose lengths were cut to fit the model.
        requests: in order of the trace.
        steps: in order of time; left out by a fast simulation unless asked for.
        wall_s: seconds that simulating or recording took.
        facts: the machine and software of a measured run (sorted key, value); empty for a simulated one.
        unlisted: steps that are left out: how many, and requests in all of them.
        tokens: when each output token came; None for a measured run or one from a file, which have no such times.
    """

    source: Literal["simulated", "measured"]
    model: str
    trace: str
    settings: EngineSettings
    clipped: int
    requests: tuple[RequestRecord, ...]
    steps: tuple[StepRecord, ...]
    wall_s: float
    facts: tuple[tuple[str, str], ...] = ()
    unlisted: tuple[int, int] = (0, 0)
    tokens: TokenTimes | None = field(default=None, compare=False)

    @property
    def step_count(self) -> int:
        """Steps that computed something."""
        return len(self.steps) + self.unlisted[0]

    @property
    def mean_running(self) -> float:
        """Requests in a step, averaged over steps."""
        return (sum(step.batch.count for step in self.steps) + self.unlisted[1]) / self.step_count


def save_run(run: Run, path: str | Path) -> None:
    """Write a run as JSON: one line per request and per step, so that two runs can be compared by eye.

    Raises:
        DoolyError: the file cannot be written.
    """
    header = {
        "format": FORMAT,
        "source": run.source,
        "model": run.model,
        "trace": run.trace,
        "settings": asdict(run.settings),
        "clipped": run.clipped,
        "wall_s": run.wall_s,
        "facts": dict(run.facts),
        "unlisted": run.unlisted,
    }
    requests = [json.dumps(asdict(request)) for request in run.requests]
    steps = [json.dumps(_step_fields(step)) for step in run.steps]
    text = (
        json.dumps(header)[:-1] + ',\n"requests": [\n' + ",\n".join(requests) + '\n],\n"steps": [\n' + ",\n".join(steps)
    )
    write_text(path, text + "\n]}\n")


def _step_fields(step: StepRecord) -> dict[str, Any]:
    """asdict without the recursion into Batch, whose requests go on one level as [[q, c], ...]."""
    fields: dict[str, Any] = {
        "start_s": step.start_s,
        "batch": step.batch.requests,
        "logits": step.batch.logits,
        "host_before_us": step.host_before_us,
        "device_us": step.device_us,
        "host_after_us": step.host_after_us,
        "total_us": step.total_us,
        "launch_us": step.launch_us,
        "mode": step.mode,
        "padded": step.padded,
    }
    if step.detail:
        fields["detail"] = dict(step.detail)
    return fields


def load_run(path: str | Path) -> Run:
    """Read a run written by `save_run`.

    Raises:
        SimulationError: the file cannot be read or does not hold a run.
    """
    with reading(path, "a recorded run"):
        content: dict[str, Any] = json.loads(read_text(path))
        check_format(path, content, FORMAT)
        if content["source"] not in ("simulated", "measured"):
            raise SimulationError(f"{path}: source {content['source']!r}; expected simulated or measured")
        return Run(
            source=content["source"],
            model=named(content["model"]),
            trace=str(content["trace"]),
            settings=EngineSettings(**content["settings"]),
            clipped=whole(content["clipped"]),
            requests=tuple(
                RequestRecord.read([fields[name] for name in RequestRecord.__slots__]) for fields in content["requests"]
            ),
            steps=tuple(_step(fields) for fields in content["steps"]),
            wall_s=finite(content["wall_s"]),
            facts=tuple(sorted((str(k), str(v)) for k, v in content["facts"].items())),
            unlisted=(whole(content["unlisted"][0]), whole(content["unlisted"][1])),
        )


def _step(fields: dict[str, Any]) -> StepRecord:
    return StepRecord(
        start_s=finite(fields["start_s"]),
        batch=Batch(tuple((whole(q), whole(c)) for q, c in fields["batch"]), whole(fields["logits"])),
        host_before_us=finite(fields["host_before_us"]),
        device_us=finite(fields["device_us"]),
        host_after_us=finite(fields["host_after_us"]),
        total_us=finite(fields["total_us"]),
        launch_us=finite(fields["launch_us"]),
        mode=str(fields["mode"]),
        padded=whole(fields["padded"]),
        detail=tuple((str(name), finite(us)) for name, us in fields.get("detail", {}).items()),
    )
