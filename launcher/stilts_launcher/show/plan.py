"""`stilts plan`: the graph of phases as text or JSON, with steps, tokens, memory, and what is done already."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from tempfile import TemporaryDirectory
from typing import get_args

from stilts_ds.config import Recipe
from stilts_ds.data.data import Data
from stilts_ds.errors import UserError, counted
from stilts_ds.plan_file import Kind, Phase, Plan
from stilts_ds.planner import most_ranks
from stilts_ds.planning.advice import advice
from stilts_ds.planning.estimates import Estimate, calibrated, estimates, to_json
from stilts_ds.planning.memory import GIB
from stilts_ds.report.table import Sheet
from stilts_ds.run_dir import RunDir
from stilts_ds.trial_file import Trial
from stilts_launcher.needs import lacking_files
from stilts_launcher.recipes import resolved_recipe
from stilts_launcher.show.disk import disk_line, disk_uses
from stilts_launcher.show.study_table import share, study_table
from stilts_launcher.start import prepare_run, run_of


def show_plan(
    recipe: Recipe,
    ranks: int | None = None,
    gpu_memory: float | None = None,
    trial: bool = False,
    as_json: bool = False,
    by_phase: bool = False,
) -> str:
    """Make the run folder and plan of `recipe` and describe it: as a table of conditions and targets, or `by_phase`.
    Nothing is trained but a trial, if asked for.

    `ranks` and `gpu_memory` (GiB) are those of the machine that will run it; default: the recipe's ranks, no limit.
    Where a task's data are not there, the plan is shown all the same, and the last lines say what is lacking.
    """
    lacking: dict[str, str] = {}
    run, plan = run_of(recipe), prepare_run(recipe, lacking)
    # `auto` counts GPUs where the ranks start; a plan is often looked at on a login node, which has none.
    of_world = recipe.launch.world_ranks
    count = ranks or (of_world if of_world != "auto" else 1)
    estimated, measured = _estimated(recipe, plan, count, trial, lacking)
    if as_json:
        return json.dumps(
            {
                "name": recipe.name,
                "folder": str(run.root),
                "ranks": count,
                "dtype": recipe.engine.dtype,
                "lacking": lacking,
                "missing": _missing(recipe, run, lacking),
                "disk": disk_uses(recipe, run, plan),
                "trial": None if measured is None else measured.to_json(),
                "phases": to_json(estimated),
                "use": plan.use,
            },
            indent=1,
        )
    # The hint is for whoever chose no number: the one rank above is then this function's guess.
    by_auto = ranks is None and recipe.launch.nproc == "auto"
    lines = [*_head(recipe, run, estimated, count, by_auto), ""]
    if by_phase:
        lines += [line for estimate in estimated for line in _describe(estimate, plan)]
    else:
        lines += _table(plan, estimated, recipe.engine.zero_stage)
    lines += ["", *_foot(recipe, estimated, count, gpu_memory, measured), disk_line(recipe, run, plan)]
    if missing := _missing(recipe, run, lacking):
        changes = ", and the names of its phases will change" if lacking else ""
        lines += ["", f"This cannot run yet{changes}:", *(f"  {problem}" for problem in missing)]
    return "\n".join(lines)


def plan_sheet(name: str) -> Sheet:
    """What a shipped recipe or a YAML file costs, by kind of phase; steps of data that are not here are those of the
    official sizes."""
    with TemporaryDirectory() as folder:  # a plan makes its run's folder
        recipe = resolved_recipe(name, [f"output_dir={folder}"])
        lacking: dict[str, str] = {}
        plan = prepare_run(recipe, lacking)
        estimated, _ = _estimated(recipe, plan, 1, False, lacking)
    by_kind = {kind: [e for e in estimated if e.phase.kind == kind] for kind in get_args(Kind)}
    rows = [(kind, f"{len(phases):,}", _steps_of(phases)) for kind, phases in by_kind.items() if phases]
    note = (
        f"`stilts plan {name}`: {recipe.model.name_or_path}, {counted(len(recipe.seeds), 'seed')}. Hours are for a "
        f"machine to say: `stilts plan {name} --trial` measures a few steps there."
    )
    return Sheet(f"What {name} would cost", ("kind of phase", "phases", "optimiser steps"), tuple(rows), (note,))


def _missing(recipe: Recipe, run: RunDir, lacking: dict[str, str]) -> list[str]:
    """Every local file that is not there and how to go on without them, and what else is lacking (of the hub)."""
    missing = lacking_files(recipe, Data(recipe, run.root))
    return [*(problem for problem in lacking.values() if problem not in missing), *missing]


def show_advice(recipe: Recipe, ranks: int, memory: float, trial: bool = False, cpu: bool = False) -> str:
    """Only what fits on a machine with `ranks` ranks of `memory` GiB each, CPUs or GPUs, and what a trial measured."""
    lacking: dict[str, str] = {}
    plan = prepare_run(recipe, lacking)
    estimated, measured = _estimated(recipe, plan, ranks, trial, lacking, cpu)
    if measured is None:
        return advice(recipe, estimated, memory)
    return "\n".join(_foot(recipe, estimated, ranks, memory, measured))


def _estimated(
    recipe: Recipe, plan: Plan, ranks: int, trial: bool, lacking: dict[str, str], cpu: bool = False
) -> tuple[list[Estimate], Trial | None]:
    """The plan's estimates, and what a trial measured if one is asked for."""
    if trial and lacking:
        raise UserError("\n".join(lacking.values()))
    run = run_of(recipe)
    estimated = estimates(recipe, run, plan, ranks, cpu)
    if not trial:
        return estimated, None
    # Estimated again: what memory a rank takes on CPUs and on GPUs differs, and only the trial says which these are.
    measured = _trial(recipe, run, plan, estimated)
    return calibrated(estimates(recipe, run, plan, ranks, measured.on_cpu), measured, ranks), measured


def _trial(recipe: Recipe, run: RunDir, plan: Plan, estimated: list[Estimate]) -> Trial:
    from stilts_launcher.trial import run_trial

    # The phase with the most arithmetic takes most of the hours, so its rate is the one to measure.
    largest = max(estimated, key=lambda estimate: estimate.work)
    if not largest.phase.train:
        raise UserError(f"{recipe.name} trains nothing, so there is nothing to try")
    return run_trial(recipe, run, plan, largest.phase)


def _head(recipe: Recipe, run: RunDir, estimated: list[Estimate], ranks: int, by_auto: bool) -> list[str]:
    done = sum(estimate.state.startswith("done") for estimate in estimated)
    hint = "; --ranks N plans for N" if by_auto else ""
    kinds = Counter(estimate.phase.kind for estimate in estimated)
    by_kind = ", ".join(f"{kinds[kind]} {kind}" for kind in get_args(Kind) if kinds[kind])
    return [
        f"{recipe.name}: {counted(len(estimated), 'phase')} ({by_kind}) in {run.root}, {done} of them done",
        f"estimates are for {counted(ranks, 'rank')}{hint}; {recipe.engine.dtype}, GiB on one rank",
    ]


def _table(plan: Plan, estimated: list[Estimate], stage: int) -> list[str]:
    """The study in one screen: phases done of planned by condition and target, and what each condition costs."""
    by_id = {estimate.phase.id: estimate for estimate in estimated}

    def of(phases: Sequence[Phase]) -> list[Estimate]:
        return [by_id[phase.id] for phase in phases]

    def done(phase: Phase) -> bool:
        return by_id[phase.id].state.startswith("done")

    totals = {
        "steps": lambda phases: _steps_of(of(phases)),
        f"GiB at stage {stage}": lambda phases: _largest_peak(of(phases), stage),
    }
    if any(estimate.hours is not None for estimate in estimated):
        totals["hours"] = lambda phases: f"{sum(estimate.hours or 0 for estimate in of(phases)):.2f}"
    table = study_table(plan, lambda phases: share(phases, done), totals)
    under_way = [f"{e.phase.label}: {e.state}" for e in estimated if not e.state.startswith(("done", "will run"))]
    return [*table, "", "cells: phases done of planned, all seeds together; --phases describes each phase", *under_way]


def _steps_of(estimated: list[Estimate]) -> str:
    """Steps of some phases; a sum that counts full data sets is marked, one that lacks a phase is not given."""
    sizes = [(estimate.phase, estimate.size) for estimate in estimated if estimate.size is not None]
    steps = [size.steps for _, size in sizes if size.steps is not None]
    if len(steps) < len(sizes):
        return "unknown"
    guessed = any(not size.exact and phase.setting().max_steps <= 0 for phase, size in sizes)
    return f"{'about ' if guessed else ''}{sum(steps):,}"


def _largest_peak(estimated: list[Estimate], stage: int) -> str:
    """The most memory that one of some phases takes on a rank."""
    peaks = [estimate.memory[stage].peak for estimate in estimated if stage in estimate.memory]
    return f"{max(peaks) / GIB:.2f}" if peaks else "unknown"


def _describe(estimate: Estimate, plan: Plan) -> list[str]:
    phase = estimate.phase
    users = [condition for condition, ids in plan.use.items() if phase.id in ids]
    lines = [f"{phase.label}  [{estimate.state}]"]
    names = {planned.id: planned.label for planned in plan.phases}
    start = names.get(phase.init, plan.model)
    lines.append(f"  {phase.id}, from {start}" + (f", used by {', '.join(users)}" if users else ""))
    if estimate.size is not None:
        setting = phase.setting()
        lines.append(
            f"  train {', '.join(phase.train)}: {_steps(estimate)} of "
            f"{counted(setting.train_batch_size, 'example')}, "
            f"learning_rate {setting.learning_rate:g}, seed {phase.seed}"
        )
        tokens = "unknown until the data are read" if estimate.size.tokens is None else f"{estimate.size.tokens:,}"
        lines.append(f"  tokens {tokens}" + (f", {estimate.hours:.2f} hours" if estimate.hours is not None else ""))
        lines.append(f"  {_memory(estimate)}")
    if phase.evaluate:
        lines.append(f"  evaluate {', '.join(phase.evaluate)}")
    if estimate.outside:
        lines.append(f"  {_outside(estimate)}")
    return lines


def _steps(estimate: Estimate) -> str:
    setting, size = estimate.phase.setting(), estimate.size
    assert size is not None
    if size.steps is None:
        return f"{setting.num_train_epochs:g} epochs (steps unknown until the data are read)"
    # A count of steps set by the recipe holds however many examples the full data have.
    if size.exact or setting.max_steps > 0:
        return f"{counted(size.steps, 'step')}"
    return f"about {counted(size.steps, 'step')} (of the full data set's {size.items:,} examples)"


def _memory(estimate: Estimate) -> str:
    if estimate.parameters is None or estimate.vocabulary is None:
        return "memory unknown until model and data are on this machine (`stilts fetch`)"
    by_stage = _peaks(estimate)
    rows, size = estimate.vocabulary
    assert estimate.size is not None
    least = "" if estimate.size.width else "at least (choices of a question unknown) "
    # Only the stages that offload have some; the highest one stands for them.
    host = next((m.host for m in reversed(estimate.memory.values()) if m.host), 0)
    offloaded = f", and {host / GIB:.2f} of host memory" if host else ""
    parameters = counted(estimate.parameters, "parameter")
    return f"memory {least}{by_stage}{offloaded} ({parameters}, {rows:,} of {size:,} vocabulary rows)"


def _outside(estimate: Estimate) -> str:
    """Memory outside the steps, in GiB: of evaluation by stage, and of the host at the highest stage."""
    by_stage = ", ".join(f"stage {stage} {o.evaluation / GIB:.2f}" for stage, o in estimate.outside.items())
    evaluation = f"evaluation {by_stage}; " if estimate.phase.evaluate else ""
    [*_, highest] = estimate.outside.values()
    saves = f", {highest.save_host / GIB:.2f} on each while a checkpoint is written" if estimate.phase.train else ""
    return f"outside steps {evaluation}host {highest.host / GIB:.2f} on rank 0{saves}"


def _peaks(estimate: Estimate, extra: int = 0) -> str:
    """Peak memory at each ZeRO stage, in GiB of one rank, with `extra` bytes on top."""
    return ", ".join(f"stage {stage} {(memory.peak + extra) / GIB:.2f}" for stage, memory in estimate.memory.items())


def _foot(
    recipe: Recipe, estimated: list[Estimate], ranks: int, gpu_memory: float | None, trial: Trial | None
) -> list[str]:
    extra = _extra_bytes(trial, estimated, ranks) if trial else 0
    # A trial that took less than the formula promises no space: its few steps may have missed the longest rows.
    lines = [advice(recipe, estimated, gpu_memory, max(0, extra))] if gpu_memory else []
    most = most_ranks(estimate.phase for estimate in estimated)
    if most is not None and most < ranks:
        lines.append(
            f"a step feeds {counted(most, 'rank')} of {ranks}; launch.worlds=auto has phases side by side use all"
        )
    if trial is None:
        return [*lines, "hours are not estimated: `stilts plan ... --trial` measures a few steps"]
    # What is trained already takes no more hours, though `run` still evaluates it.
    untrained = [estimate for estimate in estimated if not estimate.state.startswith(("done", "trained"))]
    hours = sum(estimate.hours for estimate in untrained if estimate.hours is not None)
    tried = next(estimate for estimate in estimated if estimate.phase.id == trial.phase)
    lines += _trial_lines(trial, tried, ranks)
    scaled = "" if ranks == len(trial.ranks) else f" (rate a rank times {ranks} ranks, communication not counted)"
    return [*lines, f"training still to run: {hours:.2f} hours{scaled}; evaluation is not in it"]


def _extra_bytes(trial: Trial, estimated: list[Estimate], ranks: int) -> int:
    """Bytes that the trial's fullest rank took on top of the formula's: Python, contexts, temporaries, fragments. They
    are taken to be the same at every stage. 0 where the two do not compare."""
    estimate = next(estimate for estimate in estimated if estimate.phase.id == trial.phase)
    # ZeRO shares states out over the ranks, so peaks at other stages or other numbers of ranks mean something else.
    if trial.stage not in estimate.memory or ranks != len(trial.ranks):
        return 0
    return trial.peak - estimate.memory[trial.stage].peak


def _trial_lines(trial: Trial, estimate: Estimate, ranks: int) -> list[str]:
    count, peak = len(trial.ranks), trial.peak
    where = "device" if trial.ranks[0].device is not None else "resident host"
    lines = [
        f"trial: {counted(len(trial.seconds), 'step')} of {estimate.phase.label} at stage {trial.stage} on {count} x "
        f"{trial.device}: {trial.tokens_per_second:,.0f} tokens/s, peak {peak / GIB:.2f} GiB of {where} memory"
    ]
    if trial.stage in estimate.memory and ranks == count:
        extra = _extra_bytes(trial, [estimate], ranks)
        lines.append(
            f"the formula gives {estimate.memory[trial.stage].peak / GIB:.2f} GiB for that, {_difference(extra)}"
        )
        if extra > 0:
            lines.append(f"with the difference added, the phase takes {_peaks(estimate, extra)}")
    return [*lines, *_knee_lines(trial)]


def _knee_lines(trial: Trial) -> list[str]:
    """How many ranks a step keeps busy."""
    knee = trial.knee
    if knee is None:
        return []
    rates = ", ".join(f"{rate.ranks}: {rate.tokens_per_second:,.0f}" for rate in trial.rates)
    lines = [f"tokens/s of a rank by how many ranks share a step (what more ranks say to each other left out): {rates}"]
    if knee == trial.rates[-1]:
        lines.append(f"each of {counted(knee.ranks, 'rank')}, the most that a step feeds, does half of one or more")
    else:
        lines.append(
            f"the knee is at {counted(knee.ranks, 'rank')} with {counted(knee.examples, 'example')} of a step each: of "
            "more, each does less than half of what one alone does. Divide more ranks into worlds of that size "
            "(launch.worlds)"
        )
    return lines


def _difference(extra: int) -> str:
    return f"{abs(extra) / GIB:.2f} GiB {'less' if extra > 0 else 'more'} than was measured"
