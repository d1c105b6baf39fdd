"""What others published, read from small copies in the layout of their package."""

import re
import zipfile

import pytest

from dooly.cli import main
from dooly.database import Database, Environment
from dooly.ir import Kind, format_operation
from tests.foreign import published

GEMM = f"{published.DATA}/b200_sxm/gemm/vllm/0.24.0/gemm_perf.parquet"


@pytest.fixture
def copy(tmp_path):
    return published.wheel(tmp_path / "copy.whl", {**published.tables(), **published.tables("a100_sxm", "0.14.0")})


def imported(tmp_path, path, *more):
    return main(["db", "import", "--foreign", "aiconfigurator", str(path), "--db", str(tmp_path / "own.db"), *more])


def test_a_wheel_and_the_folder_that_it_is_unpacked_into_give_the_same_points_once(tmp_path, copy, capsys):
    assert imported(tmp_path, copy) == 0
    first = capsys.readouterr().out
    assert re.search(r"own\.db: [1-9][\d,]* new points", first)
    with zipfile.ZipFile(copy) as archive:
        archive.extractall(tmp_path / "unpacked")
    for again in (copy, tmp_path / "unpacked", tmp_path / "unpacked" / published.MODULE):
        assert imported(tmp_path, again) == 0
        assert "own.db: 0 new points" in capsys.readouterr().out


def test_points_are_those_of_operations_in_an_environment_of_their_own(tmp_path, copy):
    assert imported(tmp_path, copy, "--system", "b200") == 0
    with_points = Database(tmp_path / "own.db")
    homes = with_points.environments()
    assert {home.get("platform") for home in homes} == {"b200"}
    assert {home.get("source") for home in homes} == {"aiconfigurator-core 0.12.0"}
    assert {home.get("engine") for home in homes} == {"vllm 0.24.0", None}
    assert {home.get("communication") for home in homes} == {"vllm 0.22.0", None}  # never a newer one
    operations = [stored.parsed() for stored in with_points.operations()]
    assert {each.kind for each in operations} == {Kind.GEMM, Kind.ATTENTION, Kind.MOE, Kind.COLLECTIVE}
    (product,) = [
        each for each in operations if each.target == "linear" and "bf16[4096, 2048]" in format_operation(each, name="")
    ]
    (home,) = [each for each in homes if each.get("engine")]
    points = with_points.points(product.signature, home)
    assert {point.point.json: point.latency_us for point in points} == {
        f'{{"T":{m}}}': pytest.approx(1e3 * published.gemm_ms(m, 4096, 2048), abs=1e-3) for m in published.ROWS
    }
    (mixture,) = [each for each in operations if each.kind is Kind.MOE]
    taken = with_points.points(mixture.signature, home)
    assert len(taken) == len(published.ROWS)  # of the even routing only
    assert {point.point.json for point in taken} >= {'{"A":2,"T":1}', '{"A":8,"T":4096}'}


def test_what_a_database_measured_itself_stays(tmp_path, copy):
    assert imported(tmp_path, copy) == 0
    database = Database(tmp_path / "own.db")
    home = next(home for home in database.environments() if home.get("engine"))
    assert isinstance(home, Environment)
    counts = {row.signature: row.points for row in database.summary([home])}
    assert sum(counts.values()) < sum(row.points for row in database.summary())
    assert sum(counts.values()) == sum(len(database.points(signature, home)) for signature in counts)


def truncated(files):
    return {**files, GEMM: files[GEMM][:200]}


def of_something_else(files):
    return {**files, GEMM: published.parquet([{"a": 1}])}


def without_products(files):
    return {name: content for name, content in files.items() if "gemm" not in name}


@pytest.mark.parametrize(
    ("change", "more", "told"),
    [
        (truncated, [], "cannot be read as Parquet"),
        (of_something_else, [], "without gemm_dtype, n, k, m, latency; not a table of this package"),
        (without_products, [], "b200_sxm has no table of products of vLLM"),
        (dict, ["--system", "b100"], "no system b100; expected one of b200"),
    ],
)
def test_a_damaged_copy_is_one_clear_line(tmp_path, capsys, change, more, told):
    path = published.wheel(tmp_path / "copy.whl", change(published.tables()))
    assert imported(tmp_path, path, *more) == 2
    error = capsys.readouterr().err.strip()
    assert told in error
    assert error.count("\n") == 0


def test_another_package_or_release_is_one_clear_line(tmp_path, capsys):
    text = tmp_path / "text.whl"
    text.write_text("no archive")
    expected = "expected the wheel of aiconfigurator-core 0.12.0"
    cases = {
        tmp_path / "missing.whl": "No such file or directory; " + expected,
        text: "not a wheel; " + expected,
        tmp_path: "no aiconfigurator-core is in there; " + expected,
        published.wheel(tmp_path / "new.whl", {}, "0.13.0"): "aiconfigurator-core 0.13.0; this dooly reads 0.12.0",
        published.wheel(tmp_path / "other.whl", {}, module="other"): "no aiconfigurator-core is in there",
        published.wheel(tmp_path / "empty.whl", {}): "expected one of none",
    }
    for path, told in cases.items():
        assert imported(tmp_path, path) == 2
        error = capsys.readouterr().err.strip()
        assert told in error
        assert error.count("\n") == 0


def test_options_that_do_not_go_together_are_one_clear_line(tmp_path, capsys):
    database = ["--db", str(tmp_path / "own.db")]
    for arguments in (["--system", "b200"], ["--foreign", "aiconfigurator"], ["--foreign", "aiconfigurator", "a", "b"]):
        assert main(["db", "import", *arguments, *database]) == 2
        assert "--foreign takes one PATH" in capsys.readouterr().err
