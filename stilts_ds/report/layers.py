"""Retrieval by layer: which one `retrieval_layer: sweep` chose, and every model's dev scores at each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from stilts_ds.config import SWEEP
from stilts_ds.evaluate.layers import LayerCurve, layers_file, mean_by_layer
from stilts_ds.report.load import RunData
from stilts_ds.report.table import Cell, Row, Table
from stilts_ds.run_dir import RunDir

NAME = "layers"  # of the table, and of the object in results.json


def curve_before(run: RunDir) -> LayerCurve | None:
    """The curve by which the layer was chosen; None before retrieval was predicted."""
    path = layers_file(run)
    return LayerCurve.load(path) if path.exists() else None


def curves_after(data: RunData) -> dict[str, dict[int, LayerCurve]]:
    """condition -> seed -> its model's curve, as far as they are there; the baseline's model is the pretrained one."""
    curves: dict[str, dict[int, LayerCurve]] = {}
    for condition, names in data.plan.use.items():
        for phase in (data.phases[name] for name in names):
            path = layers_file(data.run.phase(phase.id) if phase.init else data.run)
            if phase.kind == "retrieval" and path.exists():
                curves.setdefault(condition, {})[phase.seed] = LayerCurve.load(path)
    return curves


def layers_json(data: RunData) -> dict[str, Any] | None:
    """The chosen layer, and scores by condition, seed, task and language at hidden states 0 to L; None without a
    sweep."""
    chosen = curve_before(data.run) if data.recipe.evaluation.retrieval_layer == SWEEP else None
    if chosen is None:
        return None
    by_condition = {
        condition: {str(seed): curve.model_dump(exclude={"inputs"}) for seed, curve in of_seeds.items()}
        for condition, of_seeds in curves_after(data).items()
    }
    before = chosen.model_dump(exclude={"inputs"})
    return {"chosen": chosen.best, "split": "dev", "before": before, "by_condition": by_condition}


def layer_tables(data: RunData) -> list[Table]:
    """One table, or none: models down, the layers across; means over the dev languages, medians over seeds."""
    chosen = curve_before(data.run) if data.recipe.evaluation.retrieval_layer == SWEEP else None
    if chosen is None:
        return []
    curves = curves_after(data)
    rows = [row for condition, of_seeds in curves.items() for row in _rows(condition, list(of_seeds.values()))]
    if data.baseline not in curves or any(phase.init for phase in _phases(data, data.baseline)):
        rows = [*_rows("before training", [chosen]), *rows]
    count = len(mean_by_layer(chosen.plain))
    title = f"Retrieval by layer, on dev: {', '.join(chosen.plain)}"
    columns = tuple(map(str, range(count)))
    return [Table(NAME, title, "model after", columns, tuple(rows), tuple(_notes(chosen, curves)))]


def _phases(data: RunData, condition: str) -> list[Any]:
    return [data.phases[name] for name in data.plan.use[condition]]


def _rows(label: str, curves: Sequence[LayerCurve]) -> list[Row]:
    rows = [Row(label, _cells([mean_by_layer(curve.plain) for curve in curves]))]
    if all(curve.centred for curve in curves):
        rows.append(Row(f"{label}, centred", _cells([mean_by_layer(curve.centred) for curve in curves])))
    return rows


def _cells(means: Sequence[Sequence[float]]) -> tuple[Cell, ...]:
    return tuple(Cell(median(at_layer)) for at_layer in zip(*means, strict=True))


def _notes(chosen: LayerCurve, curves: Mapping[str, Mapping[int, LayerCurve]]) -> list[str]:
    notes = [
        f"F1 of mining at the threshold that suits each layer best, mean over the dev languages. Layer {chosen.best} "
        "is read everywhere: it is the best before any training (of equal ones the lowest; 0 is the embedding "
        "output). Test sets take no part, and neither do the rows of conditions."
    ]
    others = {
        condition: sorted({curve.best for curve in of_seeds.values()} - {chosen.best})
        for condition, of_seeds in curves.items()
    }
    told = [f"{condition} {', '.join(map(str, layers))}" for condition, layers in others.items() if layers]
    if told:
        notes.append(f"Their own dev scores would have chosen another layer for: {'; '.join(told)}.")
    return notes
