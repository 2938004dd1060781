"""`stilts checklist`: MultiCheckList's cases as files."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(verb=write)
    parser.add_argument("templates", type=Path, help="MultiCheckList's table, checklist_templates.tsv")
    parser.add_argument("--language", action="append", metavar="CODE", help="only this column (repeatable)")
    parser.add_argument("--cases", type=int, default=200, metavar="N", help="cases of each test (default: 200)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the cases (default: 1)")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="where test-CODE.json goes: XTREME/multichecklist"
    )


def write(given: argparse.Namespace) -> int:
    from stilts_ds.checklist.write import write_checklist
    from stilts_ds.errors import printable

    for line in write_checklist(given.templates, given.output, given.language or (), given.seed, given.cases):
        # The lines quote the table, which is somebody else's file.
        print(printable(line))
    return 0
