"""Rows of one or two segments with their special tokens, put together with numpy for a whole chunk of records."""

from __future__ import annotations

from typing import Literal

import numpy as np

from stilts_ds.rows.slices import Laid, Slices, lay_out
from stilts_ds.rows.tokenizer import TokenTemplate
from stilts_ds.rows.writer import RowsWriter


def pair_cuts(a: np.ndarray, b: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """How many tokens parts of lengths `a` and `b` [R] lose until both fit in `room`.

    As if the longer one (the first on a tie) lost one token after the other.
    """
    extra, difference = np.maximum(a + b - room, 0), a - b
    # First the longer one alone, down to the other's length; what is still too much both lose in turn.
    only = np.minimum(extra, np.abs(difference))
    shared = extra - only
    return np.where(difference > 0, only, 0) + (shared + 1) // 2, np.where(difference < 0, only, 0) + shared // 2


def lay_out_pairs(
    out: RowsWriter, template: TokenTemplate, a: Slices, b: Slices, limit: int, side: Literal["left", "right"]
) -> Laid:
    """Rows of two segments, at most `limit` tokens each; too long ones lose tokens at the `side` of a segment.

    Rows that are cut are counted in the writer's tally.
    """
    # The special tokens count towards max_seq_length.
    cut_a, cut_b = pair_cuts(a.length, b.length, limit - template.pair_cost)
    cut = int(np.count_nonzero(cut_a + cut_b))
    if cut:
        out.tally["rows cut to max_seq_length"] += cut
        skip_a, skip_b = (cut_a, cut_b) if side == "left" else (0, 0)
        a, b = a.part(skip_a, a.length - cut_a), b.part(skip_b, b.length - cut_b)
    return lay_out([template.prefix, a, template.middle, b, template.suffix], len(a.length))


def lay_out_texts(
    out: RowsWriter, template: TokenTemplate, texts: Slices, pairs: Slices, limit: int, side: Literal["left", "right"]
) -> tuple[Laid, np.ndarray]:
    """Rows of a text and its partner or, where `pairs` is empty, of a text alone; and where the second segment of each
    begins (the row's length where there is none), [R]. Too long rows are cut and counted as by `lay_out_pairs`."""
    if len(pairs.length):
        # Some rows with a partner and some without would shift the partners against the texts.
        assert len(pairs.length) == len(texts.length)
        laid = lay_out_pairs(out, template, texts, pairs, limit, side)
        return laid, laid.inside(3)
    extra = np.maximum(texts.length - (limit - template.single_cost), 0)
    out.tally["rows cut to max_seq_length"] += int(np.count_nonzero(extra))
    skipped = extra if side == "left" else 0
    laid = lay_out_singles(template, texts.part(skipped, texts.length - extra))
    return laid, laid.lengths


def lay_out_singles(template: TokenTemplate, segments: Slices) -> Laid:
    """Rows of one segment."""
    return lay_out([template.prefix, segments, template.single_suffix], len(segments.length))
