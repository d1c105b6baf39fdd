"""Which CUDA graph a step is replayed from, and to how many tokens it is padded: the engine's default rules."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dooly.batch import GraphMode
from dooly.errors import PredictError

__all__ = ["GraphPlan"]

_MOST_TOKENS = 512


@dataclass(frozen=True)
class GraphPlan:
    """Sizes of the captured graphs.

    Attributes:
        sizes: tokens, ascending; empty where nothing is captured.
        most_requests: requests in the largest graph of whole steps, in which each request has one new token.

    Source: vllm.config.VllmConfig._set_cudagraph_sizes, vllm.v1.worker.gpu.cudagraph_utils.CudaGraphManager.
    """

    sizes: tuple[int, ...]
    most_requests: int

    @classmethod
    def of(cls, max_num_seqs: int, max_num_batched_tokens: int) -> Self:
        """Return the graphs that the engine captures by default under these limits.

        >>> GraphPlan.of(8, 2048).sizes
        (1, 2, 4, 8, 16)

        Raises:
            PredictError: a limit is below 1.
        """
        if min(max_num_seqs, max_num_batched_tokens) < 1:
            raise PredictError(
                f"limits of {max_num_seqs} requests and {max_num_batched_tokens} tokens; expected at least 1 of each"
            )
        most = min(2 * max_num_seqs, _MOST_TOKENS, max_num_batched_tokens)
        sizes = {size for size in (1, 2, 4, *range(8, 256, 8), *range(256, most + 1, 16)) if size <= most}
        sizes |= {size for size in (max_num_seqs, max_num_batched_tokens) if size <= most}
        return cls(tuple(sorted(sizes)), max_num_seqs)

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> Self:
        """From the fields as JSON keeps them.

        Raises:
            PredictError: sizes are not whole numbers in ascending order.
        """
        sizes = tuple(int(size) for size in fields["sizes"])
        if list(sizes) != sorted(set(sizes)) or (sizes and sizes[0] < 1):
            raise PredictError("sizes of CUDA graphs do not ascend")
        return cls(sizes, int(fields["most_requests"]))

    def at(self, tokens: int, requests: int) -> tuple[GraphMode, int]:
        """Mode and padded tokens of a step."""
        place = bisect_left(self.sizes, tokens)
        if place == len(self.sizes):
            return "NONE", tokens
        padded = self.sizes[place]
        return ("FULL" if tokens == requests and padded <= self.most_requests else "PIECEWISE"), padded

    def many(
        self, tokens: NDArray[np.int64], requests: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """`at` of many steps: places in `MODES` and padded tokens."""
        place = np.searchsorted(self._sizes, tokens)
        outside = place == len(self._sizes)
        padded = np.where(outside, tokens, self._sizes[np.minimum(place, len(self._sizes) - 1)])
        full = (tokens == requests) & (padded <= self.most_requests)
        return np.where(outside, 2, np.where(full, 0, 1)), padded

    @cached_property
    def _sizes(self) -> NDArray[np.int64]:
        return np.array(self.sizes, dtype=np.int64)
