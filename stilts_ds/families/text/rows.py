"""Running text to rows, and what is learnt from them: masked tokens (Devlin et al. 2019, section 3.1), or next tokens
where a model reads from left to right."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from stilts_ds.config import TrainingPart
from stilts_ds.errors import UserError
from stilts_ds.families.base import ItemTargets, Masking
from stilts_ds.families.text.record import Text
from stilts_ds.rows.chunks import chunks
from stilts_ds.rows.layout import lay_out_singles
from stilts_ds.rows.rows import Rows
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.rows.writer import RowsWriter


def encode_text(
    records: Iterable[Text],
    tokenizer: Tokenizer,
    labels: Sequence[str],
    setting: TrainingPart,
    folder: Path | None = None,
) -> Rows:
    """A text longer than a row becomes several rows, so that nothing is dropped.

    `labels` are languages: a row's label is its language, by which the mixture draws.
    """
    if tokenizer.mask is None and tokenizer.sees == "both":
        raise UserError(
            f"the tokenizer of {tokenizer.name} has no mask token, which masked language modelling needs; "
            "leave mlm out, or use another encoder"
        )
    out = RowsWriter(folder, "label")
    room = setting.max_seq_length - tokenizer.template.single_cost
    index_of = {label: index for index, label in enumerate(labels)}
    for first, chunk in chunks(records):
        texts = tokenizer.slices([r.text for r in chunk])
        # Rounded up; a text without tokens keeps a row, so that examples and rows go together.
        rows = np.maximum(-(-texts.length // room), 1)
        text = np.repeat(np.arange(len(chunk)), rows)
        number_in_text = np.arange(len(text)) - np.repeat(np.cumsum(rows) - rows, rows)
        begin = room * number_in_text
        pieces = texts.take(text).part(begin, np.minimum(texts.length[text] - begin, room))
        label = _language_indices(chunk, index_of)
        laid = lay_out_singles(tokenizer.template, pieces)
        out.append(laid.ids, laid.lengths, laid.lengths, first + text, label=label[text])
    return out.rows()


def _language_indices(records: Sequence[Text], index_of: dict[str, int]) -> np.ndarray:
    if not index_of:
        return np.zeros(len(records), np.int32)
    return np.asarray([index_of[record.language] for record in records], np.int32)


def target_count(rows: Rows, item: int, mlm_probability: float) -> int:
    return masked_count(int(rows.row_lengths[rows.items[item]]), mlm_probability)


def masked_count(length: int, probability: float) -> int:
    """Masked tokens of a row: a fixed share of its length less <s> and </s>, at least one."""
    # A count and no chance for each token: how many loss terms a step has is known when it is dealt to the ranks.
    return max(1, round(probability * (length - 2))) if length > 2 else 0


def mask_tokens(
    ids: np.ndarray, tokenizer: Tokenizer, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Masked copy of a row and the masked positions: 80 % <mask>, 10 % random, 10 % kept (Devlin et al. 2019, 3.1).

    Any token of the text may be chosen, also an unknown one, so that there are exactly `count` of them (as in fairseq,
    which trained XLM-R); the row's own special tokens never are, and no special token is drawn at random.
    """
    inside = np.arange(len(tokenizer.template.prefix), len(ids) - len(tokenizer.template.single_suffix))
    chosen = np.sort(rng.permutation(inside)[:count])
    # A copy: the ids before masking are the gold values.
    masked, dice = ids.copy(), rng.random(len(chosen))
    masked[chosen[dice < 0.8]] = tokenizer.mask
    random = chosen[(dice >= 0.8) & (dice < 0.9)]
    masked[random] = rng.choice(_ordinary_tokens(tokenizer.special, tokenizer.vocabulary), len(random))
    return masked, chosen


# Made once a tokenizer: 250,000 numbers would be sorted for every row.
@lru_cache(maxsize=4)
def _ordinary_tokens(special: frozenset[int], vocabulary: int) -> np.ndarray:
    return np.setdiff1d(np.arange(vocabulary), list(special))


def targets(rows: Rows, item: int, starts: Sequence[int], ids: np.ndarray, masking: Masking) -> ItemTargets:
    """Mask tokens of the item's row in the batch; they are what is read, and gold is what they were."""
    row, first = int(rows.items[item]), starts[0]
    length = int(rows.row_lengths[row])
    row_ids = ids[first : first + length]
    count = masked_count(length, masking.probability)
    masked, chosen = mask_tokens(row_ids, masking.tokenizer, count, masking.generator(item))
    gold = row_ids[chosen]
    row_ids[:] = masked  # a view: this is what masks the batch
    return ItemTargets(chosen + first, gold)


def next_count(rows: Rows, item: int, mlm_probability: float) -> int:
    """Every token of the row but its first."""
    return int(rows.row_lengths[rows.items[item]]) - 1


def next_targets(rows: Rows, item: int, starts: Sequence[int], ids: np.ndarray, masking: Masking) -> ItemTargets:
    """Each token but the last is read, and gold is the one after it."""
    first = starts[0]
    last = first + next_count(rows, item, masking.probability)
    return ItemTargets(np.arange(first, last), ids[first + 1 : last + 1].copy())


def no_parameters(hidden: int, labels: int, vocabulary: int, embedding: int) -> int:
    """A decoder's output layer is its own."""
    return 0


def head_parameters(hidden: int, labels: int, vocabulary: int, embedding: int) -> int:
    """Dense layer to the width of the word embeddings, LayerNorm and output bias; the output layer is they."""
    return hidden * embedding + embedding + 2 * embedding + vocabulary
