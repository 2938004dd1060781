"""From a task's literal to raw examples, whichever file schema or hub data set they come from.

    for record in read_examples(get_task("xnli"), "dev", "sw", DataSource(xtreme=Path("xtreme"))):
        ...

Where a split comes from is settled once, in an `Origin`. Records are read lazily, in file order. No torch and no
tokenizer.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any, Protocol

from stilts_ds.config import TextHubPart
from stilts_ds.data.noisy import noise_key, noisy_records
from stilts_ds.errors import UserError, counted
from stilts_ds.families.base import Family, Record
from stilts_ds.families.registry import family_of
from stilts_ds.noise.noiser import Tally
from stilts_ds.run_dir import hash_files, hash_json
from stilts_ds.sources import hub
from stilts_ds.sources.draw import at_places, draw_places
from stilts_ds.sources.local import parts_of
from stilts_ds.sources.source import DataSource, Part
from stilts_ds.tasks.registry import check_language, owner
from stilts_ds.tasks.spec import Hub, Task, serves

log = logging.getLogger(__name__)
# A share of the rows. PAWS-X has 2.2 % between German and Korean (dev); rows out of step have half or more.
MOST_DIFFERING = 0.05


class Exclusion(Protocol):
    """Records that are left out of a split (stilts_ds.data.duplicates)."""

    @property
    def key(self) -> str:
        """Stands for which ones they are."""

    def keep(self, family: Family, records: Iterator[Any], tally: Counter[str]) -> Iterator[Any]:
        """The records that stay; `tally` counts the others."""


@dataclass(frozen=True)
class Origin:
    """Where one split of a task in one language comes from: files (each with its schema), hub data sets, or a corpus.

    `task` is the one whose files serve the split. `max_passages` limits running text. `noise` is the folder of
    word lists, `second` serves the second text of each example where that is in another language; `hash_of` gives the
    hash of files.
    """

    task: Task
    split: str
    language: str
    parts: tuple[tuple[str, Part], ...] = ()
    hub: tuple[Hub, ...] = ()
    corpus: TextHubPart | None = None
    max_passages: int | None = None
    noise: Path | None = None
    second: Origin | None = None
    hash_of: Callable[[Sequence[Path]], str] = field(default=hash_files, compare=False, repr=False)

    @property
    def files(self) -> list[Path]:
        """Every local file that the split depends on, labels included; none for what the hub serves."""
        # The read files in reading order, which the records' order depends on; what stands beside them by name.
        companions = {
            path for _, split_file in self.parts for path in (split_file.labels, split_file.pivot) if path is not None
        }
        read_paths = {split_file.path for _, split_file in self.parts}
        companions |= {path for _, split_file in self.parts for _, path in split_file.pool if path not in read_paths}
        return [split_file.path for _, split_file in self.parts] + sorted(companions)

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages of the text in the files or the corpus, sorted."""
        family = family_of(self.task)
        if self.corpus is not None and family.corpus_languages is not None:
            return tuple(sorted(family.corpus_languages(self.corpus)))
        of_hub = {language for data_set in self.hub for language in data_set.languages}
        return tuple(sorted({split_file.language for _, split_file in self.parts} | of_hub))

    @cached_property
    def hash(self) -> str:
        """Hash of what is read: contents of files (read once for it), or repository, configuration and revision; and
        of what noise makes of it."""
        # Before noise: noise and a second language are never asked of one task.
        if self.second is not None:
            return hash_json([self._clean_hash, self.second.hash])
        if self.task.noise is None:
            return self._clean_hash
        return hash_json([self._clean_hash, noise_key(self.task, self.language, self.noise)])

    @property
    def _clean_hash(self) -> str:
        # Running text: a language that joins changes what the others are mixed with, so all of them count.
        if family_of(self.task).multilingual:
            contents = self.corpus.model_dump() if self.corpus else self.hash_of(self.files)
            read_sets = [self._hub_names] if self.hub else []
            return hash_json([contents, list(self.languages), self.max_passages, *read_sets])
        known = family_of(self.task).reader_versions
        if self.hub:
            read = self._hub_names
            # Empty for readers that never changed: their hashes, and with them caches and phases, stay as they were.
            changed = [known[h.schema] for h in self.hub if h.schema in known]
            return hash_json([read, changed] if changed else read)
        versions: dict[str, Any] = {schema: known[schema] for schema, _ in self.parts if schema in known}
        if self.task.columns:  # another column of the same file is another text
            versions |= {"columns": dict(self.task.columns), "unlabelled": self.split in self.task.unlabelled}
        contents = self.hash_of(self.files)
        return hash_json([contents, versions]) if versions else contents

    @property
    def _hub_names(self) -> list[list[str]]:
        """What stands for the rows of the hub that are read."""
        names = [[h.repo, h.config, h.split, h.revision, self.language] for h in self.hub]
        return names + [[h.pool.repo, h.pool.config, h.pool.split, h.pool.revision] for h in self.hub if h.pool]

    def read(self, tally: Counter[str] | None = None, exclusion: Exclusion | None = None) -> Iterator[Record]:
        """The records without those that `exclusion` names. Rows that are left out are counted by reason in `tally` and
        logged.

        Raises UserError for faulty files (when the row is reached), for unlabelled rows in a train split, and if no row
        is left at the end.
        """
        counts = Counter() if tally is None else tally
        streams = self._streams(counts, exclusion)
        # Languages take turns, so that a limit on examples does not take the first language alone.
        records = in_turn(streams) if family_of(self.task).multilingual else chain.from_iterable(streams)
        if self.second is not None:
            records = self._crossed(records, self.second, counts)
        # Noise needs all records at once: letters are drawn by their frequency in the split.
        if self.task.noise is not None:
            records = iter(self.with_noise(records)[0])
        return self._checked(records, counts)

    def _crossed(self, records: Iterable[Record], second: Origin, tally: Counter[str]) -> Iterator[Record]:
        """Each record with the second text of the record in its row of another language, without the few whose labels
        differ: PAWS-X was labelled anew in each language."""
        cross = family_of(self.task).cross
        assert cross is not None
        where = f"{self.task.name} {self.split} {self.language}"
        # Not `zip`: it would drop the rest of the longer side without a word.
        rows = list(zip_longest(records, second.read()))
        if any(None in row for row in rows):
            raise UserError(f"{where}: {self.language} and {second.language} have different numbers of rows")
        crossed = [cross(first, second_record) for first, second_record in rows]
        differing = crossed.count(None)
        if differing > MOST_DIFFERING * len(rows):
            problem = f"{differing} of {counted(len(rows), 'row')} have another label in {second.language}"
            raise UserError(f"{where}: {problem}; the rows are not parallel, use the files of one release")
        if differing:
            tally[f"another label in {second.language}"] += differing
        return (record for record in crossed if record is not None)

    def with_noise(self, records: Iterable[Record]) -> tuple[list[Record], Tally]:
        """All records of the split with the task's noise, and what it did to them."""
        return noisy_records(self.task, self.split, self.language, list(records), self.noise)

    def clean(self) -> Origin:
        """The same split without noise."""
        return dataclasses.replace(self, task=dataclasses.replace(self.task, noise=None))

    def draw(
        self, skip: int, limit: int | None, tally: Counter[str] | None = None, exclusion: Exclusion | None = None
    ) -> Iterator[Record]:
        """`limit` of the records (None: all) after `skip` others, drawn from each file in proportion to its size.

        `tally` counts what is left out of the whole files. Raises UserError as `read` does.
        """
        counts: Counter[str] = Counter() if tally is None else tally
        assert self.task.noise is None, "examples that are drawn train or select, on clean text"
        # The files are read twice, so that no more than one record of them is in memory at a time.
        sizes = [sum(1 for _ in stream) for stream in self._streams(Counter(), exclusion)]
        places = draw_places(sizes, skip, limit)
        return self._checked(at_places(self._streams(counts, exclusion), places), counts)

    def _streams(self, tally: Counter[str], exclusion: Exclusion | None) -> list[Iterator[Any]]:
        streams = self._files(tally)
        if exclusion is None:
            return streams
        return [exclusion.keep(family_of(self.task), stream, tally) for stream in streams]

    def _files(self, tally: Counter[str]) -> list[Iterator[Any]]:
        family = family_of(self.task)
        if self.corpus is not None and family.corpus is not None:
            return family.corpus(self.corpus, self.max_passages, self.split, tally)
        if self.hub:
            return [self._hub_stream(data_set, tally) for data_set in self.hub]
        return [
            family.readers[schema](dataclasses.replace(split_file, tally=tally)) for schema, split_file in self.parts
        ]

    def _hub_stream(self, data_set: Hub, tally: Counter[str]) -> Iterator[Any]:
        # Of running text all languages are read, whichever is asked for.
        language = data_set.languages[0] if len(data_set.languages) == 1 else self.language
        rows, name = hub.rows_of(data_set, language)
        pool = hub.pool_of(data_set)
        context = hub.RowContext(self.task, language, tally, rows.features, pool, self.split)
        convert = family_of(self.task).converters[data_set.schema]
        yield from convert(islice(rows, self.max_passages), name, context)

    @property
    def _has_labels_file(self) -> bool:
        """Whether a file of labels stands beside the examples: it may say that some are not known (`?`)."""
        return any(split_file.labels is not None for _, split_file in self.parts)

    def _checked(self, records: Iterable[Record], tally: Counter[str]) -> Iterator[Record]:
        family, where = family_of(self.task), f"{self.task.name} {self.split} {self.language}"
        count = 0
        labelled = None
        for record in records:
            count += 1
            has_label = family.is_labelled(record)
            if self.split == "train" and not has_label:
                raise UserError(f"{where}: example {record.id!r} has no label; train on a labelled file")
            # The first example says which kind of split this is.
            labelled = has_label if labelled is None else labelled
            if has_label != labelled and not self._has_labels_file:
                # One unlabelled example would leave the whole split unscored.
                problem = (
                    "has a label, and those before have none" if has_label else "has no label, unlike those before"
                )
                raise UserError(f"{where}: example {record.id!r} {problem}; label all of the split, or none")
            yield record
        dropped = ", ".join(f"{reason}: {number}" for reason, number in sorted(tally.items()))
        if not count:
            why = dropped or "the files hold none"
            raise UserError(f"{where}: there are no examples ({why}); {family.no_examples}")
        log.info("%s: %s%s", where, counted(count, "example"), f"; left out: {dropped}" if dropped else "")


def find_origin(task: Task, split: str, language: str, source: DataSource) -> Origin:
    """Where a split comes from. A split that the task itself has not comes from the task it trains on.

    Raises UserError for missing files, and for a language that the task has not.
    """
    serving = owner(task, split)
    # Where no file holds both languages (XNLI, PAWS-X), two files are read row by row.
    if serving.parallel_rows and serving.second:
        return _crossed_origin(serving, split, language, source)
    # `data.text_hub` stands in for `data.text`: a task that reads other files keeps them.
    if family_of(task).corpus is not None and source.text_hub is not None and serving.data_folder == "text":
        return Origin(serving, split, language, corpus=source.text_hub, max_passages=source.max_text_passages)
    check_language(serving, language)
    passages = source.max_text_passages
    if source.from_hub(serving, split, language):
        hub.check_offer(serving, split, language)
        multilingual = family_of(serving).multilingual
        entries = [entry for entry in serving.hub[split] if multilingual or serves(entry, language)]
        pinned = tuple(hub.pin(data_set, source.hub_commits) for data_set in entries)
        limit = passages if multilingual else None
        return Origin(serving, split, language, hub=pinned, max_passages=limit, noise=source.noise)
    parts = parts_of(serving, split, language, source)
    return Origin(serving, split, language, tuple(parts), max_passages=passages, noise=source.noise)


def _crossed_origin(task: Task, split: str, language: str, source: DataSource) -> Origin:
    """Of two languages of one test set: the first text of one, the second of the other."""
    check_language(task, language)
    plain = dataclasses.replace(task, second="")
    first = find_origin(plain, split, language, source)
    if language == task.second:  # the ordinary test set
        return first
    return dataclasses.replace(first, task=task, second=find_origin(plain, split, task.second, source))


def read_examples(
    task: Task, split: str, language: str, source: DataSource, tally: Counter[str] | None = None
) -> Iterator[Record]:
    """The records of one split in one language; see Origin.read. Missing files are a UserError at once."""
    return find_origin(task, split, language, source).read(tally)


def in_turn(streams: Iterable[Iterator[Any]]) -> Iterator[Any]:
    """One item of each stream in turn, until all are empty."""
    running = list(streams)
    while running:
        still = []
        for stream in running:
            # A loop that is left at once, since StopIteration inside a generator is an error.
            for item in stream:
                yield item
                still.append(stream)
                break
        running = still
