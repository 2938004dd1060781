"""The end of a run: the programs that its phases wrote go into the sandbox, where the recipe allows it, and are scored.

Ranks execute nothing: this runs after them, in the process that started them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stilts_ds.config import written_recipe
from stilts_ds.data.data import Data
from stilts_ds.data.split import Split
from stilts_ds.errors import counted
from stilts_ds.evaluate.score_run import score_phase
from stilts_ds.execute.floors import Floor, floors
from stilts_ds.execute.policy import Refused
from stilts_ds.execute.pool import execute
from stilts_ds.execute.programs import Program, read_programs
from stilts_ds.execute.settings import ExecuteSettings
from stilts_ds.families.generate.floors import floors_path, write_floors
from stilts_ds.families.generate.predictions import verdicts_path
from stilts_ds.families.registry import family_of
from stilts_ds.plan_file import Phase, Plan
from stilts_ds.run_dir import RunDir
from stilts_launcher.execute import save_verdicts
from stilts_launcher.options import say


@dataclass(frozen=True)
class Written:
    """A file of programs that a phase wrote for a split, and the split's label file."""

    phase: Phase
    split: Split
    path: Path
    labels: Path

    @property
    def waits(self) -> bool:
        """Whether its programs have no verdicts yet."""
        return self.split.family.unscored(self.path) is not None


def execute_run(run: RunDir) -> None:
    """Execute what a run's phases wrote and nobody has executed, and the floors of their problems, and score both.
    Where a layer of the sandbox is missing nothing is run, which is said with the layer, and the scores stay open."""
    recipe = written_recipe(run.recipe)
    if not recipe.execute.allow:
        return
    data = Data(recipe, run.root)
    written = list(_written(run, data))
    waiting = [of_split for of_split in written if of_split.waits]
    floorless = [of_split for of_split in written if not floors_path(of_split.labels).exists()]
    programs = [read_programs(of_split.path)[0] for of_split in waiting]
    count = sum(map(len, programs))
    settings = recipe.execute.settings()
    try:
        if waiting:
            say(f"executing {counted(count, 'program')} in the sandbox")
            _execute(waiting, programs, settings)
        _execute_floors(floorless, settings)
    except Refused as problem:
        unmeasured = f"{counted(count, 'program')} are not scored" if waiting else "floors are not measured"
        say(f"{unmeasured}: {problem}")
        return
    for phase in {of_split.phase.id: of_split.phase for of_split in (*waiting, *floorless)}.values():
        score_phase(run, recipe, phase, data)


def _written(run: RunDir, data: Data) -> Iterator[Written]:
    """The files of programs of finished phases."""
    for phase in Plan.load(run.plan).phases:
        for name in phase.evaluate:
            task = data.task(name)
            if not family_of(task).executed:
                continue
            split = data.scored_split(task)
            for language in data.languages(task, split)[0]:
                file = family_of(task).files(task).name(split, language)
                path, labels = run.phase(phase.id).predictions / name / file, run.labels / name / file
                if path.exists():
                    yield Written(phase, data.evaluation(task, split, language), path, labels)


def _execute(waiting: list[Written], programs: list[list[Program]], settings: ExecuteSettings) -> None:
    """Verdicts and their summary beside each file. Raises Refused where a layer is missing."""
    # All files at once, since the workers of one execution start once: names tell the files' problems apart.
    together = []
    for number, of_file in enumerate(programs):
        together += [replace(program, id=f"{number} {program.id}") for program in of_file]
    verdicts = iter(execute(together, settings))
    for written, of_file in zip(waiting, programs):
        # In the order of the programs.
        judged = [replace(next(verdicts), id=program.id) for program in of_file]
        save_verdicts(verdicts_path(written.path), of_file, judged, settings)


def _execute_floors(floorless: list[Written], settings: ExecuteSettings) -> None:
    """Floors beside each label file. Problems that differ in their descriptions alone are executed once."""
    known: dict[tuple[Any, ...], list[Floor]] = {}
    for labels, split in {written.labels: written.split for written in floorless}.items():
        problems = [record.problem for record in split.records()]
        executed = tuple((p.id, p.language, p.entry, p.tests, p.helpers, p.canonical) for p in problems)
        if executed not in known:
            known[executed] = floors(problems, settings)
        if known[executed]:  # none where the language's toolchain is missing
            passes = {floor.kind: floor.passes for floor in known[executed]}
            write_floors(labels, passes, {floor.kind: floor.text for floor in known[executed]})
