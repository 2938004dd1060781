"""Values of options that several verbs take."""

from __future__ import annotations

import argparse


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
