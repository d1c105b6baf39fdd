"""The load that the host is measured with: a model of several depths, and the shapes of steps that it serves."""

import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dooly.capture import resolve_model
from dooly.database import Point
from dooly.engine.settings import EngineSettings
from dooly.executor.host.engine import Asked, Workload
from dooly.hardware.machine import Machine

__all__ = ["DECODE", "HostLoad", "load_for"]

DECODE = 4
"""Requests of the decode steps that are compared over depths."""

CONTEXT, STEPS = 32, 4
"""Prompt tokens, and steps at a time, of requests that decode."""

_TURNS = 7

_WARM_UP = 2
"""Turns of arriving prompts before any is timed."""

_ARRIVALS, _GAP = 6, 4
"""Prompts that arrive one by one while others decode, and steps from one to the next."""


@dataclass(frozen=True)
class HostLoad:
    """Shapes of steps, and the model that runs them.

    Attributes:
        model: bundled; its layers are repeated or left out.
        sizes: of its configuration that are set otherwise.
        depths: layers of the model, one engine each.
        requests, tokens: most in one step.
        decodes: requests that decode together.
        prefills: (requests, prompt tokens of each) that are prefilled together.
        mixed: requests that decode while prompts of any size arrive one by one.
        mixture: bundled model with a mixture of experts in each layer; None where no other way of queueing is to be
            told apart.
        mixtures: layers of that model, one engine each.
    """

    model: str
    sizes: Mapping[str, int]
    depths: tuple[int, ...]
    requests: int
    tokens: int
    decodes: tuple[int, ...]
    prefills: tuple[tuple[int, int], ...]
    mixed: tuple[int, ...] = ()
    mixture: str | None = None
    mixtures: tuple[int, ...] = ()

    @property
    def points(self) -> tuple[Point, ...]:
        """Shapes of steps."""
        return (
            *(Point.of(R=count, T=count) for count in self.decodes),
            *(Point.of(R=count, T=count * prompt) for count, prompt in self.prefills),
        )

    def workloads(self) -> Iterator[Workload]:
        """All shapes in turn, several times over.

        A shape that is repeated at once finds its code in the processor's caches, and all its samples at one moment; a
        real engine's steps change from one to the next.  Prompts come between decoding steps, as they do where requests
        arrive one by one; and beside them, no two of one size.
        """
        sizes = random.Random(0)
        for _ in range(_TURNS):
            yield from self._turn(STEPS + 1)
            yield from (self._arriving(count, sizes) for count in self.mixed)

    def prompts(self) -> Iterator[Workload]:
        """Workloads whose kernels are launched one by one, or in pieces."""
        yield from (each for each in self.workloads() if any(asked.prompt > CONTEXT for asked in each))

    def arriving(self) -> Iterator[Workload]:
        """Prompts that arrive while others decode, one or more."""
        sizes = random.Random(0)
        for _ in range(_TURNS):
            yield from (self._arriving(count, sizes) for count in (1, *self.mixed))

    def overlapped(self) -> Iterator[Workload]:
        """Workloads that decode, to be served with asynchronous scheduling."""
        for _ in range(_TURNS):
            yield from self._decodes(STEPS + 1)

    def warm_up(self) -> Iterator[Workload]:
        """Each shape once, cut short, and prompts of other sizes: the first step of a shape is slower.

        Mixtures of experts take twice as long for the first ten prompts that arrive while others decode.
        """
        yield (Asked(self.tokens, 2),)
        yield from self._turn(2)
        sizes = random.Random(1)
        for _ in range(_WARM_UP):
            yield from (self._arriving(count, sizes) for count in self.mixed)

    def _turn(self, outputs: int) -> Iterator[Workload]:
        decodes = self._decodes(outputs)
        prefills = ((Asked(prompt, 1),) * count for count, prompt in self.prefills)
        for pair in itertools.zip_longest(decodes, prefills):
            yield from filter(None, pair)

    def _decodes(self, outputs: int) -> Iterator[Workload]:
        yield from ((Asked(CONTEXT, outputs),) * count for count in self.decodes)

    def _arriving(self, decodes: int, sizes: random.Random) -> Workload:
        """Requests that decode from first to last, and prompts of up to half of a step's tokens."""
        low, high = math.log(2 * CONTEXT), math.log(self.tokens // 2)
        prompts = [round(math.exp(sizes.uniform(low, high))) for _ in range(_ARRIVALS)]
        others = [Asked(prompt, 1, after=_GAP * (place + 1)) for place, prompt in enumerate(prompts)]
        return (*[Asked(CONTEXT, _GAP * (_ARRIVALS + 1))] * decodes, *others)

    def settings(self, machine: Machine) -> EngineSettings:
        """Settings of the engine that serves the load."""
        longest = 2 * self.tokens
        return EngineSettings(
            max_num_seqs=self.requests,
            max_num_batched_tokens=self.tokens,
            max_model_len=longest,
            block_size=machine.block_size,
            async_scheduling=machine.torch_device == "cuda",
            num_blocks=2 + (longest + self.requests * 2 * (CONTEXT + STEPS)) // machine.block_size + self.requests,
        )

    def write_model(self, folder: Path, depth: int) -> Path:
        """A config.json of so many layers in a new folder."""
        return _write(folder, self.model, {**self.sizes, "num_hidden_layers": depth})

    def write_mixture(self, folder: Path, depth: int) -> Path:
        """A config.json of the model with experts and so many layers in a new folder."""
        assert self.mixture is not None, "no mixture to be told apart"
        return _write(folder, self.mixture, {"num_hidden_layers": depth})


def _write(folder: Path, model: str, sizes: Mapping[str, int]) -> Path:
    _, config = resolve_model(model)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**config, **sizes}))
    return folder


_LOADS = {
    "cpu": HostLoad(
        model="tiny-llama",
        sizes={
            "hidden_size": 64,
            "intermediate_size": 64,
            "head_dim": 32,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "vocab_size": 256,
        },
        depths=(2, 5, 8),
        requests=16,
        tokens=512,
        decodes=(1, DECODE, 16),
        prefills=((1, 64), (1, 512), (4, 128), (16, 32)),
    ),
    # Layers of real size, or the device would never let the host wait.
    "cuda": HostLoad(
        model="llama-3.1-8b",
        sizes={},
        depths=(8, 64),
        requests=256,
        tokens=8192,
        decodes=(1, DECODE, 16, 64, 128, 256),
        prefills=((1, 128), (1, 2048), (1, 8192), (DECODE, 64), (DECODE, 256), (16, 16), (16, 128), (64, 32)),
        mixed=(DECODE, 16, 64),
        mixture="qwen3-30b-a3b",
        mixtures=(8, 24),
    ),
}


def load_for(machine: Machine) -> HostLoad:
    """Return the load that suits this machine's device."""
    return _LOADS[machine.torch_device]
