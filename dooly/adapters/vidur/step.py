"""A mixed step whose halves are known, so that no sum over its requests is taken twice."""

from dooly.batch import Batch

__all__ = ["Mixed", "step_of"]


class Mixed:
    """A step of some requests that decode and others, as `step_time` wants it.

    Attributes:
        decodes, others: its halves.
    """

    __slots__ = ("_sums", "count", "decodes", "logits", "others", "requests", "tokens")

    def __init__(self, requests: tuple[tuple[int, int], ...], decodes: Batch, others: Batch) -> None:
        self.requests, self.decodes, self.others = requests, decodes, others
        self.count = self.logits = len(requests)
        self.tokens = decodes.tokens + others.tokens
        self._sums: dict[int | None, dict[str, int]] = {}

    def attention(self, window: int | None = None) -> dict[str, int]:
        """Sums of `Batch.attention`: they add up, the longest is the longer of the two."""
        found = self._sums.get(window)
        if found is None:
            other = self.others.attention(window)
            found = {name: n + other[name] for name, n in self.decodes.attention(window).items()}
            longest = max(self.decodes.attention(window)["Sd"], other["Sd"], other["Sx"])
            found |= {"Sd": 0, "Sx": longest} if other["M"] else {"Sd": longest, "Sx": 0}
            self._sums[window] = found
        return found


def step_of(requests: tuple[tuple[int, int], ...]) -> Batch | Mixed:
    """The step of these requests of (new, cached) tokens, one row of logits each.

    Raises:
        PredictError: there is no request, or one has less than 1 new or 0 cached tokens.
    """
    decodes = tuple([pair for pair in requests if pair[0] == 1 and pair[1] > 0])
    if len(decodes) in (0, len(requests)):
        return Batch(requests, len(requests))
    others = tuple([pair for pair in requests if pair[0] != 1 or pair[1] == 0])
    return Mixed(requests, Batch(decodes, len(decodes)), Batch(others, len(others)))
