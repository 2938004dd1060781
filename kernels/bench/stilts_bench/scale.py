"""What training costs outside its arithmetic at any number of GPUs: a simulation from counts, nothing is run.

    stilts bench scale [--gpus 8 64 512 4096] [--network GB ...]

The counts are those of stilts_ds/planning/scale.py, which tests hold to real ranks; the rates of the cluster are
options, and each default says whether it was measured or assumed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from stilts_ds.display import duration
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
    for name, unit, factor, text in OPTIONS:
        default = getattr(Rates(), name) / factor
        parser.add_argument(
            f"--{name}", type=float, default=default, metavar=unit, help=f"{text}; default: {default:g}"
        )
    return parser


def table(rates: Rates, gpus: Sequence[int]) -> list[str]:
    """A Markdown table: models, parts and numbers of GPUs."""
    lines = ["| model, ZeRO stage | part | GPUs | a GPU sends | collectives | files | rank 0 | of it by ranks |"]
    lines.append("|---|---|--:|--:|--:|--:|--:|--:|")
    for name, shape in MODELS.items():
        # What is trained at stage 1 fits a GPU of 80 GB with its moments; the larger two do not.
        stage = 1 if shape.parameters < 2e9 else 3
        for number, part in enumerate(parts(Work.of(shape, stage), gpus[0], rates)):
            for ranks in gpus:
                at = parts(Work.of(shape, stage), ranks, rates)[number]
                head = f"{name}, {stage}" if number == 0 and ranks == gpus[0] else ""
                called = part.name if ranks == gpus[0] else ""
                cells = [head, called, f"{ranks:,}", f"{at.sent / GB:.1f} GB", f"{at.calls:,}", f"{at.files:,}"]
                lines.append(f"| {' | '.join([*cells, _seconds(at.seconds), _seconds(at.growing)])} |")
    return lines


def _seconds(seconds: float) -> str:
    return duration(seconds) if seconds >= 100 else f"{seconds:.2g} s"


def main(arguments: list[str]) -> int:
    given = options().parse_args(arguments)
    if min(given.gpus) < 2:
        raise UserError(f"--gpus {min(given.gpus)}: give 2 or more; a GPU alone sends nothing")
    for name, unit, _, _ in OPTIONS:
        if getattr(given, name) <= 0:
            raise UserError(f"--{name} {getattr(given, name):g}: give more than 0 {unit}")
    rates = Rates(**{name: getattr(given, name) * factor for name, _, factor, _ in OPTIONS})
    lines = table(rates, given.gpus)
    lines += ["", "What is met first:", ""]
    lines += [f"- {limit.ranks:,} ranks: {limit.what}" for limit in limits(rates, given.batch)]
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
