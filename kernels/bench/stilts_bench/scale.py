"""What training costs outside its arithmetic at any number of GPUs: a simulation from counts, nothing is run.

    stilts bench scale [--gpus 8 64 512 4096] [--network GB ...]

The counts are those of stilts_ds/planning/scale.py, which tests hold to real ranks; the rates of the cluster are
options, and each default says whether it was measured or assumed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from stilts_ds.errors import UserError
from stilts_ds.planning.scale import MODELS, Rates, Work, limits, parts

GB = 1e9
# Options, in units that people use: name, unit, factor, help.
OPTIONS = (
    ("network", "GB", GB, "bytes a second that a GPU sends to others (assumed: 200 Gbit/s)"),
    ("hop", "US", 1e-6, "microseconds of a message between two GPUs (assumed)"),
    ("gloo", "US", 1e-6, "microseconds of a message between two processes over TCP (assumed)"),
    ("reading", "GB", GB, "bytes a second that one node reads of the file system (assumed)"),
    ("writing", "GB", GB, "bytes a second that all nodes write (assumed)"),
    ("entry", "US", 1e-6, "microseconds to open, make or remove a file (assumed)"),
)


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="stilts bench scale", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 64, 512, 4096], metavar="N", help="ranks")
    parser.add_argument("--batch", type=int, default=32, metavar="N", help="examples of a step (default: 32)")
    bytes_help = "bytes of a number in the model: 4 in float32 (default), 2 in bfloat16"
    parser.add_argument("--bytes", type=int, choices=[2, 4], default=4, help=bytes_help)
    for name, unit, factor, text in OPTIONS:
        default = getattr(Rates(), name) / factor
        parser.add_argument(
            f"--{name}", type=float, default=default, metavar=unit, help=f"{text}; default: {default:g}"
        )
    return parser


def table(rates: Rates, gpus: Sequence[int], value_bytes: int) -> list[str]:
    """A Markdown table: a row for each model and part; rank 0's seconds for each number of GPUs, and what of them grows
    with it."""
    fixed = ["model, ZeRO stage", "part", "a GPU sends, GB", "collectives", "files"]
    lines = [f"| {' | '.join([*fixed, *(f'{ranks:,} GPUs' for ranks in gpus)])} |"]
    lines.append(f"|---|---|{'--:|' * (3 + len(gpus))}")
    for name, shape in MODELS.items():
        # What is trained at stage 1 fits a GPU of 80 GB with its moments; the larger two do not.
        stage = 1 if shape.parameters < 2e9 else 3
        by_ranks = [parts(Work.of(shape, stage, value_bytes), ranks, rates) for ranks in gpus]
        for at in zip(*by_ranks):
            sent = _range([part.sent / GB for part in at], ".1f")
            files = _range([part.files for part in at], ",")
            seconds = [f"{_seconds(part.seconds)} ({_seconds(part.growing)})" for part in at]
            head = f"{name}, {stage}" if at[0].name == by_ranks[0][0].name else ""
            lines.append(f"| {' | '.join([head, at[0].name, sent, f'{at[0].calls:,}', files, *seconds])} |")
    return lines


def _range(values: Sequence[float], form: str) -> str:
    """From the first value to the last, once where they are shown alike."""
    first, last = format(values[0], form), format(values[-1], form)
    return first if first == last else f"{first} to {last}"


def _seconds(seconds: float) -> str:
    """Seconds to two places, and to none from ten on."""
    return f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.2f}"


def main(arguments: list[str]) -> int:
    given = options().parse_args(arguments)
    if min(given.gpus) < 2:
        raise UserError(f"--gpus {min(given.gpus)}: give 2 or more; a GPU alone sends nothing")
    for name, unit, _, _ in OPTIONS:
        if getattr(given, name) <= 0:
            raise UserError(f"--{name} {getattr(given, name):g}: give more than 0 {unit}")
    rates = Rates(**{name: getattr(given, name) * factor for name, _, factor, _ in OPTIONS})
    lines = table(rates, given.gpus, given.bytes)
    lines += ["", "GPUs: seconds of rank 0, and in brackets what of them grows with the ranks.", ""]
    lines += ["What is met first:", ""]
    lines += [f"- {limit.ranks:,} ranks: {limit.what}" for limit in limits(rates, given.batch)]
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
