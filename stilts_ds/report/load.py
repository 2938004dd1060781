"""A run's files as one value, checked on the way in, and the list of what is not there.

Nothing is written here, and nothing is guessed: a phase without results and a language without scores stand in
`missing`; a broken file is a UserError that names it.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stilts_ds.config import Recipe, written_recipe
from stilts_ds.data.data import fitted_task
from stilts_ds.data.duplicates import Overlaps
from stilts_ds.errors import UserError
from stilts_ds.evaluate.layers import CHOSEN
from stilts_ds.evaluate.result import Result
from stilts_ds.evaluate.score_run import settings_of
from stilts_ds.evaluate.sizes import sizes_text
from stilts_ds.named_tasks import scored_split
from stilts_ds.phase_status import PhaseStatus
from stilts_ds.plan_file import Phase, Plan
from stilts_ds.run_dir import PhaseDir, RunDir, hash_file
from stilts_ds.tasks.registry import get_task

CURVE_CHANGED = "The curve of the phase `{}` (metrics.jsonl) is damaged or lacks steps; so may be what is read off it."
Results = dict[str, dict[str, list[Result]]]  # condition -> task -> one result a seed


@dataclass(frozen=True)
class Curve:
    """A training phase's records: (step, value) of the training loss and of the dev score that selects the model."""

    loss: tuple[tuple[int, float], ...] = ()
    dev: tuple[tuple[int, float], ...] = ()
    peak: dict[str, float] | None = None  # largest value of each `memory/...` tag, in GiB

    @property
    def best_dev(self) -> float | None:
        return max((score for _, score in self.dev), default=None)


@dataclass(frozen=True)
class RunData:
    """Everything a report needs. `statuses`, `curves` and `overlaps` are by phase id; the last say which scored
    examples a phase's training data hold, and earlier versions kept none."""

    run: RunDir
    plan: Plan
    recipe: Recipe
    phases: dict[str, Phase]
    results: Results
    statuses: dict[str, PhaseStatus]
    curves: dict[str, Curve]
    missing: tuple[str, ...]
    overlaps: dict[str, Overlaps]

    @property
    def conditions(self) -> list[str]:
        return list(self.plan.use)

    @property
    def targets(self) -> list[str]:
        """The targets that stand in the matrix and in its average: variants have tables of their own, and so have
        targets that no average holds."""
        tasks = map(get_task, self.plan.targets)
        return [task.name for task in tasks if task.in_averages and not task.is_variant]

    @property
    def checked_targets(self) -> list[str]:
        """The targets that are no part of any average, as they are scored on clean text."""
        tasks = map(get_task, self.plan.targets)
        return [task.name for task in tasks if not task.in_averages and not task.is_variant]

    @property
    def source_targets(self) -> list[str]:
        """The targets that another language than English trains, as they are scored on clean text."""
        tasks = map(get_task, self.plan.targets)
        return [task.name for task in tasks if task.source and task.noise is None]

    @property
    def crossed_targets(self) -> list[str]:
        """The targets whose second text is in one language."""
        return [name for name in self.plan.targets if get_task(name).second]

    @property
    def noisy_targets(self) -> list[str]:
        return [name for name in self.plan.targets if get_task(name).noise is not None]

    @property
    def baseline(self) -> str:
        return baseline_of(self.plan)

    def phases_of(self, condition: str, task: str) -> list[Phase]:
        """The phases that score a task after a condition, one a seed."""
        used = [self.phases[phase_id] for phase_id in self.plan.use[condition]]
        return [phase for phase in used if task in phase.evaluate]

    def dev_scores(self, task: str) -> dict[str, list[float]]:
        """condition -> each seed's best score on the training task's English dev examples.

        Conditions without a training phase (retrieval) or where a seed's score is not there yet are left out.
        """
        by_condition = {}
        for condition in self.conditions:
            phases = [phase for phase in self.phases_of(condition, task) if phase.train]
            scores = [self.curves[phase.id].best_dev for phase in phases]
            known = [score for score in scores if score is not None]
            # A mean over some of the seeds is another number than the one over all.
            if known and len(known) == len(scores):
                by_condition[condition] = known
        return by_condition


def baseline_of(plan: Plan) -> str:
    """The first condition without an intermediate phase; where there is none, the first condition."""
    starts = {phase.id: phase.init for phase in plan.phases}
    plain = [condition for condition, ids in plan.use.items() if ids and not any(starts[i] for i in ids)]
    return plain[0] if plain else next(iter(plan.use))


def load_run(run: RunDir) -> RunData:
    """Read a run's plan, results, statuses and curves. Raises UserError naming a file that is missing or broken."""
    run.check_links()
    recipe = read_recipe(run)
    plan = Plan.load(run.plan)
    phases = {phase.id: phase for phase in plan.phases}
    on_disk = collect(run, plan, phases)
    results, left_out = results_alike(recipe, plan, on_disk)
    statuses = {phase_id: run.phase(phase_id).read_status() for phase_id in phases}
    damaged = [phases[i].title for i in phases if curve_changed(run.phase(i), statuses[i])]
    return RunData(
        run=run,
        plan=plan,
        recipe=recipe,
        phases=phases,
        results=results,
        statuses=statuses,
        curves={i: read_curve(run.phase(i).metrics) for i in phases},
        # Phases of earlier versions have no such file.
        overlaps={i: Overlaps.load(run.phase(i).duplicates) for i in phases if run.phase(i).duplicates.exists()},
        missing=(*what_is_missing(plan, phases, on_disk, statuses), *left_out, *map(CURVE_CHANGED.format, damaged)),
    )


def read_recipe(run: RunDir) -> Recipe:
    """The resolved recipe inside a run folder. Raises UserError where there is none or it is broken."""
    if not run.recipe.exists():
        raise UserError(f"{run.root} is no run folder: it has no recipe.yaml; give the folder that `stilts run` made")
    return written_recipe(run.recipe)


def collect(run: RunDir, plan: Plan, phases: dict[str, Phase]) -> Results:
    """All results on disk. A phase that conditions or seeds share counts for each of them."""
    results: Results = defaultdict(lambda: defaultdict(list))
    for condition, names in plan.use.items():
        for phase_id in names:
            for task in phases[phase_id].evaluate:
                path = run.phase(phase_id).result(task)
                if path.exists():
                    result = Result.load(path)
                    # A file that was copied here from another phase would be averaged as if it were this one's.
                    if (result.task, result.phase) != (task, phase_id):
                        raise UserError(
                            f"{path} is the result of another task or phase; delete it and run "
                            f"`stilts score` on the run"
                        )
                    results[condition][task].append(result)
    return results


def results_alike(recipe: Recipe, plan: Plan, results: Results) -> tuple[Results, list[str]]:
    """The results that may stand in one table, and a sentence for each other one that says why not.

    All are of the split and settings that recipe.yaml names: after a change of `evaluation`, some phases may not have
    been evaluated again. And all are of the files that the baseline was scored on.
    """
    alike: Results = defaultdict(lambda: defaultdict(list))
    left_out: dict[str, None] = {}  # an ordered set: conditions share phases
    read: dict[tuple[str, str], str] = {}  # (task, language) -> hash of the files it was first scored on
    layers: dict[str, Any] = {}  # task -> the layer that a sweep chose for it
    baseline = baseline_of(plan)
    # The baseline first: it says which files the others have to be scored on, since gains are differences to it.
    for condition in sorted(plan.use, key=lambda name: name != baseline):
        for task, results_of_task in results.get(condition, {}).items():
            for result in results_of_task:
                why = _not_of_recipe(recipe, result) or _of_other_files(result, read) or _of_other_layer(result, layers)
                if why:
                    left_out[f"{task} after {result.condition}, seed {result.seed}, is not in the tables: {why}."] = (
                        None
                    )
                    continue
                alike[condition][task].append(result)
                for language, digest in result.data.items():
                    read.setdefault((task, language), digest)
                layers.setdefault(task, result.settings.get(CHOSEN))
    return alike, list(left_out)


def _not_of_recipe(recipe: Recipe, result: Result) -> str:
    """How a result was made otherwise than recipe.yaml says; empty where it was not."""
    task = fitted_task(result.task, recipe)
    wanted = {"split": scored_split(recipe, task), **settings_of(recipe, task, recipe.evaluation)}
    recorded = {"split": result.split, **result.settings}
    differing = [
        f"{key} {recorded.get(key, 'that is not recorded')} (recipe.yaml: {value})"
        for key, value in wanted.items()
        # A setting that an earlier version did not record may have been any.
        if key not in recorded or recorded[key] != value
    ]
    remedy = "`stilts evaluate` on the run makes it anew"
    return f"its scores have {', '.join(differing)}; {remedy}" if differing else ""


def _of_other_files(result: Result, read: Mapping[tuple[str, str], str]) -> str:
    """In which languages a result's files are not those that another one was scored on; empty where they are."""
    languages = [code for code, digest in result.data.items() if read.get((result.task, code), digest) != digest]
    if not languages:
        return ""
    return (
        f"its test files in {' '.join(languages)} are not those of the other results; `stilts evaluate` on the "
        "run scores all of them on the files that are there now"
    )


def _of_other_layer(result: Result, layers: Mapping[str, Any]) -> str:
    """How a result's layer is not that of another one; empty where it is, or where none was chosen. Jobs that chose at
    one time on unlike machines may have met a tie."""
    layer = result.settings.get(CHOSEN)
    first = layers.get(result.task, layer)
    if layer == first:
        return ""
    return (
        f"it was predicted at layer {layer}, which a sweep chose, and the other results at layer {first}; `stilts "
        "evaluate` on the run predicts all of them at one"
    )


def curve_changed(folder: PhaseDir, status: PhaseStatus) -> bool:
    """Whether a trained phase's curve is not what training left: changed since, or without some of the steps."""
    if status.curve is None or status.best is None:
        return False
    # As a set: a resumed start may have written a step twice.
    steps = {step for step, _ in read_curve(folder.metrics).loss}
    if not folder.metrics.exists() or hash_file(folder.metrics) != status.curve:
        return True
    # A curve can be whole by its hash and still lack steps, where a start wrote it anew without the earlier ones.
    return len(steps) < status.best.of


def read_curve(path: Path) -> Curve:
    """The records of a metrics.jsonl, less a last line that a killed run cut. Raises UserError with the line."""
    if not path.exists():
        return Curve()
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text; delete it to report without this phase's curve") from error
    losses, dev = [], []
    peak: dict[str, float] = {}
    for number, line in enumerate(lines, start=1):
        try:
            step, record = _numbers(json.loads(line)) if line else (0, {})
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            if number == len(lines):  # every whole line ends with a newline
                break
            raise UserError(f"{path}, line {number}: is no record of a step ({error}); delete this line") from error
        # Records of training, of evaluation and of memory stand in one file, told apart by their keys.
        losses += [(step, record["train/loss"])] if "train/loss" in record else []
        dev += [(step, record["selection"])] if "selection" in record else []
        peak |= {k: max(v, peak.get(k, 0.0)) for k, v in record.items() if k.startswith("memory/")}
    return Curve(tuple(losses), tuple(dev), peak or None)


def _numbers(record: Any) -> tuple[int, dict[str, float]]:
    """The step of a line and its finite numbers; a loss may well be NaN, but no curve can show it."""
    step = int(record["step"])
    if not 0 <= step < 10**12:
        raise ValueError(f"step {step}")
    values = {tag: float(value) for tag, value in record.items()}
    return step, {tag: value for tag, value in values.items() if math.isfinite(value)}


# --- what is not there -----------------------------------------------------------------------------------------------


def what_is_missing(
    plan: Plan, phases: dict[str, Phase], results: Results, statuses: dict[str, PhaseStatus]
) -> list[str]:
    """One sentence for each phase without its results, and for each task with languages that are not scored."""
    missing = []
    for phase in phases.values():
        state = statuses[phase.id].state
        # By phase, not by condition: conditions share phases.
        scored = {r.task for tasks in results.values() for runs in tasks.values() for r in runs if r.phase == phase.id}
        lacking = [task for task in phase.evaluate if task not in scored]
        if lacking:
            missing.append(f"No scores of {', '.join(lacking)} from the phase `{phase.title}`, which is {state}.")
        elif state != "done":
            older = "; its scores are those of an earlier start" if phase.evaluate else ""
            missing.append(f"The phase `{phase.title}` is {state}{older}.")
    for task in plan.targets:
        missing += [*_missing_languages(task, results), *_other_sizes(task, results)]
    return missing


def _missing_languages(task: str, results: Results) -> list[str]:
    runs = [run for tasks in results.values() for run in tasks.get(task, [])]
    if not runs:
        return []
    # Means are over these, so what any run lacks is lost to all.
    shared = set.intersection(*(set(run.main) for run in runs))
    lacking = dict.fromkeys(code for run in runs for code in [*run.missing, *run.main] if code not in shared)
    if not lacking:
        return []
    plain = get_task(task).base_name
    if task != plain and any(plain in tasks for tasks in results.values()):
        # Variants stand in no average; they are compared with their plain target, whose own lack is said there.
        scored = {code for tasks in results.values() for run in tasks.get(plain, []) for code in run.main}
        unlike = [code for code in lacking if code in scored]
        said = f"{task}: without {' '.join(unlike)}, which {plain} is scored in; its tables leave this out."
        return [said] if unlike else []
    whole = len(shared) + len(lacking)
    return [
        f"{task}: not scored in {len(lacking)} of {whole} languages ({' '.join(lacking)}). Means are over the "
        "others; the benchmark's average over all languages is withheld."
    ]


def _other_sizes(task: str, results: Results) -> list[str]:
    """A note where a result is over other examples than the benchmark's test set; they need not be the same in all."""
    plain = get_task(task).base_name
    said = _size_kinds(plain, results) if task != plain else {}
    kinds = [kind for kind in _size_kinds(task, results) if kind not in said]
    return [f"{task}: not the benchmark's test set, by its number of examples: {kind}." for kind in kinds]


def _size_kinds(task: str, results: Results) -> dict[str, None]:
    runs = [run for tasks in results.values() for run in tasks.get(task, [])]
    return dict.fromkeys(sizes_text(run.other_sizes) for run in runs if run.other_sizes)
