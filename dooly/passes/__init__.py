"""The compiler: passes from a captured graph to a redundancy-free table of operations.  Needs no torch."""

from dooly.errors import PassError
from dooly.passes.annotate_shapes import AnnotateShapes
from dooly.passes.base import Pass, run
from dooly.passes.canonicalize import Canonicalize
from dooly.passes.cover import Cover
from dooly.passes.dedup import Dedup
from dooly.passes.expand_opaque import ExpandOpaque
from dooly.passes.facts import CANONICAL, EXPANDED, FUSED, LOWERED, ORIGINS, Fact
from dooly.passes.fuse_regions import FuseRegions
from dooly.passes.lower import Lower
from dooly.passes.propagate_taint import PropagateTaint

__all__ = [
    "CANONICAL",
    "EXPANDED",
    "FUSED",
    "LOWERED",
    "ORIGINS",
    "PIPELINE",
    "AnnotateShapes",
    "Canonicalize",
    "Cover",
    "Dedup",
    "ExpandOpaque",
    "Fact",
    "FuseRegions",
    "Lower",
    "Pass",
    "PropagateTaint",
    "run",
    "select",
]

PIPELINE: tuple[Pass, ...] = (
    AnnotateShapes(),  # first: all others compare dimensions, so these must be in exact form
    PropagateTaint(),
    ExpandOpaque(),  # before canonicalize: what it puts in is spelled as captured operations are
    Canonicalize(),
    FuseRegions(),  # after canonicalize: a region is made of operations of the op set
    Lower(),
    Dedup(),
    Cover(),
)


def select(names: str) -> tuple[Pass, ...]:
    """Passes by name, separated by commas, in the order given.

    Raises:
        PassError: a name is unknown; the message lists all.
    """
    known = {each.name: each for each in PIPELINE}
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in known:
            raise PassError(f"unknown pass {name!r}; known passes: {', '.join(known)}")
    if not wanted:
        raise PassError(f"no pass named; known passes: {', '.join(known)}")
    return tuple(known[name] for name in wanted)
