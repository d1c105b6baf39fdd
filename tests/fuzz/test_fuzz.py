"""A short run of the fuzzer over every reader, and the limits that it keeps."""

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dooly.errors import DoolyError
from tests.fuzz import limits
from tests.fuzz.limits import attempt, run
from tests.fuzz.readers import READERS, Reader

ROWS = pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)


@ROWS
def test_seeds_are_accepted(reader, tmp_path):
    for seed in reader.seeds():
        reader.read(seed, tmp_path)


@ROWS
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(random=st.randoms(use_true_random=False))
def test_a_spoiled_input_is_read_or_refused_in_words(reader, random, tmp_path_factory):
    _, finding = attempt(reader, reader.mutate(random, reader.seeds()), tmp_path_factory.getbasetemp())
    assert finding is None, finding.detail


@ROWS
def test_an_input_is_its_number_whatever_came_before(reader):
    seeds, numbers = reader.seeds(), range(40)
    backwards = [limits.input_of(reader, seeds, number) for number in reversed(numbers)]
    assert [limits.input_of(reader, seeds, number) for number in numbers] == backwards[::-1]


def broken(error: Exception) -> Reader:
    def read(data: bytes, folder: Path) -> None:
        raise error

    return Reader("broken", lambda: (b"x",), lambda random, seeds: seeds[0], read)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (KeyError("a"), "KeyError: outside dooly"),
        (AssertionError(), "AssertionError: outside dooly"),
        (MemoryError(), "MemoryError: outside dooly"),
        (DoolyError(""), "DoolyError with a message that is no text"),
    ],
)
def test_what_is_neither_a_value_nor_a_refusal_is_found(error, kind, tmp_path):
    accepted, finding = attempt(broken(error), b"x", tmp_path)
    assert (accepted, finding.kind) == (False, kind)
    assert attempt(broken(DoolyError("no such thing")), b"x", tmp_path) == (False, None)


def test_inputs_run_in_processes_of_their_own():
    assert sum(tried for tried, _, finding in run(READERS[0], range(250), 2) if finding is None) == 250


def test_an_input_that_takes_too_long_is_stopped(monkeypatch, tmp_path):
    """In this process, with a shorter limit."""
    import signal

    def read(data: bytes, folder: Path) -> None:
        while True:
            pass

    monkeypatch.setattr(limits, "SECONDS", 0.1)
    old = signal.signal(signal.SIGVTALRM, limits._stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.1)
    start = time.monotonic()
    try:
        accepted, finding = attempt(Reader("slow", tuple, lambda random, seeds: b"", read), b"", tmp_path)
    finally:
        signal.signal(signal.SIGVTALRM, old)
    assert not accepted
    assert finding.kind.startswith("longer than")
    assert time.monotonic() - start < 30
