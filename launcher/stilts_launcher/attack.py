"""`stilts attack`: noise chosen against a trained model of a run, by its own loss."""

from __future__ import annotations

import argparse
import logging
from dataclasses import asdict
from typing import TYPE_CHECKING

from stilts_ds.errors import UserError, did_you_mean
from stilts_launcher.options import RUN_HELP, run_folder

if TYPE_CHECKING:
    from stilts_ds.evaluate.attack import Attack
    from stilts_ds.plan_file import Phase, Plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(verb=run)
    parser.add_argument("run_dir", type=run_folder, metavar="RUN", help=RUN_HELP)
    parser.add_argument("task", help="a noisy target, such as xnli@typo-5: its errors are the budget")
    parser.add_argument("--condition", action="append", metavar="NAME", help="only this condition (repeatable)")
    parser.add_argument("--seed", type=int, metavar="N", help="of the run's seeds (default: the first)")
    parser.add_argument("--language", action="append", metavar="CODE", help="only this language (repeatable)")
    parser.add_argument("--width", type=int, default=8, metavar="N", help="edits that a round tries (default: 8)")
    parser.add_argument("--examples", type=int, default=100, metavar="N", help="first N of a language (default: 100)")


def run(given: argparse.Namespace) -> int:
    """The verb. Raises UserError for a task, condition or language that the run has not."""
    import torch

    from stilts_ds.config import written_recipe
    from stilts_ds.data.data import Data
    from stilts_ds.evaluate.attack import Victim, attack_split
    from stilts_ds.export import load_trained
    from stilts_ds.model.encoder import quiet
    from stilts_ds.named_tasks import check_noise
    from stilts_ds.plan_file import Plan
    from stilts_ds.run_dir import RunDir, write_json

    if given.width < 1 or given.examples < 1:
        raise UserError("--width and --examples: give at least 1")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    quiet()
    folder = RunDir(given.run_dir)
    recipe, plan = written_recipe(folder.recipe), Plan.load(folder.plan)
    data = Data(recipe, folder.root)
    task = data.task(given.task)
    if task.noise is None:
        raise UserError(f"{given.task} has no noise; name it, as in {given.task}@typo-5")
    check_noise(task)
    clean = data.task(task.plain_name)
    split = data.scored_split(clean)
    languages = _chosen(given.language, data.languages(task, split)[0], "--language")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for condition in _chosen(given.condition, list(plan.use), "--condition"):
        phase = _phase(plan, condition, given.seed, task.plain_name)
        # Zero-shot: the head and the labels are those of the task that the phase trained on, not of the target.
        source = data.task(phase.train[0])
        model = load_trained(folder.phase(phase.id), recipe, device)
        victim = Victim(
            model,
            data.tokenizer,
            source.head_name,
            data.labels(source.name),
            phase.setting(),
            recipe.evaluation,
            device,
        )
        # The clean split is attacked; the noisy task only says which edits are allowed, and how many.
        attacks = [
            attack_split(data.evaluation(clean, split, code), task, victim, given.width, given.examples)
            for code in languages
        ]
        path = folder.phase(phase.id).root / "attacks" / f"{task.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        by_language = [asdict(attack) for attack in attacks]
        write_json(path, {"task": task.name, "width": given.width, "languages": by_language})
        print(_table(f"{task.name} after {condition}, seed {phase.seed}", attacks))
    return 0


def _chosen(asked: list[str] | None, known: list[str], option: str) -> list[str]:
    for name in asked or []:
        if name not in known:
            raise UserError(f"{option} {name}: not among {', '.join(known)}{did_you_mean(name, known)}")
    return asked or known


def _phase(plan: Plan, condition: str, seed: int | None, target: str) -> Phase:
    """The phase of a condition that was trained for a target. Raises UserError where there is none."""
    # Seed 0 is a seed like any other, so only None stands for "not given".
    wanted = plan.seeds[0] if seed is None else seed
    for phase in plan.phases:
        # A phase that only evaluates has no head of its own to differentiate.
        if phase.id in plan.use[condition] and phase.train and target in phase.evaluate and phase.seed == wanted:
            return phase
    raise UserError(
        f"the run trains nothing for {target} after {condition} with seed {wanted}; its targets are "
        f"{', '.join(plan.targets)}, its seeds {', '.join(map(str, plan.seeds))}"
    )


def _table(title: str, rows: list[Attack]) -> str:
    lines = [title, "| language | examples | clean | plain noise | attacked | edits, plain | edits, attack |"]
    lines.append("|---|--:|--:|--:|--:|--:|--:|")
    for row in rows:
        scores = f"{row.clean:.2f} | {row.noisy:.2f} | {row.attacked:.2f}"
        lines.append(f"| {row.language} | {row.examples} | {scores} | {row.noisy_edits} | {row.edits} |")
    return "\n".join(lines)
