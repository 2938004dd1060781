"""Each target's scores seed by seed, side by side in a cell: what a median is of, for people who read the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from stilts_ds.display import number
from stilts_ds.report.load import RunData
from stilts_ds.report.table import Sheet


def seed_sheets(data: RunData) -> list[Sheet]:
    """A sheet for each target with several seeds: languages down, conditions across, a score for each seed."""
    sheets = (_sheet(data, task) for task in data.targets)
    return [sheet for sheet in sheets if sheet is not None]


def _sheet(data: RunData, task: str) -> Sheet | None:
    runs = {condition: data.results.get(condition, {}).get(task, []) for condition in data.conditions}
    scored = {condition: results for condition, results in runs.items() if results}
    if len(data.plan.seeds) < 2 or not scored:
        return None
    languages = dict.fromkeys(code for results in scored.values() for result in results for code in result.main)
    rows = []
    for code in languages:
        by_seed = [{result.seed: result.main.get(code) for result in results} for results in scored.values()]
        rows.append((code, *(_side_by_side(scores, data.plan.seeds) for scores in by_seed)))
    title = f"{task}, seeds {', '.join(map(str, data.plan.seeds))}"
    return Sheet(title, ("language", *scored), tuple(rows))


def _side_by_side(scores: Mapping[int, float | None], seeds: Iterable[int]) -> str:
    # A seed that is not there yet keeps its place. What no training changes (the pretrained model's retrieval) has
    # seed 0, and is the same for all.
    return " · ".join(number(scores.get(seed, scores.get(0))) for seed in seeds)
