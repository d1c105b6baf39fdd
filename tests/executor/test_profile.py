"""The executor end to end on real kernels: plan, measure, commit; a second run finds nothing to do."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dooly.database import Database, Point, Samples, Status
from dooly.executor import Precision, Ranges, make_plan, run_plan
from dooly.executor.host.load import load_for
from dooly.hardware.environment import environment_for, host_environment
from dooly.hardware.machine import machine
from dooly.host import host_parts
from dooly.ir import Program

pytestmark = pytest.mark.engine

RANGES = Ranges(max_tokens=16, max_requests=4, max_context=64)


@pytest.fixture
def database(tmp_path: Path):
    """A database that knows host time of this machine, so that no engine has to be started."""
    opened = Database(tmp_path / "latency.db")
    for signature in host_parts()[:3]:
        opened.add_operation(signature, signature, signature)
        points = [Point.of(N=n) for n in (20, 40, 60)] if signature == "host_dispatch" else load_for(machine()).points
        for point in points:
            claim = opened.claim(signature, host_environment(machine()), point)
            assert claim is not None
            opened.record_ok(claim, Samples((5.0,)))
    yield opened
    opened.close()


def test_a_layer_and_its_experts_are_profiled_once(database, step, moe):
    operations = [*step("f32").values(), moe("f32")]
    here = machine()
    plan = make_plan(operations, database, here, RANGES)
    outcome = run_plan(plan, database, budget_s=300.0, precision=Precision(max_samples=9, floor_s=0.0, cap_s=0.02))
    assert (outcome.failed, outcome.skipped, outcome.left) == (0, 0, [])
    for operation in operations:
        measured = database.points(operation.signature, environment_for(operation, here))
        assert len(measured) >= 3
        assert all(m.samples.values_us and m.median_us > 0.0 for m in measured)
    again = make_plan(operations, database, here, RANGES)
    assert again.done
    assert run_plan(again, database, budget_s=1.0).taken == 0


PROFILE = """
import sys
from dooly.database import Database
from dooly.executor import Precision, Ranges, make_plan, run_plan
from dooly.hardware.machine import machine
from dooly.ir import parse_program
operations = parse_program(open(sys.argv[2]).read()).operations
database = Database(sys.argv[1])
plan = make_plan(operations, database, machine(), Ranges(max_tokens=16, max_requests=4, max_context=64))
outcome = run_plan(plan, database, budget_s=300.0, precision=Precision(max_samples=9, floor_s=0.0, cap_s=0.02),
                   progress=lambda event: print(event.what, flush=True))
print("done", outcome.taken, flush=True)
"""


def test_kill_9_of_a_profile_loses_at_most_one_point(database, step, tmp_path: Path):
    operations = tuple(step("f32").values())
    text = tmp_path / "step.ir"
    text.write_text(str(Program(operations=operations)))
    command = [sys.executable, "-c", PROFILE, database.place, str(text)]
    environment = dict(os.environ, PYTHONPATH=os.getcwd())
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    assert process.stdout is not None
    reported = 0
    while reported < 6:
        line = process.stdout.readline()
        assert line, "the profile ended before it could be killed"
        reported += line.strip() == "ok"
    process.send_signal(signal.SIGKILL)
    reported += process.stdout.read().split().count("ok")
    process.stdout.close()
    process.wait()
    here = machine()
    rows = [m for op in operations for m in database.points(op.signature, environment_for(op, here), status=None)]
    kept = sum(row.status is Status.OK for row in rows)
    assert kept >= reported
    assert sum(row.status is Status.CLAIMED for row in rows) <= 1
    finished = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    total = len([m for op in operations for m in database.points(op.signature, environment_for(op, here))])
    assert f"done {total - kept}" in finished.stdout
    assert make_plan(operations, database, here, RANGES).done
