"""Run notebooks top to bottom and keep their outputs: python scripts/run_notebooks.py notebooks/*.ipynb"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

__all__ = ["main", "run_notebook"]


def run_notebook(path: Path) -> NotebookNode:
    """The notebook with the outputs of a fresh run, in its own folder.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    # One text for each stream of a cell: in how many messages a kernel sends it depends on when it is flushed.
    NotebookClient(notebook, timeout=120, startup_timeout=180, resources=resources, coalesce_streams=True).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it ran is noise in a diff
    return notebook


def main(paths: list[str]) -> int:
    """Run each and write it back."""
    for path in map(Path, paths):
        nbformat.write(run_notebook(path), path)
        sys.stderr.write(f"ran {path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
