"""A run's scores with their resamples, and tests of every condition against the baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stilts_ds.data.data import fitted_task
from stilts_ds.errors import UserError
from stilts_ds.evaluate.result import Result
from stilts_ds.evaluate.score import read_values
from stilts_ds.families.files import CENTRED_FILES
from stilts_ds.families.metrics import Metric, Units
from stilts_ds.families.registry import family_of, main_metric
from stilts_ds.plan_file import Phase
from stilts_ds.report.clusters import cluster_numbers
from stilts_ds.report.load import Results, RunData
from stilts_ds.report.stats import (
    ComparisonSettings,
    Difference,
    Floats,
    cluster_sums,
    difference,
    generator,
    over_seeds,
    ratio_replicates,
)
from stilts_ds.tasks.spec import Task


@dataclass(frozen=True)
class Scored:
    """Scores of one task after one condition: median and mean over seeds and resamples of the mean, [2 + R, L].

    R = 0: nothing to resample. `clusters_unknown`: examples share texts, but the run does not say which, so they are
    drawn one by one.
    """

    languages: tuple[str, ...]
    replicates: Floats
    seeds: int
    clusters_unknown: bool = False


@dataclass(frozen=True)
class Counts:
    """What the scores of one task by `metric` are made of. `units`: language -> condition -> one file's units a seed;
    `texts`: language -> what each unit stands on with others, None where the task has no such text or the run does not
    say. `spreads`: language -> condition -> for each seed, scores under parameters that were fitted to other
    examples."""

    metric: Metric
    units: dict[str, dict[str, list[Units]]]
    texts: dict[str, Sequence[str]] | None
    spreads: dict[str, dict[str, list[list[float]]]]

    def names(self, language: str) -> tuple[str, ...]:
        """The names of a language's units."""
        return next(units.names for files in self.units[language].values() for units in files)


Scores = dict[str, dict[str, Scored]]  # condition -> task
# (task, language) -> the languages that were drawn together: they name the random numbers of the draws.
Draws = dict[tuple[str, str], list[str]]


def score_run(data: RunData, settings: ComparisonSettings) -> Scores:
    """Scores and resamples of all conditions and targets that have results.

    Raises UserError where prediction files do not give the scores of the result files.
    """
    scores: Scores = {condition: {} for condition in data.conditions}
    draws: Draws = {}
    variants = [task for task in data.plan.targets if task not in data.targets]
    for task in [*data.targets, *variants]:  # a noisy test set is drawn as its clean one is
        for condition, scored in score_task(data, fitted_task(task, data.recipe), settings, draws).items():
            scores[condition][task] = scored
    return scores


def score_task(
    data: RunData,
    task: Task,
    settings: ComparisonSettings,
    draws: Draws,
    centred: bool = False,
    metric: Metric | None = None,
) -> dict[str, Scored]:
    """Scores and resamples of one target by condition; `centred` and `metric` are `read_counts`'s."""
    runs = {c: data.results[c][task.name] for c in data.conditions if data.results.get(c, {}).get(task.name)}
    shared = shared_languages(runs.values())
    counts = read_counts(data, task, shared, centred, metric) if shared else None
    return resampled(task, runs, counts, data.baseline, settings, draws)


def shared_languages(runs: Iterable[Sequence[Result]]) -> list[str]:
    """The languages that every condition and seed has: means over different languages cannot be compared."""
    results = [result for runs_of_condition in runs for result in runs_of_condition]
    if not results:
        return []
    return [code for code in results[0].main if all(code in result.main for result in results)]


def resampled(
    task: Task,
    runs: Mapping[str, Sequence[Result]],
    counts: Counts | None,
    baseline: str,
    settings: ComparisonSettings,
    draws: Draws,
) -> dict[str, Scored]:
    """One task's scores by condition, each seed one result, over the languages that all of them have.

    `counts` are of these results, None where there is nothing to resample. A task without results gives {}.
    """
    shared = shared_languages(runs.values())
    if not shared:
        return {}
    by_condition = {}
    for condition, some in runs.items():
        # [1, S, L]: without predictions there is the observed sample only.
        observed = np.array([[run.main[code] for code in shared] for run in some])[None]
        scores = observed if counts is None else np.zeros((1 + settings.resamples, *observed.shape[1:]))
        by_condition[condition] = scores
    if counts is not None:
        _resample(counts, task, shared, by_condition, settings, draws)
    summarised = over_seeds(by_condition, {c: [run.seed for run in some] for c, some in runs.items()}, baseline)
    unknown = bool(task.shared_text) and counts is not None and counts.texts is None
    return {
        condition: Scored(tuple(shared), summarised[condition], len(some), unknown) for condition, some in runs.items()
    }


def with_main_score(data: RunData, task: str, name: str) -> RunData | None:
    """The run with another score as the main one of a target, and nothing else; None where a result lacks it."""
    results: Results = {}
    for condition, tasks in data.results.items():
        for result in tasks.get(task, []):
            main = {code: result.languages.get(code, {}).get(name) for code in result.main}
            if None in main.values():
                return None
            results.setdefault(condition, {}).setdefault(task, []).append(result.model_copy(update={"main": main}))
    return replace(data, results=results) if results else None


def read_counts(
    data: RunData, task: Task, languages: Sequence[str], centred: bool = False, metric: Metric | None = None
) -> Counts | None:
    """What every score is a ratio of, None where a prediction or label file is not there. `centred`: of retrieval among
    centred vectors; `metric`: another one than the task's main. The results' `main` are of these then
    (`with_main_score`)."""
    family, metric = family_of(task), metric or main_metric(task)
    files = family.files(task)
    column = CENTRED_FILES if centred else ""
    counts: dict[str, dict[str, list[Units]]] = {}
    spreads: dict[str, dict[str, list[list[float]]]] = {}
    texts: dict[str, Sequence[str] | None] = {}
    read: dict[tuple[str, str], Units] = {}  # a phase that conditions share is read once
    for code in languages:
        counts[code], spreads[code] = {}, {}
        for condition in data.conditions:
            for result in data.results.get(condition, {}).get(task.name, []):
                phase = data.phases[result.phase]
                file = files.name(result.split, code)
                predictions = data.run.phase(phase.id).predictions / task.name / file
                labels = data.run.labels / task.name / file
                # One missing file leaves the whole task untested: some of its languages would be another test.
                if not predictions.exists() or not labels.exists():
                    return None
                if (code, phase.id) not in read:
                    gold, predicted = read_values(predictions, labels, task)
                    if centred:
                        predicted = family.centred(predictions.parent, result.split, code)
                        if predicted is None:
                            return None
                    units = metric.count(gold, predicted, code)
                    # The same files give the same score, or the tests would be of something else than what is printed.
                    _check(metric.score(units), result.main[code], predictions, phase)
                    read[code, phase.id] = units
                    if task.shared_text and code not in texts:
                        texts[code] = family.shared_texts(task, labels, gold)
                counts[code].setdefault(condition, []).append(read[code, phase.id])
                spread = family.spread(predictions.parent, column + result.split, code)
                spreads[code].setdefault(condition, []).append(spread)
    known = {code: of_language for code, of_language in texts.items() if of_language is not None}
    # Clusters in some of the languages only would make intervals of two kinds in one mean.
    return Counts(metric, counts, known if len(known) == len(languages) else None, spreads)


def _check(computed: float, scored: float, predictions: object, phase: Phase) -> None:
    # Both are sums of the same ratios: only their rounding may differ.
    if abs(computed - scored) > 1e-6:
        raise UserError(
            f"{predictions} scores {computed:.4f}, but the results of {phase.label} say {scored:.4f}; "
            "run `stilts score` on the run"
        )


def _resample(
    counts: Counts,
    task: Task,
    languages: Sequence[str],
    scores: dict[str, Floats],
    settings: ComparisonSettings,
    draws: Draws,
) -> None:
    """Fill `scores` (condition -> [1 + R, S, L]): one draw serves all conditions, seeds and translations, and the noisy
    twins of an example."""
    # Language -> the first of those that are drawn together, because their test sets are translations of each other.
    unit = family_of(task).drawing_units({code: counts.names(code) for code in languages})
    for unit_code in dict.fromkeys(unit.values()):
        codes = [code for code in languages if unit[code] == unit_code]
        columns = [
            (condition, seed, code)
            for code in codes
            for condition in scores
            for seed in range(scores[condition].shape[1])
        ]
        drawn_units = [counts.units[code][condition][seed] for condition, seed, code in columns]
        above, below = table_of(drawn_units, counts.metric)
        if counts.texts is not None:
            cluster = cluster_numbers(
                _items(drawn_units), {code: counts.names(code) for code in codes}, counts.texts
            )  # fmt: skip
            above, below = cluster_sums(above, cluster), cluster_sums(below, cluster)
        # Noise may not apply to all languages that are drawn together: the clean task says which these are.
        named = draws.setdefault((task.base_name, codes[0]), codes)
        draws.update({(task.base_name, code): named for code in codes})
        rng = generator("examples", task.base_name, *named)
        drawn = ratio_replicates(above, below, settings.resamples, rng)
        for k, (condition, seed, code) in enumerate(columns):
            moves = _moves(counts.spreads[code][condition][seed], settings.resamples, task, code)
            scores[condition][:, seed, languages.index(code)] = drawn[:, k] + moves


def _moves(spread: Sequence[float], resamples: int, task: Task, language: str) -> Floats:
    """By how much each resample [1 + R] is moved, because a parameter might have been fitted to other examples.

    Examples that fit (BUCC's dev split) are drawn apart from those that are scored. One of the kept scores is drawn for
    each resample, the same one for all conditions and seeds, whose draws of the fitting examples are the same.
    """
    if not spread:
        return np.zeros(1 + resamples)
    # No condition and no seed in the name: their draws stay paired.
    picks = generator("fitted", task.name, language).integers(0, len(spread), resamples)
    return np.concatenate([[0.0], np.asarray(spread)[picks] - np.mean(spread)])


def _items(columns: Sequence[Units]) -> list[str]:
    """The names of all items, in the order of a table's rows."""
    return list(dict.fromkeys(name for units in columns for name in units.names))


def table_of(columns: Sequence[Units], metric: Metric) -> tuple[Floats, Floats]:
    """Columns over the same or different items as two arrays [N, K], zero where a column lacks an item."""
    row_of = {name: row for row, name in enumerate(_items(columns))}
    above, below = np.zeros((len(row_of), len(columns))), np.zeros((len(row_of), len(columns)))
    for k, units in enumerate(columns):
        rows = [row_of[name] for name in units.names]
        above[rows, k], below[rows, k] = metric.ratio(units)
    return above, below


def gain(ours: Floats | None, baseline: Floats | None, settings: ComparisonSettings) -> Difference | None:
    """Test the difference of two paired replicate arrays [2 + R]; one without resamples leaves it untested."""
    if ours is None or baseline is None:
        return None
    # Where one has no resamples, rows 0 and 1 are left, and nothing is tested.
    rows = min(len(ours), len(baseline))
    between = ours[:rows] - baseline[:rows]
    return replace(difference(between[1:], settings.level), of_medians=float(between[0]))


def mean_of(replicates: Sequence[Floats]) -> Floats:
    """Mean of replicate arrays [2 + R], with the resamples that all of them have."""
    rows = min(len(values) for values in replicates)
    return np.mean([values[:rows] for values in replicates], axis=0)
