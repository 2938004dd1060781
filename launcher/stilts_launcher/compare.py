"""`stilts compare`: conditions of several runs side by side, with paired tests."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from stilts_ds.errors import printable
from stilts_launcher.options import add_test_options, names_of, run_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(verb=compare)
    parser.add_argument("runs", nargs="+", metavar="RUN[:CONDITION]", help="folders of runs; the first is the baseline")
    parser.add_argument(
        "--targets", type=names_of, nargs="+", default=[], metavar="TASK", help="only these (default: all in common)"
    )
    add_test_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON at full precision")


def _in_runs(name: str) -> str:
    """`my-study:none` as `runs/my-study:none`, where that is the run's folder."""
    if Path(name).exists():
        return name
    run, colon, condition = name.partition(":")
    return f"{run_folder(run)}{colon}{condition}"


def compare(given: argparse.Namespace) -> int:
    from stilts_ds.report.side_by_side import tables_side_by_side
    from stilts_ds.report.stats import ComparisonSettings
    from stilts_ds.report.table import legend
    from stilts_ds.report.text import markdown_table

    settings = ComparisonSettings(given.resamples, given.level)
    targets = [name for names in given.targets for name in names]
    tables = tables_side_by_side([_in_runs(name) for name in given.runs], targets, settings)
    if given.json:
        # Notes say what was not compared and why: figures without them would mislead, in JSON as on the screen.
        by_title = {table.title: table.to_json() | {"notes": list(table.notes)} for table in tables}
        print(json.dumps(by_title, indent=1))
        return 0
    for table in tables:
        print(printable("\n".join([markdown_table(table), *table.notes, ""])))
    print(printable("\n".join(legend(tables, settings.level))))
    return 0
