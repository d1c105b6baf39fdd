"""A database on a server: the same points, a server that goes away and comes back, and passwords that nobody sees."""

import json
import traceback

import pytest

from benchmarks.postgresql import installed, server
from dooly.cli import main
from dooly.database import Database, Environment, Point, Samples, Status, place_of
from dooly.errors import DatabaseError

CPU = Environment.of(device="a cpu", torch="2.13.0", threads=2)
needs_server = pytest.mark.skipif(not installed(), reason="needs the programs of a PostgreSQL server: initdb, pg_ctl")


@pytest.fixture(scope="module")
def running():
    with server() as started:
        yield started


@pytest.fixture
def database(running):
    opened = Database(running.url)
    opened.add_operation("sig", "linear", "text")
    yield opened
    opened.close()


@needs_server
def test_points_are_claimed_stored_and_read_back(database, running):
    claim = database.claim("sig", CPU, Point.of(T=1))
    assert claim is not None
    other = Database(running.url)
    assert other.claim("sig", CPU, Point.of(T=1)) is None
    assert database.record_ok(claim, Samples((4.0, 2.0, 3.0)))
    assert [each.samples.values_us for each in other.points("sig", CPU)] == [(4.0, 2.0, 3.0)]
    other.close()


@needs_server
@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_server_that_is_started_anew_is_waited_for(database, running, mode: str):
    claim = database.claim("sig", CPU, Point.of(T=2, **{"fast": {}, "immediate": {"A": 1}}[mode]))
    assert claim is not None
    running.stop(mode)
    running.start()
    assert database.record_ok(claim, Samples((1.0,)))
    assert not database.points("sig", CPU, status=Status.CLAIMED)


@needs_server
def test_a_server_that_is_not_there_is_one_clear_line_at_once(running):
    nowhere = running.url.replace(f":{running.port}/", ":1/")
    with pytest.raises(DatabaseError, match="no server answers there"):
        Database(nowhere)
    with pytest.raises(DatabaseError, match="the server refuses the user name or password"):
        Database(running.url.replace(running.password, "secret"))


@needs_server
def test_no_command_prints_the_password(database, running, capsys, monkeypatch):
    monkeypatch.setenv("DOOLY_DB", running.url)
    commands = ["db info", "db info --json", "db check", "fit", "formulas linear", "plan none-such", "db environments"]
    for command in commands:
        words = command.split()
        main([*words, running.url] if command == "db check" else words)
    printed = "".join(capsys.readouterr())
    assert running.password not in printed
    assert "dooly:***@localhost" in printed
    claim = database.claim("sig", CPU, Point.of(T=99))
    assert running.password not in repr((claim, database, vars(database)))
    assert json.dumps(database.place)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:pass-word@host:port/x",
        "postgresql://me:p@ss-word@host:port/x",
        "postgresql://me:pass-word@127.0.0.1:1/x",
        "postgresql://me@127.0.0.1:1/x?password=pass-word&connect_timeout=1",
        "nodriver://me:pass-word@host/x",
    ],
)
def test_the_password_of_a_url_that_cannot_be_used_is_not_told(url: str):
    with pytest.raises(DatabaseError) as failure:
        Database(url)
    assert "ss-word" not in str(failure.value)
    assert "ss-word" not in "".join(traceback.format_exception(failure.value))


def test_places_are_named_without_passwords():
    assert place_of("points.sqlite") == "points.sqlite"
    assert place_of("postgresql://me:secret@host/x?sslmode=require") == (
        "postgresql+psycopg://me:***@host/x?sslmode=require"
    )
    assert place_of("postgresql://me@host/x?password=secret") == "postgresql+psycopg://me@host/x"
