from pathlib import Path

import pytest

from dooly.batch import HOST_PARTS
from dooly.database import Database
from dooly.executor import host_environment, machine
from dooly.executor.host import measure_host, missing_host_points
from dooly.executor.host_load import load_for

pytestmark = pytest.mark.engine


def test_host_time_is_measured_once_from_the_real_engine(tmp_path: Path):
    here = machine()
    database = Database(tmp_path / "latency.db")
    assert missing_host_points(database, here)
    said = []
    taken = measure_host(database, here, said.append)
    assert taken == 2 * len(load_for(machine()).points) + 3
    assert len(said) == 4
    for signature in HOST_PARTS[:3]:
        points = database.points(signature, host_environment(here))
        assert points
        assert all(measurement.latency_us > 0.0 for measurement in points)
        if signature != "host_dispatch":
            assert all(len(measurement.samples.values_us) >= 5 for measurement in points)
    counts = [m.point.axes["N"] for m in database.points("host_dispatch", host_environment(here))]
    assert counts == sorted(set(counts))
    assert counts[0] > 10
    assert not missing_host_points(database, here)
    assert measure_host(database, here) == 0
    database.close()
