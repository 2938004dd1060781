"""The one door to raw examples, whichever file schema or hub data set they come from.

    for record in read_examples(get_task("xnli"), "dev", "sw", DataSource(xtreme=Path("xtreme"))):
        ...

Records are read lazily, in file order. No torch, no tokenizer.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from stilts_ds.errors import UserError
from stilts_ds.examples import bitext, choice, hub, pair, span, tag, text
from stilts_ds.examples.bitext import Pairs
from stilts_ds.examples.locate import check_language, owner, parts_of
from stilts_ds.examples.records import Bitext, Choice, Pair, Record, Span, Tagged
from stilts_ds.examples.source import DataSource, Part
from stilts_ds.tasks.spec import Task

log = logging.getLogger(__name__)
READERS: Mapping[str, Callable[[Part], Iterator[Any]]] = {
    **pair.READERS,
    **choice.READERS,
    **span.READERS,
    **tag.READERS,
    **text.READERS,
}


def read_examples(
    task: Task, split: str, language: str, source: DataSource, tally: Counter[str] | None = None
) -> Iterator[Record]:
    """The records of one split in one language.

    A split that the task itself has not is read from the task it trains on. Rows that are left out are counted by
    reason in `tally` and logged. Raises UserError for missing or faulty files (at once for missing ones, otherwise
    when the row is reached), for unlabelled rows in a train split, and if no row is left at the end.
    """
    if task.family == "bitext":
        raise ValueError(f"{task.name} has two sides; call read_bitext")
    task, counts = owner(task, split), Counter() if tally is None else tally
    where = f"{task.name} {split} {language}"
    if task.family == "text" and source.text_hub is not None:
        streams: list[Iterator[Any]] = [*text.hub_streams(source.text_hub, source.max_text_passages, split, counts)]
    elif source.from_hub(task, split):
        check_language(task, language)
        streams = [*hub.streams(task, split, language, counts)]
    else:
        streams = [READERS[schema](part) for schema, part in parts_of(task, split, language, source, counts)]
    records = in_turn(streams) if task.family == "text" else chain.from_iterable(streams)
    return _checked(records, where, split == "train", counts)


def _checked(records: Iterable[Record], where: str, labelled: bool, tally: Counter[str]) -> Iterator[Record]:
    count = 0
    for record in records:
        count += 1
        if labelled and not is_labelled(record):
            raise UserError(f"{where}: example {record.id!r} has no label; train on a labelled file")
        yield record
    dropped = ", ".join(f"{number} {reason}" for reason, number in sorted(tally.items()))
    if not count:
        raise UserError(f"{where}: there are no examples ({dropped or 'the files hold none'}); download them again")
    log.info("%s: %d examples%s", where, count, f"; left out: {dropped}" if dropped else "")


def is_labelled(record: Record) -> bool:
    """Whether the record carries gold labels (text and sentences of a bitext need none)."""
    if isinstance(record, (Pair, Choice)):
        return record.label is not None
    if isinstance(record, Tagged):
        return record.tags is not None
    return bool(record.answers or record.impossible) if isinstance(record, Span) else True


def in_turn(streams: Iterable[Iterator[Any]]) -> Iterator[Any]:
    """One item of each stream in turn, until all are empty."""
    running = list(streams)
    while running:
        still = []
        for stream in running:
            for item in stream:
                yield item
                still.append(stream)
                break
        running = still


def read_bitext(
    task: Task, split: str, language: str, source: DataSource
) -> tuple[list[Bitext], list[Bitext], Pairs | None]:
    """The `language` side, the pivot (English) side, and the gold (source id, pivot id) pairs, None where unknown.

    Raises UserError for missing or faulty files and for an empty side, ValueError for a task of another family.
    """
    if task.family != "bitext":
        raise ValueError(f"{task.name} is no bitext; call read_examples")
    check_language(task, language)
    if source.from_hub(task, split):
        return hub.read_bitext(task, split, language)
    [(schema, part)] = parts_of(task, split, language, source)
    return bitext.READERS[schema](part)


def files_of(task: Task, split: str, language: str, source: DataSource) -> list[Path]:
    """Every local file that the split depends on, labels included; none for what the hub serves."""
    if source.from_hub(owner(task, split), split) or (task.family == "text" and source.text_hub is not None):
        return []
    parts = [part for _, part in parts_of(task, split, language, source)]
    beside = {path for part in parts for path in (part.labels, part.pivot) if path is not None}
    return [part.path for part in parts] + sorted(beside)


def text_languages(task: Task, source: DataSource) -> tuple[str, ...]:
    """Languages of the text for masked language modelling, sorted. Raises UserError where there is none."""
    if source.text_hub is not None:
        return tuple(sorted(text.hub_languages(source.text_hub)))
    return tuple(sorted({part.language for _, part in parts_of(task, "train", task.pivot, source)}))


def available_languages(task: Task, split: str, source: DataSource) -> list[str]:
    """The task's languages that the source has this split in, in the task's order.

    Raises UserError if the data folder is not set or does not exist.
    """
    serving = owner(task, split)
    if source.from_hub(serving, split):
        return [code for code in task.languages if hub.offers(serving, split, code)]
    source.folder_of(serving)
    return [code for code in task.languages if _is_there(task, split, code, source)]


def _is_there(task: Task, split: str, language: str, source: DataSource) -> bool:
    try:
        return bool(parts_of(task, split, language, source))
    except UserError:
        return False
