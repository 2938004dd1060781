"""Zero-shot evaluation of one phase: predictions for every target language, and gold labels beside them.

Predictions go to `phases/<id>/predictions/<task>/<split>-<language>.*`, labels to `labels/` of the run, both in the
benchmark's submission layout. Scoring is a program of its own that reads these files.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from stilts_ds.config import Recipe
from stilts_ds.data.data import Data
from stilts_ds.data.split import Split
from stilts_ds.engine.preempt import stop_if_requested
from stilts_ds.engine.world import World
from stilts_ds.errors import UserError
from stilts_ds.evaluate.attributes import attributes_file, write_attributes
from stilts_ds.evaluate.predict import Predictor
from stilts_ds.evaluate.seen import Training
from stilts_ds.evaluate.stamp import Stamp
from stilts_ds.evaluate.touched import touched_file, write_touched
from stilts_ds.export import load_trained
from stilts_ds.families.base import Prediction
from stilts_ds.families.files import shared_texts_file, write_shared_texts
from stilts_ds.lineage import predicting_weights
from stilts_ds.plan_file import Phase
from stilts_ds.run_dir import RunDir

log = logging.getLogger(__name__)


def evaluate_phase(run: RunDir, recipe: Recipe, phase: Phase, data: Data, world: World) -> None:
    """Predict every (task, language) of the phase that its model has not predicted yet. A collective."""
    predictor: Predictor | None = None
    weights = predicting_weights(run, recipe, phase) if world.first else ""
    for split in wanted(phase, data):
        stop_if_requested(world)
        path = prediction_path(run, phase, split)
        stamp = Stamp.of(phase.id, weights, recipe.evaluation, split)
        if world.broadcast(world.first and stamp.is_of(run, path)):
            continue
        predictor = predictor or _load_predictor(run, recipe, phase, data, world)
        _predict(run, recipe, phase, split, data, path, predictor)
        if world.first:
            stamp.save(run, path, _written(run, split, path))
            log.info("%s: %s %s-%s predicted", phase.id, split.task.name, split.name, split.language)
        world.barrier()


def wanted(phase: Phase, data: Data) -> Iterator[Split]:
    """The split of each prediction file."""
    for task in map(data.task, phase.evaluate):
        yield from data.evaluations(task)


def prediction_path(run: RunDir, phase: Phase, split: Split) -> Path:
    file = split.family.files(split.task).name(split.name, split.language)
    return run.phase(phase.id).predictions / split.task.name / file


def label_path(run: RunDir, split: Split, path: Path) -> Path:
    return run.labels / split.task.name / path.name


def _load_predictor(run: RunDir, recipe: Recipe, phase: Phase, data: Data, world: World) -> Predictor:
    """The phase's own model, or for a phase that trains nothing the one that it starts from."""
    source = run.phase(phase.id) if phase.train else run.phase(phase.init) if phase.init else None
    model = load_trained(source, recipe, world.device)
    return Predictor(model, data.tokenizer, recipe.evaluation.per_device_eval_batch_size, world)


def _written(run: RunDir, split: Split, path: Path) -> list[Path]:
    """A prediction file and what is written with it."""
    kept = [path.with_name(name) for name in split.family.kept_files(split.name, split.language)]
    labels = label_path(run, split, path)
    return [path, labels, shared_texts_file(labels), attributes_file(labels), touched_file(labels), *kept]


def _training_of(phase: Phase, data: Data) -> Training | None:
    """What the phase was trained on for its target; None where nothing is trained, or the files of an earlier training
    are no longer here. Read once in a start."""
    if not phase.train:
        return None
    [name] = phase.train  # a target's phase trains one task

    def read() -> Training | None:
        try:
            return Training.of(data.train(name, phase.setting(name)))
        except UserError as problem:
            log.info("which examples were seen in training is not told: %s", problem)
            return None

    found: Training | None = data.once(f"training data of {name}, {phase.training}", read)
    return found


def _predict(
    run: RunDir, recipe: Recipe, phase: Phase, split: Split, data: Data, path: Path, predictor: Predictor
) -> None:
    """Write the predictions of one split and, where it has labels, the label file. A collective."""
    source = data.task(phase.train[0]) if phase.train else split.task  # whose head and labels predict
    asked = Prediction(
        split, source.head_name, data.labels(source.name), phase.setting(), recipe.evaluation, predictor, path.parent
    )
    predictions = split.family.predict(split.family, asked)
    if not predictor.first:
        return
    files = split.family.files(split.task)
    files.write(path, predictions)
    labels, records = label_path(run, split, path), split.records()
    gold = split.family.label_values(split.family, split.task, records)
    if gold is None:
        return
    files.write_labels(labels, gold)
    write_attributes(labels, split, data.tokenizer, _training_of(phase, data))
    write_touched(labels, split, data.tokenizer)
    if split.task.shared_text and split.family.writes_shared_texts:
        write_shared_texts(labels, [getattr(record, split.task.shared_text) for record in records])
