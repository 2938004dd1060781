"""How the parameters of a checkpoint are divided among the files of its ranks, and put together again.

A file holds float32 tensors: `weight/NAME`, `exp_avg/NAME`, `exp_avg_sq/NAME`, whole, or with `@FIRST_ROW` behind the
name a run of rows. Whoever reads them needs no knowledge of how many ranks wrote them.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open

from stilts_ds.engine import zero_state
from stilts_ds.engine.world import World

WEIGHT, MOMENTS = "weight", ("exp_avg", "exp_avg_sq")
ROWS_FROM = "@"  # digits behind the last one in a key are the first row


class Piece(NamedTuple):
    """Rows [first, stop) of the parameter `name`."""

    name: str
    first: int
    stop: int


def pieces_of_ranks(shapes: Mapping[str, Sequence[int]], ranks: int) -> list[list[Piece]]:
    """What each rank writes of parameters of these shapes: each row once, and about as many numbers a rank.

    A parameter that is more than a rank's share, as word embeddings are, is cut into runs of rows.
    """
    share = sum(math.prod(shape) for shape in shapes.values()) / ranks
    pieces: list[tuple[int, Piece]] = []
    for name, shape in shapes.items():
        rows = shape[0] if shape else 1
        row_size = math.prod(shape[1:])
        # Not more pieces than rows; one where all of it fits into a share.
        count = max(1, min(rows, math.ceil(rows * row_size / share)))
        bounds = [rows * number // count for number in range(count + 1)]
        pieces += [((stop - first) * row_size, Piece(name, first, stop)) for first, stop in pairwise(bounds)]
    # The largest first, each to the rank with least: every rank comes to the same answer without asking.
    loads = [(0, rank) for rank in range(ranks)]
    dealt: list[list[Piece]] = [[] for _ in range(ranks)]
    for size, piece in sorted(pieces, key=lambda sized: -sized[0]):
        load, rank = heapq.heappop(loads)
        dealt[rank].append(piece)
        heapq.heappush(loads, (load + size, rank))
    return dealt


def owned_tensors(engine: Any, world: World) -> dict[str, torch.Tensor]:
    """This rank's share, in host memory. Gathering is a collective."""
    tensors: dict[str, torch.Tensor] = {}
    zero_state.link_moments(engine)
    parameters = dict(engine.module.named_parameters())
    shapes = {name: tuple(getattr(p, "ds_shape", p.shape)) for name, p in parameters.items()}
    owned: dict[str, list[Piece]] = {}
    for piece in pieces_of_ranks(shapes, world.size)[world.rank]:
        owned.setdefault(piece.name, []).append(piece)
    # One kind at a time: a device holds 4 bytes of each number of the largest parameter, and not 12.
    for kind in (WEIGHT, *MOMENTS):
        for name, parameter in parameters.items():
            values = zero_state.whole_state(engine, parameter, (kind,))
            if kind not in values:  # moments before the first step
                continue
            for piece in owned.get(name, []):
                is_whole = piece.stop - piece.first == (shapes[name] or (1,))[0]
                value = values[kind] if is_whole else values[kind][piece.first : piece.stop]
                key = f"{kind}/{name}" if is_whole else f"{kind}/{name}{ROWS_FROM}{piece.first}"
                tensors[key] = value.to("cpu", torch.float32, copy=True)
    return tensors


def name_and_row(stored: str) -> tuple[str, int]:
    """The parameter, and the first row of it, that a key names behind its kind; 0 for a whole one."""
    name, _, row = stored.rpartition(ROWS_FROM)
    # Names are chosen by models and tasks, and may hold the mark: only digits behind it are a row.
    return (name, int(row)) if name and row.isdigit() else (stored, 0)


def stored_tensors(folder: Path, file_names: Iterable[str], kind: str) -> Iterator[tuple[str, torch.Tensor]]:
    """(parameter name, tensor) of one kind in a checkpoint's files, in an order that is the same on all ranks."""
    with ExitStack() as stack:
        stored: dict[str, list[tuple[int, Any, str]]] = {}
        for file_name in sorted(file_names):  # what else lies there was never hashed
            file = stack.enter_context(safe_open(folder / file_name, "pt"))
            for key in file.keys():  # noqa: SIM118 (no mapping)
                if key.startswith(f"{kind}/"):
                    name, first = name_and_row(key.removeprefix(f"{kind}/"))
                    stored.setdefault(name, []).append((first, file, key))
        for name, pieces in sorted(stored.items()):
            tensors = [file.get_tensor(key) for _, file, key in sorted(pieces, key=lambda piece: piece[0])]
            yield name, tensors[0] if len(tensors) == 1 else torch.cat(tensors)
