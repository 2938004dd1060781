"""Scores: a predictions folder and a labels folder of one split give numbers per task, language, group and overall.

No model and no torch. `score_folder` returns XTREME's JSON (`all_task`, a key per group, and per task `accuracy`,
`f1`, `avg_f1`, `avg_metric`, ...), all in percent. An average over a set that is not complete is None: the languages
that lack a file are listed under `missing`, and `mean_of_present` holds what can be said about the others. `complete`:
this is the benchmark's whole, each of its tasks and languages, with as many examples as its test sets have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stilts_ds.errors import UserError, did_you_mean
from stilts_ds.evaluate.sizes import benchmark_sizes, other_sizes, unknown_sizes
from stilts_ds.families.files import centred_name
from stilts_ds.families.metrics import scores_of
from stilts_ds.families.registry import family_of, main_metric, metrics_of
from stilts_ds.tasks.benchmarks import XTREME, Benchmark, get_benchmark
from stilts_ds.tasks.registry import TASKS, tasks_named
from stilts_ds.tasks.spec import Task

SPLITS = ("train", "dev", "test")
QA_BY_F1 = "all_task_qa_f1"
CENTRED = "_centred"  # stands behind the name of a metric: of retrieval among centred vectors


def group_of(task: Task, benchmark: Benchmark = XTREME) -> str:
    """The benchmark's group that a task's score belongs to; its family's for another task."""
    return benchmark.group_of(task, family_of(task).group)


def score_values(task: Task, gold: Sequence[Any], predicted: Any, language: str) -> dict[str, float]:
    """Scores of one task in one language, in percent, under XTREME's metric names.

    `gold` and `predicted` are values of the task's files. Raises UserError for unlabelled or unanswered examples,
    ValueError for unequal lengths.
    """
    return scores_of(metrics_of(task), gold, predicted, language)


def centred_scores(task: Task, gold: Sequence[Any], folder: Path, split: str, language: str) -> dict[str, float]:
    """Scores of what was found among centred vectors, under the metrics' names with CENTRED behind; {} where nothing
    was kept in the folder of the task's predictions. They are in no average.

    Raises UserError naming the file where it is damaged, or answers other examples than `gold`.
    """
    family = family_of(task)
    predicted = family.centred(folder, split, language)
    if predicted is None:
        return {}
    family.files(task).check(folder / centred_name(split, language), predicted, gold)
    return {f"{name}{CENTRED}": value for name, value in score_values(task, gold, predicted, language).items()}


def read_values(predictions: Path, labels: Path, task: Task) -> tuple[Any, Any]:
    """Gold values and predictions of one file each. Raises UserError with file and line for bad input."""
    files = family_of(task).files(task)
    gold = files.read_labels(labels, task.labels)
    predicted = files.read(predictions, task.labels)
    files.check(predictions, predicted, gold)
    return gold, predicted


def tasks_to_score(labels: Path, benchmark: str | None = None) -> tuple[dict[str, Task], Benchmark]:
    """The tasks that a labels folder is scored on: those that it has folders of, or all of a benchmark's.

    Raises UserError for an unknown benchmark, and where the folder has none of them.
    """
    chosen = get_benchmark(benchmark or XTREME.name)
    if benchmark is None:
        tasks = tasks_named(path.name for path in labels.glob("*") if path.is_dir())
    else:
        tasks = {name: chosen.fitted(TASKS[name]) for name in chosen.tasks}
    if not any((labels / name).is_dir() for name in tasks):
        raise UserError(f"{labels} has no folder named after a task; see `stilts tasks`")
    return tasks, chosen


# --- folders ---------------------------------------------------------------------------------------------------------


def score_file(predictions: Path, labels: Path, task: Task, language: str) -> dict[str, float]:
    """Scores of one prediction file against its label file. Raises UserError with file and line for bad input."""
    gold, predicted = read_values(predictions, labels, task)
    return score_values(task, gold, predicted, language)


def score_folder(
    predictions: Path,
    labels: Path,
    split: str,
    tasks: Mapping[str, Task],
    settings: Mapping[str, Any] | None = None,
    benchmark: Benchmark = XTREME,
    qa_by_f1: bool = False,
) -> dict[str, Any]:
    """Score `<predictions>/<task>/<split>-<language>.*` against the same paths under `labels`; see the module text.

    Only files of `split` are read. `settings` (pooling, hidden layer, ...) are recorded and printed with the scores.
    `benchmark` says which tasks the overall and group scores are over. `qa_by_f1` adds, under a name of its own, the
    average that some publish: question answering by F1 alone.
    """
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}{did_you_mean(split, SPLITS)}")
    for folder in (predictions, labels):
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder; give the folder that holds one folder per task")
    result: dict[str, Any] = {"split": split, "settings": dict(settings or {})}
    missing: dict[str, dict[str, str]] = {}
    by_task: dict[str, dict[str, Any]] = {}
    examples: dict[str, dict[str, int]] = {}
    for name, task in tasks.items():
        missing[name] = _missing(predictions, labels, split, name, task)
        present = [language for language in task.languages if language not in missing[name]]
        folders = (predictions / name, labels / name)
        by_task[name], examples[name] = _task_scores(folders, split, task, present)
    averages = {name: scores["avg_metric"] for name, scores in by_task.items()}
    result |= _overall(averages, tasks, benchmark)
    if qa_by_f1:
        result[QA_BY_F1] = _overall_by_f1(averages, by_task, benchmark)
    result["benchmark"] = benchmark.name
    result["mean_of_tasks"] = _mean_of_tasks(averages)
    # The format of XTREME's own script: tasks stand beside the averages, in one object.
    result |= by_task
    result["missing"] = {name: reasons for name, reasons in missing.items() if reasons}
    result |= _sizes(examples, split, tasks)
    # Complete and comparable: all tasks whole, and each test set as large as the benchmark's.
    result["complete"] = result["all_task"] is not None and not result["other_sizes"] and not result["unknown_sizes"]
    result["mean_of_present"] = {name: _mean_of_present(tasks[name], by_task[name]) for name in result["missing"]}
    return result


def _missing(predictions: Path, labels: Path, split: str, name: str, task: Task) -> dict[str, str]:
    """The languages that cannot be scored, each with the file that is not there."""
    files = family_of(task).files(task)
    reasons: dict[str, str] = {}
    for language in task.languages:
        file = files.name(split, language)
        for content, folder in (("labels", labels / name), ("predictions", predictions / name)):
            if not (folder / file).is_file():
                reasons[language] = f"no {content}: {folder / file}"
        to_do = family_of(task).unscored(predictions / name / file)
        if language not in reasons and to_do is not None:
            reasons[language] = to_do
    return reasons


def _task_scores(
    folders: tuple[Path, Path], split: str, task: Task, present: Sequence[str]
) -> tuple[dict[str, Any], dict[str, int]]:
    """Scores, and the number of examples in each language."""
    files = family_of(task).files(task)
    scores: dict[str, Any] = {}
    examples: dict[str, int] = {}
    for language in present:
        file = files.name(split, language)
        gold, predicted = read_values(folders[0] / file, folders[1] / file, task)
        examples[language] = len(gold)
        of_language = score_values(task, gold, predicted, language)
        of_language |= centred_scores(task, gold, folders[0], split, language)
        for metric, value in of_language.items():
            scores.setdefault(metric, {})[language] = value
    # An average over fewer languages is another number under the same name: it is withheld.
    if not present or len(present) < len(task.languages):
        withheld = {f"avg_{metric}": None for metric in scores}
        return scores | withheld | {"avg_metric": None}, examples
    # So is one of a metric that was not measured in each language.
    partial = {f"avg_{metric}": None for metric, values in scores.items() if len(values) < len(present)}
    averages = {metric: _mean(list(of_metric.values())) for metric, of_metric in scores.items()}
    scores |= {f"avg_{metric}": value for metric, value in averages.items()}
    return scores | partial | {"avg_metric": main_metric(task).of_scores(averages)}, examples


def _sizes(examples: Mapping[str, Mapping[str, int]], split: str, tasks: Mapping[str, Task]) -> dict[str, Any]:
    """By task, the languages whose number of examples is not the benchmark's, and those where that is not known."""
    others: dict[str, dict[str, dict[str, int]]] = {}
    unknown: dict[str, list[str]] = {}
    for name, sizes in examples.items():
        benchmark = benchmark_sizes(tasks[name], split)
        differing = other_sizes(sizes, benchmark)
        if differing:
            others[name] = {code: {"found": a, "benchmark": b} for code, (a, b) in differing.items()}
        if without := unknown_sizes(sizes, benchmark):
            unknown[name] = list(without)
    return {"other_sizes": others, "unknown_sizes": unknown}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _mean_of_present(task: Task, scores: Mapping[str, Any]) -> dict[str, Any]:
    by_metric = {metric: values for metric, values in scores.items() if isinstance(values, dict)}
    present = max((len(values) for values in by_metric.values()), default=0)
    averages = {metric: _mean(list(values.values())) for metric, values in by_metric.items()}
    mean = main_metric(task).of_scores(averages) if present else None
    return {"score": mean, "languages": present, "of": len(task.languages)}


def _overall(
    averages: Mapping[str, float | None], tasks: Mapping[str, Task], benchmark: Benchmark
) -> dict[str, float | None]:
    """`all_task` and one key per group, whatever the order of tasks.

    They are the benchmark's: None where one of its tasks is not there or its average is withheld, and for a group that
    it has not. Tasks beyond its own count for none of them.
    """
    scores: dict[str, float | None] = {"all_task": None}
    scores |= {group_of(task, benchmark): None for task in tasks.values()}
    for group in scores.keys() & benchmark.groups.keys():
        scores[group] = _mean_or_none([averages.get(name) for name in benchmark.groups[group]])
    return scores | {"all_task": _mean_or_none([averages.get(name) for name in benchmark.tasks])}


def _overall_by_f1(
    averages: Mapping[str, float | None], scores: Mapping[str, Mapping[str, Any]], benchmark: Benchmark
) -> float | None:
    """The mean over the benchmark's tasks with F1 in place of question answering's mean of F1 and exact match."""
    # Some papers report QA so; the key has another name, because the number is another.
    by_f1 = {name: scores[name].get("avg_f1") for name in benchmark.groups["qa"] if name in scores}
    return _mean_or_none([{**averages, **by_f1}.get(name) for name in benchmark.tasks])


def _mean_of_tasks(averages: Mapping[str, float | None]) -> dict[str, Any]:
    """The mean over the tasks that are there and whole, with their names: it is not XTREME's score."""
    whole = {name: average for name, average in averages.items() if average is not None}
    return {"score": _mean_or_none(list(whole.values())), "tasks": list(whole)}


def _mean_or_none(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    # fsum: the mean does not depend on the order of the tasks.
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None
