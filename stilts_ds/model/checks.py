"""What an encoder must do before anything is trained: tried with a few small rows when it is loaded, not assumed.

A row's hidden states must be its own: the same alone, beside longer rows, and packed behind others. Legend: T tokens of
all rows, H hidden size.
"""

from __future__ import annotations

import logging
import re
from typing import Any

import torch

from stilts_ds.errors import UserError, first_line
from stilts_ds.model.encode import encode_packed, encode_padded
from stilts_ds.model.masks import Masks, row_keys
from stilts_ds.rows.batch import Batch

log = logging.getLogger(__name__)
LENGTHS = (5, 3, 3, 7)  # unequal, and two neighbours that are equal
# Names under which configurations keep how far a token sees: sliding_window, local_attention, attention_window,
# local_attn_chunk_length, block_size.
WINDOW = re.compile(r"window|^local_attention$|attn_chunk_length$|attention_chunk_size$|^block_size$")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# In half precision the two ways round otherwise; a kernel that reads other rows is off by far more.
HALF_TOLERANCE = 0.1
REFUSED = 1e-3  # what no rounding explains: ten times what keeps a model from being packed
FAILURES = (TypeError, ValueError, IndexError, KeyError, RuntimeError, AttributeError, AssertionError)


def check_hidden_states(encoder: Any, name: str) -> None:
    """Raise UserError for an encoder whose tokens do not see what follows, or whose rows see more than themselves.

    Rows longer than every window that its configuration names are among those that are tried.
    """
    training = encoder.training
    encoder.eval()
    try:
        with torch.no_grad():
            problem = _problem(encoder, _sample(encoder))
    except FAILURES as error:
        problem = f"it cannot encode rows of token ids: {first_line(error)}"
    encoder.train(training)
    if problem:
        raise UserError(f"{name} ({encoder.config.model_type}): {problem}; use another encoder")


def _problem(encoder: Any, batch: Batch) -> str | None:
    types = uses_token_types(encoder)
    rows = [_row(batch, row) for row in range(len(batch.lengths))]
    alone = [encode_padded(encoder, row, types) for row in rows]
    for layer in (0, -1):  # what retrieval reads
        if encode_padded(encoder, rows[0], types, layer).shape != alone[0].shape:
            return f"hidden state {layer} has not one vector for each token"
    if not all(bool(states.isfinite().all()) for states in alone):
        return "its hidden states are not finite; its weights are damaged"
    changed = rows[0].input_ids.clone()
    changed[-1] -= 1
    other = encode_padded(encoder, Batch(changed, *_rest(rows[0])), types)
    if torch.equal(other[0], alone[0][0]):
        return "its first token knows nothing of the tokens behind it, as where a model reads from left to right"
    if not _close(encode_padded(encoder, batch, types), torch.cat(alone), REFUSED):
        return "hidden states of a row depend on padding and on the rows beside it, or are other ones at every pass"
    return None


def packs_exactly(encoder: Any, attention: str, device: torch.device, dtype: str) -> bool:
    """Whether the encoder gives the same hidden states with packed as with padded rows, on `device` in float32 and, up
    to rounding, in `dtype`.

    `encoder` runs with attention of its own and is left with packed `attention` if that works, as it was if not.
    """
    before, training = encoder.config._attn_implementation, encoder.training
    batch, types = _sample(encoder).to(device), uses_token_types(encoder)

    def both() -> bool:
        kinds = [torch.float32, *({DTYPES[dtype]} - {torch.float32})]
        encoder.set_attn_implementation(before)
        expected = [_cast(encode_padded, encoder, batch, types, kind) for kind in kinds]
        encoder.set_attn_implementation(attention)
        found = [_cast(encode_packed, encoder, batch, types, kind) for kind in kinds]
        return _close(found[0], expected[0]) and all(
            bool((a - b).norm() <= HALF_TOLERANCE * b.norm()) for a, b in zip(found[1:], expected[1:])
        )

    encoder.eval()
    try:
        with torch.no_grad():
            same = both()
    except torch.OutOfMemoryError:
        raise
    except FAILURES:
        same = False  # its forward takes no positions, or has attention of its own kind
    encoder.train(training)
    if not same:
        encoder.set_attn_implementation(before)
    return same


def check_dropout(encoder: Any, rate: float, name: str) -> None:
    """Raise UserError where `model.dropout` does not act: two passes in training are equal with 0, and differ else.

    The random state stays as it was.
    """
    training, row = encoder.training, _row(_sample(encoder), 3)
    encoder.train()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        passes = [encode_padded(encoder, row, uses_token_types(encoder)) for _ in range(2)]
    encoder.train(training)
    acts = not torch.equal(*passes)
    if rate == 0 and acts or rate >= 0.05 and not acts:
        can = "cannot be turned off" if acts else "cannot be set"
        raise UserError(
            f"model.dropout={rate}: the dropout of {name} ({encoder.config.model_type}) {can}; leave model.dropout out"
        )


def masks_follow_rows(encoder: Any, packed: bool) -> bool:
    """Whether dropout masks are a row's own: in training, its hidden states are the same alone and beside other rows.

    Not so where a model drops elements of tensors in which `Masks` does not find the rows.
    """
    training, batch = encoder.training, _sample(encoder)
    batch.mask_keys = row_keys(0, 0, [(row, 0) for row in range(len(batch.lengths))])
    rows = [_row(batch, row) for row in range(len(batch.lengths))]
    encoder.train()
    with torch.no_grad():
        together, *alone = (_with_masks(encoder, rows_of_batch, packed) for rows_of_batch in (batch, *rows))
    encoder.train(training)
    return _close(together, torch.cat(alone), REFUSED)


def _with_masks(encoder: Any, batch: Batch, packed: bool) -> torch.Tensor:
    masks, types = Masks(), uses_token_types(encoder)
    with masks.of(batch, packed):
        if packed:
            return encode_packed(encoder, batch, types, masks=masks)
        return encode_padded(encoder, batch, types)


def uses_token_types(encoder: Any) -> bool:
    return int(getattr(encoder.config, "type_vocab_size", 1) or 1) > 1


def largest_window(config: Any) -> int:
    """The widest attention window that a configuration names; 0 where it names none."""
    found = [0]
    for key, value in config.to_dict().items():
        if WINDOW.search(key):
            found += [one for one in (value if isinstance(value, list) else [value]) if type(one) is int]
    return max(found)


def _cast(run: Any, encoder: Any, batch: Batch, types: bool, dtype: torch.dtype) -> torch.Tensor:
    """Hidden states, float32, with matrix products and attention in `dtype`."""
    half = dtype != torch.float32
    with torch.autocast(batch.input_ids.device.type, dtype if half else torch.bfloat16, enabled=half):
        return run(encoder, batch, types).float()


def _close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> bool:
    """Rounding grows with the largest value of a hidden state, and some models have very large ones."""
    return torch.allclose(found, expected, rtol=tolerance, atol=tolerance * max(1.0, float(expected.abs().max())))


def _sample(encoder: Any) -> Batch:
    """Rows of unequal lengths, one of them longer than every window, of token ids around the vocabulary's middle."""
    window, lengths = largest_window(encoder.config), [*LENGTHS]
    if window:
        positions = int(getattr(encoder.config, "max_position_embeddings", None) or window + 16)
        # RoBERTa's relatives have their padding's positions besides.
        lengths.append(max(1, min(window + 8, positions - 2)))
    vocabulary = int(encoder.get_input_embeddings().weight.shape[0])
    row = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    offsets = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    position = torch.arange(int(offsets[-1])) - offsets[row]
    ids = vocabulary // 2 + torch.arange(len(row)) % max(1, vocabulary // 4)
    return Batch(ids, (position > 2).long(), row, position, offsets, tuple(lengths))


def _row(batch: Batch, row: int) -> Batch:
    """One row of a batch, as a batch."""
    mine = slice(int(batch.offsets[row]), int(batch.offsets[row + 1]))
    length = batch.lengths[row]
    zeros = torch.zeros(length, dtype=torch.long)
    return Batch(
        batch.input_ids[mine],
        batch.token_type_ids[mine],
        zeros,
        batch.position[mine],
        torch.tensor([0, length]),
        (length,),
        mask_keys=None if batch.mask_keys is None else batch.mask_keys[[0, 1 + row]],
    )


def _rest(batch: Batch) -> tuple[Any, ...]:
    return batch.token_type_ids, batch.row, batch.position, batch.offsets, batch.lengths
