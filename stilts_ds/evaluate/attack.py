"""Noise chosen against a model: a greedy search over a noisy task's own edits, guided by the model's loss.

An example gets as many edits of the kind as its noisy version has (the budget). In each round `width` further edits are
proposed and the example is tried with each; the one with the highest loss is made, if that is higher than before. So an
attacked example is never easier than the clean one, and none may get more errors than under plain noise. What is
proposed is a function of noise, split and example; what is found is one of model and settings, too.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stilts_ds.batches.collate import Draft as HeadDraft
from stilts_ds.batches.collate import PackedItems
from stilts_ds.config import EvaluationPart, TrainingPart
from stilts_ds.data.noisy import make_split_noiser
from stilts_ds.data.split import Split
from stilts_ds.errors import UserError
from stilts_ds.evaluate.score import score_values
from stilts_ds.families.base import Output, evaluation_masking, gold_values
from stilts_ds.families.registry import family_of, main_metric
from stilts_ds.model.multitask import MultiTask
from stilts_ds.noise.greedy import GreedyNoiser
from stilts_ds.noise.noiser import Noiser
from stilts_ds.rows.rows import Rows
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.tasks.spec import Task

log = logging.getLogger(__name__)
AT_ONCE = 16  # examples that are attacked side by side


@dataclass(frozen=True)
class Victim:
    """A trained model, the head and labels that its task has, and the settings of its rows."""

    model: MultiTask
    tokenizer: Tokenizer
    head: str
    labels: tuple[str, ...]
    setting: TrainingPart
    evaluation: EvaluationPart
    device: torch.device

    @torch.no_grad()
    def judge(self, task: Task, records: Sequence[Any]) -> tuple[list[float], Rows, list[Output]]:
        """The loss of each record, a mean over its targets; their rows and what the head says of them."""
        family = family_of(task)
        rows = family.encode(records, self.tokenizer, self.labels, self.setting, None)
        losses: list[float] = []
        outputs: list[Output] = []
        size = self.evaluation.per_device_eval_batch_size
        for first in range(0, len(rows), size):
            items = range(first, min(first + size, len(rows)))
            losses_of_batch, outputs_of_batch = self._judge_items(task, rows, items)
            losses += losses_of_batch
            outputs += outputs_of_batch
        return losses, rows, outputs

    def _judge_items(self, task: Task, rows: Rows, items: range) -> tuple[list[float], list[Output]]:
        verbs = family_of(task).verbs(self.tokenizer.sees)
        packed = PackedItems([(rows, item) for item in items], self.tokenizer)
        masking = evaluation_masking(self.tokenizer, self.setting.mlm_probability)
        draft, terms, tokens = HeadDraft(verbs), [], []
        for number, item in enumerate(items):
            targets = verbs.targets(rows, item, packed.starts(number), packed.ids, masking)
            # Weight 1 and task 0: the loss is read by target here, and not summed as in training.
            draft.add(targets, 1.0, 0, number)
            terms.append(len(targets.gold))
            tokens.append(len(targets.tokens))
        packed.batch.heads[self.head] = draft.targets()
        batch = packed.batch.to(self.device)
        logits = self.model(batch, "logits")[self.head]
        by_target = self.model.head(self.head).losses(logits, batch.heads[self.head]).float().cpu().numpy()
        values = logits.float().cpu().numpy()
        # A mean over an item's targets: a long sentence must not look harder than a short one.
        losses = [float(of_item.mean()) for of_item in np.split(by_target, np.cumsum(terms)[:-1])]
        return losses, [verbs.output(of_item) for of_item in np.split(values, np.cumsum(tokens)[:-1])]

    def score(self, task: Task, records: Sequence[Any], language: str) -> float:
        """The task's main score of the model's predictions, in percent."""
        family = family_of(task)
        _, rows, outputs = self.judge(task, records)
        verbs = family.verbs(self.tokenizer.sees)
        condensed = verbs.condensed(records, rows, outputs, self.evaluation)
        predicted = verbs.decode(records, rows, condensed, self.labels, self.evaluation)
        gold = gold_values(family, task, records)
        if gold is None:
            raise UserError(
                f"{task.name} {language}: examples have no labels, so no loss guides an attack; use --split"
            )
        return main_metric(task).of_scores(score_values(task, gold, predicted, language))


@dataclass(frozen=True)
class Attack:
    """What an attack did to a split in one language: scores in percent on clean, noisy and attacked texts, which the
    model was tried on, and errors made by plain noise and by the attack."""

    language: str
    examples: int
    clean: float
    noisy: float
    attacked: float
    noisy_edits: int
    edits: int


def attack_split(split: Split, task: Task, victim: Victim, width: int, examples: int | None) -> Attack:
    """Attack the first `examples` (None: all) records of a clean split with the noise of `task`.

    Raises UserError where the noise does not apply to the language, and for tasks that have no loss.
    """
    family = family_of(task)
    if family.head is None or family.noisy is None or not family.labelled:
        raise UserError(f"{task.name}: nothing is trained for it, so no loss guides an attack; compare draws instead")
    if family.head.pooled:
        problem = "its loss compares the queries of a pool, and one query alone has none"
        raise UserError(f"{task.name}: {problem}; compare draws instead")
    # Stray letters are drawn from the whole file, as they are in the noisy test set.
    whole = list(split.origin.read())
    noiser = make_split_noiser(task, split.name, split.language, whole, split.origin.noise)
    records = whole[: min(len(split.records()), examples or len(whole))]
    # The noiser's tally counts these edits, to stand beside the attack's.
    plain = family.noisy(records, noiser, task)
    chosen: list[Any] = []
    edits = 0
    for first in range(0, len(records), AT_ONCE):
        attacked, made = _attack(records[first : first + AT_ONCE], noiser, task, victim, width)
        chosen += attacked
        edits += made
        log.info("%s %s: %d of %d examples attacked", task.name, split.language, len(chosen), len(records))
    return Attack(
        language=split.language,
        examples=len(records),
        clean=victim.score(task, records, split.language),
        noisy=victim.score(task, plain, split.language),
        attacked=victim.score(task, chosen, split.language),
        noisy_edits=noiser.tally.edits,
        edits=edits,
    )


def _attack(records: Sequence[Any], noiser: Noiser, task: Task, victim: Victim, width: int) -> tuple[list[Any], int]:
    """The records with the edits that the search has found, and how many these are."""
    apply = family_of(task).noisy
    assert apply is not None
    searches = [GreedyNoiser(noiser.spec, noiser.writing, noiser.where) for _ in records]
    current = [apply([record], search, task)[0] for record, search in zip(records, searches)]
    losses = victim.judge(task, current)[0]
    while True:
        options = [search.options(width) for search in searches]
        # Every budget is spent, or no edit is left to propose.
        if not any(options):
            return current, sum(search.made for search in searches)
        trials = []
        for record, search, proposed in zip(records, searches, options):
            for option in proposed:
                with search.tried(option):
                    trials.append(apply([record], search, task)[0])
        # All trials of the round in one pass: the model sees full batches, whatever the width.
        judged = iter(zip(victim.judge(task, trials)[0], trials))
        for number, proposed in enumerate(options):
            tried = [(*next(judged), option) for option in proposed]
            best = max(tried, key=lambda entry: entry[0], default=None)
            # Only what hurts is made: an attacked example is never easier than the clean one.
            if best is not None and best[0] > losses[number]:
                losses[number], current[number], option = best
                searches[number].make(option)
