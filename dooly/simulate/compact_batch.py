"""The work of a step of the compact scheduler, in sums that are kept up from step to step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dooly.batch import TILE, Batch

__all__ = ["NEVER", "CompactBatch", "add_up"]

NEVER = -1


class CompactBatch:
    """A step's work in sums; the single requests are listed only if somebody asks, before the next step.

    Attributes:
        composition: the same for steps in which the same requests decode and nothing else happens; NEVER with prompts.
    """

    __slots__ = ("_list", "_requests", "ahead", "composition", "count", "logits", "sums", "tokens")

    def __init__(
        self,
        sums: dict[str, int],
        composition: int,
        list_requests: Callable[[int], tuple[tuple[int, int], ...]],
        ahead: int = 0,
    ) -> None:
        self.sums, self.composition, self.ahead, self._list = sums, composition, ahead, list_requests
        self.tokens = sums["T"]
        self.count = self.logits = sums["R"]
        self._requests: tuple[tuple[int, int], ...] | None = None

    @property
    def requests(self) -> tuple[tuple[int, int], ...]:
        """(new, cached) of each request."""
        if self._requests is None:
            self._requests = self._list(self.ahead)
        return self._requests

    def attention(self, window: int | None = None) -> dict[str, int]:
        """Sums of `Batch.attention`."""
        return self.sums if window is None else Batch(self.requests, self.logits).attention(window)

    def later(self, steps: int) -> CompactBatch:
        """The batch that comes so many steps after this one, if nothing but decoding happens in between."""
        more, sums = self.count * steps, self.sums
        sums = {**sums, "S": sums["S"] + more, "P": sums["P"] + more, "Sd": sums["Sd"] + steps}
        return CompactBatch(sums, self.composition, self._list, self.ahead + steps)


def add_up(decodes: int, rows: int, longest: int, prefills: Sequence[tuple[int, int]]) -> dict[str, int]:
    """`Batch.attention` of requests that decode, of which sums are known, and of others.

    Args:
        rows: KV rows that all that decode read.
        longest: rows of the one with most; 0 if none decodes.
        prefills: (new, cached) of each other request.
    """
    tokens, pairs, most = decodes, rows, longest
    prompts = prefill_tokens = prefill_rows = prefill_pairs = prefill_most = tiled = 0
    for new, cached in prefills:
        seen_rows, seen_pairs = new + cached, new * cached + new * (new + 1) // 2
        tokens += new
        rows += seen_rows
        pairs += seen_pairs
        if seen_rows > most:
            most = seen_rows
        if new > 1:
            prompts += 1
            prefill_tokens += new
            prefill_rows += seen_rows
            prefill_pairs += seen_pairs
            if seen_rows > prefill_most:
                prefill_most = seen_rows
            tiled += seen_pairs * (-(-new // TILE) * TILE) // new
    mixed = prefill_tokens > 0
    return {
        "T": tokens,
        "R": decodes + len(prefills),
        "S": rows,
        "P": pairs,
        "Sd": 0 if mixed else most,
        "Sx": most if mixed else 0,
        "Rp": prompts,
        "Tp": prefill_tokens,
        "Sp": prefill_rows,
        "Pp": prefill_pairs,
        "Sq": prefill_most,
        "Pt": tiled,
        "M": int(mixed),
    }
