"""A recipe's data as rows: where they come from, which labels they have, tokenised once."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice, product
from pathlib import Path
from typing import Any

from stilts_ds.batches.cache import cached_rows, find_rows
from stilts_ds.batches.encode import Encoder, encode
from stilts_ds.batches.rows import Rows
from stilts_ds.config import LENGTHS, Recipe, TrainingPart
from stilts_ds.errors import UserError
from stilts_ds.examples.locate import owner
from stilts_ds.examples.read import available_languages, files_of, read_bitext, read_examples, text_languages
from stilts_ds.examples.records import Record, Tagged
from stilts_ds.examples.source import DataSource
from stilts_ds.plan_file import Phase
from stilts_ds.run_dir import hash_files, hash_json, read_json, write_json
from stilts_ds.tasks.registry import get_task
from stilts_ds.tasks.spec import Task
from stilts_ds.toy import LANGUAGES, PIVOT

log = logging.getLogger(__name__)


class Data:
    """Reads, tokenises and caches the examples that a recipe names."""

    def __init__(self, recipe: Recipe, run_folder: Path) -> None:
        self.recipe = recipe
        self.source = data_source(recipe, run_folder)
        self.cache = recipe.data.cache or run_folder / "cache"
        self.verify = False  # whether cached rows are read and compared with their hashes
        self._labels: dict[str, tuple[str, ...]] = {}
        self._hashes: dict[tuple[str, str, str], str] = {}
        self._told: set[str] = set()

    def task(self, name: str) -> Task:
        """The task's literal; in the toy world, with that world's languages."""
        return fitted_task(name, self.recipe)

    def hash_of(self, name: str) -> str:
        """Hash of the files that training `name` reads (hub data: repository, configuration and revision)."""
        task, split = self.task(name), self.train_split(name)
        return hash_json([self.files_hash(task, split, task.train_language), self.files_hash(task, "dev", task.pivot)])

    def files_hash(self, task: Task, split: str, language: str) -> str:
        """Hash of what a split is read from; files are read once in the life of this object."""
        key = (task.name, split, language)
        if key not in self._hashes:
            self._hashes[key] = self._hash(task, split, language)
        return self._hashes[key]

    def _hash(self, task: Task, split: str, language: str) -> str:
        if task.family == "text":
            corpus = self.source.text_hub
            names = list(text_languages(task, self.source))
            files = corpus.model_dump() if corpus else hash_files(files_of(task, split, language, self.source))
            return hash_json([files, names, self.source.max_text_passages])
        serving = owner(task, split)
        if self.source.from_hub(serving, split):
            return hash_json([[h.repo, h.config, h.split, h.revision, language] for h in serving.hub[split]])
        return hash_files(files_of(task, split, language, self.source))

    def train_split(self, name: str) -> str:
        return self.recipe.data.train_split.get(name, "train")

    def labels(self, name: str) -> tuple[str, ...]:
        """The label list of a task's rows, in index order; an open tag set is read off the English train split, and
        the labels of running text are its languages."""
        if name not in self._labels:
            task = self.task(get_task(name).origin)  # a translation shares the English task's head
            found = text_languages(task, self.source) if task.family == "text" else task.labels
            if task.family == "tag" and not found:
                train = self.records(task, "train", task.pivot)
                tags = {tag for record in train if isinstance(record, Tagged) for tag in record.tags or ()}
                found = tuple(sorted(tags))
            self._labels[name] = found
        return self._labels[name]

    def train_rows(self, name: str, setting: TrainingPart) -> Rows:
        """Rows of the English train split; of a dev split that serves as train, the first `eval_examples` select."""
        task = self.task(name)
        split, skip, limit = self._train_part(name, setting)
        return self._rows(task, split, task.train_language, setting, skip, limit)

    def _train_part(self, name: str, setting: TrainingPart) -> tuple[str, int, int | None]:
        """Split, examples that are skipped, and most examples that are used."""
        split = self.train_split(name)
        return split, setting.eval_examples if split == "dev" else 0, self.recipe.data.max_train_examples

    def dev_rows(self, name: str, setting: TrainingPart) -> Rows:
        task = self.task(name)
        return self._rows(task, "dev", task.pivot, setting, 0, setting.eval_examples)

    def find_rows(self, name: str, setting: TrainingPart) -> tuple[Rows, Rows] | None:
        """Train and dev rows where both are in the cache already; reads no example and loads no tokenizer."""
        noted = self._noted_tokenizer()
        if noted is None:
            return None
        task = self.task(name)
        encoding = self._encoding_key(setting, noted["fingerprint"])
        split, skip, limit = self._train_part(name, setting)
        train = find_rows(self.cache, self._key(task, split, task.train_language, skip, limit) | encoding)
        dev = find_rows(self.cache, self._key(task, "dev", task.pivot, 0, setting.eval_examples) | encoding)
        return None if train is None or dev is None else (train, dev)

    @property
    def special_tokens(self) -> list[int]:
        """Ids of the special tokens, noted when rows were cached; [] before."""
        noted = self._noted_tokenizer()
        return noted["special"] if noted else []

    def dev_records(self, name: str, setting: TrainingPart) -> list[Record]:
        task = self.task(name)
        return list(islice(self.records(task, "dev", task.pivot), setting.eval_examples))

    def eval_rows(self, task: Task, split: str, language: str, setting: TrainingPart) -> Rows:
        return self._rows(task, split, language, setting, 0, self.recipe.evaluation.max_examples)

    def eval_records(self, task: Task, split: str, language: str) -> list[Record]:
        return list(islice(self.records(task, split, language), self.recipe.evaluation.max_examples))

    def bitext(self, task: Task, split: str, language: str) -> tuple[list[Any], list[Any], Any]:
        """Source side, pivot side and gold pairs (None without); `max_bitext` keeps gold sentences first."""
        source, pivot, gold = read_bitext(task, split, language, self.source)
        limit = self.recipe.evaluation.max_bitext
        if limit is None or max(len(source), len(pivot)) <= limit:
            return source, pivot, gold
        if gold is None:
            raise UserError(f"evaluation.max_bitext needs gold pairs; {task.name} {split}-{language} has none")
        return _shorten(source, pivot, gold, limit)

    def bitext_rows(self, records: list[Any], task: Task) -> Rows:
        setting = TrainingPart(max_seq_length=self.recipe.evaluation.retrieval_max_seq_length)
        key = {"bitext": hash_json([[r.id, r.text] for r in records]), **self._encoding_key(setting)}
        return cached_rows(
            self.cache, key, lambda folder: encode(task, records, self.encoder, (), setting, folder), self.verify
        )

    def languages(self, task: Task, split: str) -> tuple[list[str], list[str]]:
        """Languages to score, and those of the task that are left out (with `evaluation.languages: present`)."""
        wanted = self.recipe.evaluation.languages
        if wanted == "present" and not self.source.from_hub(task, split):
            present = available_languages(task, split, self.source)
            if not present:
                raise UserError(f"no {split} file of {task.name} in {self.source.folder_of(task)}; see `stilts tasks`")
            return present, [code for code in task.languages if code not in present]
        chosen = wanted.get(task.name, list(task.languages)) if isinstance(wanted, dict) else list(task.languages)
        unknown = [code for code in chosen if code not in task.languages]
        if unknown:
            raise UserError(f"evaluation.languages.{task.name}: {unknown[0]!r} is no language of it: {task.languages}")
        return chosen, [code for code in task.languages if code not in chosen]

    def split(self, task: Task) -> str:
        """The split that `task` is scored on."""
        return self.recipe.evaluation.splits.get(task.name, "test")

    def splits(self, task: Task) -> tuple[str, ...]:
        """Splits that are predicted: mining a test split needs the threshold of its dev split."""
        split = self.split(task)
        return ("dev", "test") if split == "test" and task.family == "bitext" and "f1" in task.metrics else (split,)

    @property
    def encoder(self) -> Encoder:
        if not hasattr(self, "_encoder"):
            from stilts_ds.model_files import model_path

            self._encoder = Encoder.load(model_path(self.recipe.model.name_or_path), self.recipe.model.revision)
            self._note_tokenizer(self._encoder)
        return self._encoder

    @property
    def _tokenizer_note(self) -> Path:
        from stilts_ds.model_files import tokenizer_hash

        model = self.recipe.model
        return self.cache / f"tokenizer-{tokenizer_hash(model.name_or_path, model.revision)[:24]}.json"

    def _note_tokenizer(self, encoder: Encoder) -> None:
        """Leave what the rows' keys say of the tokenizer, so that `stilts plan` finds rows without loading it."""
        note = self._tokenizer_note
        if not note.exists():
            with contextlib.suppress(OSError):  # a cache that is only read
                write_json(note, {"fingerprint": encoder.fingerprint, "special": sorted(encoder.special)})

    def _noted_tokenizer(self) -> dict[str, Any] | None:
        return read_json(self._tokenizer_note) if self._tokenizer_note.exists() else None

    def records(self, task: Task, split: str, language: str) -> Iterator[Record]:
        return read_examples(task, split, language, self.source)

    def _rows(self, task: Task, split: str, language: str, setting: TrainingPart, skip: int, limit: int | None) -> Rows:
        labels = self.labels(task.name)
        key = self._key(task, split, language, skip, limit) | self._encoding_key(setting)

        def build(folder: Path) -> Rows:
            tally: Counter[str] = Counter()
            records = read_examples(task, split, language, self.source, tally)
            stop = None if limit is None else skip + limit
            rows = encode(task, islice(records, skip, stop), self.encoder, labels, setting, folder)
            rows.tally.update(tally)
            if not len(rows):
                raise UserError(f"{task.name} {split} {language} has no examples")
            return rows

        rows = cached_rows(self.cache, key, build, self.verify)
        self._tell(f"{task.name} {split} {language}", rows)
        return rows

    def _key(self, task: Task, split: str, language: str, skip: int, limit: int | None) -> dict[str, Any]:
        """What rows depend on besides the encoding."""
        return {
            "task": task.name,
            "family": task.family,
            "split": split,
            "language": language,
            "skip": skip,
            "limit": limit,
            "labels": self.labels(task.name),
            "files": self.files_hash(task, split, language),
        }

    def _tell(self, what: str, rows: Rows) -> None:
        """Say once how many examples there are and what was dropped or cut."""
        if what not in self._told:
            self._told.add(what)
            notes = "".join(f", {count} {reason}" for reason, count in sorted(rows.tally.items()) if count)
            log.info("%s: %d items%s", what, len(rows), notes)

    def _encoding_key(self, setting: TrainingPart, fingerprint: str | None = None) -> dict[str, Any]:
        tokenizer = fingerprint or self.encoder.fingerprint
        return {"tokenizer": tokenizer, **{name: getattr(setting, name) for name in LENGTHS}}


def fitted_task(name: str, recipe: Recipe) -> Task:
    """The task's literal, speaking the toy world's languages when the recipe's data come from there."""
    import dataclasses

    task = get_task(name)
    if recipe.data.source != "toy":
        return task
    languages = tuple(LANGUAGES) if len(task.languages) > 1 else (PIVOT,)
    if task.family == "bitext":
        languages = tuple(code for code in LANGUAGES if code != PIVOT)
    # MLQA's answer rules are lists of real languages' articles.
    metrics = tuple(metric.removeprefix("mlqa_") for metric in task.metrics)
    return dataclasses.replace(task, languages=languages, pivot=PIVOT, metrics=metrics)


def data_source(recipe: Recipe, run_folder: Path) -> DataSource:
    part = recipe.data
    if part.source == "toy":
        folder = run_folder / "data"
        return DataSource(
            "local", folder / "intermediate", folder / "xtreme", folder / "text", folder / "translated",
            max_text_passages=part.max_text_passages,
        )
    return DataSource(
        part.source, part.intermediate, part.xtreme, part.text, part.translated, part.text_hub, part.max_text_passages
    )


def _shorten(source: list[Any], pivot: list[Any], gold: Any, limit: int) -> tuple[list[Any], list[Any], Any]:
    """The first `limit` sentences of each side, those of gold pairs first, in the files' order."""
    kept = sorted(gold)[: limit // 2]
    left, right = {a for a, _ in kept}, {b for _, b in kept}
    dropped_left, dropped_right = {a for a, _ in gold} - left, {b for _, b in gold} - right

    def take(side: list[Any], needed: set[str], unwanted: set[str]) -> list[Any]:
        spare = limit - len(needed)
        chosen = []
        for record in side:
            if record.id in needed:
                chosen.append(record)
            elif record.id not in unwanted and spare > 0:
                chosen.append(record)
                spare -= 1
        return chosen

    return take(source, left, dropped_left), take(pivot, right, dropped_right), kept


def prepare(data: Data, phases: Iterable[Phase]) -> None:
    """Read and tokenise everything the phases need: a bad row is found before the first step is paid for, and a cache
    that changed since it was written is made again."""
    data.verify = True
    for phase in phases:
        setting = phase.setting()
        for name in phase.train:
            data.train_rows(name, phase.setting(name))
            data.dev_rows(name, phase.setting(name))
        for name in phase.evaluate:
            task = data.task(name)
            for split, language in product(data.splits(task), data.languages(task, data.split(task))[0]):
                if task.family == "bitext":
                    for side in data.bitext(task, split, language)[:2]:
                        data.bitext_rows(side, task)
                else:
                    data.eval_rows(task, split, language, setting)
    data.verify = False
