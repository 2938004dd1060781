"""What stands in results.json: every score of a run, and the judged tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from stilts_ds.evaluate.result import Result
from stilts_ds.report.compare import Scored, Scores
from stilts_ds.report.correlation import Correlation, correlations_json
from stilts_ds.report.inputs import data_hash, duplicates_sheet
from stilts_ds.report.layers import NAME as LAYERS
from stilts_ds.report.layers import layers_json
from stilts_ds.report.load import RunData
from stilts_ds.report.provenance import dev_json, hub_commits
from stilts_ds.report.stats import ComparisonSettings
from stilts_ds.report.tables import Tables, choose_best, chosen_otherwise, is_whole


def results_json(
    data: RunData,
    scores: Scores,
    tables: Tables,
    settings: ComparisonSettings,
    correlated: Sequence[Correlation] = (),
    averages: Mapping[str, Mapping[str, float | None]] | None = None,
) -> dict[str, Any]:
    """Medians over seeds of every cell, each seed's scores, and the judged tables. No time and no path stands in it.

    The cells are over the languages that the tables are over: those that all conditions and seeds have.
    """
    rows = {c: _row_json(data, c, scores[c]) for c in data.conditions}
    commits, layers = hub_commits(data), layers_json(data)
    by_condition = {condition: dict(scored) for condition, scored in (averages or {}).items()}
    statistics = {
        "baseline": data.baseline,
        "resamples": settings.resamples,
        "level": settings.level,
        "best_per_target": choose_best(data),
        "chosen_otherwise": chosen_otherwise(data),
        **({"correlations": correlations_json(correlated)} if correlated else {}),
        "tables": {table.name: table.to_json() for table in tables.all()},
    }
    return {
        "name": data.plan.name,
        "targets": data.targets,
        "rows": rows,
        "dev": dev_json(data),
        "benchmark": {"name": data.recipe.benchmark, "averages": by_condition},
        "missing": list(data.missing),
        "duplicates": [list(row) for row in duplicates_sheet(data).rows],
        **({"hub_commits": commits} if commits else {}),
        **({LAYERS: layers} if layers else {}),
        "statistics": statistics,
    }


def _row_json(data: RunData, condition: str, scored: Mapping[str, Scored]) -> dict[str, Any]:
    tasks: dict[str, dict[str, Any] | None] = dict.fromkeys(data.targets)
    tasks |= {task: _cell_json(data, condition, task, scored[task]) for task in data.targets if task in scored}
    means = [cell["mean_of_present"] for cell in tasks.values() if cell]
    # An average over some of the targets is another number than the one that people compare.
    complete = len(means) == len(tasks)
    return {
        "tasks": tasks,
        "average": fmean(means) if complete else None,
        "complete": complete and _complete(data, condition),
    }


def _complete(data: RunData, condition: str) -> bool | None:
    """Whether a condition is scored on the benchmark's own test sets; None where nobody knows how large those are."""
    if not all(is_whole(data, task) for task in data.targets):
        return False
    unknown = any(run.unknown_sizes for task in data.targets for run in data.results[condition][task])
    return None if unknown else True


def _cell_json(data: RunData, condition: str, task: str, scored: Scored) -> dict[str, Any]:
    runs = data.results[condition][task]
    # Row 0: medians over seeds, the printed values.
    languages = dict(zip(scored.languages, scored.replicates[0].tolist()))
    pivot = runs[0].pivot
    # Zero-shot: the language of training is no transfer.
    others = [value for code, value in languages.items() if code != pivot]
    mean = float(scored.replicates[0].mean())
    by_seed = {str(run.seed): {code: run.main[code] for code in languages} for run in runs}
    other_sizes = {code: list(sizes) for run in runs for code, sizes in run.other_sizes.items()}
    return {
        "seeds": len(runs),
        "split": runs[0].split,
        "settings": runs[0].settings,
        "data": runs[0].data,
        "data_hash": data_hash(runs[0]),
        "missing": runs[0].missing,
        "languages": languages,
        "by_seed": by_seed,
        "examples": runs[0].examples,
        "other_sizes": other_sizes,
        "mean_of_present": mean,
        # `mean_of_present` is the mean in any case; `mean` claims to be the benchmark's.
        "mean": mean if _has_every_language(runs, languages) else None,
        "zero_shot": fmean(others) if others else None,
        "pivot": pivot,
    }


def _has_every_language(runs: Sequence[Result], languages: Mapping[str, float]) -> bool:
    """Whether a mean over these languages is the benchmark's: no run, and no other condition, lacks one."""
    return all(run.mean is not None and len(run.main) == len(languages) for run in runs)
