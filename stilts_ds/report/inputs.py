"""What a run's numbers were made from: each target's split, settings, row lengths and files; scored examples that were
trained on; targets whose scored examples also chose something."""

from __future__ import annotations

from stilts_ds.evaluate.result import Result
from stilts_ds.families.registry import family_of
from stilts_ds.named_tasks import scored_split
from stilts_ds.report.load import RunData
from stilts_ds.report.table import Sheet
from stilts_ds.run_dir import hash_json
from stilts_ds.tasks.registry import get_task

OF_THE_RUN = ("model", "data", "max_examples")  # settings that stand elsewhere in a report, or in a column of their own
DIGITS = 12  # of a hash, as it is printed


def inputs_sheet(data: RunData) -> Sheet:
    """One row for each target that has scores."""
    rows = []
    for task in data.targets:
        run = a_result(data, task)
        if run is not None:
            limit = run.settings.get("max_examples")
            rows.append((task, run.split, "all" if limit is None else f"first {limit}", _predicted_with(run),
                         _rows_of(data, run), data_hash(run)[:DIGITS] or "not recorded"))  # fmt: skip
    columns = ("target", "split", "examples", "predicted with", "rows", "data (SHA-256)")
    notes = (
        "The hash stands for the source files of all languages together; `results.json` has it whole, and that of "
        "each language.",
    )
    return Sheet("What was scored, and how", columns, tuple(rows), notes)


def a_result(data: RunData, task: str) -> Result | None:
    """Any result of a target: those in the tables are alike in split, settings and files."""
    return next((run for tasks in data.results.values() for run in tasks.get(task, [])), None)


def data_hash(run: Result) -> str:
    """One hash for a result's source files in all languages; empty where an earlier version recorded none."""
    return hash_json(run.data) if run.data else ""


def _predicted_with(run: Result) -> str:
    settings = [f"{key} {value}" for key, value in run.settings.items() if key not in OF_THE_RUN and value is not None]
    return ", ".join(settings) or "-"


def _rows_of(data: RunData, run: Result) -> str:
    """The lengths of a trained target's rows; those of retrieval stand among its settings."""
    phase = data.phases[run.phase]
    if not phase.train:
        return "-"
    return ", ".join(f"{key} {value}" for key, value in phase.setting().rows_in_use().items())


def duplicates_sheet(data: RunData) -> Sheet:
    """Scored examples whose texts are in the training data: one row for each training task, target and language."""
    rows: dict[tuple[str, ...], None] = {}  # an ordered set: phases of several seeds say the same
    for overlaps in data.overlaps.values():
        for overlap in overlaps.found:
            examples, of = f"{overlap.examples:,}", f"{overlap.of:,}"
            rows[overlap.train, overlap.task, overlap.language, examples, of] = None
    columns = ("trained on", "target", "language", "examples", "of")
    notes = (
        "Examples of the scored split whose texts are those of an example that was trained on, but for case, "
        "spaces and Unicode forms. `data.duplicates: exclude` leaves them out of training.",
    )
    return Sheet("Scored examples in the training data", columns, tuple(rows), notes)


def selected_on_scored(data: RunData, task: str) -> bool:
    """Whether the English dev examples of a target's training task are the scored split's English ones (TyDiQA)."""
    target = get_task(task)
    scored = target.local.get(scored_split(data.recipe, target))
    # By file, not by split name: TyDiQA has no labelled test set, so its dev file is scored under that name, too.
    trained = {name for c in data.conditions for phase in data.phases_of(c, task) for name in phase.train}
    selecting = [get_task(name).local.get(data.recipe.data.dev_split.get(name, "dev")) for name in trained]
    # A study may score the other languages of the same split alone; which it does, its results say.
    runs = [run for tasks in data.results.values() for run in tasks.get(task, [])]
    return scored is not None and scored in selecting and any(target.pivot in run.main for run in runs)


def fitted_on_scored(data: RunData, task: str) -> bool:
    """Whether a free parameter of the prediction was fitted to the scored examples (BUCC's threshold on dev)."""
    target = get_task(task)
    return family_of(target).fits_on_scored(target, scored_split(data.recipe, target))
