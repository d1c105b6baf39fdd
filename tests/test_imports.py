"""The arrows of the design: who may import whom, what stays free of torch, and what each package makes public."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "dooly"

# What each part of dooly may import from dooly, bottom up.  What stands in BASE may be imported everywhere above it.
BASE = {"errors", "escape", "files", "batch", "host"}
COMPILER = BASE | {"ir", "passes"}
FACTS = COMPILER | {"database", "hardware"}
PREDICTION = FACTS | {"fit", "predict"}
SIMULATION = PREDICTION | {"engine", "simulate", "traces"}
ALLOWED: dict[str, set[str]] = {
    "escape": set(),
    "errors": {"escape"},
    "files": {"errors"},
    "batch": {"errors", "files"},
    "host": {"batch"},
    "ir": {"errors", "files"},
    "passes": {"errors", "escape", "files", "ir"},
    "models": BASE,
    "traces": BASE,
    "database": COMPILER,
    "hardware": BASE | {"ir", "database"},
    "foreign": BASE | {"ir", "database", "hardware"},
    "engine": BASE | {"ir", "hardware"},
    "fit": FACTS,
    "capture": COMPILER | {"engine", "hardware", "models"},
    "provenance": COMPILER | {"capture"},
    "predict": FACTS | {"fit"},
    "executor": FACTS | {"engine", "capture"},
    "simulate": SIMULATION,
    "bench": SIMULATION,
    "adapters": PREDICTION | {"simulate"},
    "workspace": SIMULATION | {"bench", "capture", "executor", "adapters", "foreign", "provenance"},
    "report": {"errors", "escape"},
    "evaluate": SIMULATION | {"capture", "executor", "adapters", "provenance", "workspace", "report"},
}

TORCH_FREE = (
    "dooly.ir",
    "dooly.passes",
    "dooly.batch",
    "dooly.database",
    "dooly.fit",
    "dooly.predict",
    "dooly.capture",
    "dooly.provenance",
    "dooly.executor",
    "dooly.evaluate.sharing",
    "dooly.simulate",
    "dooly.bench",
    "dooly.adapters.vidur.__main__",
    "dooly.cli.app",
)


def sources() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of every module that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module is not None
            if node.module == "dooly":
                yield from ((node.lineno, f"dooly.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, node.module


def part_of(path: Path) -> str:
    """`ir` for dooly/ir/expr.py, `errors` for dooly/errors.py, `` for dooly/__init__.py."""
    first = path.relative_to(PACKAGE).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def packages() -> list[str]:
    return sorted(f"dooly.{path.parent.name}" for path in PACKAGE.glob("*/__init__.py"))


def test_the_two_halves_are_linked_at_the_top_level():
    for name in ("ir", "passes"):
        link = ROOT / name
        assert link.is_symlink()
        assert link.readlink() == Path("dooly") / name


def test_nothing_imports_the_links():
    """One file under two import paths makes two classes, and isinstance fails."""
    for path in [*sources(), *(ROOT / "tests").rglob("*.py")]:
        for line, module in imports(path):
            assert module.split(".")[0] not in {"ir", "passes"}, f"{path}:{line} imports {module}, not dooly.{module}"


def test_the_arrows_of_the_design_hold():
    wrong: list[str] = []
    for path in sources():
        part = part_of(path)
        if part in {"", "cli"} or path.name == "__main__.py":  # a command line may know everything
            continue
        for line, module in imports(path):
            parts = module.split(".")
            if parts[0] != "dooly" or len(parts) == 1:
                continue
            if parts[1] != part and parts[1] not in ALLOWED[part]:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: dooly.{part} must not import {module}")
    assert not wrong, "\n".join(wrong)


def test_only_the_command_line_and_its_tests_import_it():
    others = [*(ROOT / "scripts").glob("*.py"), *(ROOT / "benchmarks").rglob("*.py"), *sources()]
    for path in others:
        if part_of(path) == "cli" if path.is_relative_to(PACKAGE) else False:
            continue
        for line, module in imports(path):
            if path == PACKAGE / "passes" / "__main__.py":  # `python -m dooly.passes`
                continue
            assert module.split(".")[:2] != ["dooly", "cli"], f"{path.relative_to(ROOT)}:{line} imports {module}"
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        assert "dooly.cli" not in notebook.read_text(), notebook.name


def test_only_these_parts_exist():
    parts = {part_of(path) for path in sources()} - {"", "cli"}
    assert parts <= set(ALLOWED), "a new part of dooly needs a row in ALLOWED"


def test_importing_these_pulls_neither_torch_nor_vllm():
    code = f"import sys, {', '.join(TORCH_FREE)}; print(sorted({{'torch', 'vllm'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("package", packages())
def test_a_package_lists_what_is_public(package: str):
    module = importlib.import_module(package)
    assert module.__doc__, f"{package} has no docstring"
    names = module.__all__
    assert len(set(names)) == len(names), f"{package}.__all__ repeats a name"
    for name in names:
        assert hasattr(module, name), f"{package}.__all__ lists {name}, which does not exist"


def test_nothing_evaluates_text_and_nothing_unpickles():
    """No eval, exec or literal_eval; sympify only in its strict form, which refuses text; no pickle."""
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            if not isinstance(node, ast.Call):
                continue
            place = f"{path.relative_to(ROOT)}:{node.lineno}"
            bare = isinstance(node.func, ast.Name)
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            assert not (bare and called in {"eval", "exec"}), f"{place} calls {called}"
            assert called != "literal_eval", f"{place} calls literal_eval"
            strict = any(keyword.arg == "strict" for keyword in node.keywords)
            assert called != "sympify" or strict, f"{place} calls sympify without strict=True, which evaluates text"
        for line, module in imports(path):
            assert module.split(".")[0] not in {"pickle", "dill", "marshal", "shelve"}, (
                f"{path}:{line} imports {module}"
            )
