"""Tables with named columns as records: what a family reads by name, and the reader that does it.

A task names the columns of its files by their role (`columns: {text: sentence, label: stars}`); a family says which
roles it knows and makes a record of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stilts_ds.errors import UserError, did_you_mean
from stilts_ds.sources.files import id_field
from stilts_ds.sources.source import Part
from stilts_ds.sources.tables import table_rows
from stilts_ds.tasks.spec import Task


@dataclass(frozen=True)
class TableRow:
    """One row of a task's table. `columns` are those that the task names, by role; `labelled`: its split has labels."""

    values: dict[str, Any]
    columns: Mapping[str, str]
    where: str
    id: str
    task: Task
    labelled: bool


@dataclass(frozen=True)
class Columns:
    """The roles that a family reads: those that a task must name, those that it may, and the one with the label.

    `metrics` are reported where a task names none; the first one ranks models.
    """

    required: tuple[str, ...]
    label: str
    metrics: tuple[str, ...]
    record: Callable[[TableRow], Any]
    optional: tuple[str, ...] = ()

    @property
    def roles(self) -> tuple[str, ...]:
        return (*self.required, *self.optional, self.label, "id")

    def check(self, task: Task) -> None:
        """Raise UserError for a task whose tables cannot be read."""
        for role in task.columns:
            if role not in self.roles:
                problem = f"columns: a {task.family} task has no column {role!r}"
                raise UserError(f"{problem}{did_you_mean(role, self.roles)}; correct the name")
        never_labelled = set(task.local) <= set(task.unlabelled)
        for role in (*self.required, *([] if never_labelled else [self.label])):
            if role not in task.columns:
                raise UserError(f"columns: {role!r} is missing; name the column that holds it, as {role}: NAME")

    def read(self, table: Part) -> Iterator[Any]:
        """The records of one file."""
        labelled = table.split not in table.task.unlabelled
        for number, (where, values) in enumerate(table_rows(table.path), start=1):
            columns = table.task.columns
            # A place in the file is an id, too: it is the same in every start.
            id = f"{table.path.stem}:{number}"
            if "id" in columns:
                id = id_field(values, columns["id"], id)
            yield self.record(TableRow(values, columns, where, id, table.task, labelled))
