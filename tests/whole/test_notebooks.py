"""The notebooks of examples/ run, and show what is committed below their cells, but for numbers and times."""

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
    """What a cell shows that does not depend on the machine: phases that were done, and the columns of tables."""
    texts = []
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            texts += re.findall(r"\d+/\d+  \S+ done", output.text)
        else:
            # Widths of columns follow the numbers in them.
            texts.append(" ".join(output.data["text/plain"].splitlines()[0].split()))
    return texts


@pytest.mark.parametrize("notebook", run_notebooks.NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_is_committed_below_its_cells(notebook: Path, tmp_path: Path) -> None:
    committed = nbformat.read(notebook, as_version=4)
    ran = run_notebooks.executed(notebook, tmp_path)
    expected = [shown(cell) for cell in committed.cells]
    assert [shown(cell) for cell in ran.cells] == expected
    # Progress below the cell that runs, and a table below most others.
    assert sum(map(len, expected)) >= 5 and any("done" in text for texts in expected for text in texts)
