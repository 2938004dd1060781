"""`stilts noise`: noisy test sets as files."""

from __future__ import annotations

import argparse
from pathlib import Path

from stilts_ds.errors import UserError
from stilts_ds.noise.kinds import KINDS


def add_arguments(part: argparse.ArgumentParser) -> None:
    part.add_argument("task", help="a target task; `stilts tasks` lists them")
    part.add_argument("--kind", required=True, action="append", metavar="KIND", help=f"{', '.join(KINDS)} (repeatable)")
    part.add_argument(
        "--rate", type=int, action="append", metavar="N", help="errors in 100 letters, or words (default: 1 2 5 10)"
    )
    part.add_argument("--draws", type=int, default=1, metavar="N", help="independent draws of each (default: 1)")
    part.add_argument("--context", action="store_true", help="of questions: noise in the passages, too")
    part.add_argument("--language", action="append", metavar="CODE", help="only this language (repeatable)")
    part.add_argument("--split", default="test", choices=["dev", "test"], help="split to read (default: test)")
    part.add_argument("--xtreme", type=Path, help="XTREME's download folder; without it the hub is read")
    part.add_argument("--lists", type=Path, metavar="FOLDER", help="dictionaries, misspellings, keyboards (data.noise)")
    part.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="one folder a noisy task is made here"
    )


def write(given: argparse.Namespace) -> int:
    from stilts_ds.data.noise_files import write_noise_files
    from stilts_ds.planner import check_noise
    from stilts_ds.sources.source import DataSource
    from stilts_ds.tasks.registry import get_task

    if given.draws < 1:
        raise UserError("--draws: give at least 1")
    source = DataSource("local" if given.xtreme else "hub", xtreme=given.xtreme, noise=given.lists)
    for kind in given.kind:
        for rate in given.rate or (1, 2, 5, 10):
            for draw in range(1, given.draws + 1):
                context = "-context" if given.context else ""
                number = f"-s{draw}" if draw > 1 else ""
                task = get_task(f"{given.task}@{kind}-{rate}{context}{number}")
                check_noise(task)
                print(write_noise_files(task, given.split, given.language or task.languages, source, given.output))
    return 0
