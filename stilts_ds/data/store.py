"""What the splits of a run share: the tokenizer, the folder of cached rows, and records that were read already."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stilts_ds.config import ModelPart
from stilts_ds.model_files import model_path, tokenizer_hash
from stilts_ds.rows.rows import Rows
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.run_dir import read_json, write_json

if TYPE_CHECKING:
    from stilts_ds.data.split import Split

log = logging.getLogger(__name__)
KEPT_BYTES = 64 << 20  # of source files whose records are kept in memory; as records they take a few times that
HUB_RECORD_BYTES = 1000  # what a record of the hub is taken to weigh, since it comes from no file of its own


class Store:
    """`folder` holds cached rows. `verify`: whether they are read and compared with their hashes when asked for."""

    def __init__(self, model: ModelPart, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.verify = False
        self._logged: set[str] = set()
        self._kept: OrderedDict[tuple[Any, ...], tuple[Sequence[Any], int]] = OrderedDict()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        tokenizer = Tokenizer.load(model_path(self.model.name_or_path), self.model.revision)
        self._note_tokenizer(tokenizer)
        return tokenizer

    @property
    def _tokenizer_note(self) -> Path:
        return self.folder / f"tokenizer-{tokenizer_hash(self.model.name_or_path, self.model.revision)[:24]}.json"

    def _note_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Leave what the rows' keys say of the tokenizer, so that `stilts plan` finds rows without loading it."""
        note = self._tokenizer_note
        if not note.exists():
            with contextlib.suppress(OSError):  # a cache that is only read
                write_json(note, {"fingerprint": tokenizer.fingerprint, "special": sorted(tokenizer.special)})

    def noted_tokenizer(self) -> dict[str, Any] | None:
        """`fingerprint` and `special` ids of the tokenizer that rows were cached with; None before."""
        return read_json(self._tokenizer_note) if self._tokenizer_note.exists() else None

    def log_once(self, title: str, rows: Rows) -> None:
        """Say once how many examples there are and what was dropped or cut."""
        if title not in self._logged:
            self._logged.add(title)
            notes = "".join(f", {count} {reason}" for reason, count in sorted(rows.tally.items()) if count)
            log.info("%s: %d items%s", title, len(rows), notes)

    # --- records -----------------------------------------------------------------------------------------------------

    def kept_records(self, split: Split) -> Sequence[Any]:
        """The records of a split, from memory if they are there; the least recently used leave first."""
        key = _record_key(split)
        if key not in self._kept:
            records = list(split.stream())
            self._keep(split, records)
            return records
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def records_for_rows(self, split: Split, tally: Counter[str]) -> Iterable[Any]:
        """The records to tokenise. Those that evaluation asks for again are kept on the way; train splits stream."""
        if split.name == "train" or _weight(split, ()) > KEPT_BYTES:
            return split.stream(tally)
        records = list(split.stream(tally))
        self._keep(split, records)
        return records

    def _keep(self, split: Split, records: Sequence[Any]) -> None:
        self._kept[_record_key(split)] = records, _weight(split, records)
        while sum(weight for _, weight in self._kept.values()) > KEPT_BYTES:
            self._kept.popitem(last=False)


def _record_key(split: Split) -> tuple[Any, ...]:
    return split.task.name, split.name, split.language, split.skip, split.limit


def _weight(split: Split, records: Sequence[Any]) -> int:
    """Bytes of the files that the records come from."""
    if split.origin.files:
        return sum(path.stat().st_size for path in split.origin.files)
    return HUB_RECORD_BYTES * len(records)
