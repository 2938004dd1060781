"""`stilts compare`: conditions of several runs side by side, with paired tests."""

from __future__ import annotations

import argparse
import json

from stilts_ds.errors import printable
from stilts_launcher.options import add_test_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN[:CONDITION]", help="folders of runs; the first is the baseline")
    parser.add_argument("--targets", nargs="+", default=[], metavar="TASK", help="only these (default: all in common)")
    add_test_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON at full precision")


def compare(given: argparse.Namespace) -> int:
    from stilts_ds.report.side_by_side import tables_side_by_side
    from stilts_ds.report.stats import ComparisonSettings
    from stilts_ds.report.table import legend
    from stilts_ds.report.text import markdown_table

    settings = ComparisonSettings(given.resamples, given.level)
    tables = tables_side_by_side(given.runs, given.targets, settings)
    if given.json:
        # Notes say what was not compared and why: figures without them would mislead, in JSON as on the screen.
        by_title = {table.title: table.to_json() | {"notes": list(table.notes)} for table in tables}
        print(json.dumps(by_title, indent=1))
        return 0
    for table in tables:
        print(printable("\n".join([markdown_table(table), *table.notes, ""])))
    print(printable("\n".join(legend(tables, settings.level))))
    return 0
