"""Zero-shot evaluation of one phase: predictions for every target language, and gold labels beside them.

Predictions go to `phases/<id>/predictions/<task>/<split>-<language>.*`, labels to `labels/` of the run, both in the
benchmark's submission layout. Scoring is a program of its own that reads these files.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from stilts_ds.config import SWEEP, Recipe
from stilts_ds.data.data import Data
from stilts_ds.data.split import Split
from stilts_ds.display import Position, carrying
from stilts_ds.engine.guards import memory_explained
from stilts_ds.engine.preempt import stop_if_requested
from stilts_ds.engine.world import World
from stilts_ds.errors import UserError
from stilts_ds.evaluate.attributes import attributes_file, write_attributes
from stilts_ds.evaluate.layers import CHOSEN, LayerCurve, curve_inputs, kept_curve, layers_file
from stilts_ds.evaluate.predict import Predictor
from stilts_ds.evaluate.seen import Training
from stilts_ds.evaluate.stamp import Stamp
from stilts_ds.evaluate.touched import touched_file, write_touched
from stilts_ds.evaluate.waves import LanguagePair, divide, do_or_raise_together, pairs_of
from stilts_ds.export import load_trained_on_ranks
from stilts_ds.families.base import Prediction
from stilts_ds.families.files import shared_texts_file, write_shared_texts
from stilts_ds.families.registry import chooses_on_dev
from stilts_ds.lineage import predicting_weights, pretrained_weights_of
from stilts_ds.plan_file import Phase
from stilts_ds.run_dir import PhaseDir, RunDir, write_json, write_sealed

log = logging.getLogger(__name__)


def evaluate_phase(run: RunDir, recipe: Recipe, phase: Phase, data: Data, world: World) -> None:
    """Predict every (task, language) of the phase that its model has not predicted yet. A collective.

    Raises UserError that says what to change where memory does not suffice.
    """
    size = recipe.evaluation.per_device_eval_batch_size
    remedy = (
        f"lower evaluation.per_device_eval_batch_size ({size}), or let the ranks share the model with "
        "engine.zero_stage=3 (`stilts plan RECIPE --phases` says what evaluation takes)"
    )
    with memory_explained(f"in the evaluation of {phase.label}", remedy):
        _evaluate(PhaseEvaluation(run, recipe, phase, data, world))


def _evaluate(evaluation: PhaseEvaluation) -> None:
    phase, data, world = evaluation.phase, evaluation.data, evaluation.world
    evaluation.choose_layer()
    splits = list(wanted(phase, data))
    # Rank 0 alone looks at the files: ranks that disagreed would wait for each other for ever.
    is_done = world.broadcast([evaluation.is_done(split) for split in splits] if world.first else None)
    left = [split for split, done in zip(splits, is_done) if not done]
    evaluation.files = len(left)
    pairs = pairs_of(left)
    sizes: list[int | None] = []
    # One rank looks into the cache for all.
    world.on_rank_0(lambda: sizes.extend(pair.size(phase.setting(), evaluation.evaluation) for pair in pairs))
    waves, together = divide(world.broadcast(sizes), world.size)
    if evaluation.recipe.engine.zero_stage == 3:  # ranks share the model: none of them can predict by itself
        waves, together = [], list(range(len(pairs)))
    for wave in waves:
        stop_if_requested(world)
        evaluation.predict_wave([pairs[number] for number in wave])
    for splits in by_task(split for number in together for split in pairs[number].splits):
        family = splits[0].family
        if family.predict is None:
            (evaluation.predict_with_head if family.work is None else evaluation.predict_by_work)(splits)
            continue
        for split in splits:
            stop_if_requested(world)
            evaluation.predict_together(split)


class PhaseEvaluation:
    """Predicting with the model of one phase."""

    def __init__(self, run: RunDir, recipe: Recipe, phase: Phase, data: Data, world: World) -> None:
        self.run, self.recipe, self.phase, self.data, self.world = run, recipe, phase, data, world
        self.evaluation = recipe.evaluation  # with the layer that was chosen, once it is (`choose_layer`)
        self.chosen: dict[str, int] = {}
        self.files = self.written = 0  # prediction files that are to be written in this start, and that are
        # Only rank 0 compares and writes stamps.
        self.weights = predicting_weights(run, recipe, phase) if world.first else ""

    def choose_layer(self) -> None:
        """With `retrieval_layer: sweep`, choose the layer that is read, and keep this phase's own scores by layer. A
        collective."""
        dev = list(layer_splits(self.phase, self.data)) if self.evaluation.retrieval_layer == SWEEP else []
        if not dev:
            return
        weights = pretrained_weights_of(self.recipe) if self.world.first else ""
        pretrained = (lambda: self._predictor_of(None)) if self.phase.init else (lambda: self.predictor)
        layer = self._layer_curve(layers_file(self.run), weights, pretrained, dev).best
        if self.phase.init:
            path = layers_file(self.run.phase(self.phase.id))
            self._layer_curve(path, self.weights, lambda: self.predictor, dev)
        self.evaluation = self.evaluation.model_copy(update={"retrieval_layer": layer})
        self.chosen = {CHOSEN: layer}
        log.info("%s: retrieval reads layer %d, which mines the dev languages best", self.phase.label, layer)

    def _layer_curve(
        self, path: Path, weights: str, predictor: Callable[[], Predictor], dev: Sequence[Split]
    ) -> LayerCurve:
        """The scores by layer in a file, or of a model where the file has none of it. A collective."""
        hashes = {f"{split.task.name} {split.language}": split.hash for split in dev} if self.world.first else {}
        inputs = curve_inputs(weights, self.evaluation, hashes)
        kept = kept_curve(path, inputs) if self.world.first else None
        content = self.world.broadcast(None if kept is None else kept.model_dump())
        if content is None:
            model = predictor()
            scores = {}
            for split in dev:
                stop_if_requested(self.world)
                of_split = split.family.layer_scores(split.family, self._asked(split, model))
                if of_split is not None:  # on rank 0
                    scores[split.task.name, split.language] = of_split
            made = LayerCurve.of(inputs, scores).model_dump() if self.world.first else None
            content = self.world.broadcast(made)
            self.world.on_rank_0(lambda: write_sealed(path, content))
        return LayerCurve(**content)

    @cached_property
    def predictor(self) -> Predictor:
        """The phase's own model, or for a phase that trains nothing the one that it starts from. A collective."""
        trained_by = self.phase.id if self.phase.train else self.phase.init
        return self._predictor_of(self.run.phase(trained_by) if trained_by else None)

    def _predictor_of(self, source: PhaseDir | None) -> Predictor:
        """The model that a phase exported, or with None the pretrained one. A collective."""
        # Loaded only when something is to be predicted: a finished phase costs no model.
        model = load_trained_on_ranks(source, self.recipe, self.world)
        batch_size = self.recipe.evaluation.per_device_eval_batch_size
        return Predictor(model, self.data.tokenizer, batch_size, self.world)

    def is_done(self, split: Split) -> bool:
        """Whether a split's prediction file is what this model predicts (on rank 0)."""
        path = prediction_path(self.run, self.phase, split)
        return self._stamp(split).is_of(self.run, path)

    def predict_with_head(self, splits: Sequence[Split]) -> None:
        """All ranks predict the splits of one task, and go from one language to the next without meeting. A
        collective."""
        asked = self._asked(splits[0], self.predictor)
        decode = splits[0].family.verbs(self.predictor.sees).decode
        for whole in self.predictor.split_outputs(splits, asked.head, asked.setting, self.evaluation):
            predictions = decode(whole.records, whole.rows, whole.outputs, asked.labels, self.evaluation)
            self._write(whole.split, predictions, {})

    def predict_by_work(self, splits: Sequence[Split]) -> None:
        """The same, by what their family asks of the model. A collective."""
        family = splits[0].family
        assert family.work is not None
        asked = [self._asked(split, self.predictor) for split in splits]
        works = [family.work(family, of_split) for of_split in asked]
        for number, made in self.predictor.work_done(works, family, asked[0].head, asked[0].setting):
            self._write(splits[number], works[number].conclude(made), asked[number].kept)

    def predict_together(self, split: Split) -> None:
        """All ranks predict one split by its family's own way. A collective."""
        assert split.family.predict is not None
        prediction = self._asked(split, self.predictor)
        predictions = split.family.predict(split.family, prediction)
        if self.world.first:
            self._write(split, predictions, prediction.kept)
        self.world.barrier()

    def predict_wave(self, pairs: Sequence[LanguagePair]) -> None:
        """Rank r predicts all splits of the r-th pair by itself, and rank 0 writes them. A collective."""
        read: list[Any] = []
        self.world.on_rank_0(lambda: read.extend(pair.records() for pair in pairs))
        # Ids, texts and gold go to the rank that searches among them; rank 0 alone reads sources.
        sent = self.world.scatter(read + [None] * (self.world.size - len(pairs)))
        splits = pairs[self.world.rank].with_records(sent) if self.world.rank < len(pairs) else []
        # Alone: the ranks work on different splits here, so no collective may run in between.
        predictor = dataclasses.replace(self.predictor, world=self.world.alone(), kept={})

        def predict() -> list[Any]:
            predicted = []
            kept: dict[str, Any] = {}
            for split in splits:
                prediction = dataclasses.replace(self._asked(split, predictor), kept=kept)
                assert split.family.predict is not None  # a family that searches has its own way
                predicted.append(split.family.predict(split.family, prediction))
            return [predicted, kept]

        gathered = self.world.gather(do_or_raise_together(self.world, predict))
        for pair, (predicted, kept) in zip(pairs, gathered):
            for split, predictions in zip(pair.splits, predicted):
                names = split.family.kept_files(split.name, split.language)
                self._write(split, predictions, {name: kept[name] for name in names if name in kept})
        self.world.barrier()

    def _asked(self, split: Split, predictor: Predictor) -> Prediction:
        phase, data = self.phase, self.data
        source = data.task(phase.train[0]) if phase.train else split.task  # whose head and labels predict
        folder = prediction_path(self.run, phase, split).parent
        return Prediction(
            split,
            source.head_name,
            data.labels(source.name),
            phase.setting(),
            self.evaluation,
            predictor,
            folder,
        )

    def _stamp(self, split: Split) -> Stamp:
        # As the recipe says it, and what became of that: a sweep that chose another layer predicts again.
        return Stamp.of(self.phase.id, self.weights, self.recipe.evaluation, split, self.chosen)

    def _write(self, split: Split, predictions: Any, kept: Mapping[str, Any]) -> None:
        """Write the predictions of one split, what is kept beside them and, where it has labels, the label file."""
        path = prediction_path(self.run, self.phase, split)
        # What dev chose and test needs, before the predictions that were made with it.
        for name, value in kept.items():
            if value is None:
                path.with_name(name).unlink(missing_ok=True)
            else:
                write_json(path.with_name(name), value)
        split.family.files(split.task).write(path, predictions)
        _write_labels(self.run, self.phase, split, self.data, path)
        # Last: a file without its stamp is predicted again.
        self._stamp(split).save(self.run, path, _written(self.run, split, path))
        self.written += 1
        position = Position(self.phase.label, "file", self.written, self.files)
        name = f"{split.task.name} {split.name}-{split.language}"
        log.info("%s: %s predicted", self.phase.label, name, extra=carrying(position))


def wanted(phase: Phase, data: Data) -> Iterator[Split]:
    """The split of each prediction file."""
    for task in map(data.task, phase.evaluate):
        yield from data.evaluations(task)


def layer_splits(phase: Phase, data: Data) -> Iterator[Split]:
    """The dev splits by which a layer is chosen: of tasks without noise whose test is predicted by what dev chose."""
    for task in map(data.task, phase.evaluate):
        if task.noise is None and chooses_on_dev(task):
            for language in data.languages(task, data.scored_split(task))[0]:
                yield data.evaluation(task, "dev", language)


def by_task(splits: Iterable[Split]) -> list[list[Split]]:
    """The splits of each task, tasks and splits in their order."""
    groups: dict[str, list[Split]] = {}
    for split in splits:
        groups.setdefault(split.task.name, []).append(split)
    return list(groups.values())


def prediction_path(run: RunDir, phase: Phase, split: Split) -> Path:
    file = split.family.files(split.task).name(split.name, split.language)
    return run.phase(phase.id).predictions / split.task.name / file


def label_path(run: RunDir, split: Split, path: Path) -> Path:
    return run.labels / split.task.name / path.name


def _written(run: RunDir, split: Split, path: Path) -> list[Path]:
    """A prediction file and what is written with it."""
    kept = [path.with_name(name) for name in split.family.kept_files(split.name, split.language)]
    labels = label_path(run, split, path)
    return [path, labels, shared_texts_file(labels), attributes_file(labels), touched_file(labels), *kept]


def _training_of(phase: Phase, data: Data) -> Training | None:
    """What the phase was trained on for its target; None where nothing is trained, or the files of an earlier training
    are no longer here. Read once in a start."""
    if not phase.train:
        return None
    [name] = phase.train  # a target's phase trains one task

    def read() -> Training | None:
        try:
            return Training.of(data.train(name, phase.setting(name)))
        except UserError as problem:
            log.info("which examples were seen in training is not told: %s", problem)
            return None

    training: Training | None = data.once(f"training data of {name}, {phase.training}", read)
    return training


def _write_labels(run: RunDir, phase: Phase, split: Split, data: Data, path: Path) -> None:
    files = split.family.files(split.task)
    labels, records = label_path(run, split, path), split.records()
    gold = split.family.label_values(split.family, split.task, records)
    if gold is None:
        return
    files.write_labels(labels, gold)
    write_attributes(labels, split, data.tokenizer, _training_of(phase, data))
    write_touched(labels, split, data.tokenizer)
    if split.task.shared_text and split.family.writes_shared_texts:
        write_shared_texts(labels, [getattr(record, split.task.shared_text) for record in records])
