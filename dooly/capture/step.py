"""One engine step as a module: what the model runner does on the device."""

from __future__ import annotations

from typing import Any

import torch
from vllm.distributed import get_pp_group, get_tp_group
from vllm.sequence import IntermediateTensors
from vllm.v1.sample.logits_processor import LogitsProcessors
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.sampler import Sampler

__all__ = ["INPUTS", "Step"]

_LIBRARY = torch.library.Library("dooly", "FRAGMENT")
_LIBRARY.define("recv(Tensor rows, SymInt width, ScalarType dtype) -> Tensor")
_LIBRARY.define("send(Tensor part) -> Tensor")
_LIBRARY.impl("recv", lambda rows, width, dtype: rows.new_empty((rows.shape[0], width), dtype=dtype), "Meta")
_LIBRARY.impl("send", torch.empty_like, "Meta")

INPUTS = ("input_ids", "positions", "logits_indices")
"""Tensor inputs of a step: T token ids, T positions, the L rows of the hidden states that need logits."""


class Step(torch.nn.Module):
    """Forward, the rows that need logits, their logits, greedy sampling.

    Where the layers are spread over pipeline stages: what the stage before sends, forward, what the next stage gets.
    The engine sends each tensor-parallel rank's part of a tensor, and the receivers gather it.

    Args:
        model: the engine's.
        dtype: of its hidden states.
    """

    def __init__(self, model: torch.nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.sampler, self.metadata = model, Sampler(), _greedy()
        self._arriving: dict[str, torch.dtype] = {}
        if not get_pp_group().is_first_rank:
            engine: Any = model
            empty = engine.make_empty_intermediate_tensors(1, dtype, torch.device("meta"))
            self._arriving = {name: tensor.dtype for name, tensor in empty.tensors.items()}

    def forward(self, input_ids: torch.Tensor, positions: torch.Tensor, rows: torch.Tensor) -> Any:
        pipeline = get_pp_group()
        if pipeline.is_first_rank:
            hidden = self.model(input_ids, positions, intermediate_tensors=None)
        else:
            hidden = self.model(input_ids, positions, self._received(input_ids))
        if not pipeline.is_last_rank:
            return tuple(_send(tensor) for tensor in hidden.tensors.values())
        logits = self.model.compute_logits(hidden[rows])  # pyright: ignore[reportCallIssue]
        return self.sampler(logits, self.metadata).sampled_token_ids

    def _received(self, input_ids: torch.Tensor) -> IntermediateTensors:
        model: Any = self.model
        ranks, width = get_tp_group().world_size, model.config.hidden_size
        tensors: dict[str, torch.Tensor] = {}
        for name, dtype in self._arriving.items():
            part = torch.ops.dooly.recv(input_ids, width // ranks, dtype)
            tensors[name] = part if ranks == 1 else get_tp_group().all_gather(part, -1)
        return IntermediateTensors(tensors)


def _send(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of a tensor goes to the next stage; what is returned is what arrives."""
    ranks = get_tp_group().world_size
    part = tensor if ranks == 1 else tensor.narrow(-1, 0, tensor.shape[-1] // ranks)
    return torch.ops.dooly.send(part)


def _greedy() -> SamplingMetadata:
    none = torch.empty(0, device="meta")
    return SamplingMetadata(
        temperature=None,
        all_greedy=True,
        all_random=False,
        top_p=None,
        top_k=None,
        generators={},
        max_num_logprobs=None,
        no_penalties=True,
        prompt_token_ids=None,
        frequency_penalties=none,
        presence_penalties=none,
        repetition_penalties=none,
        output_token_ids=[],
        allowed_token_ids_mask=None,
        bad_words_token_ids={},
        logitsprocs=LogitsProcessors(),
    )
