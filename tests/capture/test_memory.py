"""Writes in place become values, and reads that would need more than that are refused."""

import pytest

from dooly.capture.memory import Place
from dooly.errors import CaptureError


def test_a_write_is_what_later_readers_see() -> None:
    place = Place("x")
    place.write("y")
    assert place.read("op") == "y"


def test_memory_that_nothing_wrote_cannot_be_read() -> None:
    place = Place(None)
    with pytest.raises(CaptureError, match="softmax reads memory that nothing has written"):
        place.read("softmax")
    place.write("x")
    assert place.read("softmax") == "x"


def test_disjoint_pieces_do_not_disturb_each_other() -> None:
    whole = Place("qkv")
    query, key, value = (Place(name, whole, part) for part, name in enumerate(("q", "k", "v")))
    query.write("q2")
    key.write("k2")
    assert [piece.read("attention") for piece in (query, key, value)] == ["q2", "k2", "v"]
    with pytest.raises(CaptureError, match="a part was overwritten in place"):
        whole.read("mm")


def test_views_taken_before_a_write_are_stale() -> None:
    whole = Place("x")
    left, right = Place("left", whole), Place("right", whole)
    below = Place("below", left)
    left.write("new")
    for place in (whole, right, below):
        with pytest.raises(CaptureError, match="overwritten in place"):
            place.read("op")
    assert Place("view", left).read("op") == "view"


def test_writing_the_whole_makes_it_readable_again() -> None:
    whole = Place("x")
    part = Place("part", whole, 0)
    part.write("new")
    whole.write("all")
    assert whole.read("op") == "all"
    with pytest.raises(CaptureError):
        part.read("op")
