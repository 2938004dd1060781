"""A run in Python: its scores, gains, curves and predictions as pandas DataFrames.

    import stilts_ds
    run = stilts_ds.load("runs/quickstart")
    run.scores().pivot_table(index="language", columns="condition", values="score")

Each method reads the run's files and writes nothing. The numbers are those of the report, at full precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas

from stilts_ds.data.data import fitted_task
from stilts_ds.errors import UserError, counted, did_you_mean
from stilts_ds.evaluate.result import Result
from stilts_ds.evaluate.score import read_values, score_folder, tasks_to_score
from stilts_ds.families.registry import family_of, main_metric
from stilts_ds.report.compare import score_run
from stilts_ds.report.load import RunData, load_run
from stilts_ds.report.score_rows import SCORE_COLUMNS, score_rows
from stilts_ds.report.side_by_side import COSTS, tables_side_by_side
from stilts_ds.report.stats import ComparisonSettings
from stilts_ds.report.table import Cell, Table
from stilts_ds.report.tables import LANGUAGES_OF, ZERO_SHOT, build_tables, with_resamples
from stilts_ds.run_dir import RunDir

ALL_LANGUAGES = "all"  # a score over languages, in the column `language`


def load(folder: str | Path) -> Run:
    """The run in a folder. Raises UserError naming a file that is missing or broken."""
    return Run(load_run(RunDir(Path(folder))))


class Run:
    """A run's files as DataFrames. `missing`: what the run lacks, a sentence each."""

    def __init__(self, data: RunData) -> None:
        self._data = data

    def __repr__(self) -> str:
        data = self._data
        summary = f"{', '.join(data.conditions)} on {counted(len(data.targets), 'target')}"
        if data.missing:
            summary += ", " + counted(len(data.missing), "thing is missing", "things are missing")
        return f"Run({str(data.run.root)!r}: {summary})"

    @property
    def conditions(self) -> list[str]:
        return self._data.conditions

    @property
    def targets(self) -> list[str]:
        return self._data.targets

    @property
    def missing(self) -> list[str]:
        return list(self._data.missing)

    def scores(self) -> pandas.DataFrame:
        """One row for each condition, seed, target, language and metric, in percent.

        `main` marks the metric that the benchmark averages; its name is `main` where it is a mean of others.
        `examples` are those that were scored, 0 where an earlier version did not count them. `phase` is the name that
        people read (`none/seed1/xnli`), `phase_id` that of its folder.
        """
        return pandas.DataFrame(list(score_rows(self._data)), columns=list(SCORE_COLUMNS))

    def gains(self, resamples: int = 0, level: float = 0.05) -> pandas.DataFrame:
        """Each condition against the baseline: a row for each target, and for each of its languages.

        `language` is "all" for the mean over languages, as in the report's matrix. `gain`, `low`, `high` and `p` are of
        means over seeds; `p_adjusted` is corrected with the other rows of its kind (Holm over the matrix, Benjamini and
        Hochberg over all languages), and `significant` says whether it is below `level`. Nothing is tested, and these
        are empty, where there are no predictions to resample. 0 `resamples`: as many as the comparisons need.
        """
        # The report's own tables, and not a second computation: the numbers cannot differ.
        settings = with_resamples(self._data, ComparisonSettings(resamples, level))
        tables = build_tables(self._data, score_run(self._data, settings), settings)
        rows = list(_gains_of_matrix(tables.matrix, self._data))
        for table in tables.languages:
            rows.extend(_gains_of_languages(table, self._data))
        columns = ["condition", "baseline", "task", "language", "score", *GAIN_COLUMNS]
        return pandas.DataFrame(rows, columns=columns)

    def curves(self) -> pandas.DataFrame:
        """Training loss and dev score by step: a row for each phase, curve ("loss", "dev") and step."""
        rows: list[tuple[Any, ...]] = []
        for phase in self._data.plan.phases:
            curve = self._data.curves[phase.id]
            # Conditions share phases (SQuAD's for XQuAD and MLQA).
            used = ", ".join(c for c in self._data.conditions if phase.id in self._data.plan.use[c])
            for name, points in (("loss", curve.loss), ("dev", curve.dev)):
                trains = "+".join(phase.train)
                about = (phase.label, phase.id, phase.kind, trains, phase.seed, used or phase.condition, name)
                rows.extend((*about, step, value) for step, value in points)
        columns = ["phase", "phase_id", "kind", "trains", "seed", "conditions", "curve", "step", "value"]
        return pandas.DataFrame(rows, columns=columns)

    def predictions(self, task: str, language: str) -> pandas.DataFrame:
        """What every condition and seed answered: a row for each unit that the score counts, such as an example, a
        question or a pair.

        `unit` names it, `credit` of `out_of` is what it brings to the score (a ratio of sums), and `gold` and
        `predicted` stand beside it where units are the examples themselves. Raises UserError for a target, language or
        prediction file that is not there.
        """
        self._check(task, language)
        frames = [
            self._predictions_of(condition, result, language)
            for condition in self._data.conditions
            for result in self._data.results.get(condition, {}).get(task, [])
        ]
        return pandas.concat(frames, ignore_index=True)

    def _predictions_of(self, condition: str, result: Result, language: str) -> pandas.DataFrame:
        task = fitted_task(result.task, self._data.recipe)
        run, file = self._data.run, family_of(task).files(task).name(result.split, language)
        predictions = run.phase(result.phase).predictions / task.name / file
        labels = run.labels / task.name / file
        for path in (predictions, labels):
            if not path.is_file():
                raise UserError(f"{path} is missing; `stilts evaluate {run.root}` predicts again")
        gold, predicted = read_values(predictions, labels, task)
        metric = main_metric(task)
        units = metric.count(gold, predicted, language)
        credit, out_of = metric.ratio(units)
        columns: dict[str, Any] = {"condition": condition, "seed": result.seed, "unit": units.names}
        right = family_of(task).files(task).right
        columns |= _answers(gold, predicted, len(units.names), right)
        return pandas.DataFrame({**columns, "credit": credit, "out_of": out_of})

    def _check(self, task: str, language: str) -> None:
        known = self._data.plan.targets
        if task not in known:
            raise UserError(f"the run has no target {task!r}{did_you_mean(task, known)}: {', '.join(known)}")
        results = [result for tasks in self._data.results.values() for result in tasks.get(task, [])]
        if not results:
            raise UserError(f"the run has no results of {task} yet; run `stilts evaluate {self._data.run.root}`")
        # After any condition: a run that was stopped has some results and not others.
        lacking = [result for result in results if language not in result.main]
        if lacking:
            scored = ", ".join(lacking[0].main)
            raise UserError(f"{task} is not scored in {language!r} after {lacking[0].condition}, but in {scored}")


def compare(*names: str, targets: Sequence[str] = (), resamples: int = 0, level: float = 0.05) -> pandas.DataFrame:
    """Several runs, or conditions of one: `compare("runs/a:none", "runs/b:mnli")`. See docs/python.md.

    The first one is the baseline. Raises UserError where nothing can be compared.
    """
    rows: list[tuple[Any, ...]] = []
    for table in tables_side_by_side(names, targets, ComparisonSettings(resamples, level)):
        baseline, *others = table.columns
        measure = "cost" if table.name == COSTS else "score"
        for row in table.rows:
            base, *cells = row.cells
            rows.extend(
                (label, baseline, row.label, measure, base.score, cell.score, *_gain_values(cell))
                for label, cell in zip(others, cells)
            )
    columns = ["condition", "baseline", "task", "measure", "baseline_score", "score", *GAIN_COLUMNS]
    return pandas.DataFrame(rows, columns=columns)


def score(
    predictions: str | Path, labels: str | Path, split: str = "test", benchmark: str | None = None
) -> dict[str, Any]:
    """The scores of a predictions folder against a labels folder, as `stilts score` writes them into scores.json.

    They are of all tasks in `labels`, or of the `benchmark` ("xtreme", "xtreme-r"). Raises UserError with file and line
    for bad input.
    """
    tasks, chosen = tasks_to_score(Path(labels), benchmark)
    return score_folder(Path(predictions), Path(labels), split, tasks, benchmark=chosen)


# --- rows ------------------------------------------------------------------------------------------------------------

GAIN_COLUMNS = ("gain", "low", "high", "p", "p_adjusted", "significant")


def _gain_values(cell: Cell) -> tuple[Any, ...]:
    if cell.gain is None:
        return (None,) * len(GAIN_COLUMNS)
    gain = cell.gain
    return (gain.value, gain.low, gain.high, gain.p, gain.adjusted, gain.significant)


def _gains_of_matrix(table: Table, data: RunData) -> Iterator[tuple[Any, ...]]:
    """Conditions down, targets across. The row of the best condition of each target repeats comparisons."""
    for row in table.rows:
        # The last rows are summaries of the others.
        if row.label not in data.conditions:
            continue
        for task, cell in zip(table.columns, row.cells):
            yield (row.label, data.baseline, task, ALL_LANGUAGES, cell.score, *_gain_values(cell))


def _gains_of_languages(table: Table, data: RunData) -> Iterator[tuple[Any, ...]]:
    """Languages down, conditions across, and the mean over some of them, which is no language."""
    task = table.name.removeprefix(LANGUAGES_OF)
    for row in table.rows:
        if row.label == ZERO_SHOT:
            continue
        language = row.label.removesuffix("*")  # it marks the language of training
        for condition, cell in zip(table.columns, row.cells):
            yield (condition, data.baseline, task, language, cell.score, *_gain_values(cell))


def _answers(gold: Any, predicted: Any, units: int, right: Callable[[Any], Any]) -> dict[str, Any]:
    """Gold and predicted values in columns, where there is one of each for every unit."""
    if isinstance(predicted, Mapping):  # by the id of the question
        predicted = [predicted.get(getattr(item, "id", None)) for item in gold]
    # Spans and tags are counted in other units than the examples that were answered.
    if len(gold) != units or len(predicted) != units:
        return {}
    answers = {"gold": map(right, gold), "predicted": predicted}
    # As objects: a column of lists, which some families' answers are, must not be taken for several columns.
    return {name: pandas.Series(list(values), dtype=object) for name, values in answers.items()}
