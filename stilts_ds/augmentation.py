"""Copies of train examples with changed texts, for robust training: which noise, how many, out of which lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stilts_ds.errors import UserError
from stilts_ds.families.registry import family_of
from stilts_ds.noise.kinds import KINDS
from stilts_ds.noise.spec import NoiseSpec, parse_noise
from stilts_ds.robust import NoisyCopies, Robust, Synonyms
from stilts_ds.run_dir import hash_files
from stilts_ds.sources.noise_lists import list_files
from stilts_ds.tasks.spec import Task

SYNONYMS = "synonym"  # the kind of noise that draws among a word and its synonyms


@dataclass(frozen=True)
class Augmentation:
    """`copies` of each example with draws 1 to `copies` of `noise` in their texts, beside the example as it is or in
    its place. `lists` is the folder `data.noise`."""

    noise: NoiseSpec
    copies: int
    keeps_clean: bool
    lists: Path | None

    def noisy(self, task: Task, copy: int) -> Task:
        """The task with the noise of one copy, numbered from 1."""
        return replace(task, noise=replace(self.noise, draw=copy))

    def key(self, language: str) -> dict[str, object]:
        """What the copies depend on besides the examples."""
        files = self.files(language)
        return {
            "noise": str(self.noise),
            "copies": self.copies,
            # By content: an edited list makes other copies, a moved folder the same ones.
            "keeps_clean": self.keeps_clean,
            "lists": hash_files(files) if files else "",
        }

    def files(self, language: str) -> list[Path]:
        """The lists that the noise reads for a language."""
        # A keyboard of the user's own counts, whatever the kind: it is read with the language.
        words = list_files(self.lists, KINDS[self.noise.kind].list_name, language)
        return [*words, *list_files(self.lists, "keyboards", language)]


def augmentation_of(robust: Robust | None, lists: Path | None) -> Augmentation | None:
    """The copies that a setting of robust training asks for; None where it leaves the texts as they are.

    Raises UserError for noise that is none.
    """
    if isinstance(robust, Synonyms):
        # Every word is drawn (rate 100 %); it may stay as it is, since a word is among its own choices.
        return Augmentation(NoiseSpec(SYNONYMS, 100), robust.copies, False, lists)
    if not isinstance(robust, NoisyCopies):
        return None
    noise = parse_noise(f"robust.noise={robust.noise}", robust.noise)
    if noise.rate == 0:
        raise UserError(f"robust.noise={robust.noise}: at rate 0 a noisy copy is the example again; raise the rate")
    # Copy i is draw i, so a draw in the setting would be overwritten in silence.
    if noise.draw > 1:
        raise UserError(f"robust.noise={robust.noise}: each copy is a draw of its own; leave -s{noise.draw} out")
    return Augmentation(noise, robust.copies, True, lists)


def check_augmentation(where: str, augmentation: Augmentation, tasks: Sequence[Task]) -> None:
    """Raise UserError for a training task whose texts the noise cannot change: `where` names the phase."""
    kind = KINDS[augmentation.noise.kind]
    for task in tasks:
        family = family_of(task)
        # Tagging labels given words: noise that splits or joins words would leave labels without one.
        if family.noisy is None or (family.given_words and not kind.in_tokens):
            raise UserError(
                f"{where}: {kind.name} noise cannot change the texts of {task.name} and keep its labels; "
                "take robust.method=random or adversarial, or another kind of noise"
            )
        if augmentation.noise.context and task.shared_text != "context":
            raise UserError(f"{where}: {task.name} has no passages; leave -context out of robust.noise")
        if kind.list_name and not list_files(augmentation.lists, kind.list_name, task.train_language):
            raise UserError(
                f"{where}: data.noise has no {kind.list_name}/{task.train_language}.tsv for the texts of {task.name}; "
                "write the list, word TAB word, or take another robust.method"
            )
