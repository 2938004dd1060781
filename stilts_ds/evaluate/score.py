"""Scores: a predictions folder and a labels folder of one split give numbers per task, language, group and overall.

No model and no torch. `score_folder` returns XTREME's JSON (`all_task`, a key per group, and per task `accuracy`,
`f1`, `avg_f1`, `avg_metric`, ...), all in percent. An average over a set that is not complete is None: the languages
that lack a file are listed under `missing`, and `mean_of_present` holds what can be said about the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stilts_ds.errors import UserError, did_you_mean
from stilts_ds.evaluate import formats, metrics
from stilts_ds.examples.records import Choice, Pair, Tagged
from stilts_ds.tasks.spec import Family, Task

GROUPS: Mapping[Family, str] = {
    "pair": "classification",
    "choice": "multi_choice",
    "tag": "tagging",
    "span": "qa",
    "bitext": "retrieval",
}
FAMILY_METRICS: Mapping[str, tuple[str, ...]] = {
    "pair": ("accuracy", "f1"),
    "choice": ("accuracy",),
    "tag": ("f1", "accuracy"),
    "span": ("f1", "exact_match", "mlqa_f1", "mlqa_exact_match"),
    "bitext": ("accuracy", "f1"),
}
SPLITS = ("train", "dev", "test")


def gold_value(record: Any) -> Any:
    """What a record's prediction is compared with: its label, index, tags or, for a question, the record itself.

    Values that are not records (indices and pairs of bitexts) pass through. Raises UserError for an unlabelled record.
    """
    value = record
    if isinstance(record, (Pair, Choice)):
        value = record.label
    elif isinstance(record, Tagged):
        value = record.tags
    if value is None:
        raise UserError(f"example {record.id!r} has no label; score a labelled split")
    return value


def score_predictions(
    family: Family,
    metric_names: Sequence[str],
    gold: Sequence[Any],
    predictions: Any,
    language: str,
    labels: Sequence[str] = (),
) -> dict[str, float]:
    """Scores of one task in one language, in percent, under XTREME's metric names.

    `gold` holds records or plain gold values, `predictions` the values of the task's file kind (see `formats`).
    Binary F1 takes the last of `labels` as the positive class ("1" without labels). The metrics `mlqa_f1` and
    `mlqa_exact_match` ask for MLQA's answer rules of `language`; they are reported as `f1` and `exact_match`.
    Raises UserError for unlabelled or unanswered examples and unknown metrics, ValueError for unequal lengths.
    """
    _check_metrics(family, metric_names)
    values = [gold_value(record) for record in gold]
    if family == "span":
        mlqa = any(name.startswith("mlqa_") for name in metric_names)
        return metrics.span_scores(values, predictions, _mlqa_rules(language) if mlqa else metrics.normalise_english)
    if family == "tag" and "f1" in metric_names:
        accuracy = metrics.token_accuracy(values, predictions)
        return metrics.chunk_f1(values, predictions) | {"token_accuracy": accuracy}
    if family == "tag":
        return {"accuracy": metrics.token_accuracy(values, predictions)}
    if family == "bitext" and "f1" in metric_names:
        return metrics.set_f1({tuple(pair) for pair in values}, {tuple(pair) for pair in predictions})
    scores = {"accuracy": metrics.accuracy(values, predictions)}
    if "f1" in metric_names:
        scores["f1"] = metrics.binary_f1(values, predictions, labels[-1] if labels else "1")
    return scores


def _mlqa_rules(language: str) -> metrics.Normalise:
    return lambda text: metrics.normalise_mlqa(text, language)


def _check_metrics(family: Family, names: Sequence[str]) -> None:
    known = FAMILY_METRICS.get(family, ())
    for name in names:
        if name not in known:
            raise UserError(f"family {family!r} has no metric {name!r}{did_you_mean(name, known)}")


def main_score(family: Family, scores: Mapping[str, float]) -> float:
    """The one number that ranks models on a task and selects checkpoints (paper, Scoring).

    Question answering: mean of exact match and F1. Tags and bitext: F1, or accuracy where F1 is not measured.
    Pairs and choices: accuracy (for QQP too).
    """
    if family == "span":
        return (scores["exact_match"] + scores["f1"]) / 2
    if family in ("tag", "bitext"):
        return scores["f1"] if "f1" in scores else scores["accuracy"]
    return scores["accuracy"]


# --- folders ---------------------------------------------------------------------------------------------------------


def score_file(predictions: Path, labels: Path, task: Task, language: str) -> dict[str, float]:
    """Scores of one prediction file against its label file. Raises UserError with file and line for bad input."""
    kind = formats.kind_of(task.family, task.metrics)
    gold = formats.read_labels(labels, kind, task.labels if kind == "label" else ())
    predicted = formats.read_predictions(predictions, kind, task.labels)
    formats.check_aligned(predictions, kind, predicted, gold)
    return score_predictions(task.family, task.metrics, gold, predicted, language, task.labels)


def score_folder(
    predictions: Path,
    labels: Path,
    split: str,
    tasks: Mapping[str, Task],
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Score `<predictions>/<task>/<split>-<language>.*` against the same paths under `labels`; see the module text.

    Only files of `split` are read. `settings` (pooling, hidden layer, ...) are recorded and printed with the scores.
    """
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}{did_you_mean(split, SPLITS)}")
    for folder in (predictions, labels):
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder; give the folder that holds one folder per task")
    result: dict[str, Any] = {"split": split, "settings": dict(settings or {})}
    missing: dict[str, dict[str, str]] = {}
    by_task: dict[str, dict[str, Any]] = {}
    for name, task in tasks.items():
        missing[name] = _missing(predictions, labels, split, name, task)
        present = [language for language in task.languages if language not in missing[name]]
        folders = (predictions / name, labels / name)
        by_task[name] = _task_scores(folders, split, task, present)
    result |= _overall({name: scores["avg_metric"] for name, scores in by_task.items()}, tasks)
    result |= by_task
    result["missing"] = {name: reasons for name, reasons in missing.items() if reasons}
    result["mean_of_present"] = {name: _mean_of_present(tasks[name], by_task[name]) for name in result["missing"]}
    return result


def _missing(predictions: Path, labels: Path, split: str, name: str, task: Task) -> dict[str, str]:
    """The languages that cannot be scored, each with the file that is not there."""
    kind = formats.kind_of(task.family, task.metrics)
    reasons: dict[str, str] = {}
    for language in task.languages:
        file = formats.file_name(kind, split, language)
        for what, folder in (("labels", labels / name), ("predictions", predictions / name)):
            if not (folder / file).is_file():
                reasons[language] = f"no {what}: {folder / file}"
    return reasons


def _task_scores(folders: tuple[Path, Path], split: str, task: Task, present: Sequence[str]) -> dict[str, Any]:
    kind = formats.kind_of(task.family, task.metrics)
    scores: dict[str, Any] = {}
    for language in present:
        file = formats.file_name(kind, split, language)
        for metric, value in score_file(folders[0] / file, folders[1] / file, task, language).items():
            scores.setdefault(metric, {})[language] = value
    if not present or len(present) < len(task.languages):
        return scores | {f"avg_{metric}": None for metric in scores} | {"avg_metric": None}
    averages = {metric: _mean(list(values.values())) for metric, values in scores.items()}
    scores |= {f"avg_{metric}": value for metric, value in averages.items()}
    return scores | {"avg_metric": main_score(task.family, averages)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _mean_of_present(task: Task, scores: Mapping[str, Any]) -> dict[str, Any]:
    by_metric = {metric: values for metric, values in scores.items() if isinstance(values, dict)}
    present = max((len(values) for values in by_metric.values()), default=0)
    mean = main_score(task.family, {m: _mean(list(v.values())) for m, v in by_metric.items()}) if present else None
    return {"score": mean, "languages": present, "of": len(task.languages)}


def _overall(averages: Mapping[str, float | None], tasks: Mapping[str, Task]) -> dict[str, float | None]:
    """`all_task` and one key per group, whatever the order of tasks; None as soon as one task's average is withheld."""
    members: dict[str, list[float | None]] = {"all_task": list(averages.values())}
    for name, average in averages.items():
        members.setdefault(GROUPS[tasks[name].family], []).append(average)
    return {key: _mean_or_none(values) for key, values in members.items()}


def _mean_or_none(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None
