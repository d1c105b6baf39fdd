"""Results replace older files only when they are complete."""

import os
import resource

import pytest

from dooly.errors import DoolyError
from dooly.files import write_text


def test_writes_and_replaces(tmp_path):
    target = tmp_path / "out.ir"
    write_text(target, "one")
    write_text(target, "zwei ü")
    assert target.read_text(encoding="utf-8") == "zwei ü"
    assert [path.name for path in tmp_path.iterdir()] == ["out.ir"]


def test_a_file_that_outgrows_the_disk_leaves_the_old_one(tmp_path):
    target = tmp_path / "out.ir"
    write_text(target, "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        with pytest.raises(DoolyError, match="cannot write: File too large"):
            write_text(target, "x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out.ir"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_device_is_one_clear_line():
    with pytest.raises(DoolyError, match="/dev/full: cannot write: No space left on device"):
        write_text("/dev/full", "x")


def test_a_missing_folder_is_one_clear_line(tmp_path):
    with pytest.raises(DoolyError, match="cannot write: No such file or directory"):
        write_text(tmp_path / "none" / "out.ir", "x")
