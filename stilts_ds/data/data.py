"""A recipe's data: which splits its phases read, in which languages, and how many examples of them."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from stilts_ds.augmentation import augmentation_of
from stilts_ds.config import Recipe, TrainingPart
from stilts_ds.data.duplicates import DuplicateExclusion, Overlap, Overlaps, overlaps
from stilts_ds.data.noisy import empty_cells
from stilts_ds.data.reader import Origin, find_origin
from stilts_ds.data.split import Split
from stilts_ds.data.store import Store
from stilts_ds.errors import UserError
from stilts_ds.families.registry import family_of
from stilts_ds.model_files import limits_of
from stilts_ds.named_tasks import scored_split
from stilts_ds.plan_file import Phase
from stilts_ds.rows.rows import Rows
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.run_dir import await_visible, hash_json
from stilts_ds.sources.source import DataSource
from stilts_ds.task_files import identity_hash
from stilts_ds.tasks.benchmarks import get_benchmark
from stilts_ds.tasks.registry import added_tasks, get_task
from stilts_ds.tasks.spec import FROM, Local, Task
from stilts_ds.toy import LANGUAGES, PIVOT

log = logging.getLogger(__name__)


LanguageLists = tuple[list[str], list[str]]  # scored, left out


class DataIndex(NamedTuple):
    """What rank 0 has found: label lists by task, languages by task and split, the folders of cached rows
    by what was asked for (Split.request), and the tokenizer that made them (Tokenizer.to_plain)."""

    labels: dict[str, tuple[str, ...]]
    languages: dict[tuple[str, str], LanguageLists]
    rows: dict[str, str]
    tokenizer: dict[str, Any]


class Data:
    """The splits that a recipe names. Each is resolved once; see Split for what it gives."""

    def __init__(self, recipe: Recipe, run_folder: Path) -> None:
        self.recipe = recipe
        self.source = data_source(recipe, run_folder)
        self.store = Store(recipe.model, cache_folder(recipe, run_folder))
        self._tasks: dict[str, Task] = {}
        self._labels: dict[str, tuple[str, ...]] = {}
        self._languages: dict[tuple[str, str], LanguageLists] = {}
        self._origins: dict[tuple[str, str, str], Origin] = {}
        self._computed: dict[str, Any] = {}
        # One for all train splits, because it reads every scored split that the recipe names.
        self._exclusion = DuplicateExclusion(self._scored_whole) if recipe.data.duplicates == "exclude" else None

    @property
    def tokenizer(self) -> Tokenizer:
        return self.store.tokenizer

    def task(self, name: str) -> Task:
        """The task's literal; in the toy world, with that world's languages."""
        if name not in self._tasks:
            self._tasks[name] = fitted_task(name, self.recipe)
        return self._tasks[name]

    # --- splits ------------------------------------------------------------------------------------------------------

    def split(
        self, task: Task, name: str, language: str, skip: int = 0, limit: int | None = None, drawn: bool = False
    ) -> Split:
        """Any split. Raises UserError where its files are missing."""
        origin = self.origin(task, name, language)
        return Split(task, name, language, self.labels(task.name), origin, self.store, skip, limit, drawn)

    def train(self, name: str, setting: TrainingPart) -> Split:
        """The train split, without the examples that select where both are drawn from the same split."""
        task, split = self.task(name), self.train_split(name)
        # Of one split, the first examples drawn select and the following ones train, so that the two never meet.
        skip = setting.eval_examples if split == self.dev_split(name) else 0
        limit = self.recipe.data.max_train_examples
        chosen = self.split(task, split, task.train_language, skip, limit, self._draws(task))
        copies = augmentation_of(setting.robust, self.recipe.data.noise)
        return dataclasses.replace(chosen, exclusion=self._exclusion, augmentation=copies)

    def dev(self, name: str, setting: TrainingPart) -> Split:
        """The English dev examples that select a model."""
        task, limit = self.task(name), setting.eval_examples
        chosen = self.split(task, self.dev_split(name), task.pivot, limit=limit, drawn=self._draws(task))
        # Where the train split is divided, both parts are drawn from the same records.
        divided = self.dev_split(name) == self.train_split(name)
        return dataclasses.replace(chosen, exclusion=self._exclusion) if divided else chosen

    def selection(self, phase: Phase) -> dict[str, tuple[TrainingPart, Split]]:
        """By task, the settings and the dev split that select a phase's model, in the order of their names. Tasks and
        their translations share the English one, and the settings of the first of them."""
        trained_as = {self.task(name).origin: name for name in reversed(phase.train)}
        settings = {name: phase.setting(trained_as[name]) for name in sorted(trained_as)}
        return {name: (setting, self.dev(name, setting)) for name, setting in settings.items()}

    def _draws(self, task: Task) -> bool:
        """Text is taken from the start of each language's file: drawing would have to read all of a corpus first."""
        return not family_of(task).multilingual

    def evaluation(self, task: Task, name: str, language: str) -> Split:
        """A split that is predicted, as far as the recipe's limits let it be."""
        return self.split(task, name, language, limit=family_of(task).limit(self.recipe.evaluation))

    def evaluations(self, task: Task) -> Iterable[Split]:
        """Every split and language that scoring `task` needs predictions of."""
        scored = self.scored_split(task)
        for name in family_of(task).predicted_splits(task, scored):
            for language in self.languages(task, scored)[0]:
                yield self.evaluation(task, name, language)

    def _scored_whole(self) -> Iterator[Split]:
        """The scored splits of every target and language, whatever the recipe's limits take of them."""
        for task in self._clean_targets():
            split = self.scored_split(task)
            if family_of(task).texts is not None:
                yield from (self.split(task, split, language) for language in self.languages(task, split)[0])

    def _clean_targets(self) -> list[Task]:
        """The targets, each once and without noise: a text with errors in it is no train example's twin, and which
        language trains does not change what is scored."""
        clean = dict.fromkeys(get_task(name).base_name for name in self.recipe.targets)
        return [self.task(name) for name in clean]

    def overlaps(self, phase: Phase) -> Overlaps:
        """Which scored examples are in the training data of a phase. Counted once for the same data."""
        overlapping: list[Overlap] = []
        scored = self._scored_here() if phase.train else []
        for name in phase.train:
            # Without noisy copies: an error in a text does not make it another example.
            clean = dataclasses.replace(self.train(name, phase.setting(name)), augmentation=None)
            overlapping += overlaps(clean, scored, self.store.folder)
        return Overlaps(found=tuple(overlapping))

    def _scored_here(self) -> list[Split]:
        """What the recipe scores, as far as its data are on this machine: an intermediate phase can train without."""
        splits: list[Split] = []
        for task in self._clean_targets():
            if family_of(task).texts is None:
                continue
            try:
                splits += list(self.evaluations(task))
            except UserError as problem:
                log.info("training data are not compared with %s: %s", task.name, problem)
        return splits

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """What `compute` gives, computed when it is asked for by this name for the first time."""
        if name not in self._computed:
            self._computed[name] = compute()
        return self._computed[name]

    def origin(self, task: Task, split: str, language: str) -> Origin:
        key = (task.name, split, language)
        if self.store.follows:
            return Origin(task, split, language)  # the sources may be on the disk of rank 0's node alone
        if key not in self._origins:
            origin = find_origin(task, split, language, self.source)
            second = origin.second
            if second is not None:
                second = dataclasses.replace(second, hash_of=self.store.hash_files)
            self._origins[key] = dataclasses.replace(origin, hash_of=self.store.hash_files, second=second)
        return self._origins[key]

    # --- one reader --------------------------------------------------------------------------------------------------

    def index(self) -> DataIndex:
        """What this rank has found in the sources, for ranks that read none."""
        tokenizer = self.tokenizer.to_plain()
        return DataIndex(dict(self._labels), dict(self._languages), dict(self.store.names), tokenizer)

    def follow(self, index: DataIndex) -> None:
        """Take labels and languages from rank 0, and rows from the cache alone, which it has filled."""
        self._labels.update(index.labels)
        self._languages.update(index.languages)
        self.store.tokenizer = Tokenizer.from_plain(index.tokenizer)
        self.store.names, self.store.follows = index.rows, True

    def sees(self, index: DataIndex) -> bool:
        """Whether the cache that this rank sees has the rows of another rank's index."""
        return all(await_visible(self.store.folder / name) for name in sorted(set(index.rows.values())))

    def train_split(self, name: str) -> str:
        return self.recipe.data.train_split.get(self.task(name).base_name, "train")

    def dev_split(self, name: str) -> str:
        return self.recipe.data.dev_split.get(base_of(self.task(name)), "dev")

    def scored_split(self, task: Task) -> str:
        """The split that `task` is scored on."""
        return scored_split(self.recipe, task)

    def languages(self, task: Task, split: str) -> LanguageLists:
        """Languages to score, and those of the task that are left out: by `evaluation.languages`, or since the task's
        noise does not apply to them."""
        # Looked for again by each question on rank 0: files may come while a study is planned.
        if not self.store.follows:
            self._languages[task.name, split] = self._find_languages(task, split)
        return self._languages[task.name, split]

    def _find_languages(self, task: Task, split: str) -> LanguageLists:
        chosen, left_out = self._asked(task, split)
        if task.noise is None:
            return chosen, left_out
        empty = empty_cells(task, chosen, self.source)
        return [code for code in chosen if code not in empty], [*left_out, *empty]

    def _asked(self, task: Task, split: str) -> LanguageLists:
        """The languages that `evaluation.languages` asks for, and the others."""
        wanted = self.recipe.evaluation.languages
        if wanted == "present" and not self.source.from_hub(task, split):
            return self._present(task, split)
        # "all", and "present" on the hub, which has every language: no list, so the task's own languages.
        lists = wanted if isinstance(wanted, dict) else {}
        chosen = lists.get(task.name, lists.get(task.base_name, list(task.languages)))
        unknown = [code for code in chosen if code not in task.languages]
        if unknown:
            has = ", ".join(task.languages)
            raise UserError(f"evaluation.languages.{task.name}: {unknown[0]!r} is no language of it; it has {has}")
        return chosen, [code for code in task.languages if code not in chosen]

    def _present(self, task: Task, split: str) -> LanguageLists:
        """The task's languages with and without files of a split. Raises UserError where no language has any."""
        problems: dict[str, UserError] = {}
        for code in task.languages:
            try:
                self.origin(task, split, code)
            except UserError as problem:
                problems[code] = problem
        if len(problems) == len(task.languages):
            first = next(iter(problems.values()))
            raise UserError(f"no language of {task.name} has {split} files: {first}")
        return [code for code in task.languages if code not in problems], list(problems)

    # --- what phases are named by ------------------------------------------------------------------------------------

    def hash_of(self, name: str) -> str:
        """Hash of the files that training `name` reads (hub data: repository, configuration and revision)."""
        task = self.task(name)
        train = self.origin(task, self.train_split(name), task.train_language)
        dev = self.origin(task, self.dev_split(name), task.pivot)
        # Only where there is an exclusion: the hashes of all other recipes, and with them their phases, stay.
        without = [self._exclusion.key] if self._exclusion is not None else []
        # Shipped literals do not change under a study, and a user's file may.
        defined = [identity_hash(added) for added in added_tasks(name)]
        return hash_json([train.hash, dev.hash, *without, *defined])

    def labels(self, name: str) -> tuple[str, ...]:
        """The label list of a task's rows, in index order; an open tag set is read off the English train split, and
        the labels of running text are its languages."""
        if name not in self._labels:
            self._labels[name] = self._find_labels(self.task(self.task(name).origin))
        return self._labels[name]

    def _find_labels(self, task: Task) -> tuple[str, ...]:
        """Of an English task: a translation shares its head."""
        family = family_of(task)
        if family.multilingual:
            return self.origin(task, "train", task.pivot).languages
        if task.labels or family.labels_in is None:
            return task.labels
        records = self.origin(task, "train", task.pivot).read()
        # Sorted: an index of the head must not depend on the order of the file.
        return tuple(sorted({label for record in records for label in family.labels_in(record)}))

    # --- rows that are cached already --------------------------------------------------------------------------------

    def find_rows(self, name: str, setting: TrainingPart) -> tuple[Rows, Rows] | None:
        """Train and dev rows where both are in the cache already; reads no example and loads no tokenizer."""
        saved = self.store.saved_tokenizer()
        if saved is None:
            return None
        train = self.train(name, setting).find_rows(setting, saved["fingerprint"])
        dev = self.dev(name, setting).find_rows(setting, saved["fingerprint"])
        return None if train is None or dev is None else (train, dev)

    def used_whole(self, name: str, setting: TrainingPart) -> bool:
        """Whether the cache has the rows of an earlier version that trained on the whole train split and selected on
        all dev examples, of which it took the first and not drawn ones."""
        saved = self.store.saved_tokenizer()
        if saved is None:
            return False
        train = self.train(name, setting).find_rows(setting, saved["fingerprint"])
        first = dataclasses.replace(self.dev(name, setting), drawn=False).find_rows(setting, saved["fingerprint"])
        return train is not None and first is not None and len(set(first.example.tolist())) < setting.eval_examples

    @property
    def special_tokens(self) -> list[int]:
        """Ids of the special tokens, noted when rows were cached; [] before."""
        saved = self.store.saved_tokenizer()
        return saved["special"] if saved else []


def base_of(task: Task) -> str:
    """The task that settings by task name: translations and other source languages follow it."""
    return task.origin.partition(FROM)[0]


def fitted_task(name: str, recipe: Recipe) -> Task:
    """The task's literal in the languages of the recipe's benchmark, as the recipe's model can learn it; or, with toy
    data, in the toy world's languages."""
    task = get_benchmark(recipe.benchmark).fitted(get_task(name))
    if limits_of(recipe.model.name_or_path, recipe.model.revision).sees == "left":
        task = family_of(task).left_task(task)
    # A task with a folder of its own has real files, whichever world the others are from.
    if recipe.data.source != "toy" or task.directory:
        return task
    # A task in one language is an English one: its place is taken by the toy world's pivot.
    languages = tuple(LANGUAGES) if len(task.languages) > 1 else (PIVOT,)
    if not task.trains:  # retrieval: the pivot is the other side of each language
        languages = tuple(code for code in LANGUAGES if code != PIVOT)
    # MLQA's answer rules are lists of real languages' articles.
    pivot = task.source or PIVOT
    local = {split: _of_any_language(entries) for split, entries in task.local.items()}
    return dataclasses.replace(task, languages=languages, pivot=pivot, local=local, answer_rules="squad", test_sizes={})


def _of_any_language(entries: tuple[Local, ...]) -> tuple[Local, ...]:
    """A split's files without those that only some real languages have; where all are such, the first of them."""
    general = tuple(entry for entry in entries if not entry.languages)
    return general or tuple(dataclasses.replace(entry, languages=()) for entry in entries[:1])


def data_source(recipe: Recipe, run_folder: Path) -> DataSource:
    section = recipe.data
    if section.source == "toy":
        folder = run_folder / "data"
        return DataSource(
            "local", folder / "intermediate", folder / "xtreme", folder / "text", folder / "translated",
            max_text_passages=section.max_text_passages, noise=section.noise, code=folder / "code",
        )  # fmt: skip
    return DataSource(
        section.source, section.intermediate, section.xtreme, section.text, section.translated, section.text_hub,
        section.max_text_passages, hub_commits_path(recipe, run_folder), section.noise,
        section.code,
    )  # fmt: skip


def cache_folder(recipe: Recipe, run_folder: Path) -> Path:
    return recipe.data.cache or run_folder / "cache"


def hub_commits_path(recipe: Recipe, run_folder: Path) -> Path:
    """Where the commits behind moving hub revisions are kept."""
    return cache_folder(recipe, run_folder) / "hub_commits.json"
