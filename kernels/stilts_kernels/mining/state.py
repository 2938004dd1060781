"""What a search among ranks has found so far, kept in a folder, so that a later start goes on from there."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor

from stilts_kernels.common.collectives import Collectives
from stilts_kernels.common.ranking import Ranked
from stilts_kernels.mining.parts import load_part, save_part

SAVE_SECONDS = 60.0  # between two saves; a block takes seconds, its lists may be gigabytes

Kept = tuple[Ranked, list[Ranked]]  # lists of this rank's source rows; of its finished blocks of targets


class SearchState:
    """Finished blocks of one question. Each rank has its own files; they fit only as many ranks as wrote them.

    `key` names the question: whoever calls must put into it the content of both sides and every setting.
    """

    def __init__(self, folder: Path, key: str, seconds: float = SAVE_SECONDS) -> None:
        self.folder, self.key, self.seconds = folder, key, seconds
        self.saved_at = time.monotonic()

    def load(self, ranks: Collectives) -> tuple[int, Kept | None]:
        """How many blocks are finished on every rank, and this rank's lists. Collective."""
        # Ranks killed while saving have different blocks; they go on from the last one that all of them have.
        own_blocks = self._blocks(ranks)
        common = set.intersection(*map(set, ranks.gather(own_blocks)))
        if not common:
            return 0, None
        done = max(common)
        saved = load_part(self._path(ranks, done), self._key(ranks))
        assert saved is not None, "it was whole a moment ago"
        sizes: list[int] = saved["sizes"].tolist()
        finished = list(zip(saved["backward_values"].split(sizes), saved["backward_indices"].split(sizes)))
        return done, ((saved["values"], saved["indices"]), finished)

    def save(self, ranks: Collectives, done: int, forward: Ranked, backward: list[Ranked]) -> None:
        """Keep the lists after `done` blocks, where the last save was long enough ago. Collective: rank 0's clock
        decides, so that all ranks have the same blocks."""
        due = time.monotonic() - self.saved_at >= self.seconds
        if not ranks.gather(due)[0]:
            return
        values, indices = (torch.cat(side) for side in zip(*backward))
        lists: dict[str, Tensor | str] = {
            "key": self._key(ranks),
            "values": forward[0],
            "indices": forward[1],
            "backward_values": values,
            "backward_indices": indices,
            "sizes": torch.tensor([len(side) for side, _ in backward], dtype=torch.int64, device="cpu"),
        }
        save_part(self._path(ranks, done), lists)
        ranks.gather(done)  # all have saved: only now may earlier files go
        for earlier in self._blocks(ranks, check=False):
            if earlier < done:
                self._path(ranks, earlier).unlink(missing_ok=True)
        self.saved_at = time.monotonic()

    def _key(self, ranks: Collectives) -> str:
        return f"{self.key} rank {ranks.rank} of {ranks.size}"

    def _path(self, ranks: Collectives, done: int) -> Path:
        return self.folder / f"search-{ranks.rank}-of-{ranks.size}-{done:08d}.pt"

    def _blocks(self, ranks: Collectives, check: bool = True) -> list[int]:
        """Numbers of blocks after which this rank's lists are there, and whole where that is checked."""
        paths = sorted(self.folder.glob(f"search-{ranks.rank}-of-{ranks.size}-*.pt"))
        numbers = {int(path.stem.rpartition("-")[2]): path for path in paths}
        if not check:
            return list(numbers)
        key = self._key(ranks)
        return [done for done, path in numbers.items() if load_part(path, key) is not None]
