"""Grids on logarithmic axes: sizes that every operation is measured at, rows of products, and batches for attention."""

import math
import random
from collections.abc import Iterable, Sequence

from dooly.database import Point

__all__ = ["attention_batches", "ends_first", "geometric", "product_rows"]

_STEP = 4
_SHORT = 16
_CHUNK = 16
"""New tokens of a chunk so short that its history is what takes time."""
_FEW = 256
"""Rows up to which the time of a product is smooth; beyond, it goes up and down as its kernels change."""
_PADDED = range(272, 513, 16)
"""Rows of the engine's CUDA graphs beyond those."""
_JAGGED = range(512, 1024)
"""Rows where it does so most often."""
_IN_OCTAVE = 6
_UNEVEN = (1, 3, 6, 16)
"""Thirty-seconds of the most requests that decode together with contexts of different lengths."""


def geometric(limit: int, start: int = 1, step: int = _STEP) -> list[int]:
    """``start``, then by factors of `step`, and ``limit`` itself.  A wider range keeps the inner points.

    Short ranges go by factors of two, so that a curve has enough points.

    >>> geometric(512), geometric(8)
    ([1, 4, 16, 64, 256, 512], [1, 2, 4, 8])
    """
    values = [start]
    if limit <= _SHORT * start:
        step = 2
    while values[-1] * step < limit:
        values.append(values[-1] * step)
    return [*values, limit] if limit > values[-1] else [value for value in values if value <= limit]


def product_rows(limit: int, salt: str) -> list[int]:
    """Rows of a matrix product: powers of two up to 256, every 16 to 1,024, eight in each octave beyond, ``limit``.

    Beyond 256 the time per row goes up and down from one size to the next, as kernels and their tiles change.  Up to
    512 rows an engine pads a step to the next of its CUDA graphs, which are made for multiples of 16.  Between 512 and
    1,024 a size and the one that follows 16 rows later differ by up to a half, so there it is the middle of every 16
    rows, for all products.  In an octave beyond, six sizes lie in the middle half of each of its sixths, where `salt`
    puts them: products that run the same kernels show them at different sizes.  They are no multiples of anything, as
    prompts are not.  The other two are a power of two, where an engine's budget of tokens ends, and the next one, where
    another row of tiles begins.  A wider range keeps the inner points.

    >>> product_rows(600, "one")[9:]
    [272, 288, 304, 320, 336, 352, 368, 384, 400, 416, 432, 448, 464, 480, 496, 512, 513, 520, 536, 552, 568, 584, 600]
    >>> product_rows(2048, "another")[-10:]
    [1016, 1024, 1025, 1067, 1253, 1364, 1528, 1733, 1896, 2048]
    """
    parts = range(math.ceil(_IN_OCTAVE * math.log2(limit / _FEW)))
    places = [part + random.Random(f"{salt}/{part}").uniform(0.25, 0.75) for part in parts]
    inner = [rows for rows in geometric(limit, step=2) if rows <= _FEW]
    beyond = [round(_FEW * 2 ** (place / _IN_OCTAVE)) for place in places]
    beyond = [rows for rows in beyond if rows >= _JAGGED.stop] + [*_PADDED, *range(_JAGGED.start + 8, _JAGGED.stop, 16)]
    beyond += [edge for rows in geometric(limit, 2 * _FEW, 2) for edge in (rows, rows + 1)]
    return sorted({*inner, *(rows for rows in beyond if rows < limit), limit})


def ends_first(values: Sequence[int]) -> list[int]:
    """Both ends, then middles of the remaining halves."""
    order = dict.fromkeys([0, len(values) - 1])
    gaps = [(0, len(values) - 1)]
    while gaps:
        low, high = gaps.pop(0)
        if high - low > 1:
            middle = (low + high) // 2
            order[middle] = None
            gaps += [(low, middle), (middle, high)]
    return [values[index] for index in order]


def attention_batches(max_tokens: int, most: int, longest: int) -> Iterable[Point]:
    """Decode by requests and context, prefill by length, chunks with history, mixed and skewed batches.

    Args:
        max_tokens: of one step; most: requests of one step, no more than that; longest: tokens of one request.
    """
    chunk = min(max_tokens, longest)
    decode = [Point.of_requests([(1, context - 1)] * count) for context, count in _decode_pairs(longest, most)]
    prefill = [Point.of_requests([(new, 0)]) for new in ends_first(geometric(chunk, min(_CHUNK, chunk), step=2))]
    mixed = list(_mixed_batches(max_tokens, most, longest))
    yield from (*decode[:2], *prefill[:2], *mixed[:2])
    yield from decode
    yield from prefill
    history = longest - chunk
    if history:
        yield from (Point.of_requests([(new, history)]) for new in (chunk, max(1, chunk // 8), min(_CHUNK, chunk)))
        yield Point.of_requests([(max(1, chunk // 8), history // 8)])
    yield from mixed[2:]
    if most > 1:
        yield Point.of_requests([(1, longest - 1)] + [(1, min(15, longest - 1))] * (most - 1))
        yield Point.of_requests([(1, longest - 1)] + [(1, longest // 16)] * max(1, most // 16))
        several = min(most, 4)
        yield Point.of_requests([(max(1, chunk // several), 0)] * several)
        for count in dict.fromkeys(max(2, most * part // 32) for part in _UNEVEN):
            yield Point.of_requests((1, context - 1) for context in _ladder(longest, count))


def _ladder(longest: int, count: int) -> list[int]:
    """Contexts of at least two requests that decode together, each longer than the one before by the same factor."""
    low, high = max(1, longest // 64), max(1, longest // 4)
    return [round(low * (high / low) ** (place / (count - 1))) for place in range(count)]


def _decode_pairs(longest: int, most: int) -> list[tuple[int, int]]:
    """(context, requests): the corners, then every other pair of both axes, like the squares of one colour."""
    contexts, counts = geometric(longest, min(16, longest)), geometric(most)
    corners = [(contexts[i], counts[j]) for i, j in ((0, 0), (-1, -1), (-1, 0), (0, -1))]
    inner = [(c, n) for i, c in enumerate(contexts) for j, n in enumerate(counts) if (i + j) % 2 == 0]
    return list(dict.fromkeys([*corners, *inner]))


def _mixed_batches(max_tokens: int, most: int, longest: int) -> Iterable[Point]:
    """Full steps, then lighter ones, then long contexts beside a chunk so short that only they take time."""
    decodes = most - 1
    room = min(max_tokens - decodes, longest)
    if not decodes or not room:
        return
    yield Point.of_requests([(1, longest // 4)] * decodes + [(room, 0)])
    yield Point.of_requests([(1, longest // 4)] * decodes + [(room, (longest - room) // 2)])
    for part in (4, 16):
        new = max(1, min(max_tokens // part, room))
        yield Point.of_requests([(1, longest // 16)] * max(1, decodes // part) + [(new, 0)])
    short, few = min(_CHUNK, room), min(3, decodes)
    yield Point.of_requests([(1, longest - 1)] * few + [(short, 0)])
    yield Point.of_requests([(1, longest // 16)] * few + [(short, longest - short)])
