"""Files are read within bounds, and results replace older files only when they are complete."""

import gzip
import os
import resource

import pytest

from dooly.errors import DoolyError
from dooly.files import read_bytes, read_gzip, read_text, write_text


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


def refused(read, path) -> str:
    with pytest.raises(OSError) as caught:
        read(path)
    return caught.value.strerror or str(caught.value)


def test_only_files_are_read_and_only_within_bounds(tmp_path, monkeypatch):
    """A pipe that nobody writes to and a device without an end would hang, or take all memory."""
    os.mkfifo(tmp_path / "pipe")
    assert "a pipe or a device" in refused(read_bytes, tmp_path / "pipe")
    assert "a pipe or a device" in refused(read_text, "/dev/zero")
    assert "Is a directory" in refused(read_bytes, tmp_path)
    (tmp_path / "zeros.gz").write_bytes(gzip.compress(bytes(10_000)))
    assert len(read_gzip(tmp_path / "zeros.gz")) == 10_000
    monkeypatch.setattr("dooly.files._MOST_BYTES", 2**10)
    assert refused(read_gzip, tmp_path / "zeros.gz") == "more than 0 MiB"
    assert len(read_bytes(tmp_path / "zeros.gz")) < 100


def test_damaged_compressed_files_are_refused(tmp_path):
    whole = gzip.compress(bytes(range(256)) * 40)
    for name, content in (("flipped", whole[:60] + b"\xff" * 20 + whole[80:]), ("text", b"{}")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(gzip.BadGzipFile):
            read_gzip(tmp_path / name)
    (tmp_path / "cut").write_bytes(whole[:50])
    with pytest.raises(EOFError):
        read_gzip(tmp_path / "cut")
