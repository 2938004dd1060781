"""What costs nothing and may still pass: the floors of a split's problems, beside its label file.

They are executed behind a run's ranks, as programs are; here their file is read and written.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stilts_ds.errors import UserError
from stilts_ds.run_dir import read_json, write_json

# The best constant body, an empty body, the solution of another problem.
KINDS = ("constant", "empty", "shuffled")
Floors = Mapping[str, Mapping[str, bool]]  # by kind: whether each problem's program passes


def floors_path(labels: Path) -> Path:
    """`test-python.floors.json` beside `test-python.jsonl`."""
    return labels.with_suffix(".floors.json")


def write_floors(labels: Path, floors: Floors, texts: Mapping[str, str]) -> None:
    """`texts`: by kind the body that was tried, where it is one for all problems."""
    rows = {kind: {"text": texts.get(kind, ""), "passes": dict(passes)} for kind, passes in floors.items()}
    write_json(floors_path(labels), rows)


def read_floors(labels: Path) -> Floors:
    """{} where they were not executed. Raises UserError naming the file."""
    path = floors_path(labels)
    if not path.exists():
        return {}
    content = read_json(path)
    try:
        return {kind: {str(name): bool(passed) for name, passed in content[kind]["passes"].items()} for kind in content}
    except (AttributeError, KeyError, TypeError):
        raise UserError(f"{path}: is no file of floors; remove it, and `stilts evaluate` executes them again") from None
