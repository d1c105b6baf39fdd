"""A step divided into the fields of Vidur's ExecutionTime: milliseconds, most of them for one layer."""

from dataclasses import dataclass, field
from functools import lru_cache

from dooly.adapters.grid import Outside
from dooly.adapters.layer import LAYER_PARTS, STEP_PARTS, shares_of
from dooly.adapters.vidur.step import Mixed, step_of
from dooly.batch import Batch
from dooly.predict import Parts, SavedModel

__all__ = ["Slots"]

_NAMES = (*LAYER_PARTS, *STEP_PARTS)


@dataclass(frozen=True)
class _Sized:
    """Times that the numbers of tokens, requests and rows of logits decide.

    Attributes:
        us: all of it.
        rope: ms of a layer.
        after: fields of a layer that follow attention, ms.
        rest, sampler: ms of a step.
    """

    us: float
    rope: float
    after: tuple[float, ...]
    rest: float
    sampler: float


@dataclass
class Slots:
    """Fills the fields.

    Vidur has none for embedding, final norm, output projection, sampling and dispatch, nor for a mixture of experts:

    - experts and their router count as ``mlp_up``; norms of queries and keys as ``rope``; the KV cache is written
      inside the attention operation;
    - with CPU fields (microsoft/vidur): sampling in ``sampler_e2e``, the host before and after the step in
      ``prepare_inputs_e2e`` and ``process_model_outputs``, dispatch and waiting for it in ``ray_comm``, all else of a
      step in ``pipeline parallel communication``; without them (the package ``vidur``) everything of a step goes there.

    Args:
        model: whose steps.
        cpu_fields: the ExecutionTime at hand has the five CPU fields.
    """

    model: SavedModel
    cpu_fields: bool
    outside: Outside = field(default_factory=Outside)

    def __post_init__(self) -> None:
        self._step_time = self.model.steps.step_time
        self._parts = Parts(self.model.steps, _NAMES, shares_of)
        self._layers = self.model.layers
        self._sized = lru_cache(maxsize=65536)(self._divide)
        # Dispatch is alike in all steps, so attention is what else its operations take: it need not be computed twice.
        one = step_of(((1, 1),))
        self._dispatch = self._step_time(one).device_us - self._sized(1, 1, 1).us - self._parts.varying(one)

    def fields(self, requests: tuple[tuple[int, int], ...]) -> tuple[float, ...]:
        """Positional arguments of ExecutionTime for requests of (new, cached) tokens; their total is `step_time`."""
        step = step_of(requests)
        cost = self._step_time(step)
        self.outside.note(step, cost.extrapolated)
        sized = self._sized(step.tokens, step.count, step.logits)
        attention = (cost.work_us or cost.device_us) - sized.us - self._dispatch
        before, after = cost.host_before_us * 1e-3, cost.host_after_us * 1e-3
        dispatch = (cost.total_us - sized.us - attention) * 1e-3 - before - after
        per_layer = attention * 1e-3 / self._layers
        decode = per_layer * self._decode_share(step)
        layer = (self._layers, sized.rope, 0.0, decode, per_layer - decode, *sized.after)
        if self.cpu_fields:
            return (*layer, sized.rest, 0.0, sized.sampler, before, after, dispatch)
        return (*layer, sized.rest + sized.sampler + before + dispatch + after)

    def _divide(self, tokens: int, requests: int, logits: int) -> _Sized:
        us = self._parts.fixed(tokens, requests, logits)
        norm1, pre, rope, other, post, norm2, up, act, down, moe, reduce, more, *of_step = (each * 1e-3 for each in us)
        embedding, final_norm, lm_head, sampler, told = of_step
        layer = (pre, post, up + moe, down, act, norm1, norm2, other + more, reduce / 2)
        each_layer = tuple(ms / self._layers for ms in layer)
        return _Sized(sum(us), rope / self._layers, each_layer, embedding + final_norm + lm_head + told, sampler)

    def _decode_share(self, step: Batch | Mixed) -> float:
        """Share of decoding in the attention of a step; a mixed step is divided as its two halves would take alone."""
        if isinstance(step, Mixed):
            decodes, others = self._parts.varying(step.decodes), self._parts.varying(step.others)
            return decodes / (decodes + others)
        return 0.0 if step.kind == "prefill" else 1.0
