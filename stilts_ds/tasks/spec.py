"""What a task is: one literal. Everything that differs between tasks of a family is data in here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from stilts_ds.noise.spec import MARK, NoiseSpec

WITH = "+"  # stands before the language of the second text
FROM = "~"  # stands before the language that trains a target
TABLE = "table"  # the schema of files with named columns, in any family that can read them
Role = Literal["intermediate", "target"]


@dataclass(frozen=True)
class Local:
    """Files of one split in the data set's official schema.

    `path` is relative to the role's data folder. `{language}`, `{pivot}` and their three-letter codes `{iso3}` and
    `{pivot_iso3}` are filled in; a path without a language holds the pivot language. `*` globs are allowed: all
    matches are read, in the order of their file names. `labels` is a file with the labels of a test file that has
    none itself (bitext: the gold pairs); a test split may lack it. `pivot` is the other side of a bitext. Where no
    file matches `path`, `otherwise` is read instead. `pool` is what rows name by its id: the candidates that a split's
    queries search, in files of all of the task's languages, whichever is asked for; or one file of texts or problems.
    `languages` limits an entry to some of the task's languages (none: all of them). `language` is that of a file of
    running text. `rows_name_language`: one file holds all languages and its rows say theirs.
    `names_language`: a file is in the language that it is named
    after or, inside a folder, that its folder is named after (running text); all layouts are read at once.
    """

    schema: str
    path: str
    labels: str = ""
    pivot: str = ""
    otherwise: Local | None = None
    pool: str = ""
    languages: tuple[str, ...] = ()
    language: str = ""
    rows_name_language: bool = False
    names_language: bool = False


@dataclass(frozen=True)
class Hub:
    """One split of a Hugging Face hub data set (parquet or JSON; no script runs).

    In `config` and `split`, `{language}`, `{iso3}`, `{name}` (the language's English name) and `{lower_name}` are
    filled in; without any of them the rows are in the language that `languages` names, in the pivot language or, with
    `names_language`, in one that they say themselves. `revision` is a commit,
    or a branch where none is known (see stilts_ds.sources.hub.pin). `languages` limits an entry to some of the task's
    languages (none: all of them). `in_folder`: the configuration is a folder of the repository, as on the branch of
    parquet files that the hub makes of data sets with a loading script. `pool` is a data set whose rows the rows name.
    """

    schema: str
    repo: str
    config: str
    split: str
    revision: str
    names_language: bool = False
    languages: tuple[str, ...] = ()
    in_folder: bool = False
    pool: Hub | None = None


def packed_too(local: Local) -> Local:
    """The same file plain or, where that is not there, gzip-compressed, as some authors ship it."""
    return replace(local, otherwise=replace(local, path=f"{local.path}.gz"))


def serves(entry: Local | Hub, language: str) -> bool:
    """Whether an entry of a split holds a language."""
    return not entry.languages or language in entry.languages


@dataclass(frozen=True)
class Task:
    """One task of the study.

    `family` names a folder of stilts_ds.families, which owns the kind of output. `metrics` are the scores that are
    reported, by the family's names, and `main_score` is the one that ranks models and selects checkpoints.
    `predictions` names the layout of prediction files where a family has several (bitext: mined `pairs`, or the
    `nearest` sentence), `answer_rules` those by which answers are compared (span: `squad` or `mlqa`). `shared_text` is
    the field of a record that several examples share (XNLI: three pairs stand on one premise): the report draws them
    together.
    `train_on` names the task whose English train split serves this one (XNLI is fine-tuned on MNLI, XQuAD and MLQA on
    SQuAD v1.1); empty means its own. Tasks with the same `head` share one output head. `labels` is the label list in
    index order; empty for a tag task means that the train split's own tags are used, sorted (CCG). The entries of a
    split in `local` and in `hub` are all read, one after the other. `sizes` are the full data set's examples in English
    (bitext: none), `test_sizes` the examples of the benchmark's test set by language, as far as they are known (a gold
    pair of BUCC, an English sentence of Tatoeba). `chance` is the main score of guessing where that is not
    near 0. `cites` are the keys of its papers in report/references.bib. `url` tells where its files come from.
    `folder` names the data folder that its files are in where its role
    does not (`text`, `code`). `translation` is the language that the train split was translated into (`mnli.de`, see
    registry); the dev split stays English. `noise` is what is done to the texts of its
    scored splits (`xnli@typo-5`). `source` is another language than the pivot
    that it is trained and selected in (`panx~de`); its train split is its own, or a translation of `translated_task`.
    `second` is the language of the second text of every example, whichever language the first is in (`xnli+de`);
    `parallel_rows` says that row i is the same example in all languages. `in_averages` is false for a target whose
    scores stand in a table of their own (MultiCheckList's error rates). `stop` are the texts before which a program
    ends that a model writes. `problems` names the programming problems of a split: who trains on some is not scored on
    those of the same name, in whichever language they are.
    A task that is not shipped here names the `directory` of its files (an absolute path) where no folder of the
    recipe's `data` holds them, and the `columns` of its tables by what the family calls them (`text` -> `sentence`);
    the splits in `unlabelled` have no labels.
    """

    name: str
    family: str
    role: Role
    languages: tuple[str, ...]
    metrics: tuple[str, ...]
    main_score: str
    local: Mapping[str, tuple[Local, ...]]
    hub: Mapping[str, tuple[Hub, ...]] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    predictions: str = ""
    answer_rules: str = "squad"
    shared_text: str = ""
    folder: str = ""
    pivot: str = "en"
    head: str = ""
    train_on: str = ""
    sizes: Mapping[str, int] = field(default_factory=dict)
    test_sizes: Mapping[str, int] = field(default_factory=dict)
    chance: float = 0.0
    training: Mapping[str, Any] = field(default_factory=dict)
    licence: str = ""
    note: str = ""
    title: str = ""
    cites: tuple[str, ...] = ()
    url: str = ""
    translation: str = ""
    noise: NoiseSpec | None = None
    source: str = ""
    translated_task: str = ""
    second: str = ""
    parallel_rows: bool = False
    in_averages: bool = True
    stop: tuple[str, ...] = ()
    problems: Mapping[str, str] = field(default_factory=dict)
    directory: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    unlabelled: tuple[str, ...] = ()

    @property
    def origin(self) -> str:
        """The name of the English task that this one is translated from; its own name for all others."""
        return self.name.split(".")[0]

    @property
    def plain_name(self) -> str:
        """The name of the task without what was done to its texts."""
        return self.name.partition(MARK)[0]

    @property
    def base_name(self) -> str:
        """The name of the task in the benchmark: without noise, and whichever language trains it."""
        # A name is task, then `~` or `+` with a language, then `@` with the noise (registry.get_task).
        return self.plain_name.partition(FROM)[0].partition(WITH)[0]

    @property
    def is_variant(self) -> bool:
        """Whether the task stands beside another one of the same test set, whose scores it is compared with."""
        # Not a translation (mnli.de), which is another train split and not another test set.
        return self.noise is not None or bool(self.source or self.second)

    @property
    def train_language(self) -> str:
        return self.translation or self.pivot

    @property
    def head_name(self) -> str:
        return self.head or self.name  # a task that names no head shares it with none

    @property
    def trains(self) -> bool:
        """Whether there is a train split for this task (retrieval uses the encoder as it is)."""
        return bool(self.train_on) or "train" in self.local

    @property
    def data_folder(self) -> str:
        """The key of the recipe's `data` section that its files' paths start from."""
        if self.translation:
            return "translated"
        # A target's train split may be another task's: whoever reads files asks the task that owns the split.
        return self.folder or {"intermediate": "intermediate", "target": "xtreme"}[self.role]
