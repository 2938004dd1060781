"""What a family of tasks is: one value whose fields are everything that differs between kinds of output.

A family is a folder, `families/<name>/`, with the same files in each:

    record.py        the typed record, its readers (local schemas, hub converters), what is labelled, how it is shown
    rows.py          records -> rows; how many targets an item has; which tokens a head reads
    head.py          module, loss and parameter count; the only file that imports torch
    noisy.py         records with noise in their texts and labels that still hold, and their files
    predictions.py   model outputs -> predictions; the prediction and label files: read, write, check
    score.py         metrics and which languages share their items

and `families/registry.py` names them. Everything else asks the family of a task and never its name.

Legend: T tokens, m tokens that a head reads of one item, n targets of an item, C outputs of a head.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stilts_ds.config import EvaluationPart, TextHubPart, TrainingPart
from stilts_ds.errors import UserError
from stilts_ds.families.asked import EvaluationSplit, Model, Work
from stilts_ds.families.columns import Columns
from stilts_ds.families.files import PredictionFile
from stilts_ds.families.metrics import Metric
from stilts_ds.families.standard import Standard
from stilts_ds.model_kinds import Sees
from stilts_ds.noise.noiser import TextNoise
from stilts_ds.rows.rows import Rows
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.run_dir import read_json
from stilts_ds.sources.hub import Converter
from stilts_ds.sources.source import Part
from stilts_ds.tasks.spec import Task

Record = Any  # a family's own frozen dataclass (record.py), with an `id`
Output = Any  # what a head says of one item, as numpy arrays; see the family's predictions.py. One array travels
Reader = Callable[[Part], Iterator[Any]]
Noisy = Callable[[Sequence[Any], TextNoise, Task], list[Any]]
Writer = Callable[[Part, Sequence[Any]], None]  # writes records to the split's files, in their schema
Encode = Callable[[Iterable[Any], Tokenizer, Sequence[str], TrainingPart, "Path | None"], Rows]


class LayerScores(NamedTuple):
    """Scores of a split at each of L + 1 hidden states, in percent; `centred` the same among centred vectors, empty
    where these are not asked for."""

    plain: list[float]
    centred: list[float]


@dataclass(frozen=True)
class ItemTargets:
    """What a head learns from one item: places among the batch's T tokens [m], and gold [n] or, for span, [n, 2]."""

    tokens: np.ndarray
    gold: np.ndarray


def first_token_targets(rows: Rows, item: int, starts: Sequence[int], ids: np.ndarray, masking: Masking) -> ItemTargets:
    """The first token of each of an item's rows stands for it, and its label is the gold value.

    An item with several rows, as one of multiple choice, has one gold value: the loss is over its rows together.
    """
    assert rows.label is not None
    return ItemTargets(np.asarray(starts), rows.label[item : item + 1])


@dataclass(frozen=True)
class Masking:
    """What masking needs: a share of tokens, and a generator for each item that depends on nothing but its place."""

    tokenizer: Tokenizer
    probability: float
    generator: Callable[[int], np.random.Generator]


def evaluation_masking(tokenizer: Tokenizer, probability: float) -> Masking:
    """The same masking at every evaluation."""
    return Masking(tokenizer, probability, lambda item: np.random.default_rng([11, item]))


def take_first(records: Iterable[Any], skip: int, limit: int | None) -> Iterator[Any]:
    """The records after the first `skip`, at most `limit` of them."""
    return islice(records, skip, None if limit is None else skip + limit)


def no_settings(evaluation: EvaluationPart) -> dict[str, Any]:
    return {}


def nothing_to_do(predictions: Path) -> str | None:
    return None


def no_files(split: str, language: str) -> tuple[str, ...]:
    return ()


def no_spread(folder: Path, split: str, language: str) -> list[float]:
    return []


def no_layers(family: Family, asked: Prediction) -> LayerScores | None:
    return None


def not_centred(folder: Path, split: str, language: str) -> Any:
    return None


def max_examples(evaluation: EvaluationPart) -> int | None:
    return evaluation.max_examples


def scored_split(task: Task, split: str) -> tuple[str, ...]:
    return (split,)


def nothing_is_fitted(task: Task, split: str) -> bool:
    return False


def drawn_apart(names: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Languages whose items are their own."""
    return {language: language for language in names}


def drawn_by_name(names: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Files with the same names of items share them: translations, whose items are named by their lines."""
    different = {tuple(items) for items in names.values()}
    return dict.fromkeys(names, "") if len(different) == 1 else drawn_apart(names)


def texts_not_told(task: Task, labels: Path, gold: Sequence[Any]) -> Sequence[str] | None:
    """Families whose tasks name no `shared_text`."""
    return None


def one_target(rows: Rows, item: int, mlm_probability: float) -> int:
    return 1


def same_task(task: Task) -> Task:
    return task


def same_settings(
    records: Sequence[Any], rows: Rows, outputs: Sequence[Output], evaluation: EvaluationPart
) -> EvaluationPart:
    return evaluation


@dataclass(frozen=True)
class Condensing:
    """What each rank makes of its own items' outputs before they travel, where that takes a text of the records.

    `texts` gives the text of each of some items from the records, which rank 0 has and sends. `condense` makes an array
    of an item's text, rows, number and output.
    """

    texts: Callable[[Sequence[Any], Rows, Sequence[int]], list[str]]
    condense: Callable[[str, Rows, int, Output, EvaluationPart], np.ndarray]


Targets = Callable[[Rows, int, Sequence[int], np.ndarray, Masking], ItemTargets]
Reads = Callable[[Rows, int, Sequence[int], np.ndarray, Masking], np.ndarray]


def reads_targets(targets: Targets) -> Reads:
    """A head that reads the same tokens when it predicts as when it learns."""
    return lambda rows, item, starts, ids, masking: targets(rows, item, starts, ids, masking).tokens


@dataclass(frozen=True)
class HeadVerbs:
    """What a trained head reads, learns and says. Fields with a default are what most heads do.

    `module` is the module of head.py. It is imported when a model is built, so that planning needs no torch.
    """

    module: str
    # rows, item, its rows' first places in the batch, the batch's ids [T] (masking changes them), masking
    targets: Targets
    reads: Reads  # the same, but what is read to predict: places in the batch [m]
    output: Callable[[np.ndarray], Output]  # an item's logits [m, C] -> what is kept of them
    # records, rows, the items' outputs (condensed where the head condenses), labels, settings -> predictions
    decode: Callable[[Sequence[Any], Rows, Sequence[Output], Sequence[str], EvaluationPart], Any]
    # hidden size, labels, vocabulary, width of the word embeddings -> parameters of the head
    parameters: Callable[[int, int, int, int], int]
    target_count: Callable[[Rows, int, float], int] = one_target  # rows, item, mlm_probability -> loss terms
    # Settings that suit labelled dev outputs best (SQuAD 2.0's threshold for "no answer").
    tune: Callable[[Sequence[Any], Rows, Sequence[Output], EvaluationPart], EvaluationPart] = same_settings
    # Gold values of dev rows where they are not the records' (masked tokens).
    dev_gold: Callable[[Rows, Masking], list[Any]] | None = None
    # Whether a loss term sees other items: those of its pool, which one rank has in one micro-batch (`pool_size`).
    pooled: bool = False
    by_window: bool = False  # it chooses among the tokens of a window, so logits are arranged window by window
    # Its output layer is the backbone's own, mostly the word embeddings: all their rows train, and a checkpoint's own
    # head goes on. What an output layer apart from them adds is no part of `parameters`.
    ties_embeddings: bool = False
    condensing: Condensing | None = None  # None: outputs travel as they are

    def condensed(
        self, records: Sequence[Any], rows: Rows, outputs: Sequence[Output], evaluation: EvaluationPart
    ) -> list[Output]:
        """The outputs of all items as `decode` takes them, in a process that has all records."""
        if self.condensing is None:
            return list(outputs)
        texts = self.condensing.texts(records, rows, range(len(rows)))
        condense = self.condensing.condense
        return [
            condense(text, rows, item, output, evaluation) for item, (text, output) in enumerate(zip(texts, outputs))
        ]


def reads_last_tokens(head: HeadVerbs) -> HeadVerbs:
    """The verbs of a head of first tokens where a model reads from left to right: the last token of a row has seen all
    of it, the first nothing but itself."""

    def targets(rows: Rows, item: int, starts: Sequence[int], ids: np.ndarray, masking: Masking) -> ItemTargets:
        gold = head.targets(rows, item, starts, ids, masking).gold
        lengths = rows.row_lengths[rows.items[item] : rows.items[item + 1]]
        return ItemTargets(np.asarray(starts) + lengths - 1, gold)

    return dataclasses.replace(head, targets=targets, reads=reads_targets(targets))


def evaluation_rows(split: EvaluationSplit, setting: TrainingPart, evaluation: EvaluationPart) -> Any:
    """The rows that predicting a split reads, from the cache if they are there."""
    return split.rows(setting)


@dataclass(frozen=True)
class Prediction:
    """One split to predict: with which head, label list and settings, by which model, and where its files go."""

    split: EvaluationSplit
    head: str
    labels: Sequence[str]
    setting: TrainingPart
    evaluation: EvaluationPart
    model: Model
    folder: Path
    # What is kept beside the predictions, by file name: rank 0 writes it, or removes the file where it is None. A later
    # split of the pair may read it.
    kept: dict[str, Any] = field(default_factory=dict)

    def read_kept(self, name: str) -> Any:
        """What was kept under this name, by this start or an earlier one. Raises UserError where nothing was."""
        return self.kept[name] if name in self.kept else read_json(self.folder / name)


def gold_values(family: Family, task: Task, records: Sequence[Any]) -> list[Any] | None:
    """The gold value of each record; None as soon as one has no label (XTREME's own test files have none)."""
    if not all(family.is_labelled(record) for record in records):
        return None
    return [family.gold(record) for record in records]


@dataclass(frozen=True)
class Family:
    """One kind of output. Fields that have a default are what most families do.

    `group` is XTREME's group of the family's scores, empty where it has none (running text). `head` is None where
    nothing is trained (retrieval).
    """

    name: str
    group: str
    head: HeadVerbs | None

    # --- record.py
    readers: Mapping[str, Reader]  # by local schema
    converters: Mapping[str, Converter]  # by hub schema
    is_labelled: Callable[[Any], bool]
    gold: Callable[[Any], Any]  # what a record's prediction is compared with
    fields: Callable[[Any, int], list[tuple[str, str]]]  # a record to be looked at; at most so many parts of it

    # --- rows.py
    encode: Encode

    # --- predictions.py
    files: Callable[[Task], PredictionFile]

    # --- score.py
    metrics: Callable[[Task], Mapping[str, Metric]]  # by name, the ones that a task can ask for

    # --- what most families do
    standard: Mapping[Sees, Standard] = field(default_factory=dict)  # transformers' class with its head
    columns: Columns | None = None  # how its records are read from tables with named columns; None: they are not
    # Training settings that its rows depend on, besides max_seq_length. Others do not name a phase.
    row_settings: tuple[str, ...] = ()
    # The head's verbs where the model reads from left to right; None: such a model cannot be trained on this family.
    left_head: HeadVerbs | None = None
    # The task's literal where the model reads from left to right (other metrics).
    left_task: Callable[[Task], Task] = same_task
    take: Callable[[Iterable[Any], int, int | None], Iterator[Any]] = take_first  # records, skip, limit
    # By schema: raised when its reader gives other records of the same file or rows, so that nothing older is reused.
    reader_versions: Mapping[str, int] = field(default_factory=dict)
    # Rows of a record's item where there are several (the choices of a question); None: one row an item.
    rows_of_item: Callable[[Any], int] | None = None
    # The texts that make a record what it is; None where records are not compared.
    texts: Callable[[Any], tuple[str, ...]] | None = None
    # Numbers by which a report tells records apart: name -> one for each record. None where a record is a whole split.
    attributes: Callable[[Sequence[Any]], dict[str, list[float]]] | None = None
    # The labels that a record shows, where a task without a label list takes those of its train split (open tag sets).
    labels_in: Callable[[Any], Iterable[str]] | None = None
    # Passages of a hub corpus, one stream a language, and the corpus's languages (running text).
    corpus: Callable[[TextHubPart, int | None, str, Counter[str]], list[Iterator[Any]]] | None = None
    corpus_languages: Callable[[TextHubPart], tuple[str, ...]] | None = None
    # Records of a whole split -> the same with noise in their texts; None where noise means nothing (running text).
    noisy: Noisy | None = None
    writers: Mapping[str, Writer] = field(default_factory=dict)  # by local schema, for files that others can read
    # A record with the second text of the same example in another language; None where the two have other labels.
    cross: Callable[[Any, Any], Any] | None = None
    given_words: bool = False  # whether a text is a list of words, each with a label
    # How a split is predicted. Passes that ranks can deal, after which rank 0 concludes (asking is a collective), or
    # predictions, on rank 0, by a collective of the family's own. Neither: what its head says of the rows, decoded.
    work: Callable[[Family, Prediction], Work] | None = None
    predict: Callable[[Family, Prediction], Any] | None = None
    # Scores of a split by layer, from which `retrieval_layer: sweep` chooses; None on ranks other than 0, and for
    # families and splits that choose nothing. A collective.
    layer_scores: Callable[[Family, Prediction], LayerScores | None] = no_layers
    # What the label file of an evaluation split holds; None where the split has no labels.
    label_values: Callable[[Family, Task, Sequence[Any]], Any] = gold_values
    evaluation_rows: Callable[[EvaluationSplit, TrainingPart, EvaluationPart], Any] = evaluation_rows
    predicted_splits: Callable[[Task, str], tuple[str, ...]] = scored_split  # the splits that scoring one of them needs
    # Whether predicting a split fits a free parameter to that split's own gold (mining's threshold on dev).
    fits_on_scored: Callable[[Task, str], bool] = nothing_is_fitted
    limit: Callable[[EvaluationPart], int | None] = max_examples  # most records of an evaluation split
    settings: Callable[[EvaluationPart], dict[str, Any]] = no_settings  # what scores depend on, kept with them
    # Evaluation settings that only predictions of families which name them depend on.
    own_settings: tuple[str, ...] = ()
    # Prediction file -> what has to be done before it can be scored; None where nothing has.
    unscored: Callable[[Path], str | None] = nothing_to_do
    executed: bool = False  # whether predictions are programs, which are executed behind a run's ranks
    # Whether its rows need attention that only packed rows have: a prefix that is read both ways, and a cache.
    packed_only: bool = False
    # What dev scores, by which a model is selected, depend on.
    selection_settings: Callable[[EvaluationPart], dict[str, Any]] = no_settings
    # Split, language -> files that predicting keeps beside its own.
    kept_files: Callable[[str, str], tuple[str, ...]] = no_files
    # Sentences of a split's larger side, where predicting is a search between two sides; one rank may do a small one.
    searched_rows: Callable[[EvaluationSplit, TrainingPart, EvaluationPart], int] | None = None
    # A record as plain values (lists, texts, numbers) and back: what rank 0 sends of a split that one rank predicts.
    to_plain: Callable[[Any], Any] | None = None
    from_plain: Callable[[Any], Any] | None = None
    # Folder of predictions, split, language -> scores that a file might have had, had a parameter been fitted to other
    # examples; [] where nothing is fitted or kept.
    spread: Callable[[Path, str, str], list[float]] = no_spread
    # The same, but predictions of vectors less the mean of their side; None where none were asked for.
    centred: Callable[[Path, str, str], Any] = not_centred
    # Names of the items by language -> unit of drawing by language; languages of one unit are resampled together.
    drawing_units: Callable[[Mapping[str, Sequence[str]]], dict[str, str]] = drawn_apart

    # Task, label file, gold values -> the text of each item that it shares with others (the task's `shared_text`), or
    # what stands for it; None where an older run does not say.
    shared_texts: Callable[[Task, Path, Sequence[Any]], Sequence[str] | None] = texts_not_told
    writes_shared_texts: bool = False  # whether label files lack these texts, so that predicting writes them beside

    # Whether examples have labels. Running text has none: it teaches beside tasks, and selects a model only alone.
    labelled: bool = True
    no_examples: str = "download them again"  # what to do where a split holds no example
    multilingual: bool = False  # whether a split holds all languages: files are read in turn, rows drawn by language

    @property
    def trained(self) -> HeadVerbs:
        """The head's verbs. Raises ValueError for a family that trains nothing."""
        if self.head is None:
            raise ValueError(f"family {self.name!r} trains nothing")
        return self.head

    @property
    def pooled(self) -> bool:
        """Whether examples are each other's wrong candidates (trained retrieval)."""
        return self.head is not None and self.head.pooled

    def verbs(self, sees: Sees) -> HeadVerbs:
        """The head's verbs with a model whose tokens see so. Raises ValueError for a family that trains nothing, and
        UserError for one that no model trains that reads from left to right."""
        if sees == "both" or self.head is None:
            return self.trained
        if self.left_head is None:
            raise UserError(
                f"tasks of family {self.name!r} need a model whose tokens see both sides of them, and this one reads "
                "from left to right; use an encoder, or leave these tasks out"
            )
        return self.left_head
