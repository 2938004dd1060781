"""What every family promises, as checks on one of its tasks. A new family is held to them by being registered.

A `Sample` is a task with real files in their official layout, and a float64 reference of the family's loss.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stilts_ds.batches.collate import Draft, PackedItems
from stilts_ds.config import EvaluationPart, ModelPart, TrainingPart
from stilts_ds.data.reader import find_origin
from stilts_ds.data.split import Split
from stilts_ds.data.store import Store
from stilts_ds.families.base import Family, ItemTargets, Prediction, evaluation_masking, nothing_to_do
from stilts_ds.families.build import build_head
from stilts_ds.families.metrics import scores_of
from stilts_ds.families.registry import family_of, main_metric, metrics_of
from stilts_ds.model.heads import Head, HeadShape, HeadSpec
from stilts_ds.rows.batch import Batch, Targets
from stilts_ds.rows.rows import Rows
from stilts_ds.sources.source import DataSource
from stilts_ds.tasks.spec import Task

SETTING = TrainingPart(max_seq_length=64, doc_stride=16, max_query_length=24)
PART = EvaluationPart()
ITEMS = 40
HIDDEN = 8
# Logits of one item [m, C] and its gold values -> the losses of its targets [n], in float64.
Reference = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Sample:
    """A task, where its files are, and how its loss is computed by hand (None: nothing is trained).

    `rate` is the learning rate with which gradient descent on the logits alone comes to right answers.
    """

    task: Task
    source: DataSource
    split: str
    language: str
    reference: Reference | None
    model: ModelPart = ModelPart()  # whose tokenizer makes the rows
    rate: float = 20.0

    @property
    def family(self) -> Family:
        return family_of(self.task)


class Contract:
    """One sample, read and encoded with the toy model's tokenizer; rows are cached in `folder`."""

    def __init__(self, sample: Sample, folder: Path, limit: int | None = ITEMS) -> None:
        self.sample, self.family, self.task, self.folder = sample, sample.family, sample.task, folder
        origin = find_origin(sample.task, sample.split, sample.language, sample.source)
        store = Store(sample.model, folder / "cache")
        labels = sample.task.labels
        if self.family.multilingual:
            labels = origin.languages
        elif not labels and self.family.labels_in is not None:
            labels = tuple(sorted({label for record in origin.read() for label in self.family.labels_in(record)}))
        self.split = Split(sample.task, sample.split, sample.language, labels, origin, store, 0, limit)
        self.tokenizer = store.tokenizer

    # --- what is asked -----------------------------------------------------------------------------------------------

    def check_all(self) -> None:
        self.check_reading()
        self.check_rows()
        if self.family.head is not None:
            self.check_targets()
            self.check_losses()
            self.check_parameters()
        # Files that have to go elsewhere before they can be scored have tests of their own.
        if self.family.group and self.family.unscored is nothing_to_do:
            self.check_files()
            self.check_expectations()
        self.check_gold_decodes_to_100()
        self.check_units()

    def check_reading(self) -> None:
        """Its files give labelled records that can be looked at, the same ones each time."""
        records = list(self.split.stream())
        assert records and list(self.split.records()) == records
        for record in records:
            assert self.family.is_labelled(record)
            fields = self.family.fields(record, 2)
            assert fields and all(isinstance(text, str) for field in fields for text in field)

    def check_rows(self) -> None:
        """Records become rows within their length, and cached rows are those that were built."""
        read = self.family.evaluation_rows(self.split, SETTING, PART)
        for rows in read if isinstance(read, tuple) else [read]:
            assert len(rows) > 0 and int(rows.row_lengths.max()) <= max(SETTING.max_seq_length, 512)
            assert sorted(set(rows.example.tolist())) == list(range(int(rows.example.max()) + 1))
        again = self.family.evaluation_rows(self.split, SETTING, PART)
        for new, old in zip(*(value if isinstance(value, tuple) else (value,) for value in (again, read))):
            assert np.array_equal(new.input_ids, old.input_ids) and np.array_equal(new.items, old.items)

    def check_targets(self) -> None:
        """It says how many targets an item has before it reads them, and reads inside the item's rows."""
        rows, head = self.rows, self.family.trained
        packed, items = self._packed()
        for number, item in enumerate(items):
            targets = self._targets(packed, number, item)
            count = head.target_count(rows, item, SETTING.mlm_probability)
            assert count == len(targets.gold)
            starts = packed.starts(number)
            last = starts[-1] + int(rows.row_lengths[rows.items[item + 1] - 1])
            assert all(starts[0] <= token < last for token in targets.tokens)

    def check_losses(self) -> None:
        """The loss is the float64 reference's, an idle head's is nothing, and it takes part in the graph."""
        assert self.sample.reference is not None, "give a reference of the family's loss"
        head, batch, items = self._head(), *self._batch()
        targets = batch.heads["head"]
        pooled = self.family.trained.pooled
        generator = torch.Generator().manual_seed(7)
        logits = torch.randn(self._logits_shape(head, targets), generator=generator)
        losses = head.losses(logits, targets)
        if head.in_chunks:  # its losses are made of hidden states
            features = torch.randn(len(targets.tokens), HIDDEN, generator=generator)
            embedding = torch.randn(self.tokenizer.vocabulary, HIDDEN, generator=generator)
            logits = head(features, embedding).detach()
            losses = head(features, embedding, gold=targets.gold).detach()
        # A pool's loss terms see all of its items; here they are one pool.
        parts = [logits.numpy()] if pooled else self._by_item(logits.numpy(), items)
        expected = [self.sample.reference(part.astype(np.float64), item.gold) for part, item in zip(parts, items)]
        np.testing.assert_allclose(losses.numpy(), np.concatenate(expected), rtol=2e-6)
        idle = head.no_targets(torch.device("cpu"))
        features = torch.zeros(0, HIDDEN, requires_grad=True)
        options = {"gold": idle.gold} if head.in_chunks else {}
        nothing = head.losses(self._run(head, features, **options), idle).sum()
        assert nothing.item() == 0.0
        nothing.backward()
        assert all(parameter.grad is not None for parameter in head.parameters())

    def check_parameters(self) -> None:
        """The number of parameters that plans are made with is the built head's."""
        head = self._head()
        labels = len(self.split.labels) if self.family.labelled else 0
        expected = self.family.trained.parameters(HIDDEN, labels, self.tokenizer.vocabulary, HIDDEN)
        assert sum(parameter.numel() for parameter in head.parameters()) == expected

    def check_gold_decodes_to_100(self) -> None:
        """A model that says what is right scores 100 in every metric."""
        gold, predicted = self._perfect()
        scores = scores_of(metrics_of(self.task), gold, predicted, self.sample.language)
        assert set(scores) == set(self.task.metrics)
        diagnostic = {metric.name for metric in metrics_of(self.task) if metric.diagnostic}
        assert all(abs(score - 100) < 1e-9 for name, score in scores.items() if name not in diagnostic), scores

    def check_units(self) -> None:
        """A score is 100 * sum / sum over units, on right and on wrong predictions; the main score is one of them, or
        their mean."""
        gold, predicted = self._perfect()
        for values in (predicted, self._shuffled(predicted)):
            names = {metric.name for metric in metrics_of(self.task)}
            for metric in {m.name: m for m in (*metrics_of(self.task), main_metric(self.task))}.values():
                units = metric.count(gold, values, self.sample.language)
                assert metric.name in names or set(metric.parts) <= names
                if not metric.below and not metric.parts:  # a correlation, which is reported and never resampled
                    continue
                if not metric.below:  # a mean of ratios with different denominators
                    parts = [part.score(units) for part in metrics_of(self.task) if part.name in metric.parts]
                    assert len(parts) > 1 and abs(metric.score(units) - sum(parts) / len(parts)) < 1e-9
                    continue
                above, below = metric.ratio(units)
                assert len(units.names) == len(above) == len(below) == len(set(units.names))
                expected = 100 * above.sum() / below.sum() if below.sum() else 0.0
                assert abs(metric.score(units) - expected) < 1e-9

    def check_files(self) -> None:
        """Predictions and labels come back from their files as they were, and a file that lacks one is refused."""
        files = self.family.files(self.task)
        gold, predicted = self._perfect()
        path = self.folder / files.name("test", self.sample.language)
        files.write(path, predicted)
        assert _plain(files.read(path, self.task.labels)) == _plain(predicted)
        written = path.read_bytes()
        files.write(path, files.read(path, self.task.labels))
        assert path.read_bytes() == written
        labels = self.folder / "labels" / path.name
        files.write_labels(labels, gold)
        read_back = files.read_labels(labels, self.task.labels)
        files.check(path, predicted, read_back)
        again = self.folder / "again" / path.name
        files.write_labels(again, read_back)
        assert again.read_bytes() == labels.read_bytes()

    def check_expectations(self) -> None:
        """What a test file without labels asks of predictions is met by those of its own records."""
        files = self.family.files(self.task)
        _, predicted = self._perfect()
        files.check_expected(self.folder / "submitted", predicted, files.expect(self.split.records()))

    # --- how it is asked ---------------------------------------------------------------------------------------------

    @functools.cached_property
    def rows(self) -> Rows:
        return self.split.rows(SETTING)

    def _packed(self) -> tuple[PackedItems, list[int]]:
        items = list(range(len(self.rows)))
        return PackedItems([(self.rows, item) for item in items], self.tokenizer), items

    def _targets(self, packed: PackedItems, number: int, item: int) -> ItemTargets:
        masking = evaluation_masking(self.tokenizer, SETTING.mlm_probability)
        return self.family.trained.targets(self.rows, item, packed.starts(number), packed.ids, masking)

    def _batch(self) -> tuple[Batch, list[ItemTargets]]:
        packed, items = self._packed()
        draft = Draft(self.family.trained)
        targets = [self._targets(packed, number, item) for number, item in enumerate(items)]
        for item in targets:
            draft.add(item, 1.0, 0)
        packed.batch.heads["head"] = draft.targets()
        return packed.batch, targets

    def _head(self) -> Head:
        labels = self.split.labels if self.family.labelled else ()
        width = int(self.rows.items[1] - self.rows.items[0])
        spec = HeadSpec("head", self.family.name, tuple(labels), width)
        torch.manual_seed(3)
        return build_head(spec, HeadShape(HIDDEN, HIDDEN, 0.0, self.tokenizer.vocabulary, 1e-5))

    def _run(self, head: Head, features: torch.Tensor, **options: Any) -> torch.Tensor:
        embedding = torch.zeros(self.tokenizer.vocabulary, HIDDEN)
        return head(features, embedding, **options) if head.ties_embeddings else head(features, **options)

    def _logits_shape(self, head: Head, targets: Targets) -> tuple[int, ...]:
        return tuple(self._run(head, torch.zeros(len(targets.tokens), HIDDEN)).shape)

    def _by_item(self, logits: np.ndarray, items: Sequence[ItemTargets]) -> list[np.ndarray]:
        return np.split(logits, np.cumsum([len(item.tokens) for item in items])[:-1])

    def _perfect(self) -> tuple[Any, Any]:
        """Gold values, and what a model predicts whose logits minimise the loss."""
        if self.family.head is None:
            return self._perfect_search()
        if self.family.trained.pooled:
            return self._perfect_pool()
        head, batch, items = self._head(), *self._batch()
        targets = batch.heads["head"]
        if head.in_chunks:
            outputs = [self.family.trained.output(item.gold[:, None].astype(np.float32)) for item in items]
            return self._decoded(outputs)
        logits = torch.zeros(self._logits_shape(head, targets), requires_grad=True)
        optimizer = torch.optim.SGD([logits], lr=self.sample.rate)
        for _ in range(20):
            optimizer.zero_grad()
            head.losses(logits, targets).sum().backward()
            optimizer.step()
        outputs = [self.family.trained.output(part) for part in self._by_item(logits.detach().numpy(), items)]
        return self._decoded(outputs)

    def _decoded(self, outputs: Sequence[Any]) -> tuple[Any, Any]:
        """Gold values, and what a head's outputs mean."""
        records = self.split.records()
        condensed = self.family.trained.condensed(records, self.rows, outputs, PART)
        part = self.family.trained.tune(records, self.rows, condensed, PART)
        predicted = self.family.trained.decode(records, self.rows, condensed, self.split.labels, part)
        if self.family.trained.dev_gold is not None:
            masking = evaluation_masking(self.tokenizer, SETTING.mlm_probability)
            return self.family.trained.dev_gold(self.rows, masking), predicted
        return self.family.label_values(self.family, self.task, records), predicted

    def _perfect_pool(self) -> tuple[Any, Any]:
        """Gold values, and what is ranked where a query has its right candidate's vector and no other's."""
        records = self.split.records()
        number = {id: i for i, id in enumerate(dict.fromkeys(record.right[0] for record in records))}
        vectors = np.eye(len(number), dtype=np.float32)
        outputs = [vectors[[number[record.right[0]]] * 2] for record in records]
        decoded = self.family.trained.decode(records, self.rows, outputs, self.split.labels, PART)
        return self.family.label_values(self.family, self.task, records), decoded

    def _perfect_search(self) -> tuple[Any, Any]:
        """Gold values, and what is found among vectors that are equal for translations and orthogonal otherwise."""
        records = self.split.records()
        model = TranslationVectors(records[0])
        asked = Prediction(self.split, "", (), SETTING, PART, model, self.folder)
        return self.family.label_values(self.family, self.task, records), self.family.predict(self.family, asked)

    def _shuffled(self, predicted: Any) -> Any:
        """Wrong answers of the right form: every prediction goes to the next example, or a part of a set is dropped."""
        if isinstance(predicted, dict):
            texts = list(predicted.values())
            return dict(zip(predicted, [*texts[1:], texts[0]]))
        lengths = {len(value) for value in predicted if hasattr(value, "__len__") and not isinstance(value, str)}
        if len(lengths) > 1:  # sentences of unequal length: turn each around
            return [list(value)[::-1] for value in predicted]
        return predicted[1:] if isinstance(predicted[0], tuple) else [*predicted[1:], predicted[0]]


class TranslationVectors:
    """A model that gives a sentence and its translation the same vector (families.base.Model)."""

    first, comm, device = True, None, torch.device("cpu")

    def __init__(self, record: Any) -> None:
        number = {pivot: i for i, (_, pivot) in enumerate(sorted(record.gold))}
        source_number = {source: number[pivot] for source, pivot in record.gold}
        size = len(record.source) + len(record.pivot)
        spare = iter(range(len(number), size))
        # The source side is asked for first.
        self.sides = [
            [source_number.get(sentence.id, -1) for sentence in record.source],
            [number.get(sentence.id, -1) for sentence in record.pivot],
        ]
        self.sides = [[n if n >= 0 else next(spare) for n in side] for side in self.sides]
        self.size = size

    def stop_if_requested(self) -> None:
        pass

    def vectors(self, rows: Rows, part: EvaluationPart) -> torch.Tensor:
        side = self.sides.pop(0)
        assert len(side) == len(rows)
        return torch.eye(self.size)[side]


def _plain(values: Any) -> Any:
    if isinstance(values, dict):
        return values
    return [tuple(value) if isinstance(value, (list, tuple)) else value for value in values]


# --- losses by hand --------------------------------------------------------------------------------------------------


def cross_entropy(logits: np.ndarray, gold: int) -> float:
    """Of one choice among `logits` [C], float64."""
    shifted = logits - logits.max()
    return float(np.log(np.exp(shifted).sum()) - shifted[gold])


def over_outputs(logits: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Each token chooses among the outputs (pair, tag, text)."""
    return np.array([cross_entropy(row, int(label)) for row, label in zip(logits, gold)])


def over_tokens(logits: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """The item's tokens are the candidates (choice)."""
    return np.array([cross_entropy(logits[:, 0], int(gold[0]))])


def over_pool(logits: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Each query chooses among the candidates of all (ranking): rows alternate, the last column is the scale."""
    queries, candidates, scale = logits[0::2, :-1], logits[1::2, :-1], logits[0::2, -1:]
    scores = scale * (queries @ candidates.T)
    return np.array([cross_entropy(row, number) for number, row in enumerate(scores)])


def over_window(logits: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """The window's tokens are candidates for the start and for the end (span)."""
    start, end = gold[0]
    return np.array([(cross_entropy(logits[:, 0], int(start)) + cross_entropy(logits[:, 1], int(end))) / 2])
