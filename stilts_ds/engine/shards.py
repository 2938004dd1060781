"""How the parameters of a checkpoint are divided among the files of its ranks, and put together again.

A file holds float32 tensors: `weight/NAME`, `exp_avg/NAME`, `exp_avg_sq/NAME`, whole, or with `@FIRST_ROW` behind the
name a run of rows. Whoever reads them needs no knowledge of how many ranks wrote them.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
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


# A kind and a parameter, as `weight/NAME` -> its pieces in order: their numbers [first, stop), file and key.
Index = dict[str, list[tuple[int, int, str, str]]]


def index_of(folder: Path, file_names: Iterable[str]) -> Index:
    """Where the files of a checkpoint hold what. Reads the headers of all files, so one rank does it for all."""
    index: Index = {}
    for file_name in sorted(file_names):  # what else lies there was never hashed
        with safe_open(folder / file_name, "pt") as file:
            for key in file.keys():  # noqa: SIM118 (no mapping)
                kind, _, stored = key.partition("/")
                name, first_row = name_and_row(stored)
                shape = file.get_slice(key).get_shape()
                first = first_row * math.prod(shape[1:])
                index.setdefault(f"{kind}/{name}", []).append((first, first + math.prod(shape), file_name, key))
    return {tensor: sorted(pieces) for tensor, pieces in sorted(index.items())}


class StoredTensors:
    """The tensors of a checkpoint's files, by kind and parameter. A file is opened when something in it is asked for,
    and closed when the `with` block ends."""

    def __init__(self, folder: Path, index: Index) -> None:
        self.folder, self.index = folder, index
        self._files: dict[str, Any] = {}

    def __enter__(self) -> StoredTensors:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.__exit__(None, None, None)
        self._files.clear()

    def names(self, kind: str) -> list[str]:
        """Names of the parameters of which there is a tensor of this kind, sorted."""
        return [tensor.removeprefix(f"{kind}/") for tensor in self.index if tensor.startswith(f"{kind}/")]

    def whole(self, kind: str, name: str) -> torch.Tensor:
        """A tensor, put together of its pieces."""
        pieces = [self._stored(file_name, key)[...] for _, _, file_name, key in self.index[f"{kind}/{name}"]]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def numbers(self, kind: str, name: str, first: int, stop: int) -> torch.Tensor:
        """The numbers [first, stop) of a tensor in its flat order; of the files the rows around them are read."""
        read: list[torch.Tensor] = []
        for piece_first, piece_stop, file_name, key in self.index[f"{kind}/{name}"]:
            begin, end = max(first, piece_first) - piece_first, min(stop, piece_stop) - piece_first
            if begin >= end:
                continue
            stored = self._stored(file_name, key)
            shape = stored.get_shape()
            row_size = math.prod(shape[1:])
            row, last_row = begin // row_size, math.ceil(end / row_size)
            rows = stored[row:last_row] if shape else stored[...]  # of a single number there are no rows
            read.append(rows.reshape(-1)[begin - row * row_size : end - row * row_size])
        return torch.cat(read) if read else torch.empty(0)

    def _stored(self, file_name: str, key: str) -> Any:
        if file_name not in self._files:
            # Kept open: a file holds pieces of many parameters.
            self._files[file_name] = safe_open(self.folder / file_name, "pt").__enter__()
        return self._files[file_name].get_slice(key)
