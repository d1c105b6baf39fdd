"""A step divided into the fields of Vidur's ExecutionTime: milliseconds, most of them for one layer."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from dooly.adapters.grid import Outside
from dooly.adapters.layer import LAYER_PARTS, STEP_PARTS, shares_of
from dooly.batch import Batch, StepCost
from dooly.predict import Parts, SavedModel

__all__ = ["Slots"]

_NAMES = (*LAYER_PARTS, *STEP_PARTS)


@dataclass
class Slots:
    """Fills the fields.

    Vidur has none for embedding, final norm, output projection, sampling and dispatch, nor for a mixture of experts:

    - experts and their router count as ``mlp_up``; norms of queries and keys as ``rope``; the KV cache is written
      inside the attention operation;
    - with CPU fields (microsoft/vidur): sampling in ``sampler_e2e``, the host before and after the step in
      ``prepare_inputs_e2e`` and ``process_model_outputs``, dispatch in ``ray_comm``, all else of a step in ``pipeline
      parallel communication``; without them (the package ``vidur``) everything of a step goes there.

    Args:
        model: whose steps.
        cpu_fields: the ExecutionTime at hand has the five CPU fields.
    """

    model: SavedModel
    cpu_fields: bool
    outside: Outside = field(default_factory=Outside)

    def __post_init__(self) -> None:
        self._parts = Parts(self.model.steps, _NAMES, shares_of)
        self._layers = self.model.layers

    def fields(self, requests: Sequence[tuple[int, int]]) -> tuple[float, ...]:
        """Positional arguments of ExecutionTime for requests of (new, cached) tokens; their total is `step_time`."""
        batch = Batch(tuple(requests), len(requests))
        cost, times, dispatch = self._parts.at(batch)
        self.outside.note(batch, cost)
        each = 1e-3 / self._layers
        norm1, pre, rope, attention, post, norm2, up, act, down, moe, reduce, other, *of_step = times
        decode = attention * self._decode_share(batch)
        layer = (rope, 0.0, decode, attention - decode, pre, post, up + moe, down, act, norm1, norm2, other, reduce / 2)
        return (self._layers, *(us * each for us in layer), *self._per_step(cost, of_step, dispatch))

    def _per_step(self, cost: StepCost, of_step: list[float], dispatch: float) -> tuple[float, ...]:
        host_before, host_after = cost.host_before_us, cost.host_after_us
        if not self.cpu_fields:
            return ((sum(of_step) + dispatch + host_before + host_after) * 1e-3,)
        embedding, final_norm, lm_head, sampler = of_step
        rest = embedding + final_norm + lm_head
        return tuple(us * 1e-3 for us in (rest, 0.0, sampler, host_before, host_after, dispatch))

    def _decode_share(self, batch: Batch) -> float:
        """Of the attention of a step; a mixed one is divided as its two halves would take alone."""
        decodes = tuple(pair for pair in batch.requests if pair[0] == 1 and pair[1] > 0)
        if not decodes:
            return 0.0
        if len(decodes) == len(batch.requests):
            return 1.0
        rest = tuple(pair for pair in batch.requests if pair[0] != 1 or pair[1] == 0)
        alone = self._parts.varying(Batch(decodes, 0)), self._parts.varying(Batch(rest, 0))
        return alone[0] / sum(alone)
