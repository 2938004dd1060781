"""`stilts plan`: the graph of phases as text, with steps and what is done already."""

from __future__ import annotations

from typing import Any

from stilts_ds.config import Recipe, TrainingPart
from stilts_ds.plan import Phase
from stilts_ds.run_dir import RunDir
from stilts_launcher.start import prepare_run, run_of


def show_plan(recipe: Recipe) -> str:
    """Make the run folder and plan of `recipe` and describe it. Nothing is trained."""
    plan = prepare_run(recipe)
    run = run_of(recipe)
    phases = [Phase.from_json(p) for p in plan["phases"]]
    lines = [f"{recipe.name}: {len(phases)} phases in {run.root}", ""]
    lines += [line for phase in phases for line in _describe(phase, run, plan)]
    return "\n".join(lines)


def _describe(phase: Phase, run: RunDir, plan: dict[str, Any]) -> list[str]:
    users = [condition for condition, ids in plan["use"].items() if phase.id in ids]
    lines = [f"{phase.id}  [{run.phase(phase.id).status()}]"]
    lines.append(f"  from {phase.init or plan['model']}" + (f", used by {', '.join(users)}" if users else ""))
    if phase.train:
        setting = TrainingPart(**phase.training)
        steps = f"{setting.max_steps} steps" if setting.max_steps > 0 else f"{setting.num_train_epochs:g} epochs"
        lines.append(f"  train {', '.join(phase.train)}: {steps} of {setting.train_batch_size} examples, "
                     f"learning_rate {setting.learning_rate:g}, seed {phase.seed}")
    if phase.evaluate:
        lines.append(f"  evaluate {', '.join(phase.evaluate)}")
    return lines
