"""What dooly reads, one row each: a reader under test, inputs to begin with, and how they are spoiled.

To add a reader, write a function that takes the bytes of an input and an empty folder to put files into, and calls what
reads them as a user's command does; then add a row to `READERS` with a few small valid inputs and a mutator of
`tests.fuzz.mutators` (or one of your own: a function of random numbers and seeds).  A reader may return or raise a
`DoolyError` of one clear line.  Anything else is a finding: another exception (assertions of the row itself, such as
"what was read is written and read as the same", count), more than 5 s, more than 2 GiB.

    python -m tests.fuzz NAME --inputs 100000 --processes 2 -o findings
"""

import gzip
import json
import re
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from math import inf, isfinite
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from dooly.batch import Batch
from dooly.capture import Options, Parallel, check
from dooly.database import Database, Environment, Point, Record, Samples
from dooly.database.exchange import read_parquet, write_parquet
from dooly.errors import CaptureError, DoolyError, ParseError
from dooly.evaluate.recording import load_recording
from dooly.evaluate.steps import load_steps, save_steps
from dooly.fit.store import from_json, to_json
from dooly.ir import Program, evaluate, format_expr, parse_expr, parse_program, symbols_of
from dooly.ir.expr_parser import ExprSyntaxError
from dooly.ir.opset import OPSET
from dooly.passes import PIPELINE, run, select
from dooly.predict import SavedModel
from dooly.simulate import read_trace, write_trace
from tests.adapters.conftest import dense, mixture, saved
from tests.fuzz.mutators import Mutator, change_bytes, change_ir, change_json, change_size, change_text, one_of

__all__ = ["READERS", "Reader"]

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Reader:
    """One row.

    Attributes:
        name: on the command line.
        seeds: valid inputs, read once.
        mutate: makes an input of them.
        read: reads the input; the folder is its to write into, and holds what the input before it left.
    """

    name: str
    seeds: Callable[[], Sequence[bytes]]
    mutate: Mutator
    read: Callable[[bytes, Path], None]


# --- texts of the IR


@cache
def _ir_texts() -> tuple[bytes, ...]:
    paths = [*(ROOT / "tests/golden").glob("*.ir"), ROOT / "docs/mlp.ir"]
    texts = [part for path in paths for part in re.split(r"^(?:===.*|---.*)\n", path.read_text(), flags=re.MULTILINE)]
    operations = re.split(r"^(?=operation )", (ROOT / "dooly/data/models.ir").read_text(), flags=re.MULTILINE)[1:]
    texts += [operations[at] for at in range(0, len(operations), 40)]
    return tuple(text.encode() for text in sorted(set(texts)) if text.strip() and len(text) < 4000)


def _targets() -> tuple[str, ...]:
    captured = {name.decode() for text in _ir_texts() for name in re.findall(rb"= ([A-Za-z_]\w*(?:\.\w+)*)\(", text)}
    return tuple(sorted({*OPSET, *captured, "no.such"}))


def _read_ir(data: bytes, folder: Path) -> None:
    """Parse, run passes, print and count: what is printed is read as the same again."""
    text = _named(data.decode(errors="replace"))
    program = parse_program(text)
    assert parse_program(str(program)) == program
    passes = re.match(r"# -p (\S+)\n", text)
    result = run(program, select(passes[1]) if passes else PIPELINE)
    if result.graphs or result.operations:
        assert parse_program(str(result)) == result
    for operation in result.operations:
        assert str(operation.flops)
        assert str(operation.bytes)


def _named(text: str) -> str:
    """The text with the names of changed operations made right: those would otherwise be the only error found."""
    for _ in range(4):
        try:
            parse_program(text)
        except ParseError as error:
            right = re.search(r"the name does not match the work described: expected @(\S+)", str(error))
            if right is None:
                break
            lines = text.split("\n")
            lines[error.line - 1] = re.sub(r"@[\w.]+", f"@{right[1]}", lines[error.line - 1], count=1)
            text = "\n".join(lines)
        else:
            break
    return text


# --- sizes


def _read_size(data: bytes, folder: Path) -> None:
    """Parse and evaluate: what is printed is read as the same, and has the same value."""
    try:
        size = parse_expr(data.decode(errors="replace"))
    except ExprSyntaxError as error:
        raise DoolyError(str(error)) from error
    again = parse_expr(format_expr(size))
    assert again == size
    values = {name: number for number, name in enumerate(sorted(symbols_of(size)), 3)}
    with suppress(ZeroDivisionError):
        assert evaluate(size, values) == evaluate(again, values)


# --- traces


def _traces() -> tuple[bytes, ...]:
    texts = (
        "arrival_s,prompt_tokens,output_tokens\n0,10,5\n0.5,20.0,6\n",
        "arrived_at;num_prefill_tokens;num_decode_tokens\n0.0;374;44\n4.314;396;109\n",
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:50.9951690,396,109\n2023-11-16T18:15:46.6Z,374,44\n",
        "# from 5 to 45\nTimestamp,Model,Request tokens,Response tokens\n5,a,472,18\n45,b,1087,0\n",
        '{"timestamp": 0, "input_length": 700, "output_length": 5, "hash_ids": [0, 1]}\n'
        '{"timestamp": 3000, "input_length": 600, "output_length": 0, "hash_ids": [0, 2]}\n',
        '{"input_toks": 12, "output_toks": 40, "arrival_time_ns": 11000000, "input_tok_ids": [1, 2]}\n',
        '{"input_lens": [13, 25], "output_lens": [120, 613], "ttfts": [1.0, 1.0], "start_times": [3.7, 4.4]}',
    )
    return tuple(text.encode() for text in texts)


def _read_trace(data: bytes, folder: Path) -> None:
    """Read, write and read again: requests without prefixes are the same to the microsecond."""
    (folder / "t.csv").write_bytes(data)
    trace = read_trace(folder / "t.csv")
    if trace.duration_s < 1e6 and not any(request.prefix for request in trace.requests):
        write_trace(trace, folder / "again.csv")
        again = read_trace(folder / "again.csv")
        lengths = [[(each.prompt_tokens, each.output_tokens) for each in one.requests] for one in (trace, again)]
        assert lengths[0] == lengths[1]


# --- databases


@cache
def _database_files() -> tuple[bytes, bytes]:
    """A database of two operations with three points each, as SQLite and as Parquet."""
    operations = parse_program((ROOT / "dooly/data/models.ir").read_text()).operations
    operations = [each for each in operations if each.target == "linear"][:2]
    with TemporaryDirectory() as folder:
        database = Database(Path(folder) / "a.sqlite")
        for operation in operations:
            text = str(Program((), (operation,)))
            database.add_operation(operation.signature, operation.target, text)
            for tokens in (1, 8, 64):
                claim = database.claim(operation.signature, Environment.of(device="x"), Point.of(T=tokens))
                assert claim is not None
                database.record_ok(claim, Samples((1.0 * tokens, 2.0 * tokens), (3.0,), 2, (("power_w", 1.5),), 9.0))
        write_parquet(database.records(), Path(folder) / "a.parquet")
        database.close()
        with sqlite3.connect(Path(folder) / "a.sqlite") as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        return (Path(folder) / "a.sqlite").read_bytes(), (Path(folder) / "a.parquet").read_bytes()


def _read_parquet(data: bytes, folder: Path) -> None:
    (folder / "a.parquet").write_bytes(data)
    _add(list(read_parquet(folder / "a.parquet")))


def _read_sqlite(data: bytes, folder: Path) -> None:
    for name in ("a.sqlite", "a.sqlite-wal", "a.sqlite-shm"):
        (folder / name).unlink(missing_ok=True)
    (folder / "a.sqlite").write_bytes(data)
    database = Database(folder / "a.sqlite", create=False)
    try:
        database.summary()
        _add(database.records())
    finally:
        database.close()


def _add(records: list[Record]) -> None:
    """Add the records to an empty database: what it then holds is what was given."""
    database = Database("sqlite://")
    try:
        assert database.add_records(records) == len(database.records())
    finally:
        database.close()


# --- configurations


_OTHER_NAMES = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 768, "n_head": 12, "n_layer": 12}
"""Fields that only their class knows by the usual names, which imports it."""


def _configurations() -> tuple[bytes, ...]:
    bundled = tuple(path.read_bytes() for path in sorted((ROOT / "dooly/models").glob("*/config.json")))
    return *bundled, json.dumps({**_OTHER_NAMES, "n_positions": 1024, "vocab_size": 50257}).encode()


_PARALLEL = (Parallel(2), Parallel(4, 2, True), Parallel(1, 1, False, 2))


def _read_configuration(data: bytes, folder: Path) -> None:
    """What is checked before the engine is imported, on one device and on several."""
    path = folder / "config.json"
    path.write_bytes(data)
    name, config = check(path, Options())
    assert name == folder.name
    assert config.get("architectures") or config["model_type"]
    for parallel in _PARALLEL:
        with suppress(CaptureError):
            check(path, Options(parallel))


# --- formulas and recordings


@cache
def _model() -> SavedModel:
    return saved("small", dense("small"), TP=2)


def _formulas() -> tuple[bytes, ...]:
    return tuple(json.dumps(to_json(formula)).encode() for formula in _model().formulas.values())


def _read_formula(data: bytes, folder: Path) -> None:
    formula = from_json(data.decode(errors="replace"))
    assert from_json(to_json(formula)) == formula


_BATCHES = (Batch.of((128, 0), (1, 512)), Batch.of(*[(1, 300)] * 7), Batch.of((2048, 4096)), Batch.of((1, 0)))


@cache
def _step_files() -> tuple[bytes, ...]:
    with TemporaryDirectory() as folder:
        _model().save(Path(folder) / "a.json")
        saved("small-moe", mixture("small-moe"), E=8, K=2).save(Path(folder) / "b.json")
        return (Path(folder) / "a.json").read_bytes(), (Path(folder) / "b.json").read_bytes()


def _read_step_file(data: bytes, folder: Path) -> None:
    """Load and predict: times are finite, none is negative, and one by one they are those of many at once."""
    (folder / "a.json").write_bytes(data)
    steps = SavedModel.load(folder / "a.json").steps
    many = steps.step_times(_BATCHES).total_us
    one = [steps.step_time(batch).total_us for batch in _BATCHES]
    assert all(0 <= us < inf for us in one)
    assert one == pytest.approx(list(many), rel=1e-6)


def _recorded_steps() -> tuple[bytes, ...]:
    recording = load_steps(next(iter(sorted((ROOT / "dooly/data/evaluation").glob("*-steps-*.json")))))
    with TemporaryDirectory() as folder:
        for name, steps in (("a", recording.timed.popitem()[1]), ("b", recording.profiled[:2])):
            save_steps(replace(recording, steps=steps), Path(folder) / name)
        return (Path(folder) / "a").read_bytes(), (Path(folder) / "b").read_bytes()


def _read_recorded_steps(data: bytes, folder: Path) -> None:
    """Load, predict what the steps worked on, write and read again."""
    (folder / "a.json").write_bytes(data)
    recording = load_steps(folder / "a.json")
    if recording.steps:
        assert isfinite(_model().steps.step_times([step.batch for step in recording.steps]).total_us.sum())
    save_steps(recording, folder / "b.json")
    assert [step.batch for step in load_steps(folder / "b.json").steps] == [
        Batch.from_point(step.batch.point()) for step in recording.steps
    ]


def _read_batch(data: bytes, folder: Path) -> None:
    """The text of ``--batch``, and its time: not negative, finite."""
    batch = Batch.parse(data.decode(errors="replace"))
    assert 0 <= _model().steps.step_time(batch).total_us < inf


def _recordings() -> tuple[bytes, ...]:
    paths = sorted((ROOT / "dooly/data/recorded").glob("*.json.gz"), key=lambda path: path.stat().st_size)
    return tuple(gzip.decompress(path.read_bytes()) for path in paths[:2])


def _read_recording(data: bytes, folder: Path) -> None:
    path = folder / "recording.json.gz"
    path.write_bytes(gzip.compress(data, 1))
    assert load_recording(path).model


_JSON = one_of((1, change_bytes), (9, change_json))

READERS: tuple[Reader, ...] = (
    Reader("trace", _traces, one_of((1, change_bytes), (3, change_text)), _read_trace),
    Reader("parquet", lambda: _database_files()[1:], change_bytes, _read_parquet),
    Reader("sqlite", lambda: _database_files()[:1], change_bytes, _read_sqlite),
    Reader("size", lambda: (b"64*((V + 63)//64)/TP", b"max(Nkv, 1)*D"), change_size, _read_size),
    Reader(
        "ir",
        _ir_texts,
        one_of((1, change_bytes), (12, change_ir(_targets(), [each.name for each in PIPELINE]))),
        _read_ir,
    ),
    Reader("config", _configurations, _JSON, _read_configuration),
    Reader("formula", _formulas, _JSON, _read_formula),
    Reader("steps", _step_files, _JSON, _read_step_file),
    Reader("recorded-steps", _recorded_steps, _JSON, _read_recorded_steps),
    Reader("batch", lambda: (b"128:0,1:512x7", b"1:4096x3"), one_of((1, change_bytes), (3, change_text)), _read_batch),
    Reader("recording", _recordings, _JSON, _read_recording),
)
