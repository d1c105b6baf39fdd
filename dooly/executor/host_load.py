"""What the host is measured with: a tiny model of several depths, and the shapes of steps that it serves."""

import json
from dataclasses import dataclass
from pathlib import Path

from dooly.database import Point
from dooly.engine import EngineSettings
from dooly.executor.host_engine import Workload
from dooly.executor.machine import Machine

__all__ = ["DECODE", "HostLoad", "load_for"]

DECODE = 4
"""Requests of the decode steps that are compared over depths."""

CONTEXT, STEPS = 32, 24
_REPEATS = 7

_MODEL: dict[str, object] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 256,
    "max_position_embeddings": 16384,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True)
class HostLoad:
    """Shapes of steps, and the model that runs them.

    Attributes:
        depths: layers of the model, one engine each; all shapes are served at the first.
        requests, tokens: most in one step.
        decodes: requests that decode together.
        prefills: (requests, prompt tokens of each) that are prefilled together; one for each way of launching kernels
            comes first.
        per_depth: how many of `prefills` are served at every depth.
        head_size, dtype: of the model.
    """

    depths: tuple[int, ...]
    requests: int
    tokens: int
    decodes: tuple[int, ...]
    prefills: tuple[tuple[int, int], ...]
    per_depth: int
    head_size: int
    dtype: str

    @property
    def points(self) -> tuple[Point, ...]:
        """Shapes of steps at the first depth, in the order of `groups`."""
        return (
            *(Point.of(R=count, T=count) for count in self.decodes),
            *(Point.of(R=count, T=count * prompt) for count, prompt in self.prefills),
        )

    def groups(self, depth: int) -> list[tuple[Workload, ...]]:
        """Workloads for each shape: a shape is committed as soon as it is measured."""
        first = depth == self.depths[0]
        decodes = self.decodes if first else (DECODE,)
        prefills = self.prefills if first else self.prefills[: self.per_depth]
        return [
            *((((CONTEXT, STEPS),) * count,) for count in decodes),
            *(((((prompt, 1),) * count),) * _REPEATS for count, prompt in prefills),
        ]

    def warm_up(self, depth: int) -> list[Workload]:
        """Each shape once, cut short: the first step of a shape is slower."""
        return [((self.tokens, 2),), *(tuple((prompt, 2) for prompt, _ in group[0]) for group in self.groups(depth))]

    def settings(self, machine: Machine) -> EngineSettings:
        """Of the engine that serves them."""
        longest = 2 * self.tokens
        return EngineSettings(
            max_num_seqs=self.requests,
            max_num_batched_tokens=self.tokens,
            max_model_len=longest,
            block_size=machine.block_size,
            num_blocks=2 + (longest + self.requests * 2 * (CONTEXT + STEPS)) // machine.block_size + self.requests,
        )

    def write_model(self, folder: Path, depth: int) -> Path:
        """A config.json of the tiny model in a new folder."""
        folder.mkdir()
        sizes = {
            "num_hidden_layers": depth,
            "hidden_size": 2 * self.head_size,
            "intermediate_size": 2 * self.head_size,
            "head_dim": self.head_size,
            "torch_dtype": self.dtype,
        }
        (folder / "config.json").write_text(json.dumps(_MODEL | sizes))
        return folder


_LOADS = {
    "cpu": HostLoad((2, 5, 8), 16, 512, (1, DECODE, 16), ((1, 64), (1, 512), (4, 128), (16, 32)), 0, 32, "float32"),
    "cuda": HostLoad(
        depths=(4, 16, 32),
        requests=256,
        tokens=8192,
        decodes=(1, DECODE, 16, 64, 128, 256),
        prefills=((DECODE, 64), (DECODE, 256), (1, 128), (1, 2048), (1, 8192), (16, 16), (16, 128), (64, 32)),
        per_depth=2,
        head_size=64,
        dtype="bfloat16",
    ),
}


def load_for(machine: Machine) -> HostLoad:
    """What suits this machine's device."""
    return _LOADS[machine.torch_device]
