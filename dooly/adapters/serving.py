"""Answers for prediction-based schedulers: how long is the next step, when does a request get its first token.

>>> from dooly.batch import StepCost
>>> class Linear:
...     def step_time(self, batch):
...         return StepCost(0.0, 0.0, 0.0, 100.0 + batch.tokens)
>>> load = Load(decoding=(500, 700), waiting=(40,))
>>> round(Forecast(Linear(), budget=128).ttft_s(300, load) * 1e6)
648
"""

from collections import deque
from dataclasses import dataclass
from typing import Protocol

from dooly.batch import Batch, StepCost
from dooly.errors import PredictError

__all__ = ["Forecast", "Load", "StepTimer"]


class StepTimer(Protocol):
    """Anything that knows step times: `dooly.predict.StepModel`."""

    def step_time(self, batch: Batch) -> StepCost:
        """Cost of one step."""
        ...


@dataclass(frozen=True)
class Load:
    """The work that an engine has to do.

    Attributes:
        decoding: cached tokens of each request that decodes.
        waiting: prompt tokens that are left of each request before ours, in the order of arrival.
    """

    decoding: tuple[int, ...] = ()
    waiting: tuple[int, ...] = ()


@dataclass(frozen=True)
class Forecast:
    """Answers from step times and the engine's limits.

    Prompts are taken in order and in chunks, decodes first, as vLLM does.  Requests that decode now, and those before
    ours once they have their first token, are taken to decode until ours has its own: the answer errs to the long side.

    Attributes:
        steps: step times of the model.
        budget: most tokens of one step (``max_num_batched_tokens``).
        seats: most requests of one step (``max_num_seqs``).
    """

    steps: StepTimer
    budget: int = 2048
    seats: int = 256

    def next_step_s(self, load: Load) -> float:
        """Seconds of the engine's next step.

        Raises:
            PredictError: there is nothing to do, or more requests decode than the engine seats.
        """
        batch, _, _ = self._next(list(load.decoding), deque((0, left) for left in load.waiting))
        return self.steps.step_time(batch).total_us * 1e-6

    def ttft_s(self, prompt: int, load: Load | None = None) -> float:
        """Seconds until a request of `prompt` tokens that arrives now has its first token.

        Raises:
            PredictError: the prompt is empty, or requests that decode leave it no room.
        """
        if prompt < 1:
            raise PredictError(f"a prompt of {prompt} tokens; expected at least 1")
        load = load or Load()
        decoding, waiting = list(load.decoding), deque((0, left) for left in (*load.waiting, prompt))
        total_us = 0.0
        while waiting:
            batch, decoding, waiting = self._next(decoding, waiting)
            total_us += self.steps.step_time(batch).total_us
        return total_us * 1e-6

    def _next(
        self, decoding: list[int], waiting: deque[tuple[int, int]]
    ) -> tuple[Batch, list[int], deque[tuple[int, int]]]:
        """The next step, and what decodes and waits (cached, left) after it."""
        room = min(self.budget, self.seats) - len(decoding)
        if room < (1 if waiting else 0):
            raise PredictError(
                f"{len(decoding)} requests decode; steps of {self.budget} tokens and {self.seats} requests "
                f"leave no room for a prompt"
            )
        requests, after, left = [(1, cached) for cached in decoding], [c + 1 for c in decoding], deque(waiting)
        tokens = self.budget - len(decoding)
        while left and tokens and len(requests) < self.seats:
            cached, rest = left.popleft()
            chunk = min(rest, tokens)
            tokens -= chunk
            requests.append((chunk, cached))
            if chunk < rest:
                left.appendleft((cached + chunk, rest - chunk))
                break
            after.append(cached + chunk)
        return Batch.of(*requests), after, left
