"""One split of one task in one language, resolved once: its files, hash and labels, its records and rows."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from stilts_ds.augmentation import Augmentation
from stilts_ds.config import TrainingPart
from stilts_ds.data.cache import find_rows
from stilts_ds.data.noisy import noisy_records
from stilts_ds.data.reader import Exclusion, Origin
from stilts_ds.data.store import KEPT_BYTES, Records, Store
from stilts_ds.errors import UserError
from stilts_ds.families.base import Family
from stilts_ds.families.registry import family_of
from stilts_ds.rows.rows import Rows
from stilts_ds.run_dir import hash_json
from stilts_ds.sources.draw import DRAW
from stilts_ds.tasks.spec import Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """What `task` reads as its split `name` in `language`: `limit` records (None: all) after `skip` others.

    They are the first ones of the files or, if `drawn`, drawn from them (see stilts_ds.sources.draw). Records that
    `exclusion` names are left out before. Token rows are made of the copies that `augmentation` asks for.

    `labels` is the label list of the task's head, in index order: open tag sets and languages of text filled in.
    """

    task: Task
    name: str
    language: str
    labels: tuple[str, ...]
    origin: Origin
    store: Store = field(compare=False, repr=False)
    skip: int = 0
    limit: int | None = None
    drawn: bool = False
    exclusion: Exclusion | None = field(default=None, compare=False, repr=False)
    augmentation: Augmentation | None = None
    # The records where rank 0 has sent them.
    sent: Sequence[Any] | None = field(default=None, compare=False, repr=False)

    @property
    def family(self) -> Family:
        return family_of(self.task)

    @property
    def title(self) -> str:
        return f"{self.task.name} {self.name} {self.language}"

    @property
    def hash(self) -> str:
        """Hash of what is read, whichever part of it is taken."""
        return self.origin.hash

    def stream(self, tally: Counter[str] | None = None) -> Iterator[Any]:
        """The records, read as they are asked for. Raises RuntimeError on a rank that follows another one."""
        if self.store.follows:
            raise RuntimeError(f"{self.title}: a rank that gets its rows from rank 0 asked for the texts")
        if self._is_drawn:
            return self.origin.draw(self.skip, self.limit, tally, self.exclusion)
        return self.family.take(self.origin.read(tally, self.exclusion), self.skip, self.limit)

    @property
    def _is_drawn(self) -> bool:
        """A split that is taken whole is read as it stands."""
        return self.drawn and (self.skip > 0 or self.limit is not None)

    def records(self, tally: Counter[str] | None = None) -> Sequence[Any]:
        """The records as a list. Splits of small files are read once in the life of the store."""
        if self.sent is not None:
            return self.sent
        # A store belongs to one recipe, which has at most one exclusion: whether there is one tells which.
        key = (self.task.name, self.name, self.language, self.skip, self.limit, self._is_drawn, bool(self.exclusion))
        records, left_out = self.store.kept_records(key, self._bytes(), self._read)
        if tally is not None:
            tally.update(left_out)
        return records

    def _read(self) -> Records:
        left_out: Counter[str] = Counter()
        return list(self.stream(left_out)), left_out

    def _bytes(self) -> int:
        """Bytes of the files that the records come from; what the hub serves may be kept alone."""
        return sum(path.stat().st_size for path in self.origin.files) or KEPT_BYTES

    def rows(self, setting: TrainingPart) -> Rows:
        """The records as token rows, from the cache or built. Raises UserError for faulty or no examples."""

        def key() -> dict[str, Any]:
            return self.identity | encoding_key(setting, self.store.tokenizer.fingerprint)

        def build(folder: Path) -> Rows:
            tally: Counter[str] = Counter()
            # Evaluation asks for the same records again, to decode. Training does not, and its splits may be large.
            streams = self.name == "train" or self._bytes() > KEPT_BYTES
            records = self.stream(tally) if streams else self.records(tally)
            rows = self.family.encode(self.copied(records), self.store.tokenizer, self.labels, setting, folder)
            rows.tally.update(tally)
            # Here and not in the reader, which does not know that a limit or an exclusion left nothing.
            if not len(rows):
                raise UserError(f"{self.title} has no examples")
            return rows

        rows = self.store.rows(self.request(setting), key, build)
        self.store.log_once(self.title, rows)
        return rows

    def copied(self, records: Iterable[Any]) -> Iterable[Any]:
        """The records in their noisy copies, after themselves where these stay."""
        augmentation = self.augmentation
        if augmentation is None:
            return records
        clean = list(records)  # each copy reads them again
        copies: list[list[Any]] = []
        for number in range(1, augmentation.copies + 1):
            noisy_task = augmentation.noisy(self.task, number)
            copies.append(noisy_records(noisy_task, self.name, self.language, clean, augmentation.lists)[0])
        return chain(clean if augmentation.keeps_clean else (), *copies)

    def rows_of(self, name: str, setting: TrainingPart, texts: Callable[[], tuple[Sequence[Any], Any]]) -> Rows:
        """Rows of some of its records' parts (the sides of a bitext), found again by what stands in them: `texts` gives
        what is encoded, and its content as JSON. The log calls them by `name` where something was cut."""

        def key() -> dict[str, Any]:
            # By content and not by split: the sides and pools of several splits and languages are often the same.
            content = hash_json(texts()[1])
            return {self.family.name: content, **encoding_key(setting, self.store.tokenizer.fingerprint)}

        def build(folder: Path) -> Rows:
            return self.family.encode(texts()[0], self.store.tokenizer, (), setting, folder)

        rows = self.store.rows(self.request(setting, name), key, build)
        if any(rows.tally.values()):
            self.store.log_once(f"{self.title}, {name}", rows)
        return rows

    def find_rows(self, setting: TrainingPart, fingerprint: str) -> Rows | None:
        """Rows that are in the cache already, for a tokenizer that need not be loaded; reads no example."""
        return find_rows(self.store.folder, self.identity | encoding_key(setting, fingerprint))

    def request(self, setting: TrainingPart, name: str = "") -> str:
        """Stands for its rows, or those of its parts called `name`, among all that a recipe asks for: unlike the key of
        the cache, without reading the sources."""
        copies = None
        if self.augmentation is not None:
            copies = [str(self.augmentation.noise), self.augmentation.copies, self.augmentation.keeps_clean]
        # A store belongs to one recipe, which has at most one exclusion: whether there is one tells which.
        taken = [self.skip, self.limit, self._is_drawn, bool(self.exclusion), copies]
        return hash_json([self.title, name, *taken, setting.rows_in_use()])

    @property
    def identity(self) -> dict[str, Any]:
        """What its records depend on."""
        identity = {
            "task": self.task.name,
            "family": self.task.family,
            "split": self.name,
            "language": self.language,
            "skip": self.skip,
            "limit": self.limit,
            "labels": self.labels,
            "files": self.hash,
        }
        # Keys that came later stand only where they apply, so that older rows are still found.
        if self._is_drawn:
            identity["drawn"] = DRAW
        if self.exclusion is not None:
            identity["without"] = self.exclusion.key
        if self.augmentation is not None:
            identity["copies"] = self.augmentation.key(self.language)
        return identity


def encoding_key(setting: TrainingPart, fingerprint: str) -> dict[str, Any]:
    """What rows depend on besides the records: the tokenizer, the lengths, and where rows are cut."""
    return {"tokenizer": fingerprint, **setting.rows_in_use()}
