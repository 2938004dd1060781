"""Zero-shot evaluation of one phase: predictions for every target language, and gold labels beside them.

Predictions go to `phases/<id>/predictions/<task>/<split>-<language>.*`, labels to `labels/` of the run, both in the
benchmark's submission layout. Scoring is a program of its own that reads these files.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stilts_ds.config import Recipe
from stilts_ds.data.data import Data
from stilts_ds.data.split import Split
from stilts_ds.engine.preempt import stop_if_requested
from stilts_ds.engine.world import World
from stilts_ds.errors import UserError
from stilts_ds.evaluate.predict import Predictor
from stilts_ds.export import load_trained
from stilts_ds.families.base import Prediction
from stilts_ds.families.files import shared_texts_file, write_shared_texts
from stilts_ds.plan_file import Phase
from stilts_ds.run_dir import RunDir, hash_file, hash_json, read_json, write_json

log = logging.getLogger(__name__)


def evaluate_phase(run: RunDir, recipe: Recipe, phase: Phase, data: Data, world: World) -> None:
    """Predict every (task, language) of the phase that is not predicted yet. A collective."""
    predictor: Predictor | None = None
    for split in wanted(phase, data):
        stop_if_requested(world)
        path = prediction_path(run, phase, split)
        stamp = _stamp(phase, recipe, split)
        current = _is_current(run, path, stamp) if world.first else None
        if world.broadcast(current):
            continue
        predictor = predictor or _load_predictor(run, recipe, phase, data, world)
        _predict(run, recipe, phase, split, data, path, predictor)
        if world.first:
            write_json(_stamp_file(path), {**stamp, "files": _hashes(run, split, path)})
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


def _stamp(phase: Phase, recipe: Recipe, split: Split) -> dict[str, Any]:
    """What a prediction file depends on; it is reused only while this stays the same."""
    part = recipe.evaluation
    settings = part.model_dump(mode="json", exclude={"languages", "splits", "per_device_eval_batch_size"})
    return {"phase": phase.id, "settings": settings, "split": split.name, "data": hash_json([split.hash])}


def _stamp_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.inputs.json")


def _hashes(run: RunDir, split: Split, path: Path) -> dict[str, str]:
    """Hashes of a prediction file and of what was written with it, by path inside the run."""
    kept = [path.with_name(name) for name in split.family.kept_files(split.language)]
    labels = label_path(run, split, path)
    beside = [labels, shared_texts_file(labels), *kept]
    return {p.relative_to(run.root).as_posix(): hash_file(p) for p in (path, *beside) if p.exists()}


def _is_current(run: RunDir, path: Path, stamp: dict[str, Any]) -> bool:
    """Whether a file was predicted from the same inputs and is still what was written."""
    try:
        kept = read_json(_stamp_file(path))
        files = kept.pop("files")
        whole = all(hash_file(run.root / name) == digest for name, digest in files.items())
    except (UserError, OSError, KeyError, AttributeError):  # missing or damaged: predict it again
        return False
    return path.relative_to(run.root).as_posix() in files and whole and kept == stamp


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
    if split.task.shared_text and split.family.writes_shared_texts:
        write_shared_texts(labels, [getattr(record, split.task.shared_text) for record in records])
