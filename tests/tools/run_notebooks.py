"""Run the notebooks of examples/: `python tests/tools/run_notebooks.py --write` puts what they say below their cells.

The kernel sees this checkout, works in a folder of its own, and starts no rank but the notebook's.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
SECONDS = 1500  # for one cell, on a machine that does other things as well


def executed(notebook: Path, folder: Path) -> Any:
    """The notebook with the outputs of a fresh kernel that works in `folder`. Raises CellExecutionError."""
    content = nbformat.read(notebook, as_version=4)
    paths = [str(ROOT / part) for part in ("", "launcher", "kernels")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    # By this variable ipykernel sees a test, and then shows nothing of what child processes print.
    environment.pop("PYTEST_CURRENT_TEST", None)
    where = {"metadata": {"path": str(folder)}}
    client = NotebookClient(content, timeout=SECONDS, resources=where, coalesce_streams=True)
    client.execute(env=environment)
    return content


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--write", action="store_true", help="write the outputs into the notebooks")
    given = parser.parse_args(arguments)
    for notebook in NOTEBOOKS:
        with tempfile.TemporaryDirectory() as folder:
            content = executed(notebook, Path(folder))
        for cell in content.cells:
            # When a cell ran says nothing about what it does, and would change with every run.
            cell.metadata.pop("execution", None)
        if given.write:
            nbformat.write(content, notebook)
        print(f"{notebook.name}: ran")
    return 0


if __name__ == "__main__":
    sys.exit(main())
