"""Options that several verbs take."""

from __future__ import annotations

import argparse


def add_test_options(part: argparse.ArgumentParser) -> None:
    """How differences are tested."""
    help_text = "of the paired bootstrap (default: as many as the number of comparisons needs)"
    part.add_argument("--resamples", type=resamples_of, default=0, metavar="N", help=help_text)
    part.add_argument("--level", type=share_of, default=0.05, metavar="P", help="of corrected significance")


def resamples_of(text: str) -> int:
    value = int(text)
    if value < 100:
        raise argparse.ArgumentTypeError("give at least 100 resamples")
    return value


def share_of(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError("give a share between 0 and 1, such as 0.05")
    return value
