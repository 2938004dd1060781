"""`stilts checklist`: MultiCheckList's cases as files."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(part: argparse.ArgumentParser) -> None:
    part.add_argument("templates", type=Path, help="MultiCheckList's table, checklist_templates.tsv")
    part.add_argument("--language", action="append", metavar="CODE", help="only this column (repeatable)")
    part.add_argument("--cases", type=int, default=200, metavar="N", help="cases of each test (default: 200)")
    part.add_argument("--seed", type=int, default=1, metavar="N", help="of the cases (default: 1)")
    part.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="where test-CODE.json goes: XTREME/multichecklist"
    )


def write(given: argparse.Namespace) -> int:
    from stilts_ds.checklist.write import write_checklist
    from stilts_ds.errors import printable

    for line in write_checklist(given.templates, given.output, given.language or (), given.seed, given.cases):
        print(printable(line))
    return 0
