"""The end of a run: the programs that its phases wrote go into the sandbox, where the recipe allows it, and are scored.

Ranks execute nothing: this runs after them, in the process that started them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from stilts_ds.config import written_recipe
from stilts_ds.data.data import Data
from stilts_ds.errors import counted
from stilts_ds.evaluate.score_run import score_phase
from stilts_ds.execute.policy import Refused
from stilts_ds.execute.pool import execute
from stilts_ds.execute.programs import Program, read_programs
from stilts_ds.execute.settings import ExecuteSettings
from stilts_ds.families.generate.predictions import verdicts_path
from stilts_ds.families.registry import family_of
from stilts_ds.plan_file import Phase, Plan
from stilts_ds.run_dir import RunDir
from stilts_launcher.execute import save_verdicts
from stilts_launcher.options import say


@dataclass(frozen=True)
class Written:
    """A file of programs that have no verdicts yet."""

    phase: Phase
    path: Path
    programs: list[Program]


def execute_run(run: RunDir) -> None:
    """Execute what a run's phases wrote and nobody has executed, and score it. Where a layer of the sandbox is missing
    nothing is run, which is said with the layer, and the scores stay open."""
    recipe = written_recipe(run.recipe)
    if not recipe.execute.allow:
        return
    data = Data(recipe, run.root)
    waiting = list(_waiting(run, data))
    if not waiting:
        return
    count = sum(len(written.programs) for written in waiting)
    say(f"executing {counted(count, 'program')} in the sandbox")
    try:
        _execute(waiting, recipe.execute.settings())
    except Refused as problem:
        say(f"{counted(count, 'program')} are not scored: {problem}")
        return
    for phase in {written.phase.id: written.phase for written in waiting}.values():
        score_phase(run, recipe, phase, data)


def _waiting(run: RunDir, data: Data) -> Iterator[Written]:
    """The files of programs of finished phases that lack verdicts."""
    for phase in Plan.load(run.plan).phases:
        folder = run.phase(phase.id)
        for name in phase.evaluate:
            task = data.task(name)
            family = family_of(task)
            split = data.scored_split(task)
            for language in data.languages(task, split)[0]:
                path = folder.predictions / name / family.files(task).name(split, language)
                if path.exists() and family.unscored(path) is not None:
                    yield Written(phase, path, read_programs(path)[0])


def _execute(waiting: list[Written], settings: ExecuteSettings) -> None:
    """Verdicts and their summary beside each file. Raises Refused where a layer is missing."""
    # All files at once, since the workers of one execution start once: names tell the files' problems apart.
    together = []
    for number, written in enumerate(waiting):
        together += [replace(program, id=f"{number} {program.id}") for program in written.programs]
    verdicts = iter(execute(together, settings))
    for written in waiting:
        # In the order of the programs.
        of_file = [replace(next(verdicts), id=program.id) for program in written.programs]
        save_verdicts(verdicts_path(written.path), written.programs, of_file, settings)
