"""Vidur with dooly inside, watched: ``python benchmarks/run_vidur.py REPORT.json STEPS.json [flags of Vidur]``.

Runs the adapter as a user does, in an environment where Vidur is installed.  The report is one JSON object: ``steps``,
each step that Vidur asked for as [requests, seconds that it was told]; ``call_ns`` and ``step_time_ns``, the thread's
processor time of the adapter's whole answer and of `step_time` alone for the same step.
"""

import json
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from dooly.adapters.vidur import __main__ as adapter
from dooly.batch import Batch
from dooly.predict import SavedModel


class Watch:
    """What is seen of a run."""

    def __init__(self, model: SavedModel) -> None:
        self.step_time = model.steps.step_time
        self.steps: list[tuple[tuple[tuple[int, int], ...], float]] = []
        self.call_ns: list[int] = []
        self.step_time_ns: list[int] = []

    def over(self, predictor: Any) -> Any:
        """The same predictor, watched."""
        watch = self

        class Watched(predictor):
            def get_execution_time(self, batch: Any, pipeline_stage: int) -> Any:
                requests = self.requests_of(batch)
                same = Batch(requests, len(requests))
                if len(watch.steps) % 2:  # in turns: whoever comes second finds everything in the caches
                    watch.alone(same)
                start = time.thread_time_ns()
                answer = super().get_execution_time(batch, pipeline_stage)
                watch.call_ns.append(time.thread_time_ns() - start)
                if not len(watch.steps) % 2:
                    watch.alone(same)
                watch.steps.append((requests, answer.total_time))
                return answer

        Watched.__abstractmethods__ = frozenset()
        return Watched

    def alone(self, batch: Batch) -> None:
        """Time `step_time`."""
        start = time.thread_time_ns()
        self.step_time(batch)
        self.step_time_ns.append(time.thread_time_ns() - start)

    def report(self) -> dict[str, Any]:
        return {"steps": self.steps, "call_ns": self.call_ns, "step_time_ns": self.step_time_ns}


def main() -> int:
    """The adapter's exit status."""
    report, *arguments = sys.argv[1:]
    watch = Watch(SavedModel.load(arguments[0]))
    registry: Any = import_module("vidur.execution_time_predictor").ExecutionTimePredictorRegistry
    register = registry.register
    registry.register = lambda key, predictor: register(key, watch.over(predictor))
    status = adapter.main(arguments)
    if status == 0:
        Path(report).write_text(json.dumps(watch.report()))
    return status


if __name__ == "__main__":
    sys.exit(main())
