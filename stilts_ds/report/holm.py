"""A table corrected by itself: Holm's method over all of its comparisons."""

from __future__ import annotations

from dataclasses import replace

from stilts_ds.errors import counted
from stilts_ds.report.stats import ComparisonSettings, enough_resamples, fewest_resamples, holm
from stilts_ds.report.table import Table, correct


def holm_corrected(table: Table, settings: ComparisonSettings) -> Table:
    """A table corrected by itself, with a warning where the resamples are too few to show anything."""
    [judged] = correct([table], holm, settings.level)
    made = sum(cell.gain is not None and cell.gain.p is not None for row in table.rows for cell in row.cells)
    # With fewer even the smallest p-value there is fails the correction: silence would read as "no effect".
    if settings.resamples >= fewest_resamples(made, settings.level):
        return judged
    compared = counted(made, "comparison is", "comparisons are")
    note = (
        f"{compared} corrected here, but {settings.resamples:,} resamples show no p-value small enough "
        "for the first of them: nothing can be significant. Use --resamples "
        f"{enough_resamples(made, settings.level)}."
    )
    return replace(judged, notes=(*judged.notes, note))
