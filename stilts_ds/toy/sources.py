"""Fresh examples for the file writers: no labelled example occurs twice anywhere in a world."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from stilts_ds.toy.dice import Dice

T = TypeVar("T")


class Source:
    """Draws examples from a seed; `seen` keeps the splits, and tasks that share a form, disjoint."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._seen: set[object] = set()

    def dice(self, name: str) -> Dice:
        return Dice(self.seed, name)

    def draw(self, name: str, count: int, make: Callable[[Dice, int], T]) -> list[T]:
        """Return `count` new examples; `make` gets the example's index, by which it balances labels. Shuffled."""
        dice = self.dice(name)
        examples: list[T] = []
        while len(examples) < count:
            # The index moves on only with a new example, so that labels stay balanced where one is drawn again.
            example = make(dice, len(examples))
            if example not in self._seen:
                self._seen.add(example)
                examples.append(example)
        return dice.shuffled(examples)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write UTF-8 text with line feeds on every system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_lines(path, (json.dumps(row, ensure_ascii=False) for row in rows))


def write_json(path: Path, data: dict[str, Any]) -> None:
    write_lines(path, [json.dumps(data, ensure_ascii=False)])


def write_tsv(path: Path, rows: Iterable[Iterable[str]]) -> None:
    write_lines(path, ("\t".join(row) for row in rows))
