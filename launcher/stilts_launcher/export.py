"""`stilts export`: a phase's model with one head as a folder that transformers loads as any other."""

from __future__ import annotations

import argparse
from pathlib import Path

from stilts_ds.errors import UserError, did_you_mean
from stilts_ds.plan_file import Phase
from stilts_ds.run_dir import RunDir
from stilts_launcher.options import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(verb=export)
    parser.add_argument("phase", type=Path, metavar="RUN/NAME", help="such as runs/my-study/mnli/seed1/xnli, or its id")
    parser.add_argument("--task", help="task whose head is written (default: the phase's first)")
    parser.add_argument("--to", type=Path, metavar="DIR", help="folder to write (default: export/NAME in the run)")
    parser.add_argument("--license", default="unknown", help="licence for the model card, by the hub's name of it")


def export(given: argparse.Namespace) -> int:
    from stilts_ds.model.encoder import quiet
    from stilts_ds.report.load import load_run
    from stilts_ds.report.standard_model import export_standard

    quiet()
    run, name = split_phase(given.phase)
    data = load_run(run)
    phase = named_phase(list(data.plan.phases), name, run)
    output = given.to or run.root / "export" / phase.label.replace("/", "-")
    say(export_standard(data, phase, given.task, output, given.license))
    return 0


def split_phase(path: Path) -> tuple[RunDir, str]:
    """The run's folder and the phase's name in RUN/NAME, where NAME may hold slashes, and phases/ID is an id."""
    for folder in path.parents:
        if (folder / "plan.json").is_file():
            name = path.relative_to(folder).as_posix()
            return RunDir(folder), name.removeprefix("phases/")
    raise UserError(f"{path}: no folder on the way holds a run; give RUN/NAME, such as runs/my-study/none/seed1/xnli")


def named_phase(phases: list[Phase], name: str, run: RunDir) -> Phase:
    for phase in phases:
        if name in (phase.id, phase.label):
            return phase
    known = [phase.label for phase in phases]
    raise UserError(
        f"{run.plan} has no phase {name!r}{did_you_mean(name, known)}; `stilts status {run.root}` lists them"
    )
