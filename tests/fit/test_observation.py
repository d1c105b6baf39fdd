"""Points from the database: whole numbers, or one line that says what was expected."""

import pytest

from dooly.errors import FitError
from dooly.fit import Observation

BAD = [
    '{"T": 1e999}',
    '{"T": 2.5}',
    "[" * 200_000,
    "[1]",
    '{"requests": [[1, 1e999, 1]]}',
    '{"requests": [[1.5, 1, 1]]}',
    '{"requests": [[1, 1, -2], [4, 0, 1]]}',
    '{"requests": []}',
]


@pytest.mark.parametrize("point", BAD, ids=lambda point: point[:24])
def test_text_that_is_no_point(point):
    with pytest.raises(FitError, match=r"point: expected|batch: "):
        Observation.read(point, 1.0)


def test_points_are_read_as_written():
    assert Observation.read('{"T": 64}', 1.0).point == '{"T":64}'
    assert Observation.read('{"requests": [[1, 9, 2], [8, 0, 1]]}', 1.0).point == '{"requests":[[1,9,2],[8,0,1]]}'
