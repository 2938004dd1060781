"""The scores that others published on XTREME's test sets, beside a run's own where the two can be compared."""

from __future__ import annotations

from stilts_ds.evaluate.sizes import sizes_text
from stilts_ds.report.load import RunData
from stilts_ds.report.table import Cell, Row, Table

MODEL = "xlm-roberta-large"
# XTREME's leaderboard; question answering is the mean of F1 and exact match, as in every table here.
XLMR_LARGE = {
    "xnli": 79.2, "pawsx": 86.4, "udpos": 73.8, "panx": 65.4, "xquad": (76.6 + 60.8) / 2, "mlqa": (71.6 + 53.2) / 2,
    "tydiqa": (65.1 + 45.0) / 2, "bucc2018": 66.0, "tatoeba": 57.3,
}  # fmt: skip
PHANG_2020 = {
    "xnli": 80.0, "pawsx": 87.9, "udpos": 74.9, "panx": 64.0, "xquad": (78.7 + 63.3) / 2, "mlqa": (72.4 + 53.7) / 2,
    "tydiqa": (76.0 + 59.5) / 2, "bucc2018": 71.9, "tatoeba": 81.2,
}  # fmt: skip
UNCHECKED = ("bucc2018", "tatoeba")  # PHANG_2020's retrieval scores were not checked against the source


def published_table(data: RunData, matrix: Table) -> tuple[Table | None, str]:
    """The published rows above the run's own, for the targets that compare; otherwise None and the reason.

    Comparable: the model is XLM-R Large, the split is test, every language of the benchmark is scored, and on as many
    examples as the benchmark has.
    """
    if data.plan.model.rstrip("/").rsplit("/", 1)[-1] != MODEL:
        return None, f"The published scores are those of XLM-R Large; this run's model is {data.plan.model}."
    # The toy world's tasks bear the same names.
    if data.plan.source == "toy":
        return None, "The published scores are those of real languages; this run's data are the toy world."
    evaluation = data.recipe.evaluation
    if evaluation.max_examples is not None or evaluation.max_bitext is not None:
        return None, "The published scores are over whole test sets; this run leaves examples out (max_examples)."
    obstacles = {task: _obstacle(data, task) for task in data.targets if task in XLMR_LARGE}
    columns = tuple(task for task, obstacle in obstacles.items() if not obstacle)
    left_out = [f"{task}: {obstacle}." for task, obstacle in obstacles.items() if obstacle]
    if not columns:
        return None, " ".join(["No target compares with the published scores.", *left_out])
    rows_of_run = []
    for row in matrix.rows:
        cells = [_own(row, matrix.columns.index(task)) for task in columns]
        rows_of_run.append(Row(f"this run: {row.label}", tuple(cells)))
    rows = [
        _published("XLM-R Large (XTREME leaderboard)", XLMR_LARGE, columns),
        _published("XLM-R Large, best per target (Phang et al. 2020)", PHANG_2020, columns),
        *rows_of_run,
    ]
    notes = [
        "Published numbers are those of the XTREME leaderboard, from hidden labels; their seeds and settings "
        "are not this run's.",
        *left_out,
    ]
    if unchecked := [task for task in UNCHECKED if task in columns]:
        notes.append(f"Phang et al., {' and '.join(unchecked)}: not checked against the paper.")
    return Table(
        "published", "Beside the published scores of XLM-R Large", "scores", columns, tuple(rows), tuple(notes)
    ), ""


def _own(row: Row, column: int) -> Cell:
    return Cell(row.cells[column].score)


def _published(label: str, scores: dict[str, float], columns: tuple[str, ...]) -> Row:
    return Row(label, tuple(Cell(scores[task]) for task in columns), "published")


def _obstacle(data: RunData, task: str) -> str:
    """Why a target's scores stand beside no published one; empty where they do.

    The hub's POS rows hold the parts of multiword tokens where XTREME's files hold the fused form.
    """
    runs = [run for tasks in data.results.values() for run in tasks.get(task, [])]
    if not runs:
        return "not scored"
    if task == "udpos" and data.plan.source == "hub":
        return "the hub's rows hold other words than XTREME's files"
    if splits := {run.split for run in runs} - {"test"}:
        return f"scored on {' and '.join(sorted(splits))}"
    # Of every condition and seed: the row shows them beside each other.
    for run in runs:
        if run.mean is None:
            return f"not scored in {' '.join(run.missing)}"
        if run.other_sizes:
            return f"not the benchmark's test set: {sizes_text(run.other_sizes)} examples"
        if run.unknown_sizes:
            return f"size unknown in {' '.join(run.unknown_sizes)}"
    return ""
