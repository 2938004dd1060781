"""`stilts plan`: the graph of phases as text, with steps and what is done already."""

from __future__ import annotations

from collections import Counter
from typing import Any, get_args

from stilts_ds.config import Recipe
from stilts_ds.plan import Kind, Phase
from stilts_ds.run_dir import RunDir
from stilts_launcher.start import prepare_run, run_of


def show_plan(recipe: Recipe) -> str:
    """Make the run folder and plan of `recipe` and describe it. Nothing is trained.

    Where a task's data are not there, the plan is shown all the same, and the last lines say what is lacking.
    """
    lacking: dict[str, str] = {}
    plan = prepare_run(recipe, lacking)
    run = run_of(recipe)
    phases = [Phase.from_json(p) for p in plan["phases"]]
    kinds = Counter(phase.kind for phase in phases)
    counted = ", ".join(f"{kinds[kind]} {kind}" for kind in get_args(Kind) if kinds[kind])
    lines = [f"{recipe.name}: {len(phases)} phases ({counted}) in {run.root}", ""]
    lines += [line for phase in phases for line in _describe(phase, run, plan)]
    if lacking:
        lines += ["", "This cannot run yet, and the names of its phases will change:"]
        lines += [f"  {problem}" for problem in lacking.values()]
    return "\n".join(lines)


def _describe(phase: Phase, run: RunDir, plan: dict[str, Any]) -> list[str]:
    users = [condition for condition, ids in plan["use"].items() if phase.id in ids]
    lines = [f"{phase.id}  [{run.phase(phase.id).status()}]"]
    lines.append(f"  from {phase.init or plan['model']}" + (f", used by {', '.join(users)}" if users else ""))
    if phase.train:
        setting = phase.setting()
        steps = f"{setting.max_steps} steps" if setting.max_steps > 0 else f"{setting.num_train_epochs:g} epochs"
        lines.append(f"  train {', '.join(phase.train)}: {steps} of {setting.train_batch_size} examples, "
                     f"learning_rate {setting.learning_rate:g}, seed {phase.seed}")
    if phase.evaluate:
        lines.append(f"  evaluate {', '.join(phase.evaluate)}")
    return lines
