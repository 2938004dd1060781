"""The notebooks of examples/ run, and say what is committed below their cells, but for numbers and times."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nbclient")
import nbformat
import run_notebooks

pytestmark = [pytest.mark.processes, pytest.mark.long]


def shown(cell: Any) -> list[str]:
    """What stands below a cell: tables and texts, with figures of any size and sign as one."""
    texts = []
    for output in cell.get("outputs", []):
        # Several lines of a stream may come as one output or as more.
        if output.output_type == "stream":
            texts += output.text.splitlines()
        else:
            texts.append(output.data["text/plain"])
    return [re.sub(r"[\s-]+", " ", re.sub(r"\d+(\.\d+)?", "0", text)) for text in texts]


@pytest.mark.parametrize("notebook", run_notebooks.NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_its_outputs_are_those_that_are_committed(notebook: Path, tmp_path: Path) -> None:
    committed = nbformat.read(notebook, as_version=4)
    ran = run_notebooks.executed(notebook, tmp_path)
    assert any(cell.get("outputs") for cell in committed.cells)
    for before, now in zip(committed.cells, ran.cells, strict=True):
        tables = [[text for text in shown(cell) if "read" not in text] for cell in (before, now)]
        # Lines of progress depend on the time that phases take; each phase has one when it is done.
        done = [[text for text in cell if " done" in text] or cell for cell in tables]
        assert [re.sub(r"(True|False)", "?", text)[:60] for text in done[0]] == [
            re.sub(r"(True|False)", "?", text)[:60] for text in done[1]
        ]
