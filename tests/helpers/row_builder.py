"""Rows made one by one, for tests that write them by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np

from stilts_ds.rows.rows import Rows


class RowsBuilder:
    """Collects rows one by one and returns them as `Rows`."""

    def __init__(
        self,
        *,
        labels: bool = False,
        spans: bool = False,
        tags: bool = False,
        places: bool = False,
        prefixes: bool = False,
    ) -> None:
        self.ids: list[np.ndarray] = []
        self.lengths: list[int] = []
        self.second: list[int] = []
        self.example: list[int] = []
        self.items: list[int] = [0]
        self.label: list[int] | None = [] if labels else None
        self.span: list[tuple[int, int]] | None = [] if spans else None
        self.token_label: list[np.ndarray] | None = [] if tags else None
        self.place: list[np.ndarray] | None = [] if places else None
        self.prefixes = prefixes  # every row's first segment is one
        self.tally: Counter[str] = Counter()

    def add_row(self, ids: list[int], second: int, example: int) -> None:
        self.ids.append(np.asarray(ids, np.int32))
        self.lengths.append(len(ids))
        self.second.append(second)
        self.example.append(example)

    def end_item(self) -> None:
        self.items.append(len(self.lengths))

    def rows(self) -> Rows:
        def flat(parts: list[np.ndarray] | None, width: tuple[int, ...] = ()) -> np.ndarray | None:
            if parts is None:
                return None
            return np.concatenate(parts).astype(np.int32) if parts else np.zeros((0, *width), np.int32)

        ids = flat(self.ids)
        assert ids is not None
        return Rows(
            input_ids=ids,
            starts=np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int64),
            second=np.asarray(self.second, np.int32),
            example=np.asarray(self.example, np.int32),
            items=np.asarray(self.items, np.int64),
            label=None if self.label is None else np.asarray(self.label, np.int32),
            span=None if self.span is None else np.asarray(self.span, np.int32).reshape(-1, 2),
            token_label=flat(self.token_label),
            prefix=np.asarray(self.second, np.int32) if self.prefixes else None,
            place=flat(self.place, (2,)),
            tally=self.tally,
        )
