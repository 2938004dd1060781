"""Which scored examples are in the training data, word for word.

An example is known by its texts (a pair, a question with its context, a prompt with its choices, a sentence), after
Unicode normalisation, with case and spaces left out of account. Retrieval and running text are not looked at.
"""

from __future__ import annotations

import hashlib
import logging
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stilts_ds.data.split import Split
from stilts_ds.errors import UserError
from stilts_ds.families.base import Family
from stilts_ds.run_dir import hash_json, load_value, write_json
from stilts_ds.values import JsonList, Value

log = logging.getLogger(__name__)
VERSION = 1  # raise when texts are compared otherwise: what was counted before is then counted again
Digests = NDArray[np.uint64]


class Overlap(Value):
    """Of `of` scored examples of `task` in `language`, `examples` have the texts of an example that `train` trains."""

    train: str
    task: str
    split: str
    language: str
    examples: int
    of: int


class Overlaps(Value):
    """What is kept in a phase's folder: the overlaps of its training tasks, those without any left out."""

    found: JsonList[Overlap]

    @classmethod
    def load(cls, path: Path) -> Overlaps:
        """Raises UserError naming the file where it is damaged."""
        return load_value(cls, path, "delete it, the next start counts again")


def digest_of(texts: Iterable[str]) -> int:
    """A number of 64 bits for an example's texts. Of a million numbers, one of another million is met by chance with
    probability 5e-8."""
    alike = [" ".join(unicodedata.normalize("NFKC", text).casefold().split()) for text in texts]
    # The unit separator keeps texts apart: ("a b", "c") is another example than ("a", "b c").
    joined = "\x1f".join(alike)
    digest = hashlib.blake2b(joined.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def digests_of(split: Split) -> Digests:
    """The digests of a split's examples, in its order."""
    texts = split.family.texts
    if texts is None:
        return np.zeros(0, np.uint64)
    return np.fromiter((digest_of(texts(record)) for record in split.stream()), np.uint64)


def overlaps(train: Split, scored: Sequence[Split], folder: Path) -> list[Overlap]:
    """How many examples of each scored split have the texts of a training example.

    Counted once: the numbers are kept in `folder` by the hash of what they depend on.
    """
    comparable = [split for split in scored if split.family.texts is not None]
    if train.family.texts is None or not comparable:
        return []
    key = hash_json([VERSION, train.identity, [split.identity for split in comparable]])
    path = folder / f"duplicates-{key[:24]}.json"
    try:
        return list(Overlaps.load(path).found)
    except UserError:  # not counted yet, or damaged
        pass
    trained = np.unique(digests_of(train))
    overlapping = []
    for split in comparable:
        digests = digests_of(split)
        common = int(np.isin(digests, trained).sum())
        # Splits without any are not written: a file of zeros for every task and language says nothing.
        if common:
            overlapping.append(Overlap(train=train.task.name, task=split.task.name, split=split.name,
                                 language=split.language, examples=common, of=len(digests)))  # fmt: skip
    write_json(path, Overlaps(found=tuple(overlapping)).model_dump())
    return overlapping


def warn_of_overlaps(overlapping: Sequence[Overlap], level: int) -> None:
    """One line at a level of the log for each pair of tasks."""
    for train, task in dict.fromkeys((overlap.train, overlap.task) for overlap in overlapping):
        # By pair of tasks, not by language: XNLI alone would warn fifteen times.
        of_pair = [overlap for overlap in overlapping if (overlap.train, overlap.task) == (train, task)]
        counts = ", ".join(f"{overlap.language} {overlap.examples} of {overlap.of}" for overlap in of_pair)
        log.log(
            level,
            "training on %s sees examples that %s %s scores (%s); data.duplicates=exclude leaves them out of training",
            train, task, of_pair[0].split, counts,
        )  # fmt: skip


class DuplicateExclusion:
    """The scored examples that must not be trained on. `key` stands for the files and tasks that they come from."""

    def __init__(self, scored: Callable[[], Iterable[Split]]) -> None:
        self._scored = scored

    @property
    def key(self) -> str:
        return hash_json([VERSION, [split.identity for split in self._scored()]])

    @cached_property
    def _digests(self) -> frozenset[int]:
        """Read when the first record is asked for: rows that are cached already need only the key."""
        return frozenset(int(number) for split in self._scored() for number in digests_of(split))

    def keep(self, family: Family, records: Iterator[Any], tally: Counter[str]) -> Iterator[Any]:
        """The records of a training split that are none of the scored examples; `tally` counts the others."""
        if family.texts is None:
            yield from records
            return
        for record in records:
            if digest_of(family.texts(record)) in self._digests:
                tally["that are scored"] += 1
            else:
                yield record
