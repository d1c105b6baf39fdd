"""One engine step as a module: what the model runner does on the device."""

from __future__ import annotations

import torch
from vllm.v1.sample.logits_processor import LogitsProcessors
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.sampler import Sampler

__all__ = ["INPUTS", "Step"]

INPUTS = ("input_ids", "positions", "logits_indices")
"""Tensor inputs of a step: T token ids, T positions, the L rows of the hidden states that need logits."""


class Step(torch.nn.Module):
    """Forward, the rows that need logits, their logits, greedy sampling."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model, self.sampler, self.metadata = model, Sampler(), _greedy()

    def forward(self, input_ids: torch.Tensor, positions: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        hidden = self.model(input_ids, positions)
        logits = self.model.compute_logits(hidden[rows])  # pyright: ignore[reportCallIssue]
        return self.sampler(logits, self.metadata).sampled_token_ids


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
