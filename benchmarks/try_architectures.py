"""Capture and lower every configuration of a folder, and say what came of each.

    python benchmarks/try_architectures.py FOLDER --platform h200 -o tried-h200.jsonl
    python benchmarks/try_architectures.py --table docs/results/models-nobody-listed.md tried-cpu.jsonl tried-h200.jsonl

A folder has ``NAME.json`` files or folders with a ``config.json``.  The second form writes a page from results.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dooly.capture import Options, capture_checked, check, load_engine
from dooly.errors import DoolyError
from dooly.escape import show
from dooly.files import write_text
from dooly.ir import Graph, Program
from dooly.passes import PIPELINE, run

Row = dict[str, Any]

HEAD = """Written by `benchmarks/try_architectures.py --table`: one configuration of each architecture, captured and
lowered, with no name known in advance. Operations are those of one step; an opaque one has no cost rule and counts its
operands and results as bytes. Words say why there is no IR: the engine does not build the model where this ran, without
torchvision and without a GPU, or dooly does not capture it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Return 1 where a model ended in something else than an IR."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, help="a folder, or results if a table is asked for")
    parser.add_argument("--platform", default="cpu", help="whose view of the engine is taken (default: %(default)s)")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="this one; may be given again")
    parser.add_argument("-o", "--output", type=Path, help="JSON lines, one a model")
    parser.add_argument("--table", type=Path, metavar="PAGE", help="write a page from results instead")
    arguments = parser.parse_args(argv)
    if arguments.table is not None:
        write_text(arguments.table, page([_results(path) for path in arguments.paths]))
        return 0
    load_engine(arguments.platform)
    rows: list[Row] = []
    for path in _configurations(arguments.paths[0], arguments.only):
        rows.append({"platform": arguments.platform, **tried(path, arguments.platform)})
        show(json.dumps(rows[-1]))
        if arguments.output is not None:
            write_text(arguments.output, "".join(json.dumps(row) + "\n" for row in rows))
    show(summary(rows), file=sys.stderr)
    return int(any("error" in row for row in rows))


def _configurations(folder: Path, only: Sequence[str]) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if (path.suffix == ".json" or (path / "config.json").exists()) and (not only or _name(path) in only):
            yield path


def _name(path: Path) -> str:
    return path.stem if path.suffix == ".json" else path.name


def tried(path: Path, platform: str) -> Row:
    """One row: seconds of one core, and either the error or counts of the IR."""
    start = time.process_time()
    row: Row = {"model": _name(path)}
    try:
        options = Options(platform=platform)
        graphs = capture_checked(*check(str(path), options), options)
        row |= _counts(run(Program(graphs), PIPELINE), graphs[0])
    except DoolyError as error:
        row["error"] = str(error)[:500]
    except Exception as error:  # a defect, and the other models are tried all the same
        row["error"] = f"TRACEBACK {type(error).__name__}: {str(error)[:400]}"
    row["cpu_s"] = round(time.process_time() - start, 1)
    row["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return row


def _counts(program: Program, graph: Graph) -> Row:
    unknown = [op for op in program.operations if op.status == "unsupported"]
    return {
        "operations": sum(op.count for op in program.operations),
        "distinct": len(program.operations),
        "opaque": sum(op.count for op in unknown),
        "opaque_targets": sorted({op.target for op in unknown}),
        "fixed": len(graph.fixed),
        "dimensions": sum(len(value.type.shape) for op in graph.ops for value in op.results),
    }


def summary(rows: Sequence[Row]) -> str:
    """Counts of one run in a line."""
    fine = [row for row in rows if "error" not in row]
    operations, opaque = (sum(row[name] for row in fine) for name in ("operations", "opaque"))
    seconds = sum(row["cpu_s"] for row in rows)
    share = 100 * opaque / max(1, operations)
    return (
        f"{len(fine)} of {len(rows)} give an IR; {share:.2f} % of {operations:,d} operations are opaque; "
        f"{seconds / max(1, len(rows)):.1f} CPU s a model, {max(row['peak_mib'] for row in rows):,d} MiB"
    )


def _results(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def page(runs: Sequence[Sequence[Row]]) -> str:
    """The page: a line for each run, and a row for each model."""
    by_model: dict[str, dict[str, Row]] = {}
    for rows in runs:
        for row in rows:
            by_model.setdefault(row["model"], {})[row["platform"]] = row
    platforms = [rows[0]["platform"] for rows in runs]
    head = ["# Models nobody listed", "", HEAD, ""]
    head += [f"- as {name}: {summary(rows)}" for name, rows in zip(platforms, runs, strict=True)]
    lines = [*head, "", "| model | " + " | ".join(f"as {name}" for name in platforms) + " |"]
    lines.append("|---|" + "---|" * len(platforms))
    for model, found in sorted(by_model.items()):
        lines.append(f"| {model} | " + " | ".join(_cell(found.get(name)) for name in platforms) + " |")
    return "\n".join(lines) + "\n"


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "not tried"
    if "error" in row:
        return str(row["error"]).partition(": ")[2][:160].replace("|", "\\|").replace("\n", " ")
    opaque = f", {row['opaque']} opaque" if row["opaque"] else ""
    return f"{row['operations']:,d} operations, {row['distinct']} distinct{opaque}; {row['cpu_s']} s"


if __name__ == "__main__":
    sys.exit(main())
