"""What noise did to a scored split, for the report: errors, words that it touched, and pieces of the model's tokenizer
that it changed.

Errors at one rate change fewer pieces in some scripts than in others, so that what noise costs cannot be compared over
scripts without these numbers.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import Field

from stilts_ds.data.noisy import noise_effect
from stilts_ds.data.split import Split
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.run_dir import load_value, write_json
from stilts_ds.values import Value


class Touched(Value):
    """Of a whole split: errors in 100 letters, and percent of its words and pieces. `words` is None where no spaces
    stand between words. `pieces`: those of the clean texts that the noisy ones lack."""

    errors: float = Field(ge=0)
    words: float | None = Field(ge=0, le=100)
    pieces: float = Field(ge=0, le=100)

    @classmethod
    def load(cls, labels: Path) -> Touched | None:
        """What stands beside a label file; None where an older run wrote nothing. Raises UserError for another form."""
        path = touched_file(labels)
        return load_value(cls, path, "run `stilts evaluate`") if path.exists() else None


def touched_file(labels: Path) -> Path:
    """`test-de.noise.json` beside the label file `test-de.tsv`."""
    return labels.with_suffix(".noise.json")


def write_touched(labels: Path, split: Split, tokenizer: Tokenizer) -> None:
    """Write what noise did to a split; nothing for a split without noise."""
    if split.task.noise is None:
        return
    origin = split.origin
    # The clean texts, since the split's own records are noisy already.
    records = list(origin.clean().read())
    tally, texts = noise_effect(split.task, split.name, split.language, records, origin.noise)
    clean, noisy = ([pair[side] for pair in texts] for side in (0, 1))
    touched = Touched(
        errors=round(tally.edits_per_100_letters, 4),
        words=None if tally.words_touched_percent is None else round(tally.words_touched_percent, 4),
        pieces=round(_changed(clean, noisy, tokenizer), 4),
    )
    write_json(touched_file(labels), touched.model_dump())


def _changed(clean: list[str], noisy: list[str], tokenizer: Tokenizer) -> float:
    """Percent of the clean texts' pieces that the noisy texts lack, text by text."""
    lost = pieces = 0
    for before, after in zip(_pieces(clean, tokenizer), _pieces(noisy, tokenizer)):
        # A difference of counters: pieces that only moved within the text are not lost.
        lost += sum((before - after).values())
        pieces += sum(before.values())
    return 100 * lost / max(1, pieces)


def _pieces(texts: list[str], tokenizer: Tokenizer) -> list[Counter[int]]:
    slices: Any = tokenizer.slices(texts)
    # The slices lie in the order of the tokenizer's cache; `positions` brings them into that of the texts.
    ids = slices.flat[slices.positions].tolist()
    counters, start = [], 0
    for length in slices.length.tolist():
        counters.append(Counter(ids[start : start + length]))
        start += length
    return counters
