"""The average of the recipe's benchmark, and of its groups: withheld where one of its tasks or languages is missing."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median

from stilts_ds.display import number
from stilts_ds.report.compare import Scores
from stilts_ds.report.load import RunData
from stilts_ds.report.table import Sheet
from stilts_ds.report.tables import is_whole
from stilts_ds.tasks.benchmarks import Benchmark, get_benchmark

QA_BY_F1 = "all_task_qa_f1"  # as `stilts score` calls it


def benchmark_averages(data: RunData, scores: Scores, qa_by_f1: bool = False) -> dict[str, dict[str, float | None]]:
    """condition -> `all_task` and each group, as `stilts score` names them; None where something is missing.

    A task is the mean over its languages of the median over seeds, as in the matrix. `qa_by_f1` adds the average that
    some publish: question answering by F1 alone.
    """
    benchmark = get_benchmark(data.recipe.benchmark)
    averages: dict[str, dict[str, float | None]] = {}
    for condition in data.conditions:
        tasks = {
            # Row 0 of replicates: medians over seeds.
            name: float(scores[condition][name].replicates[0].mean())
            for name in benchmark.tasks
            if name in scores[condition] and is_whole(data, name)
        }
        by_group = {"all_task": _mean(tasks, benchmark.tasks)}
        by_group |= {group: _mean(tasks, names) for group, names in benchmark.groups.items()}
        if qa_by_f1:
            by_f1 = {name: _mean_f1(data, condition, name) for name in benchmark.groups["qa"] if name in tasks}
            by_group[QA_BY_F1] = _mean({**tasks, **by_f1}, benchmark.tasks)
        averages[condition] = by_group
    return averages


def _mean(tasks: dict[str, float], names: Sequence[str]) -> float | None:
    # Withheld, not averaged over what there is: such a number would be taken for the benchmark's.
    return fmean(tasks[name] for name in names) if all(name in tasks for name in names) else None


def _mean_f1(data: RunData, condition: str, task: str) -> float:
    runs = data.results[condition][task]
    return fmean(median(run.languages[code]["f1"] for run in runs) for code in runs[0].main)


def benchmark_sheet(data: RunData, averages: dict[str, dict[str, float | None]]) -> Sheet:
    """A row a condition, and what is missing by name."""
    benchmark = get_benchmark(data.recipe.benchmark)
    names = list(next(iter(averages.values())))
    rows = tuple((condition, *(number(by_group[name]) for name in names)) for condition, by_group in averages.items())
    title = f"{benchmark.title}'s average"
    notes = [f"`all_task` is the mean over {benchmark.title}'s tasks: {', '.join(benchmark.tasks)}."]
    if QA_BY_F1 in names:
        notes.append(f"`{QA_BY_F1}` takes question answering by F1 alone, which is another number.")
    if lacking := _lacking(data, benchmark):
        notes.append(f"A dash is withheld. Missing: {'; '.join(lacking)}.")
    return Sheet(title, ("condition", *names), rows, tuple(notes))


def _lacking(data: RunData, benchmark: Benchmark) -> list[str]:
    """Each task that has no whole score, with the languages that are not scored."""
    lacking = []
    for name in benchmark.tasks:
        if name not in data.targets:
            lacking.append(f"{name} is no target")
        elif not is_whole(data, name):
            runs = [run for tasks in data.results.values() for run in tasks.get(name, [])]
            languages = dict.fromkeys(code for run in runs for code in run.missing)
            lacking.append(f"{name} ({' '.join(languages) or 'not its whole test set'})")
    return lacking
