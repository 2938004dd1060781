"""A phase as trackers see it: where its curves go, what they are told of it, and its scores when it has some."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path

from stilts_ds.config import Recipe, recipe_yaml
from stilts_ds.evaluate.result import Result
from stilts_ds.plan_file import Phase
from stilts_ds.run_dir import RunDir, write_atomically
from stilts_ds.trackers import Number, Tracking, open_trackers

log = logging.getLogger(__name__)


def tracking_of(run: RunDir, recipe: Recipe, phase: Phase) -> Tracking:
    """What the recipe's trackers are told of a phase; makes TensorBoard's folder where that is one of them."""
    about: dict[str, str | Number] = {"condition": phase.condition, "seed": phase.seed, "trains": "+".join(phase.train)}
    # Lists and sections are no values that runs are compared by.
    settings = {name: value for name, value in phase.training.items() if isinstance(value, str | int | float)}
    return Tracking(
        folder=curves_folder(run, phase) if "tensorboard" in recipe.report_to else run.tensorboard,
        home=run.root,
        study=recipe.name,
        name=phase.label,
        id=phase.id,
        recipe=recipe_yaml(recipe),
        settings={**about, **settings},
        report_to=tuple(recipe.report_to),
    )


def track_scores(run: RunDir, recipe: Recipe, phase: Phase) -> None:
    """Tell the recipe's trackers the final scores of a phase that is trained: dev's, and test's by language.

    A tracker that fails (a service out of reach) is a warning: the scores stand in the run's files.
    """
    folder = run.phase(phase.id)
    best = folder.read_status().best
    if best is None or not recipe.report_to:
        return
    means = {"dev/selection": best.selection}
    by_language: dict[str, float] = {}
    for name in phase.evaluate:
        result = Result.load(folder.result(name))
        mean = result.mean if result.mean is not None else result.mean_of_present
        means |= {f"test/{name}/mean": mean} if mean is not None else {}
        for language, score in result.main.items():
            by_language[f"test/{name}/{language}"] = score
    try:
        for tracker in open_trackers(tracking_of(run, recipe, phase), done=None):
            tracker.scores(means, by_language, best.step)
            tracker.close()
    except Exception as problem:  # each service's client raises kinds of its own
        log.warning("%s: its scores were not sent to %s (%s)", phase.label, ", ".join(recipe.report_to), problem)


def curves_folder(run: RunDir, phase: Phase) -> Path:
    """TensorBoard's folder of a phase, by the name that people read; it shows `none/seed1/xnli` as the run's name."""
    # A condition is called as its author likes; in a path, a letter may mean another folder.
    names = (re.sub(r"[^\w.+~@=-]|^\.+", "_", name)[:200] for name in phase.label.split("/"))
    folder = run.tensorboard.joinpath(*names)
    owner = folder / "phase_id"
    by_id = run.tensorboard / phase.id
    # Earlier versions named folders by ids; the curve of a phase that goes on stays one curve.
    if by_id.is_dir() and not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        by_id.rename(folder)
    # A changed recipe has another phase of this name, whose curve must not be mixed with the one that was there.
    elif owner.exists() and owner.read_text(encoding="utf-8") != phase.id:
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(owner, phase.id)
    return folder
