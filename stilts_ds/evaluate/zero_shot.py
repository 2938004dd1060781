"""Zero-shot evaluation of one phase: predictions for every target language, and gold labels beside them.

Predictions go to `phases/<id>/predictions/<task>/<split>-<language>.*`, labels to `labels/` of the run, both in the
benchmark's submission layout. Scoring is a program of its own that reads these files.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from stilts_ds.batches.prepare import Data
from stilts_ds.config import Recipe
from stilts_ds.engine.preempt import stop_if_requested
from stilts_ds.engine.world import World
from stilts_ds.errors import UserError
from stilts_ds.evaluate import formats
from stilts_ds.evaluate.predict import decode, labelled, outputs, sentence_vectors
from stilts_ds.evaluate.retrieve import Side, best_threshold, bucc_mine, bucc_predict, tatoeba_predict
from stilts_ds.evaluate.score import gold_value
from stilts_ds.export import load_trained
from stilts_ds.plan_file import Phase
from stilts_ds.run_dir import RunDir, hash_file, hash_json, read_json, write_json
from stilts_ds.tasks.spec import Task

log = logging.getLogger(__name__)


def evaluate_phase(run: RunDir, recipe: Recipe, phase: Phase, data: Data, world: World) -> None:
    """Predict every (task, language) of the phase that is not predicted yet. A collective."""
    folder = run.phase(phase.id)
    source = folder if phase.train else run.phase(phase.init) if phase.init else None
    model: torch.nn.Module | None = None
    for task, split, language in wanted(phase, data):
        stop_if_requested(world)
        kind = formats.kind_of(task.family, task.metrics)
        path = folder.predictions / task.name / formats.file_name(kind, split, language)
        stamp = _stamp(phase, recipe, task, split, language, data)
        if world.broadcast(_is_current(run, path, stamp) if world.first else None):
            continue
        model = model or load_trained(source, recipe, world.device)
        predict = _retrieve if task.family == "bitext" else _predict
        predict(model, run, recipe, phase, task, split, language, data, path, world)
        if world.first:
            write_json(_stamp_file(path), {**stamp, "files": _hashes(run, task, path, language)})
            log.info("%s: %s %s-%s predicted", phase.id, task.name, split, language)
        world.barrier()


def wanted(phase: Phase, data: Data) -> Iterator[tuple[Task, str, str]]:
    """Task, split and language of each prediction file."""
    for task in map(data.task, phase.evaluate):
        for part in data.splits(task):
            for language in data.languages(task, data.split(task))[0]:
                yield task, part, language


def _stamp(phase: Phase, recipe: Recipe, task: Task, split: str, language: str, data: Data) -> dict[str, Any]:
    """What a prediction file depends on; it is reused only while this stays the same."""
    part = recipe.evaluation
    settings = part.model_dump(mode="json", exclude={"languages", "splits", "per_device_eval_batch_size"})
    return {
        "phase": phase.id,
        "settings": settings,
        "split": split,
        "data": hash_json([data.files_hash(task, split, language)]),
    }


def _stamp_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.inputs.json")


def _hashes(run: RunDir, task: Task, path: Path, language: str) -> dict[str, str]:
    """Hashes of a prediction file and of what was written with it, by path inside the run."""
    beside = [run.labels / task.name / path.name, path.with_name(f"threshold-{language}.json")]
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
    model: torch.nn.Module,
    run: RunDir,
    recipe: Recipe,
    phase: Phase,
    task: Task,
    split: str,
    language: str,
    data: Data,
    path: Path,
    world: World,
) -> None:
    setting, source = phase.setting(), data.task(phase.train[0])
    rows = data.eval_rows(task, split, language, setting)
    size = recipe.evaluation.per_device_eval_batch_size
    found = outputs(model, rows, source.head_name, task.family, data.encoder, size, world)
    if not world.first:
        return
    records, labels = data.eval_records(task, split, language), data.labels(source.name)
    kind = formats.kind_of(task.family, task.metrics)
    formats.write_predictions(path, kind, decode(records, rows, found, task.family, labels, recipe.evaluation))
    if labelled(records):
        formats.write_labels(run.labels / task.name / path.name, kind, [gold_value(r) for r in records])


def _retrieve(
    model: torch.nn.Module,
    run: RunDir,
    recipe: Recipe,
    phase: Phase,
    task: Task,
    split: str,
    language: str,
    data: Data,
    path: Path,
    world: World,
) -> None:
    source, pivot, gold = data.bitext(task, split, language)
    vectors = [_vectors(model, recipe, task, records, data, world) for records in (source, pivot)]
    if not world.first:
        return
    kind = formats.kind_of(task.family, task.metrics)
    labels = run.labels / task.name / path.name
    if kind == "index":
        place = {record.id: i for i, record in enumerate(source)}
        formats.write_predictions(path, kind, tatoeba_predict(*vectors))
        if gold is not None:
            right = {p: s for s, p in gold}
            formats.write_labels(labels, kind, [place[right[record.id]] for record in pivot])
        return
    sides = [
        Side(name, [r.id for r in records], [r.text for r in records], v)
        for name, records, v in zip((language, task.pivot), (source, pivot), vectors)
    ]
    mined = bucc_mine(sides[0], sides[1])
    threshold = _threshold(path, mined, gold, split, task, language)
    formats.write_predictions(path, kind, bucc_predict(mined, threshold))
    if gold is not None:
        formats.write_labels(labels, kind, sorted(gold))


def _threshold(path: Path, mined: Any, gold: Any, split: str, task: Task, language: str) -> float:
    """Chosen on dev (and kept beside its predictions), applied to test."""
    kept = path.with_name(f"threshold-{language}.json")
    if split == "dev":
        if gold is None:
            raise UserError(f"{task.name} dev-{language} has no gold pairs to choose the mining threshold on")
        value, f1 = best_threshold(mined, set(gold))
        write_json(kept, {"threshold": value, "dev_f1": f1})
        return value
    return float(read_json(kept)["threshold"])


def _vectors(
    model: torch.nn.Module, recipe: Recipe, task: Task, records: list[Any], data: Data, world: World
) -> torch.Tensor:
    rows = data.bitext_rows(records, task)
    return sentence_vectors(model, rows, recipe.evaluation, data.encoder, world)
