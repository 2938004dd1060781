"""A batch of rows through a Hugging Face encoder, packed or padded: the same hidden states [T, H] either way."""

from __future__ import annotations

from typing import Any

import torch

from stilts_ds.model.attention import Packing
from stilts_ds.model.masks import Masks
from stilts_ds.rows.batch import Batch


def encode_packed(
    encoder: Any, batch: Batch, token_types: bool, layer: int | None = None, masks: Masks | None = None
) -> torch.Tensor:
    """All rows as one sequence of T tokens whose positions start again with each row: nothing is paid for padding.

    Attention's dropout is that of `masks`, inside whose `of(batch)` it must be called then; else torch's own.
    """
    packing = Packing(batch.lengths, batch.offsets, masks)
    position_ids = batch.position + first_position(encoder)
    types = {"token_type_ids": batch.token_type_ids[None]} if token_types else {}
    out = encoder(
        input_ids=batch.input_ids[None],
        position_ids=position_ids[None],
        packing=packing,
        output_hidden_states=layer is not None,
        **types,
    )
    return (out.last_hidden_state if layer is None else out.hidden_states[layer])[0]


def encode_padded(
    encoder: Any, batch: Batch, token_types: bool, layer: int | None = None, width: int = 0
) -> torch.Tensor:
    """Rows padded to the longest (or to `width`), for encoders whose attention cannot be replaced; padding is cut off
    again."""
    shape = len(batch.lengths), max(width, *batch.lengths)
    place = batch.row * shape[1] + batch.position

    def table(values: torch.Tensor, filler: int) -> torch.Tensor:
        return values.new_full((shape[0] * shape[1],), filler).index_copy(0, place, values).view(shape)

    types = {"token_type_ids": table(batch.token_type_ids, 0)} if token_types else {}
    out = encoder(
        input_ids=table(batch.input_ids, filler(encoder)),
        attention_mask=table(torch.ones_like(batch.input_ids), 0),
        output_hidden_states=layer is not None,
        **types,
    )
    hidden = out.last_hidden_state if layer is None else out.hidden_states[layer]
    return hidden.flatten(0, 1)[place]


def filler(encoder: Any) -> int:
    """The token that rows are padded with; no other token sees it."""
    return int(getattr(encoder.config, "pad_token_id", None) or 0)


def first_position(encoder: Any) -> int:
    """Position id of a row's first token: RoBERTa and its relatives begin behind the padding token's, others at 0."""
    embeddings = getattr(encoder, "embeddings", None)
    counts_from_padding = hasattr(embeddings, "create_position_ids_from_input_ids")
    return int(embeddings.padding_idx) + 1 if embeddings is not None and counts_from_padding else 0
