"""The fixed grid of the profiler of Vidur (microsoft/vidur), as a baseline to compare the adaptive sweep with.

Vidur profiles every model and every tensor-parallel degree anew: token counts for the stateless operations, and for
attention every chunk size with every history that divides into it, whole prompts, and decode batches of 1 to 128 alike
requests at every context length.  At a context of 4096: 261 token counts and 10,972 attention points, of which 259 and
10,776 are distinct; only those are here.
"""

import itertools
from collections.abc import Iterable, Iterator
from functools import cache

from dooly.database import Point

__all__ = ["attention_points", "token_counts"]

_MOST_DECODES = 128


def token_counts(limit: int) -> list[int]:
    """Token counts of the stateless operations.

    >>> len(token_counts(4096)), token_counts(4096)[:5]
    (259, [1, 2, 4, 8, 16])
    """
    steps = [(8, 1024, 8), (1024, 2048, 16), (2048, 4096, 32), (4096, 8192, 64), (8192, 16384, 128)]
    return _up_to(limit, [1, 2, 4], steps)


@cache
def attention_points(max_context: int) -> tuple[Point, ...]:
    """Chunks with history, whole prompts, then decode batches; each once.

    >>> points = attention_points(4096)
    >>> len(points), sum(point.axes["T"] == point.axes["R"] for point in points)
    (10776, 10240)
    """
    return tuple(dict.fromkeys(_attention_points(max_context)))


def _attention_points(max_context: int) -> Iterator[Point]:
    for chunk in _up_to(max_context, [], [(64, 128, 16), (128, 1024, 32), (1024, 4096, 64), (4096, 16384, 128)]):
        for part in range(max_context // chunk):
            yield Point.of_requests([(chunk, part * chunk)])
    contexts = _up_to(max_context, [], [(32, 1024, 32), (1024, 4096, 64), (4096, 65536, 256)])
    for context in contexts:
        yield Point.of_requests([(context, 0)])
    for context, requests in itertools.product(contexts, range(1, _MOST_DECODES + 1)):
        yield Point.of_requests([(1, context)] * requests)


def _up_to(limit: int, first: Iterable[int], steps: Iterable[tuple[int, int, int]]) -> list[int]:
    values = {*first, *itertools.chain.from_iterable(range(low, high + 1, step) for low, high, step in steps)}
    return sorted(value for value in values if value <= limit)
