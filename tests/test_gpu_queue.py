"""A list of commands over several GPUs; commands only say where they are."""

import re
from pathlib import Path

import pytest

from scripts.gpu_queue import main, read_tasks

SAY = 'echo "$CUDA_VISIBLE_DEVICES" >> "$OUT/order"; sleep 0.05'


def carried_out(tmp_path: Path, lines: str) -> tuple[int, list[str]]:
    tasks, folder = tmp_path / "list.tasks", tmp_path / "out"
    tasks.write_text(lines)
    status = main([str(tasks), str(folder), "--gpus", "2"])
    order = folder / "order"
    return status, order.read_text().splitlines() if order.exists() else []


def test_commands_run_where_they_are_to_run(tmp_path: Path):
    lines = f"# three kinds\n\nfirst each {SAY}\nthen all {SAY}\none any {SAY}\ntwo any {SAY}\n"
    status, order = carried_out(tmp_path, lines)
    assert status == 0
    assert sorted(order[:2]) == ["0", "1"]
    assert order[2] == "0,1"
    assert sorted(order[3:]) == ["0", "1"]
    assert {path.name for path in (tmp_path / "out").glob("*.log")} >= {"first.0.log", "first.1.log", "then.all.log"}


def test_one_that_failed_is_begun_again_and_those_that_went_well_are_not(tmp_path: Path, capsys):
    lines = f"good all {SAY}\nbad all {SAY}; echo 'no such thing'; exit 3\nlast all {SAY}\n"
    assert carried_out(tmp_path, lines)[0] == 1
    assert re.search(r"bad on all: \d+ s, exit status 3, see its log", capsys.readouterr().out)
    assert "no such thing" in (tmp_path / "out" / "bad.all.log").read_text()
    status, order = carried_out(tmp_path, lines)
    assert (status, len(order)) == (1, 4)


def test_whatever_gpu_it_ran_on_a_command_is_not_begun_again(tmp_path: Path):
    lines = "".join(f"{name} any {SAY}\n" for name in ("one", "two", "three"))
    assert carried_out(tmp_path, lines)[0] == 0
    assert len(carried_out(tmp_path, lines)[1]) == 3


def test_a_log_that_cannot_be_written_fails_its_command_and_no_other(tmp_path: Path, capsys):
    (tmp_path / "out" / "first.all.log").mkdir(parents=True)
    status, order = carried_out(tmp_path, f"first all {SAY}\nsecond all {SAY}\n")
    assert (status, order) == (1, ["0,1"])
    assert re.search(r"first on all: \d+ s, \[Errno", capsys.readouterr().out)


def test_nothing_more_is_begun_after_a_stop(tmp_path: Path):
    status, order = carried_out(tmp_path, f'first all {SAY}; touch "$OUT/stop"\nsecond all {SAY}\n')
    assert (status, order) == (0, ["0,1"])
    assert carried_out(tmp_path, f"first all {SAY}\nsecond all {SAY}\n") == (0, ["0,1", "0,1"])


def test_names_are_told_apart(tmp_path: Path, capsys):
    assert carried_out(tmp_path, f"one any {SAY}\none any {SAY}\n") == (2, [])
    assert "line 2: the name one is taken" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["alone", "name any", "name everywhere echo"])
def test_a_line_that_is_no_task_is_named(tmp_path: Path, capsys, line: str):
    assert carried_out(tmp_path, f"fine any true\n{line}\n") == (2, [])
    assert "gpu_queue: line 2: expected NAME any|each|all COMMAND" in capsys.readouterr().err
    assert [task.name for task in read_tasks("fine any true")] == ["fine"]
