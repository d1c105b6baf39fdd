from dooly.cli import output


def test_where_there_is_no_terminal_progress_is_told_in_lines_some_time_apart(capsys, monkeypatch):
    monkeypatch.setattr(output, "_BETWEEN_LINES_S", 0.0)
    with output.progress_bar("operations") as progress:
        task = progress.add_task("fitting", total=2)
        progress.advance(task)
        progress.update(task, completed=2)
    assert capsys.readouterr().err.splitlines() == ["fitting: 1 of 2 operations", "fitting: 2 of 2 operations"]


def test_what_is_done_soon_tells_nothing(capsys):
    with output.progress_bar("operations") as progress:
        assert list(progress.track([1, 2, 3], description="fitting")) == [1, 2, 3]
    assert capsys.readouterr().err == ""


def test_going_through_a_sequence_is_told_in_lines_too(capsys, monkeypatch):
    monkeypatch.setattr(output, "_BETWEEN_LINES_S", 0.0)
    assert list(output.tracked("operations", "fitting")([1, 2])) == [1, 2]
    assert capsys.readouterr().err.splitlines() == ["fitting: 1 of 2 operations", "fitting: 2 of 2 operations"]
