"""A few kills, a restart of the server and a disk that fills: `benchmarks/crashes.py` in short."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.crashes import COLUMNS

ROOT = Path(__file__).parents[2]


@pytest.mark.engine
def test_kills_restarts_and_a_full_disk_lose_a_point_each_at_most():
    few = ("--kills", "3", "--ranks", "1", "--rounds", "1", "--restarts", "1", "--fills", "1")
    command = [sys.executable, "-m", "benchmarks.crashes", *few]
    environment = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    heads, _, *rows = [line for line in result.stdout.splitlines() if line.startswith("|")]
    assert heads == f"| {' | '.join(COLUMNS.values())} |"
    assert len(rows) >= 4
    whole = [row for row in rows if "eight processes" in row]  # others may be killed before their first point
    assert whole
    assert all(int(row.split(" | ")[3].replace(",", "")) > 0 for row in whole), "points are stored"
