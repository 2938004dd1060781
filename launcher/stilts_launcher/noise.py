"""`stilts noise`: noisy test sets, and code benchmarks with noisy wording, as files."""

from __future__ import annotations

import argparse
from pathlib import Path

from stilts_ds.errors import UserError
from stilts_ds.execute.benchmarks import READERS
from stilts_ds.noise.kinds import KINDS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(verb=write)
    parser.add_argument("task", nargs="?", help="a target task; `stilts tasks` lists them")
    parser.add_argument("--benchmark", choices=sorted(READERS), help="in place of a task: a code benchmark")
    parser.add_argument("--problems", type=Path, metavar="FILE", help="the code benchmark's file")
    parser.add_argument(
        "--kind", required=True, action="append", metavar="KIND", help=f"{', '.join(KINDS)} (repeatable)"
    )
    parser.add_argument(
        "--rate", type=int, action="append", metavar="N", help="errors in 100 letters, or words (default: 1 2 5 10)"
    )
    parser.add_argument("--draws", type=int, default=1, metavar="N", help="independent draws of each (default: 1)")
    parser.add_argument("--context", action="store_true", help="of questions: noise in the passages, too")
    parser.add_argument("--language", action="append", metavar="CODE", help="only this language (repeatable)")
    parser.add_argument("--split", default="test", choices=["dev", "test"], help="split to read (default: test)")
    parser.add_argument("--xtreme", type=Path, help="XTREME's download folder; without it the hub is read")
    parser.add_argument(
        "--lists", type=Path, metavar="FOLDER", help="dictionaries, misspellings, keyboards (data.noise)"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="one folder a noisy task is made here"
    )


def write(given: argparse.Namespace) -> int:
    if given.draws < 1:
        raise UserError("--draws: give at least 1")
    if (given.benchmark is None) != (given.problems is None):
        raise UserError("--benchmark and --problems go together: whose prompts, and the file that holds them")
    if (given.task is None) == (given.benchmark is None):
        raise UserError("give a target task, or --benchmark and --problems of a code benchmark")
    for kind in given.kind:
        # No default of argparse: `append` would add the given rates to it.
        for rate in given.rate or (1, 2, 5, 10):
            for draw in range(1, given.draws + 1):
                context = "-context" if given.context else ""
                # The first draw has the plain name, as in `xnli@typo-5`: who needs no second one never sees a number.
                number = f"-s{draw}" if draw > 1 else ""
                print(_written(given, f"{kind}-{rate}{context}{number}"))
    return 0


def _written(given: argparse.Namespace, noise: str) -> str:
    """Write the files of one kind, rate and draw; returns what is told of them."""
    from stilts_ds.data.noise_files import write_noise_files
    from stilts_ds.data.prompt_noise import write_noisy_prompts
    from stilts_ds.named_tasks import check_noise
    from stilts_ds.noise.spec import MARK, parse_noise
    from stilts_ds.sources.source import DataSource
    from stilts_ds.tasks.registry import get_task

    if given.benchmark is not None:
        # A prompt is one text: it has no passages, and one language at a time reads its lists.
        if given.context or len(given.language or []) > 1 or given.xtreme is not None:
            raise UserError("a code benchmark takes no --context, no --xtreme and at most one --language")
        spec = parse_noise(f"{given.benchmark}{MARK}{noise}", noise)
        code = given.language[0] if given.language else None
        return write_noisy_prompts(given.benchmark, given.problems, spec, code, given.lists, given.output)
    # Where no folder is named, the hub's copy is read, at the commit of the task's literal.
    source = DataSource("local" if given.xtreme else "hub", xtreme=given.xtreme, noise=given.lists)
    task = get_task(f"{given.task}{MARK}{noise}")
    check_noise(task)
    return write_noise_files(task, given.split, given.language or task.languages, source, given.output)
