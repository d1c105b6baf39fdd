"""Memory of tensors of a traced graph: views, allocations, writes in place, so that they can be read as values."""

from __future__ import annotations

from dataclasses import dataclass, field

from dooly.errors import CaptureError

__all__ = ["Place"]


@dataclass(eq=False)
class Place:
    """A tensor as the traced code holds it: some memory, seen through views.

    Attributes:
        value: SSA name of what the memory holds now; None while nothing was written to it.
        parent: the place that this one is a view of.
        part: which piece of the parent, where the parent was split into disjoint pieces.
        stale: whether memory that overlaps was written through another place since.
        views: the places that are views of this one.
        made: the value that this place held first.
        written: views of this one that were written since this one was: it holds ``value`` with these put in.
    """

    value: str | None
    parent: Place | None = None
    part: int | None = None
    stale: bool = False
    views: list[Place] = field(default_factory=list["Place"])
    made: str | None = field(init=False)
    written: list[Place] = field(default_factory=list["Place"])

    def __post_init__(self) -> None:
        self.made = self.value
        if self.parent is not None:
            self.parent.views.append(self)

    def read(self, reader: str) -> str:
        """The value.

        Raises:
            CaptureError: nothing was written, or other memory that overlaps was written since.
        """
        if self.stale or self.written:
            raise CaptureError(f"{reader} reads a tensor of which a part was overwritten in place; not supported")
        if self.value is None:
            raise CaptureError(f"{reader} reads memory that nothing has written")
        return self.value

    def write(self, value: str) -> None:
        """Put a new value there; every other place that overlaps no longer knows what it holds."""
        for place in self._overlapping():
            if place is self.parent and not place.stale:
                place.written = [*(view for view in place.written if view is not self), self]
            else:
                place.stale, place.written = True, []
        self.value, self.stale, self.written = value, False, []

    def _overlapping(self) -> list[Place]:
        """Views of this place, the places that it is a view of, and their other views except disjoint pieces."""
        found = [below for view in self.views for below in (view, *view._below())]
        here: Place = self
        while here.parent is not None:
            found.append(here.parent)
            for other in here.parent.views:
                if other is not here and (here.part is None or other.part is None or here.part == other.part):
                    found += [other, *other._below()]
            here = here.parent
        return found

    def _below(self) -> list[Place]:
        return [place for view in self.views for place in (view, *view._below())]
