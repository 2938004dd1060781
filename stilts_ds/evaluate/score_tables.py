"""Scores (the JSON of `score.score_folder`) as files: `scores.json`, `scores.csv` and `scores.md`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stilts_ds.errors import counted
from stilts_ds.escape import csv_text, markdown_escape, markdown_prose
from stilts_ds.evaluate.score import QA_BY_F1, group_of
from stilts_ds.evaluate.sizes import sizes_text
from stilts_ds.run_dir import write_atomically
from stilts_ds.tasks.benchmarks import Benchmark, get_benchmark
from stilts_ds.tasks.spec import Task

CSV_COLUMNS = ("split", "task", "group", "metric", "language", "score")


def write_scores(folder: Path, scores: Mapping[str, Any], tasks: Mapping[str, Task]) -> None:
    """Write the three files into `folder`, each atomically."""
    write_atomically(folder / "scores.json", json.dumps(scores, indent=2, ensure_ascii=False) + "\n")
    write_atomically(folder / "scores.csv", scores_csv(scores, tasks))
    write_atomically(folder / "scores.md", scores_markdown(scores, tasks))


def scores_csv(scores: Mapping[str, Any], tasks: Mapping[str, Task]) -> str:
    """One score a row, in percent at full precision. Averages have language `average`; withheld ones are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    # None is written as an empty field.
    for *names, score in _rows(scores, tasks):
        writer.writerow((*map(csv_text, (scores["split"], *names)), score))
    return text.getvalue()


def _rows(scores: Mapping[str, Any], tasks: Mapping[str, Task]) -> Iterator[tuple[str, str, str, str, float | None]]:
    benchmark = get_benchmark(scores["benchmark"])
    for overall in _overall_keys(scores):
        yield overall, overall, "score", "average", scores[overall]
    for group in _groups(tasks, benchmark):
        yield group, group, "score", "average", scores[group]
    for name, task in tasks.items():
        for metric, value in scores[name].items():
            if isinstance(value, Mapping):
                yield from ((name, group_of(task, benchmark), metric, lang, score) for lang, score in value.items())
            else:
                # In the JSON an average is a key of its own; in a table it is one more language.
                yield name, group_of(task, benchmark), metric.removeprefix("avg_"), "average", value


def _overall_keys(scores: Mapping[str, Any]) -> list[str]:
    """The benchmark's average, and the one by F1 alone where it was asked for."""
    return ["all_task", *([QA_BY_F1] if QA_BY_F1 in scores else [])]


def _groups(tasks: Mapping[str, Task], benchmark: Benchmark) -> list[str]:
    return list(dict.fromkeys(group_of(task, benchmark) for task in tasks.values()))


def scores_markdown(scores: Mapping[str, Any], tasks: Mapping[str, Task]) -> str:
    """A page with the overall and group scores, a table per task, and what is missing; two decimals."""
    sections = [f"# Scores on the {scores['split']} split", "In percent. A dash is a withheld average."]
    if scores["settings"]:
        sections.append(
            "\n".join(f"- {key}: {markdown_prose(str(value))}" for key, value in scores["settings"].items())
        )
    benchmark = get_benchmark(scores["benchmark"])
    summary = [*_overall_keys(scores), *_groups(tasks, benchmark)]
    sections.append(_table(summary, [[_cell(scores[key]) for key in summary]]))
    mean = scores["mean_of_tasks"]
    # Without it people would average by hand, and take the result for the benchmark's.
    if scores["all_task"] is None and mean["tasks"]:
        sections.append(
            f"Mean of {', '.join(mean['tasks'])}: {_cell(mean['score'])}. It is not {benchmark.title}'s score, "
            f"which is the mean of its {counted(len(benchmark.tasks), 'task')}."
        )
    sections.append(_table(["task", "score"], [[name, _cell(scores[name]["avg_metric"])] for name in tasks]))
    for name, task in tasks.items():
        sections += [f"## {name}", _task_table(scores[name], task)]
    return "\n\n".join(sections + _missing(scores) + _sizes(scores)) + "\n"


def _task_table(scores: Mapping[str, Any], task: Task) -> str:
    metrics = [metric for metric, values in scores.items() if isinstance(values, Mapping)]
    rows = []
    for metric in metrics:
        by_language = [_cell(scores[metric].get(language)) for language in task.languages]
        rows.append([metric, *by_language, _cell(scores[f"avg_{metric}"])])
    return _table(["metric", *task.languages, "average"], rows)


def _missing(scores: Mapping[str, Any]) -> list[str]:
    sections = ["## Missing"] if scores["missing"] else []
    for name, reasons in scores["missing"].items():
        present = scores["mean_of_present"][name]
        languages = counted(present["languages"], "language")
        mean = f"mean of the {languages} present of {present['of']}: {_cell(present['score'])}"
        lines = [f"- {markdown_prose(language)}: {markdown_prose(why)}" for language, why in reasons.items()]
        sections.append("\n".join([f"{name} ({mean})", "", *lines]))
    return sections


def _sizes(scores: Mapping[str, Any]) -> list[str]:
    """Where these are not the benchmark's test sets, or nobody knows; of another split there is nothing to say."""
    if scores["split"] != "test":
        return []
    lines = []
    for name, languages in scores["other_sizes"].items():
        others = {code: (sizes["found"], sizes["benchmark"]) for code, sizes in languages.items()}
        lines.append(f"- {name}: {markdown_prose(sizes_text(others))} examples")
    lines += [
        f"- {name}: size unknown in {markdown_prose(' '.join(codes))}"
        for name, codes in scores["unknown_sizes"].items()
    ]
    if not lines:
        return []
    return ["## Not known to be the benchmark's test sets", "\n".join(lines)]


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [map(markdown_escape, header), ["---"] * len(header), *(map(markdown_escape, row) for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
