"""Which layer retrieval reads with `retrieval_layer: sweep`: the one whose vectors mine BUCC's dev languages best.

It is chosen once for all conditions, on the model that the study starts from and before any training, so that no
condition has a layer of its own; test sets take no part. Every other model's dev scores by layer are kept as well, and
the report shows them: what training does to each layer.

Legend: L layers; scores by layer are of hidden states 0 (the embedding output) to L.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from stilts_ds.config import EvaluationPart
from stilts_ds.errors import UserError
from stilts_ds.families.base import LayerScores
from stilts_ds.run_dir import PhaseDir, RunDir, read_json, read_sealed
from stilts_ds.values import Value, check_value

CHOSEN = "chosen_layer"  # among the settings of a result


class LayerCurve(Value):
    """Scores in percent of one model's dev splits by layer: `plain` and, where these are asked for, `centred`, by task
    and language. `inputs` say what they were made from."""

    inputs: dict[str, Any]
    plain: dict[str, dict[str, list[float]]]
    centred: dict[str, dict[str, list[float]]]

    @classmethod
    def of(cls, inputs: Mapping[str, Any], scores: Mapping[tuple[str, str], LayerScores]) -> LayerCurve:
        """A curve of scores by (task, language)."""
        plain: dict[str, dict[str, list[float]]] = {}
        centred: dict[str, dict[str, list[float]]] = {}
        for (task, language), of_split in scores.items():
            plain.setdefault(task, {})[language] = of_split.plain
            if of_split.centred:
                centred.setdefault(task, {})[language] = of_split.centred
        return cls(inputs=dict(inputs), plain=plain, centred=centred)

    @classmethod
    def load(cls, path: Path) -> LayerCurve:
        """Raises UserError naming the file where it is damaged."""
        content = read_json(path)
        if isinstance(content, dict) and "seal" in content:  # earlier versions wrote none
            content = read_sealed(path)
        return check_value(cls, content, path, "delete it and run `stilts evaluate` on the run")

    @property
    def best(self) -> int:
        """The layer with the highest mean over languages of the protocol's own score; of equal ones the lowest."""
        return int(np.argmax(mean_by_layer(self.plain)))


def layers_file(folder: RunDir | PhaseDir) -> Path:
    """Where a phase's curve is kept, and in the run's own folder that of the model before any training."""
    return folder.root / "layers.json"


def mean_by_layer(scores: Mapping[str, Mapping[str, Sequence[float]]]) -> list[float]:
    """The mean over tasks and languages at each layer."""
    curves = [curve for of_task in scores.values() for curve in of_task.values()]
    return [fmean(at_layer) for at_layer in zip(*curves, strict=True)]


def curve_inputs(weights: str, evaluation: EvaluationPart, data: Mapping[str, str]) -> dict[str, Any]:
    """What a curve depends on: the hash of the model's weights, settings, and hashes of the dev files."""
    return {
        "weights": weights,
        "retrieval_pooling": evaluation.retrieval_pooling,
        "retrieval_centering": evaluation.retrieval_centering,
        "max_seq_length": evaluation.retrieval_max_seq_length,
        "max_bitext": evaluation.max_bitext,
        "data": dict(data),
    }


def kept_curve(path: Path, inputs: Mapping[str, Any]) -> LayerCurve | None:
    """The curve in a file, None where there is none of these inputs."""
    if not path.exists():
        return None
    try:
        curve = LayerCurve.load(path)
    except UserError:  # damaged: made again, as predictions are
        return None
    return curve if curve.inputs == inputs else None
