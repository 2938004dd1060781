"""What the splits of a run share: the tokenizer, the folder of cached rows, and records that were read already."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from stilts_ds.config import ModelPart
from stilts_ds.data.cache import cache_name, cached_rows, shared_rows
from stilts_ds.data.known_hashes import KnownHashes
from stilts_ds.errors import counted
from stilts_ds.model_files import model_source, tokenizer_hash
from stilts_ds.rows.rows import Rows
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.run_dir import hash_file, hash_json, read_json, write_json

log = logging.getLogger(__name__)
Records = tuple[Sequence[Any], Counter[str]]  # records, and what their reader left out by reason
KEPT_BYTES = 64 << 20  # of source files whose records are kept in memory; as records they take a few times that


class Store:
    """`folder` holds cached rows. `verify`: whether they are read and compared with their hashes when asked for;
    `waits`: whether another process that makes them is waited for. `names` are the folders of rows by what was asked
    for (Split.request); `follows`: whether they are another rank's, whose rows are mapped and no source is read."""

    def __init__(self, model: ModelPart, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.known_hashes = KnownHashes(folder)
        self.verify, self.waits, self.follows = False, True, False
        self.names: dict[str, str] = {}
        self._logged: set[str] = set()
        self._kept: OrderedDict[tuple[Any, ...], tuple[Records, int]] = OrderedDict()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        tokenizer = Tokenizer.load(*model_source(self.model.name_or_path, self.model.revision))
        self._save_tokenizer(tokenizer)
        return tokenizer

    @property
    def _tokenizer_path(self) -> Path:
        return self.folder / f"tokenizer-{tokenizer_hash(self.model.name_or_path, self.model.revision)[:24]}.json"

    def _save_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Leave what the rows' keys say of the tokenizer, so that `stilts plan` finds rows without loading it."""
        path = self._tokenizer_path
        if not path.exists():
            with contextlib.suppress(OSError):  # a cache that is only read
                write_json(path, {"fingerprint": tokenizer.fingerprint, "special": sorted(tokenizer.special)})

    def saved_tokenizer(self) -> dict[str, Any] | None:
        """`fingerprint` and `special` ids of the tokenizer that rows were cached with; None before."""
        return read_json(self._tokenizer_path) if self._tokenizer_path.exists() else None

    def log_once(self, title: str, rows: Rows) -> None:
        """Say once how many examples there are and what was dropped or cut."""
        if title not in self._logged:
            self._logged.add(title)
            notes = "".join(f", {reason}: {count}" for reason, count in sorted(rows.tally.items()) if count)
            log.info("%s: %s%s", title, counted(len(rows), "item"), notes)

    def rows(self, request: str, key: Callable[[], dict[str, Any]], build: Callable[[Path], Rows]) -> Rows:
        """The rows that `request` stands for: those for `key()`, from the cache or built; where another rank is
        followed, the ones that it has found. Raises UserError as cached_rows and shared_rows do.
        """
        if self.follows:
            # Without the key: it is made of hashes of the sources, which this rank does not read.
            return shared_rows(self.folder / self.names[request])
        found_key = key()
        self.names[request] = cache_name(found_key)
        return cached_rows(self.folder, found_key, build, self.verify, self.waits)

    def hash_files(self, paths: Sequence[Path]) -> str:
        """What `run_dir.hash_files` gives; files that did not change since are not read again."""
        return hash_json(self.known_hashes.of(paths, hash_file))

    def kept_records(self, key: tuple[Any, ...], weight: int, read: Callable[[], Records]) -> Records:
        """Records by `key`, from memory or read. `weight` is the bytes of the files that they come from.

        The least recently used leave first; what weighs more than KEPT_BYTES is not kept.
        """
        if key not in self._kept:
            self._kept[key] = read(), weight
        # Taken out before anything leaves: what weighs too much may be the first to go.
        records, _ = self._kept[key]
        self._kept.move_to_end(key)
        while sum(size for _, size in self._kept.values()) > KEPT_BYTES:
            self._kept.popitem(last=False)
        return records
