"""Parquet files that end the process which reads them, and files that are none."""

import os
import signal
from pathlib import Path

import pytest

from dooly.database import trial
from dooly.database.exchange import read_parquet, shipped_files
from dooly.errors import DatabaseError


def refusal(path: Path) -> str:
    with pytest.raises(DatabaseError) as caught:
        list(read_parquet(path))
    return str(caught.value)


@pytest.fixture
def copy(tmp_path):
    path = tmp_path / "copy.parquet"
    path.write_bytes(shipped_files()[0].read_bytes())
    return path


def test_a_file_is_read_by_one_process_after_another(copy, tmp_path):
    (tmp_path / "b.parquet").write_bytes(b"PAR1, but no more")
    assert sum(1 for _ in read_parquet(copy)) > 4000
    reader = trial._reader
    assert "b.parquet: cannot be read as Parquet" in refusal(tmp_path / "b.parquet")
    assert sum(1 for _ in read_parquet(copy)) > 4000
    assert trial._reader is reader


def test_a_reader_that_dies_is_one_line_and_the_next_file_has_another(copy):
    trial.try_out(copy)
    process = trial._reader._process
    os.kill(process.pid, signal.SIGABRT)
    assert refusal(copy) == f"{copy}: cannot be read as Parquet: damaged in a way that ends its reader (SIGABRT)"
    trial.try_out(copy)


def test_a_reader_that_does_not_end_is_ended(copy, monkeypatch):
    trial.try_out(copy)
    process = trial._reader._process
    os.kill(process.pid, signal.SIGSTOP)
    monkeypatch.setattr(trial, "_SECONDS", 0.2)
    assert "not done after 0 s" in refusal(copy)
    assert process.returncode == -signal.SIGKILL


def test_a_real_file_that_aborts_its_reader_is_one_line():
    """One bit of a size is flipped: polars 2.1.0 asks for 2^61 bytes and aborts."""
    assert "cannot be read as Parquet" in refusal(Path(__file__).parent / "aborts-its-reader.parquet")


def test_what_is_no_file_is_said_before_it_is_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.parquet")
    assert refusal(tmp_path) == f"{tmp_path}: not a file"
    assert refusal(tmp_path / "pipe.parquet") == f"{tmp_path / 'pipe.parquet'}: not a file"
    assert refusal(tmp_path / "none.parquet") == f"{tmp_path / 'none.parquet'}: no such file"
