"""What stands in results.json: every score of a run, and the judged tables."""

from __future__ import annotations

from statistics import fmean, median
from typing import Any

from stilts_ds.evaluate.result import Result
from stilts_ds.report.load import RunData
from stilts_ds.report.provenance import hub_commits
from stilts_ds.report.stats import Settings
from stilts_ds.report.tables import Tables, choose_best, chosen_otherwise, is_whole


def results_json(data: RunData, tables: Tables, settings: Settings) -> dict[str, Any]:
    """Medians over seeds of every cell, and the judged tables. No time and no path stands in it."""
    rows = {c: _row_json(data, c) for c in data.conditions}
    return {
        "name": data.plan.name,
        "targets": data.targets,
        "rows": rows,
        "missing": list(data.missing),
        **({"hub_commits": commits} if (commits := hub_commits(data)) else {}),
        "statistics": {
            "baseline": data.baseline, "resamples": settings.resamples, "level": settings.level,
            "best_per_target": choose_best(data), "chosen_otherwise": chosen_otherwise(data),
            "tables": {table.name: table.to_json() for table in tables.all()},
        },
    }


def _row_json(data: RunData, condition: str) -> dict[str, Any]:
    tasks = {}
    for task in data.targets:
        runs = data.results.get(condition, {}).get(task, [])
        tasks[task] = _cell_json(runs) if runs else None
    present = [cell["mean_of_present"] for cell in tasks.values() if cell]
    complete = len(present) == len(tasks) and None not in present
    return {
        "tasks": tasks,
        "average": fmean(present) if complete else None,
        "complete": complete and _complete(data, condition),
    }


def _complete(data: RunData, condition: str) -> bool | None:
    """Whether a condition is scored on the benchmark's own test sets; None where nobody knows how large those are."""
    if not all(is_whole(data, condition, task) for task in data.targets):
        return False
    unknown = any(run.unknown_sizes for task in data.targets for run in data.results[condition][task])
    return None if unknown else True


def _cell_json(runs: list[Result]) -> dict[str, Any]:
    shared = [code for code in runs[0].main if all(code in run.main for run in runs)]
    languages = {code: median(run.main[code] for run in runs) for code in shared}
    pivot = runs[0].pivot
    others = [value for code, value in languages.items() if code != pivot]
    whole = all(run.mean is not None for run in runs)
    return {
        "seeds": len(runs),
        "split": runs[0].split,
        "missing": runs[0].missing,
        "languages": languages,
        "examples": runs[0].examples,
        "other_sizes": {code: list(sizes) for run in runs for code, sizes in run.other_sizes.items()},
        "mean_of_present": fmean(languages.values()) if languages else None,
        "mean": fmean(languages.values()) if languages and whole else None,
        "zero_shot": fmean(others) if others else None,
        "pivot": pivot,
    }
