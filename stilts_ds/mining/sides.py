"""A side of a search: sentences with their vectors, or vectors alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from stilts_kernels.common.collectives import Collectives
from torch import Tensor

from stilts_ds.errors import UserError, counted, printable
from stilts_ds.mining.embed_texts import embed_to, find_model, scan
from stilts_ds.mining.job import on_all, on_first
from stilts_ds.mining.models import Encoder, ModelFolder
from stilts_ds.mining.texts import RowNames, TextFile, Texts
from stilts_ds.mining.vectors import check_note, check_rows, open_vectors, vectors_digest, vectors_of_texts
from stilts_ds.run_dir import hash_json


@dataclass(frozen=True)
class Side:
    """`path` is what the user gave: a text file, or vectors (.npy). `vectors`: the file with the vectors, None until
    the texts are embedded by `model`. `width`: numbers a vector, None where nobody knows before. `digest` stands for
    everything that the side holds."""

    path: Path
    texts: TextFile | None
    vectors: Path | None
    width: int | None
    digest: str
    model: ModelFolder | None = None

    @property
    def ids(self) -> Sequence[str]:
        """A name for each row: the ids of the text file, or row numbers from 0."""
        if self.texts is not None:
            return self.texts.all_ids()
        return RowNames(len(self.open()))

    def open(self) -> Tensor:
        """The vectors [N, H], memory-mapped."""
        assert self.vectors is not None, "texts are embedded first"
        return open_vectors(self.vectors)

    def share(self, ranks: Collectives) -> tuple[int, int]:
        """The rows first..stop of this rank."""
        count = len(self.open())
        # Ranges that differ by one row at most, in the order of the ranks.
        return count * ranks.rank // ranks.size, count * (ranks.rank + 1) // ranks.size


def find_sides(
    ranks: Collectives, given: Sequence[str | Path | Texts], encoder: Encoder | None, tab_fault: str = ""
) -> list[Side]:
    """Look at the sides of a search, and at the model where one of them needs it. A collective.

    Raises UserError for faulty texts (file and line), vectors that are none, do not belong to the texts or changed
    since they were made, and texts for which there are neither vectors nor a model.
    """
    sides = [_find(ranks, side, tab_fault) for side in given]
    bare = [side for side in sides if side.vectors is None]
    if not bare:
        return sides
    if encoder is None:
        raise UserError(
            f"{bare[0].path} holds texts: name the model that makes their vectors (--model), or give vectors"
        )
    # Once for all sides: its files are hashed, which takes about a second a gigabyte.
    model = find_model(ranks, encoder)
    return [_to_embed(side, model) for side in sides]


def _find(ranks: Collectives, given: str | Path | Texts, tab_fault: str) -> Side:
    """A side without its model."""
    given = given if isinstance(given, Texts) else Texts(given)
    path = Path(given.path)
    # By the name's end: texts may be called anything else.
    if path.suffix == ".npy":
        if given.vectors is not None:
            raise UserError(f"{path} holds vectors itself; give the texts in its place, or no other vectors")
        # Rank 0's: one rank hashes a file of gigabytes for all.
        width, digest = on_first(ranks, lambda: _look_at(path, None))
        return Side(path, None, path, width, digest)
    texts = scan(ranks, given, tab_fault)
    if given.vectors is None:
        return Side(path, texts, None, None, texts.digest)
    vectors = Path(given.vectors)
    width, digest = on_first(ranks, lambda: _look_at(vectors, texts))
    return Side(path, texts, vectors, width, hash_json([texts.digest, digest]))


def _to_embed(side: Side, model: ModelFolder) -> Side:
    """A side whose vectors `model` will make, where it has none."""
    if side.vectors is not None:
        return side
    # Known before the vectors are made, so that a start with other texts or settings is refused at once.
    digest = hash_json([side.digest, model.inputs()])
    return dataclasses.replace(side, model=model, width=model.width, digest=digest)


def _look_at(path: Path, texts: TextFile | None) -> list[Any]:
    """Width and digest of a file of vectors that belongs to `texts`."""
    width = open_vectors(path).shape[1]
    digest = vectors_digest(path)
    if texts is not None:
        vectors_of_texts(path, texts.lines, texts.path)
        check_note(path, digest, texts.digest, texts.path)
    else:
        check_note(path, digest, None, None)
    return [width, digest]


def with_vectors(ranks: Collectives, side: Side, output: Path, device: torch.device, unit: bool = True) -> Side:
    """The side with its vectors; texts are embedded into the file `output`, unless an earlier start did so. Then all
    rows are looked at; with `unit` they need a direction. A collective."""
    texts, model = side.texts, side.model
    if side.vectors is None:
        assert texts is not None and model is not None
        # Published only when it is whole.
        if not on_first(ranks, output.exists):
            embed_to(ranks, model, texts, output, "fp32", device)
        width, _ = on_first(ranks, lambda: _look_at(output, texts))
        side = dataclasses.replace(side, vectors=output, width=width)
    on_all(ranks, lambda: check_rows(side.open(), side.vectors or side.path, *side.share(ranks), unit))
    return side


def check_widths(source: Side, target: Side) -> None:
    """Raise UserError where the sides' vectors are of another width, as far as that is known."""
    if source.width is None or target.width is None or source.width == target.width:
        return
    raise UserError(
        f"{source.path} has {counted(source.width, 'number')} a vector and {target.path} {target.width:,}; "
        "make both with one model"
    )


def files_of(**sides: Side) -> dict[str, Path | None]:
    """The files behind `describe`'s contents: the vectors, where they were given."""
    return {f"the content of {name}": side.vectors or side.path for name, side in sides.items()}


def describe(**sides: Side) -> dict[str, Any]:
    """What work on sides depends on, by their names: the paths, and what stands in the files."""
    # A name need not be UTF-8, which a note is.
    paths = {name: printable(str(side.path)) for name, side in sides.items()}
    return {**paths, **{f"the content of {name}": side.digest for name, side in sides.items()}}
