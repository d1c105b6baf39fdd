"""How long work takes from a rest on, of a GPU whose clocks go down after a while; no GPU is needed."""

import itertools

import pytest

from dooly.database import Point
from dooly.executor.host.power_limit import WORK_US, kept_busy


def slowing(piece_us: float, fresh_us: float, factor: float):
    """Turns of a GPU that takes `piece_us` for a piece, and `factor` times that once it was busy for `fresh_us`."""

    def turn(pieces: int) -> list[float]:
        times, so_far = [], 0.0
        for _ in range(pieces):
            times.append(piece_us if so_far < fresh_us else factor * piece_us)
            so_far += times[-1]
        return times

    return turn


@pytest.mark.parametrize("piece_us", [130.0, 1130.0, 4400.0])
def test_work_takes_as_long_as_the_pieces_that_it_is(piece_us: float):
    found = kept_busy(slowing(piece_us, 30_000.0, 1.16), turns=3)
    assert list(found) == [Point.of(U=work_us) for work_us in WORK_US]
    for point, samples in found.items():
        work_us = point.axes["U"]
        assert len(set(samples.values_us)) == 1
        assert len(samples.values_us) == 3
        expected = work_us + 0.16 * max(0.0, work_us - 30_000.0)
        assert samples.values_us[0] == pytest.approx(expected, abs=0.16 * piece_us)


def test_a_piece_that_is_longer_than_a_gpu_stays_fresh_counts_as_the_shortest():
    found = kept_busy(slowing(20_000.0, 30_000.0, 1.16), turns=3)
    assert found[Point.of(U=40_000)].values_us == pytest.approx([40_000.0] * 3)
    assert found[Point.of(U=320_000)].values_us[0] == pytest.approx(40_000.0 + 1.16 * 280_000.0)


def test_turns_are_kept_apart():
    """One turn in three finds the GPU at other clocks; full clocks are those of most pieces."""
    speeds = itertools.cycle([1000.0, 1000.0, 1000.0, 1100.0])
    found = kept_busy(lambda pieces: [next(speeds)] * pieces, turns=3)
    assert found[Point.of(U=10_000)].values_us == pytest.approx((10_000.0, 10_000.0, 11_000.0))
