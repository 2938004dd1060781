"""What the last search of this process did, for callers and for the log."""

from __future__ import annotations

import logging
from dataclasses import dataclass

log = logging.getLogger("stilts_kernels")


@dataclass
class Report:
    """What the last search did: the path, rows searched, rows proven by the first pass, survivors scored per row."""

    path: str
    rows: int
    certified: int
    survivors_per_row: float

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.certified} of {self.rows} rows certified, "
            f"{self.survivors_per_row:.1f} survivors a row scored in float64"
        )


# A list of at most one: assigned to in place, it needs no `global`.
_reports: list[Report] = []


def last_report() -> Report | None:
    """The report of the last search of this process, or None."""
    return _reports[-1] if _reports else None


def save_report(report: Report) -> None:
    _reports[:] = [report]
    log.info("%s", report)
