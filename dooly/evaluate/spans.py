"""Batches of consecutive steps in few numbers: a request that goes on as before is one row over all its steps."""

from collections.abc import Iterable, Sequence

__all__ = ["Span", "from_spans", "to_spans"]

Pairs = Sequence[tuple[int, int]]
Span = tuple[int, int, int, int]
"""(first step, new tokens of each step, tokens cached before the first, steps)."""


def to_spans(batches: Iterable[Pairs]) -> list[Span]:
    """Rows for the (new, cached) pairs of each step.

    Requests have no names: a pair continues the row whose step before this one left as many tokens cached and had as
    many new ones; rows that would do equally are interchangeable.

    >>> to_spans([[(8, 0)], [(1, 8), (4, 0)], [(1, 9), (1, 4)]])
    [(0, 8, 0, 1), (1, 1, 8, 2), (1, 4, 0, 1), (2, 1, 4, 1)]
    """
    done: list[Span] = []
    going: dict[tuple[int, int], list[Span]] = {}
    for step, pairs in enumerate(batches):
        following: dict[tuple[int, int], list[Span]] = {}
        for new, cached in pairs:
            rows = going.get((new, cached))
            first, _, start, steps = rows.pop() if rows else (step, new, cached, 0)
            following.setdefault((new, cached + new), []).append((first, new, start, steps + 1))
        done += (row for rows in going.values() for row in rows)
        going = following
    done += (row for rows in going.values() for row in rows)
    return sorted(done)


def from_spans(spans: Iterable[Span], steps: int) -> list[list[tuple[int, int]]]:
    """The (new, cached) pairs of each step, in ascending order.

    Raises:
        ValueError: a row reaches beyond the last step.
    """
    batches: list[list[tuple[int, int]]] = [[] for _ in range(steps)]
    for first, new, cached, count in spans:
        if first < 0 or first + count > steps:
            raise ValueError(f"a row of steps {first} to {first + count - 1}; there are {steps}")
        for place in range(count):
            batches[first + place].append((new, cached + place * new))
    for batch in batches:
        batch.sort()
    return batches
