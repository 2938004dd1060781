"""What a phase will read: steps, tokens, vocabulary rows, the largest micro-batch. From cached rows where they exist.

Nothing is guessed. What only the data can tell is None until they are tokenised, and `exact` says whether they were. No
torch and no tokenizer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice

import numpy as np

from stilts_ds.batches.mixture import Mixture, epoch_items, micro_batch_count, task_shares, total_steps
from stilts_ds.config import Recipe, TrainingPart
from stilts_ds.data.data import Data
from stilts_ds.errors import UserError
from stilts_ds.families.registry import family_of, pool_size
from stilts_ds.model_files import Shape, limits_of
from stilts_ds.plan_file import Phase
from stilts_ds.planning.memory import MicroBatch
from stilts_ds.robust import copies_of, passes_of
from stilts_ds.rows.rows import Rows, ids_in, touched_ids


@dataclass(frozen=True)
class PhaseSize:
    """Sizes of one training phase.

    `steps` None: not known before the data are read. `exact`: counted in cached rows, not taken from the task's
    literal. `tokens` are real ones over all steps and passes. `vocabulary_rows` None: not counted yet. `width`: rows of
    an item (choices of a question), None where not known yet.
    """

    exact: bool
    steps: int | None
    tokens: int | None
    vocabulary_rows: int | None
    longest_row: int
    width: int | None
    items: int | None
    masked_share: float
    pool: int = 1  # items that stay together in one micro-batch (trained retrieval)

    def micro_batch(self, setting: TrainingPart, ranks: int) -> MicroBatch:
        """The largest micro-batch that a rank may get: as many items as fit, all of the longest row."""
        share = math.ceil(math.ceil(setting.train_batch_size / self.pool) / ranks)
        pools = math.ceil(share / micro_batch_count(setting, ranks, self.pool))
        rows = pools * self.pool * (self.width or 1)
        return MicroBatch(rows, self.longest_row, math.ceil(rows * self.longest_row * self.masked_share))


def phase_size(phase: Phase, recipe: Recipe, data: Data) -> PhaseSize:
    """Sizes of a phase that trains; from the tasks' literals where files that it needs are missing."""
    setting = phase.setting()
    cached_rows = {name: _cached(data, name, phase.setting(name)) for name in phase.train}
    cached = {name: rows for name, rows in cached_rows.items() if rows is not None}
    # All or nothing: counts of some tasks and guesses of others would look exact.
    if len(cached) == len(cached_rows):
        return _from_rows(phase, recipe, setting, data, cached)
    sizes = _sizes_by_literal(phase, setting, data)
    items = None if sizes is None else round(epoch_items(sizes, recipe.sampling))
    steps = None  # neither given nor to be derived: the literals do not know every size
    if setting.max_steps > 0:
        steps = setting.max_steps
    elif items is not None:
        steps = total_steps(items, setting)
    longest = max(phase.setting(name).max_seq_length for name in phase.train)
    return PhaseSize(
        False,
        steps,
        None,
        None,
        longest,
        _width_by_file(phase, data),
        items,
        _masked_share(phase, setting, data),
        _pool(phase, setting, data),
    )


def steps_and_tokens(phase: Phase, data: Data) -> tuple[int, float]:
    """Steps of a phase whose rows are cached, and the tokens that they take if items have their mean length: for
    judging the time that is left. Zeros where nothing is cached or trained."""
    rows = {name: _cached(data, name, phase.setting(name)) for name in phase.train}
    train = {name: pair[0] for name, pair in rows.items() if pair is not None}
    if len(train) < len(rows) or not train:
        return 0, 0.0
    setting = phase.setting()
    items = {name: len(task_rows) for name, task_rows in train.items()}
    steps = total_steps(epoch_items(items, data.recipe.sampling), setting)
    # Drawing every item, as `phase_size` does, would take minutes for a large study.
    shares = task_shares(items, data.recipe.sampling)
    mean = sum(shares[name] * float(task_rows.item_tokens.mean()) for name, task_rows in train.items())
    return steps, steps * setting.train_batch_size * mean * passes_of(setting.robust)


def _cached(data: Data, name: str, setting: TrainingPart) -> tuple[Rows, Rows] | None:
    try:
        return data.find_rows(name, setting)
    except UserError:  # a file is missing: there is nothing to count
        return None


def _from_rows(
    phase: Phase, recipe: Recipe, setting: TrainingPart, data: Data, rows: dict[str, tuple[Rows, Rows]]
) -> PhaseSize:
    train = {name: train_rows for name, (train_rows, _) in rows.items()}
    items = {name: len(task_rows) for name, task_rows in train.items()}
    # The mixture of training itself: it draws by seed, so every item of every step is known.
    mixture = Mixture(items, setting, recipe.sampling, phase.seed, _languages_of_items(train, data))
    tokens = mixture.tokens({name: task_rows.item_tokens for name, task_rows in train.items()})
    # Dev rows select in between: the vocabulary rows that train are those of both splits (engine.vocabulary_rows).
    both_splits = [split_rows for pair in rows.values() for split_rows in pair]
    special = data.special_tokens
    largest_ids = [int(ids_in(split_rows)[-1]) for split_rows in both_splits]
    vocabulary = max([*special, *largest_ids]) + 1
    rows_per_item = [int((task_rows.items[1:] - task_rows.items[:-1]).max()) for task_rows in train.values()]
    return PhaseSize(
        exact=True,
        steps=mixture.total_steps,
        tokens=tokens * passes_of(setting.robust),
        vocabulary_rows=len(touched_ids(both_splits, special, vocabulary)),
        longest_row=max(int(task_rows.row_lengths.max()) for task_rows in train.values()),
        width=max(rows_per_item),
        items=sum(items.values()),
        masked_share=_masked_share(phase, setting, data),
        pool=_pool(phase, setting, data),
    )


def _languages_of_items(rows: dict[str, Rows], data: Data) -> dict[str, np.ndarray]:
    """The language of each item of running text, by which the mixture draws."""
    texts = {name: task_rows for name, task_rows in rows.items() if family_of(data.task(name)).multilingual}
    return {name: task_rows.label for name, task_rows in texts.items() if task_rows.label is not None}


def _masked_share(phase: Phase, setting: TrainingPart, data: Data) -> float:
    """Share of the tokens for which there are scores over the whole vocabulary."""
    model = data.recipe.model
    sees = limits_of(model.name_or_path, model.revision).sees
    if not any(family_of(data.task(name)).verbs(sees).ties_embeddings for name in phase.train):
        return 0.0
    # A decoder predicts the next token at every position.
    return setting.mlm_probability if sees == "both" else 1.0


def _pool(phase: Phase, setting: TrainingPart, data: Data) -> int:
    return pool_size((family_of(data.task(name)) for name in phase.train), setting)


def _sizes_by_literal(phase: Phase, setting: TrainingPart, data: Data) -> dict[str, int] | None:
    """Examples that the tasks' literals give for the full data sets; None where one does not say, or for toy data.

    Text beside tasks whose share is set counts as nothing: no step depends on how much of it there is.
    """
    if data.recipe.data.source == "toy":
        return None
    sizes = {}
    for name in phase.train:
        task, split = data.task(data.task(name).origin), data.train_split(name)
        free = not family_of(task).labelled and len(phase.train) > 1 and data.recipe.sampling.mlm_share is not None
        if split not in task.sizes and not free:
            return None
        # Examples that select are held out of a train split.
        size = task.sizes.get(split, 1) - (setting.eval_examples if split == data.dev_split(name) else 0)
        sizes[name] = min(size, data.recipe.data.max_train_examples or size) * copies_of(setting.robust)
    return sizes


def _width_by_file(phase: Phase, data: Data) -> int | None:
    """Most rows of a task's first item (choices of its first question); None where that would mean to ask the
    hub, or the files are not here: the plan names them."""
    widths = [1]
    for task in map(data.task, phase.train):
        rows_of_item = family_of(task).rows_of_item
        if rows_of_item is None:
            continue
        split = data.train_split(task.name)
        if data.source.from_hub(task, split):
            return None
        try:
            origin = data.origin(task, split, task.train_language)
        except UserError:
            return None
        # One record tells: the choices of a task's questions are alike in number.
        widths += [rows_of_item(record) for record in islice(origin.read(), 1)]
    return max(widths)


def heads_of(phase: Phase, data: Data, shape: Shape) -> list[int] | None:
    """Parameters of each of a phase's heads; None where a label list is read from data that are not here yet."""
    counts: dict[str, int] = {}
    for task in map(data.task, phase.train):
        family = family_of(task)
        try:
            labels = len(data.labels(task.name)) if family.labelled else 0
        except UserError:
            return None
        verbs = family.verbs(shape.sees)
        count = verbs.parameters(shape.hidden, labels, shape.vocabulary, shape.width)
        counts[task.head_name] = count + (shape.output if verbs.ties_embeddings else 0)
    return list(counts.values())
