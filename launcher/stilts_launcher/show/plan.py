"""`stilts plan`: the graph of phases as text or JSON, with steps, tokens, memory, and what is done already."""

from __future__ import annotations

import json
from collections import Counter
from typing import get_args

from stilts_ds.config import Recipe
from stilts_ds.errors import UserError, counted
from stilts_ds.plan_file import Kind, Plan
from stilts_ds.planning.advice import advice
from stilts_ds.planning.estimates import Estimate, calibrated, estimates, to_json
from stilts_ds.planning.memory import GIB
from stilts_ds.run_dir import RunDir
from stilts_ds.trial_file import Trial
from stilts_launcher.start import prepare_run, run_of


def show_plan(
    recipe: Recipe,
    ranks: int | None = None,
    gpu_memory: float | None = None,
    trial: bool = False,
    as_json: bool = False,
) -> str:
    """Make the run folder and plan of `recipe` and describe it. Nothing is trained but a trial, if asked for.

    `ranks` and `gpu_memory` (GiB) are those of the machine that will run it; default: the recipe's ranks, no limit.
    Where a task's data are not there, the plan is shown all the same, and the last lines say what is lacking.
    """
    lacking: dict[str, str] = {}
    run, plan = run_of(recipe), prepare_run(recipe, lacking)
    count = ranks or (recipe.launch.nproc if recipe.launch.nproc != "auto" else 1)
    estimated, measured = _estimated(recipe, plan, count, trial, lacking)
    if as_json:
        return json.dumps(
            {
                "name": recipe.name,
                "folder": str(run.root),
                "ranks": count,
                "dtype": recipe.engine.dtype,
                "lacking": lacking,
                "trial": None if measured is None else measured.to_json(),
                "phases": to_json(estimated),
                "use": plan.use,
            },
            indent=1,
        )
    by_auto = ranks is None and recipe.launch.nproc == "auto"
    lines = [*_head(recipe, run, estimated, count, by_auto), ""]
    lines += [line for one in estimated for line in _describe(one, plan)]
    lines += ["", *_foot(recipe, estimated, count, gpu_memory, measured)]
    if lacking:
        lines += ["", "This cannot run yet, and the names of its phases will change:"]
        lines += [f"  {problem}" for problem in lacking.values()]
    return "\n".join(lines)


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
    measured = _trial(recipe, run, plan, estimated)
    return calibrated(estimates(recipe, run, plan, ranks, measured.on_cpu), measured, ranks), measured


def _trial(recipe: Recipe, run: RunDir, plan: Plan, estimated: list[Estimate]) -> Trial:
    from stilts_launcher.trial import run_trial

    largest = max(estimated, key=lambda one: one.work)
    if not largest.phase.train:
        raise UserError(f"{recipe.name} trains nothing, so there is nothing to try")
    return run_trial(recipe, run, plan, largest.phase)


def _head(recipe: Recipe, run: RunDir, estimated: list[Estimate], ranks: int, by_auto: bool) -> list[str]:
    done = sum(one.state.startswith("done") for one in estimated)
    hint = "; --ranks N plans for N" if by_auto else ""
    kinds = Counter(one.phase.kind for one in estimated)
    by_kind = ", ".join(f"{kinds[kind]} {kind}" for kind in get_args(Kind) if kinds[kind])
    return [
        f"{recipe.name}: {counted(len(estimated), 'phase')} ({by_kind}) in {run.root}, {done} of them done",
        f"estimates are for {counted(ranks, 'rank')}{hint}; {recipe.engine.dtype}, GiB on one rank",
    ]


def _describe(one: Estimate, plan: Plan) -> list[str]:
    phase = one.phase
    users = [condition for condition, ids in plan.use.items() if phase.id in ids]
    lines = [f"{phase.id}  [{one.state}]"]
    lines.append(f"  from {phase.init or plan.model}" + (f", used by {', '.join(users)}" if users else ""))
    if one.size is not None:
        setting = phase.setting()
        lines.append(
            f"  train {', '.join(phase.train)}: {_steps(one)} of "
            f"{counted(setting.train_batch_size, 'example')}, "
            f"learning_rate {setting.learning_rate:g}, seed {phase.seed}"
        )
        tokens = "unknown until the data are read" if one.size.tokens is None else f"{one.size.tokens:,}"
        lines.append(f"  tokens {tokens}" + (f", {one.hours:.2f} hours" if one.hours is not None else ""))
        lines.append(f"  {_memory(one)}")
    if phase.evaluate:
        lines.append(f"  evaluate {', '.join(phase.evaluate)}")
    return lines


def _steps(one: Estimate) -> str:
    setting, size = one.phase.setting(), one.size
    assert size is not None
    if size.steps is None:
        return f"{setting.num_train_epochs:g} epochs (steps unknown until the data are read)"
    if size.exact or setting.max_steps > 0:
        return f"{counted(size.steps, 'step')}"
    return f"about {counted(size.steps, 'step')} (of the full data set's {size.items:,} examples)"


def _memory(one: Estimate) -> str:
    if one.parameters is None or one.vocabulary is None:
        return "memory unknown until model and data are on this machine (`stilts fetch`)"
    by_stage = ", ".join(f"stage {stage} {m.peak / GIB:.2f}" for stage, m in one.memory.items())
    rows, size = one.vocabulary
    assert one.size is not None
    least = "" if one.size.width else "at least (choices of a question unknown) "
    host = next((m.host for m in reversed(one.memory.values()) if m.host), 0)
    offloaded = f", and {host / GIB:.2f} of host memory" if host else ""
    parameters = counted(one.parameters, "parameter")
    return f"memory {least}{by_stage}{offloaded} ({parameters}, {rows:,} of {size:,} vocabulary rows)"


def _foot(
    recipe: Recipe, estimated: list[Estimate], ranks: int, gpu_memory: float | None, trial: Trial | None
) -> list[str]:
    beside = _extra_bytes(trial, estimated, ranks) if trial else 0
    lines = [advice(recipe, estimated, gpu_memory, max(0, beside))] if gpu_memory else []
    if trial is None:
        return [*lines, "hours are not estimated: `stilts plan ... --trial` measures a few steps"]
    known = [one.hours for one in estimated if one.hours is not None and not one.state.startswith(("done", "trained"))]
    lines += _trial_lines(trial, next(one for one in estimated if one.phase.id == trial.phase), ranks)
    scaled = "" if ranks == len(trial.ranks) else f" (rate a rank times {ranks} ranks, communication not counted)"
    return [*lines, f"training still to run: {sum(known):.2f} hours{scaled}; evaluation is not in it"]


def _extra_bytes(trial: Trial, estimated: list[Estimate], ranks: int) -> int:
    """Bytes that the trial's fullest rank took on top of the formula's: Python, contexts, temporaries, fragments. They
    are taken to be the same at every stage. 0 where the two do not compare."""
    one = next(one for one in estimated if one.phase.id == trial.phase)
    if trial.stage not in one.memory or ranks != len(trial.ranks):
        return 0
    return trial.peak - one.memory[trial.stage].peak


def _trial_lines(trial: Trial, one: Estimate, ranks: int) -> list[str]:
    count, peak = len(trial.ranks), trial.peak
    where = "device" if trial.ranks[0].device is not None else "resident host"
    lines = [
        f"trial: {counted(len(trial.seconds), 'step')} of {one.phase.id} at stage {trial.stage} on {count} x "
        f"{trial.device}: {trial.tokens_per_second:,.0f} tokens/s, peak {peak / GIB:.2f} GiB of {where} memory"
    ]
    if trial.stage in one.memory and ranks == count:
        rest = _extra_bytes(trial, [one], ranks)
        lines.append(f"the formula gives {one.memory[trial.stage].peak / GIB:.2f} GiB for that, {_difference(rest)}")
        if rest > 0:
            by_stage = ", ".join(f"stage {stage} {(m.peak + rest) / GIB:.2f}" for stage, m in one.memory.items())
            lines.append(f"with the difference added, the phase takes {by_stage}")
    return lines


def _difference(rest: int) -> str:
    return f"{abs(rest) / GIB:.2f} GiB {'less' if rest > 0 else 'more'} than was measured"
