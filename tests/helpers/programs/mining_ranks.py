"""Embed, mine and search files on real ranks: `mining_ranks.py alone|mpi|gloo FOLDER NAME [STEPS [kill]]`.

FOLDER holds x.txt, y.txt and few.txt. Step `embed` writes NAME.npy (vectors of x.txt), `mine` NAME.tsv (mined from the
texts), `search` NAME-search.tsv (few.txt in those vectors). With `kill` this process ends without notice: while it
embeds, when the second chunk is on the disk but not noted; while it mines, when the neighbours of the first block of
targets are kept.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from stilts_kernels.mining.state import SearchState

from stilts_ds.mining import MiningSettings, embed, mine, search

MEMORY = 16 << 20  # so little that targets travel in several blocks


def connect(kind: str) -> Any:
    if kind == "mpi":
        from mpi4py import MPI

        return MPI.COMM_WORLD
    if kind == "gloo":
        torch.distributed.init_process_group("gloo")
        return torch.distributed.group.WORLD
    return None


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


def main(kind: str, folder: str, name: str, steps: str = "embed,mine,search", kill: str = "") -> None:
    torch.set_num_threads(1)
    comm, place = connect(kind), Path(folder)
    if kill:
        {"embed": kill_embedding, "mine": kill_mining}[steps]()
    if "embed" in steps:
        embed("toy", place / "x.txt", place / f"{name}.npy", comm=comm)
    if "mine" in steps:
        settings = MiningSettings(memory=MEMORY, unify=True)
        mine(place / "x.txt", place / "y.txt", place / f"{name}.tsv", model="toy", settings=settings, comm=comm)
    if "search" in steps:
        output = place / f"{name}-search.tsv"
        search(place / "few.txt", place / f"{name}.npy", output, k=5, model="toy", memory=MEMORY, comm=comm)
    if kind == "gloo":
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
