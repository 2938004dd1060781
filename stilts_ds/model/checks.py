"""What a network must do before anything is trained: tried with a few small rows when it is loaded, not assumed.

A row's hidden states must be its own: the same alone, beside longer rows, and packed behind others. And its tokens must
see what its configuration claims (stilts_ds.model_kinds): where a decoder was taken for an encoder, heads would read a
first token that has seen nothing, and stay at chance in silence. Legend: T tokens of all rows, H hidden size.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from stilts_ds.errors import UserError, first_line
from stilts_ds.model.backbone import Backbone
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
SAME = 1e-6  # what rounding leaves of states that the same weights make of the same tokens
REFUSED = 1e-3  # what no rounding explains: ten times what keeps a model from being packed
DAMAGED = "its hidden states are not finite; its weights are damaged"
FAILURES = (TypeError, ValueError, IndexError, KeyError, RuntimeError, AttributeError, AssertionError)


def check_hidden_states(encoder: Any, name: str) -> None:
    """Raise UserError for a network whose tokens see other tokens than it claims, or whose rows see more than
    themselves.

    Rows longer than every window that its configuration names are among those that are tried.
    """
    training = encoder.training
    encoder.eval()
    try:
        with torch.no_grad():
            problem = _input_problem(encoder) or _hidden_state_problem(encoder)
    except FAILURES as error:
        problem = f"it cannot encode rows of token ids: {first_line(error)}"
    encoder.train(training)
    if problem:
        raise UserError(f"{name} ({encoder.config.model_type}): {problem}; use another model")


def _input_problem(encoder: Any) -> str | None:
    """Whether it reads token ids: images, sounds and Perceiver's bytes come under other names."""
    if encoder.main_input_name == "input_ids":
        return None
    return f"it reads `{encoder.main_input_name}`, not token ids (`input_ids`)"


def _hidden_state_problem(encoder: Any) -> str | None:
    backbone, batch = Backbone(encoder), _sample(encoder)
    rows = [_row(batch, row) for row in range(len(batch.lengths))]
    problem = _shape_problem(backbone, rows[0]) or _sight_problem(backbone, rows[0])
    return problem or _row_problem(backbone, batch, rows)


def _shape_problem(backbone: Backbone, row: Batch) -> str | None:
    """What is wrong with hidden states, whatever they say."""
    last = backbone.padded(row)
    if not last.isfinite().all():
        return DAMAGED
    for layer in (0, -1):  # what retrieval reads
        if backbone.padded(row, layer).shape != last.shape:
            return f"hidden state {layer} has not one vector for each token"
    if last.shape[1] != backbone.network.config.hidden_size:
        return f"its hidden states have {last.shape[1]} values, its configuration says {backbone.head_shape().hidden}"
    return None


def _sight_problem(backbone: Backbone, row: Batch) -> str | None:
    """Whether tokens see what the configuration claims: tokens of both sides, or those on their left alone."""
    states = backbone.padded(row)
    # Of a change at the end of a row all other tokens know where they see both ways, and none where they see left.
    end_changed = backbone.padded(_with_other_token(row, -1))
    if backbone.sees == "both":
        # Not to the bit: experts multiply tokens in groups, and a changed token changes how its group is rounded.
        if _close(end_changed[:1], states[:1], SAME):
            return "its first token knows nothing of the tokens behind it, as where a model reads from left to right"
        return None
    if not _close(end_changed[:-1], states[:-1], SAME):
        return "its type is known to read from left to right, but later tokens change the states of earlier ones"
    if _close(backbone.padded(_with_other_token(row, -2))[-1:], states[-1:], SAME):
        return "its last token knows nothing of the token before it, and cannot stand for a row"
    return None


def _row_problem(backbone: Backbone, batch: Batch, rows: list[Batch]) -> str | None:
    """Whether each row's hidden states are its own."""
    alone = [backbone.padded(row) for row in rows]
    if not all(bool(states.isfinite().all()) for states in alone):
        return DAMAGED
    if not _close(backbone.padded(batch), torch.cat(alone), REFUSED):
        return "hidden states of a row depend on padding and on the rows beside it, or are other ones at every pass"
    return None


def _with_other_token(row: Batch, index: int) -> Batch:
    """The row with another token at one place."""
    changed = row.input_ids.clone()
    # A neighbour in the vocabulary's middle: no special token, which models may treat in their own way.
    changed[index] -= 1
    return dataclasses.replace(row, input_ids=changed)


def packs_exactly(encoder: Any, attention: str, device: torch.device, dtype: str) -> bool:
    """Whether the encoder gives the same hidden states with packed as with padded rows, on `device` in float32 and, up
    to rounding, in `dtype`.

    `encoder` runs with attention of its own and is left with packed `attention` if that works, as it was if not.
    """
    before, training = encoder.config._attn_implementation, encoder.training
    backbone, batch = Backbone(encoder), _sample(encoder).to(device)

    def both() -> bool:
        kinds = [torch.float32, *({DTYPES[dtype]} - {torch.float32})]
        encoder.set_attn_implementation(before)
        expected = [_cast(backbone.padded, batch, kind) for kind in kinds]
        encoder.set_attn_implementation(attention)
        states = [_cast(backbone.packed, batch, kind) for kind in kinds]
        for rows in _beyond_positions(encoder):
            backbone.packed(rows.to(device))
        return _close(states[0], expected[0]) and all(
            bool((a - b).norm() <= HALF_TOLERANCE * b.norm()) for a, b in zip(states[1:], expected[1:])
        )

    encoder.eval()
    try:
        with torch.no_grad():
            same = both()
    except torch.OutOfMemoryError:
        raise
    except FAILURES:
        same = False  # its forward takes no positions, counts a call's tokens, or has attention of its own kind
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
        passes = [Backbone(encoder).padded(row) for _ in range(2)]
    encoder.train(training)
    acts = not torch.equal(*passes)
    if rate == 0 and acts or rate >= 0.05 and not acts:
        can = "cannot be turned off" if acts else "cannot be set"
        raise UserError(
            f"model.dropout={rate}: the dropout of {name} ({encoder.config.model_type}) {can}; leave model.dropout out"
        )


def masks_follow_rows(encoder: Any) -> bool:
    """Whether dropout masks are a row's own: in training, its hidden states are the same alone and beside other rows.

    Not so where a model drops elements of tensors in which `Masks` does not find the rows.
    """
    training, backbone, batch = encoder.training, Backbone(encoder), _sample(encoder)
    batch.mask_keys = row_keys(0, 0, [(row, 0) for row in range(len(batch.lengths))])
    rows = [_row(batch, row) for row in range(len(batch.lengths))]
    encoder.train()
    with torch.no_grad():
        together, *alone = (_with_masks(backbone, rows_of_batch) for rows_of_batch in (batch, *rows))
    encoder.train(training)
    return _close(together, torch.cat(alone), REFUSED)


def _with_masks(backbone: Backbone, batch: Batch) -> torch.Tensor:
    masks = Masks()
    with masks.of(batch, backbone.packs):
        return backbone.hidden_states(batch, masks=masks)


def largest_window(config: Any) -> int:
    """The widest attention window that a configuration names, for all layers or for some; 0 where it names none."""
    return max([0, *_windows(config.to_dict())])


def _windows(settings: Mapping[Any, Any]) -> Iterator[int]:
    for key, value in settings.items():
        if isinstance(value, Mapping):  # such as NeoMME's `per_layer_config`
            yield from _windows(value)
        elif WINDOW.search(str(key)):
            sizes = value if isinstance(value, list) else [value]
            yield from (size for size in sizes if type(size) is int)  # not True, which some use as a switch


def _cast(run: Callable[[Batch], torch.Tensor], batch: Batch, dtype: torch.dtype) -> torch.Tensor:
    """Hidden states, float32, with matrix products and attention in `dtype`."""
    half = dtype != torch.float32
    with torch.autocast(batch.input_ids.device.type, dtype if half else torch.bfloat16, enabled=half):
        return run(batch).float()


def _close(computed: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> bool:
    """Rounding grows with the largest value of a hidden state, and some models have very large ones."""
    return torch.allclose(computed, expected, rtol=tolerance, atol=tolerance * max(1.0, float(expected.abs().max())))


def _sample(encoder: Any) -> Batch:
    """Rows of unequal lengths, one of them longer than every window, of token ids around the vocabulary's middle."""
    window, lengths = largest_window(encoder.config), [*LENGTHS]
    if window:
        positions = int(getattr(encoder.config, "max_position_embeddings", None) or window + 16)
        # RoBERTa's relatives have their padding's positions besides.
        lengths.append(max(1, min(window + 8, positions - 2)))
    return _batch(encoder, lengths)


def _beyond_positions(encoder: Any) -> list[Batch]:
    """Short rows of more tokens together than the network has positions: some refuse a call of that many, although no
    row is too long. [] for one that holds no table of positions, such as those that rotate."""
    positions = getattr(encoder.config, "max_position_embeddings", None)
    has_table = any(positions in value.shape for value in (*encoder.parameters(), *encoder.buffers()))
    return [_batch(encoder, [8] * (positions // 8 + 1))] if positions and has_table else []


def _batch(encoder: Any, lengths: list[int]) -> Batch:
    """Rows of these lengths."""
    vocabulary = int(encoder.get_input_embeddings().weight.shape[0])
    row = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    offsets = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    position = torch.arange(int(offsets[-1])) - offsets[row]
    ids = vocabulary // 2 + torch.arange(len(row)) % max(1, vocabulary // 4)
    return Batch(ids, (position > 2).long(), row, position, offsets, tuple(lengths))


def _row(batch: Batch, row: int) -> Batch:
    """One row of a batch, as a batch."""
    tokens = slice(int(batch.offsets[row]), int(batch.offsets[row + 1]))
    length = batch.lengths[row]
    zeros = torch.zeros(length, dtype=torch.long)
    return Batch(
        batch.input_ids[tokens],
        batch.token_type_ids[tokens],
        zeros,
        batch.position[tokens],
        torch.tensor([0, length]),
        (length,),
        mask_keys=None if batch.mask_keys is None else batch.mask_keys[[0, 1 + row]],
    )
