"""What is known of each scored example besides its label: lengths, pieces in a hundred characters, unknown pieces.

Written beside the label file when a split is predicted, since a report sees neither texts nor tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stilts_ds.data.split import Split
from stilts_ds.errors import UserError
from stilts_ds.evaluate.seen import Training
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.run_dir import read_json, write_json

PIECES, UNKNOWN = "pieces in 100 characters", "unknown pieces in 100"
Attributes = Mapping[str, Sequence[float]]  # name -> a number for each example, in the order of the labels


def attributes_file(labels: Path) -> Path:
    """`test-de.attributes.json` beside the label file `test-de.tsv`."""
    return labels.with_suffix(".attributes.json")


def write_attributes(labels: Path, split: Split, tokenizer: Tokenizer, training: Training | None = None) -> None:
    """Write what the family tells of each example, what the tokenizer makes of its texts, and what of it was in the
    target's `training`; nothing for families whose examples are no texts of their own (bitext)."""
    family = split.family
    if family.attributes is None or family.texts is None:
        return
    records = split.records()
    attributes = family.attributes(records)
    texts = ["".join(family.texts(record)) for record in records]
    met = {} if training is None else training.attributes(family, records)
    write_json(attributes_file(labels), {**attributes, **_of_pieces(texts, tokenizer), **met})


def _of_pieces(texts: Sequence[str], tokenizer: Tokenizer) -> dict[str, list[float]]:
    slices = tokenizer.slices(texts)
    # reduceat cannot sum nothing: the appended 0 stands in for empty texts at the end, and below they are set to 0.
    unknown = np.add.reduceat(np.append(slices.flat[slices.positions] == tokenizer.unk, 0), _starts(slices.length))
    pieces = np.maximum(1, slices.length)
    # An empty text has 0 pieces in 1 character, and no division by 0.
    characters = np.array([max(1, len(text)) for text in texts])
    return {
        PIECES: np.round(100 * slices.length / characters, 3).tolist(),
        UNKNOWN: np.round(100 * unknown * (slices.length > 0) / pieces, 3).tolist(),
    }


def _starts(lengths: np.ndarray) -> np.ndarray:
    return np.asarray(np.cumsum(lengths) - lengths)


def read_attributes(labels: Path, examples: int) -> Attributes:
    """What stands beside a label file; {} where an older run wrote none. Raises UserError for other examples."""
    path = attributes_file(labels)
    if not path.exists():
        return {}
    attributes: Any = read_json(path)
    fits = isinstance(attributes, dict) and all(isinstance(v, list) and len(v) == examples for v in attributes.values())
    if not fits or not all(isinstance(number, (int, float)) for values in attributes.values() for number in values):
        raise UserError(f"{path} does not hold a number for each of the examples; run `stilts evaluate` on the run")
    return attributes
