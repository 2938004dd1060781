"""Embed, mine and search files on real ranks: `mining_ranks.py alone|mpi|gloo FOLDER NAME [STEPS [kill]]`.

FOLDER holds x.txt, y.txt and few.txt. Step `embed` writes NAME.npy (vectors of x.txt), `mine` NAME.tsv (mined from the
texts), `search` NAME-search.tsv (few.txt in those vectors), `evaluate` NAME-evaluate.json (what evaluation finds where
ranks hold uneven shares of those vectors, some of them none). With `kill` this process ends without notice: while it
embeds, when the second chunk is on the disk but not noted; while it mines, when the neighbours of the first block of
targets are kept.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stilts_kernels.common.collectives import collectives_of
from stilts_kernels.mining.layout import Layout
from stilts_kernels.mining.state import SearchState

from stilts_ds.evaluate import embedding
from stilts_ds.families.bitext.head import EmbeddedSide, Place, bucc_mine, tatoeba_predict

# Small enough that a few hundred sentences are several chunks, and targets travel in several blocks. Set before the
# modules that take the number over are imported.
embedding.CHUNK = 64
Layout.target_rows = 100  # type: ignore[assignment, method-assign]

from stilts_ds.mining import MiningSettings, embed, mine, search  # noqa: E402


def connect(kind: str) -> Any:
    if kind == "mpi":
        from mpi4py import MPI

        return MPI.COMM_WORLD
    if kind == "gloo":
        torch.distributed.init_process_group("gloo")
        return torch.distributed.group.WORLD
    return None


def evaluate(comm: Any, place: Path, name: str) -> None:
    """BUCC's pairs and Tatoeba's indices; with several ranks rank 0 has no source and the last one no target."""
    ranks = collectives_of(comm)
    texts = (place / "x.txt").read_text().splitlines()
    vectors = torch.from_numpy(np.load(place / f"{name}.npy"))
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(1))
    moved = vectors[order] + 0.05 * vectors.flip(0)
    sides = []
    for number, (side, rows) in enumerate((("x", vectors), ("y", moved))):
        parts = max(1, ranks.size - 1)
        part = ranks.rank - (number == 0) if ranks.size > 1 else 0
        first, stop = (len(rows) * max(0, min(parts, part + end)) // parts for end in (0, 1))
        share = rows[first:stop] if 0 <= part < parts else rows[:0]
        names = [f"{side}-{row}" for row in range(len(rows))]
        sides.append(EmbeddedSide(side, names, texts if side == "x" else [texts[int(row)] for row in order], share))
    here = Place(comm)
    mined = bucc_mine(*sides, runtime=here)
    nearest = tatoeba_predict(sides[0].embeddings, sides[1].embeddings, here)
    if ranks.rank == 0:
        pairs = [[item.source, item.target, item.score] for item in mined]
        (place / f"{name}-evaluate.json").write_text(json.dumps([pairs, nearest]))


def kill_embedding() -> None:
    write, chunks = os.pwrite, []

    def write_and_die(*arguments: Any) -> int:
        written = write(*arguments)
        chunks.append(written)
        if len(chunks) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return written

    os.pwrite = write_and_die


def kill_mining() -> None:
    save = SearchState.save

    def save_and_die(self: SearchState, *arguments: Any) -> None:
        self.seconds = 0.0
        save(self, *arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    SearchState.save = save_and_die  # type: ignore[method-assign]


def main(kind: str, folder: str, name: str, steps: str = "embed,mine,search,evaluate", kill: str = "") -> None:
    torch.set_num_threads(1)
    comm, place = connect(kind), Path(folder)
    if kill:
        {"embed": kill_embedding, "mine": kill_mining}[steps]()
    if "embed" in steps:
        embed("toy", place / "x.txt", place / f"{name}.npy", comm=comm)
    if "mine" in steps:
        settings = MiningSettings(unify=True)
        mine(place / "x.txt", place / "y.txt", place / f"{name}.tsv", model="toy", settings=settings, comm=comm)
    if "search" in steps:
        output = place / f"{name}-search.tsv"
        search(place / "few.txt", place / f"{name}.npy", output, k=5, model="toy", comm=comm)
    if "evaluate" in steps:
        evaluate(comm, place, name)
    if kind == "gloo":
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
