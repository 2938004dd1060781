"""Names of phases: the hash of everything that a phase's result depends on, and of nothing else.

What changes no number is left out: how often training saves and logs, how a batch is cut into micro-batches, and
settings that no task of the phase reads. Changing these continues a phase.

An earlier naming hashed more of the former and less of the latter. A phase that it left in a run folder keeps its name
there, and what it has done, as long as everything that counts is the same (`EarlierPhases`). The first naming, before
that one, did not say which examples select; its phases are kept where there was nothing to choose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stilts_ds.config import ROW_KEYS, Recipe, TrainingPart, written_recipe
from stilts_ds.ds_files import numbers_in
from stilts_ds.errors import UserError
from stilts_ds.families.registry import family_of
from stilts_ds.model_files import earlier_fingerprint, tokenizer_hash, vocabulary_is_in_tokenizer_json
from stilts_ds.plan_file import Phase, Plan
from stilts_ds.run_dir import RunDir, hash_json, read_json
from stilts_ds.tasks.registry import get_task
from stilts_ds.tasks.spec import Task

# Settings of training that change no number: when it saves and logs, and how a batch is cut (as the number of ranks
# does, beyond rounding).
NO_NUMBERS = ("save_steps", "save_minutes", "save_total_limit", "logging_steps", "per_device_train_batch_size")
# 48 bits: a collision among the hundreds of phases of a run is out of the question, and names stay readable.
HASH_DIGITS = 12
# Tasks that another score selects since the first naming (it was accuracy alone).
OTHER_SCORE = {"qqp"}


def counted_training(training: Mapping[str, Any], tasks: Sequence[Task]) -> dict[str, Any]:
    """Those of a phase's training settings that its result depends on."""
    unused = {*NO_NUMBERS, *_unread_rows(tasks)}
    if all(family_of(task).labelled for task in tasks):
        unused.add("mlm_probability")
    # Steps win over epochs.
    if training.get("max_steps", -1) > 0:
        unused.add("num_train_epochs")
    if training.get("eval_steps") == 0:  # the model is evaluated once, at the end
        unused.add("early_stopping_patience")
    return {key: value for key, value in training.items() if key not in unused}


def counted_lengths(lengths: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Those of each task's row settings that its rows depend on."""
    counted = {}
    for name, settings in lengths.items():
        unread = _unread_rows([get_task(name)])
        counted[name] = {key: value for key, value in settings.items() if key not in unread}
    return counted


def counted_sampling(recipe: Recipe, mlm: bool) -> dict[str, Any]:
    """Those of the sampling settings that a mixture depends on; `mlm` is whether running text is part of it."""
    of_text = set() if mlm else {"mlm_share", "language_exponent"}
    return recipe.sampling.model_dump(exclude=of_text)


def _unread_rows(tasks: Sequence[Task]) -> set[str]:
    """Row settings that the rows of none of the tasks depend on."""
    # max_seq_length cuts the rows of every family.
    read = {key for task in tasks for key in family_of(task).row_settings}
    return {key for key in ROW_KEYS if key != "max_seq_length" and key not in read}


def phase_id(kind: str, label: str, content: Mapping[str, Any]) -> str:
    return f"{kind}-{label}-{hash_json(content)[:HASH_DIGITS]}"


def same_label(name: str) -> str:
    """What phases of one kind and label have in common: the id without its hash."""
    return name.rpartition("-")[0]


@dataclass(frozen=True)
class EarlierPhases:
    """Phases with names of the earlier kinds in a run folder.

    `folders` are their settings by id; `model_hash` is the model's fingerprint as it was taken then. `used_whole(task,
    settings)` says whether a phase of the first naming trained and was selected on all examples that there are.
    """

    model_hash: str = ""
    folders: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    used_whole: Callable[[str, TrainingPart], bool] = lambda task, setting: False

    @classmethod
    def of(
        cls, run: RunDir, recipe: Recipe, model: str, used_whole: Callable[[str, TrainingPart], bool] | None = None
    ) -> EarlierPhases:
        """Those of a run folder that the recipe may take over. Reads the recipe that the last start left there.

        None where what those names left out may have changed since: numbers of a DeepSpeed file, or
        a vocabulary beside `tokenizer.json`.
        """
        hashed = earlier_fingerprint(model, recipe.model.revision)
        if numbers_in(recipe.engine) or _recorded_numbers(run) or not _vocabulary_is_known(run, recipe, model):
            return cls(hashed)
        folders: dict[str, Mapping[str, Any]] = {}
        for path in sorted((run.root / "phases").glob("*/phase.json")):
            try:
                described = read_json(path)
            except UserError:  # damaged: nobody can tell what it was
                continue
            if isinstance(described, dict) and isinstance(described.get("training"), dict):
                folders[path.parent.name] = described
        return cls(hashed, folders, used_whole or cls.used_whole)

    def find(self, kind: str, label: str, content: Mapping[str, Any], counted: Mapping[str, Any]) -> str:
        """The id that a phase with this `content` (as it was hashed then) had or has in the folder.

        `counted` holds the phase's `training` and `lengths` as far as they count today. In all other settings, those
        that the phase was trained with are taken.
        """
        there = [name for name in self.folders if same_label(name) == f"{kind}-{label}"]
        earlier_id = self._match(there, kind, label, content, counted)
        if earlier_id is None and there and (first := self._as_named_first(content)) is not None:
            earlier_id = self._match(there, kind, label, first, counted)
        return earlier_id or phase_id(kind, label, content)

    def _match(
        self, names: Sequence[str], kind: str, label: str, content: Mapping[str, Any], counted: Mapping[str, Any]
    ) -> str | None:
        """Which of the phases `names` has this content, with its own settings where they do not count."""
        for name in names:
            described = self.folders[name]
            as_trained = {
                **content,
                "training": _with_theirs(content["training"], counted["training"], described["training"]),
                "lengths": {
                    task: _with_theirs(settings, counted["lengths"][task], described.get("lengths", {}).get(task, {}))
                    for task, settings in content["lengths"].items()
                },
            }
            if phase_id(kind, label, as_trained) == name:
                return name
        return None

    def _as_named_first(self, content: Mapping[str, Any]) -> dict[str, Any] | None:
        """The content as the first naming hashed it: without what selects.

        None where that may have been something else than today: the first examples of a file where they are drawn now,
        another score, or settings of answers, which no name recorded.
        """
        selection = content.get("selection")
        if selection is None or set(selection) != {"drawn", "by"} or OTHER_SCORE & set(selection["by"]):
            return None
        # The first naming took the first examples of a file, where they are drawn now.
        if content["max_train_examples"] is not None or content["train_split"]:
            return None
        for task in content["train"]:
            setting = TrainingPart(**{**content["training"], **content["lengths"].get(task, {})})
            if not self.used_whole(task, setting):
                return None
        # Without the key, not with an empty one: hashes tell these apart.
        return {key: value for key, value in content.items() if key != "selection"}

    def __contains__(self, name: str) -> bool:
        return name in self.folders


def _with_theirs(given: Mapping[str, Any], counted: Mapping[str, Any], recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they were hashed then: what counts as it is `given`, the rest as the phase in the folder has it."""
    # A phase that trains nothing has no settings, and its hash holds an empty mapping.
    if not given:
        return {}
    uncounted = {
        key: value for key, value in recorded.items() if key not in counted and key in TrainingPart.model_fields
    }
    if "max_seq_length" not in given:  # several tasks have no common lengths and cuts
        uncounted = {key: value for key, value in uncounted.items() if key not in ROW_KEYS}
    return {**counted, **uncounted}


def _recorded_numbers(run: RunDir) -> dict[str, Any]:
    """What the DeepSpeed file of the last start's recipe says about numbers; a file that is gone may have said any."""
    if not run.recipe.exists():
        return {}
    try:
        return numbers_in(written_recipe(run.recipe).engine)
    except UserError as problem:
        return {"unknown": str(problem)}


def _vocabulary_is_known(run: RunDir, recipe: Recipe, model: str) -> bool:
    """Whether the earlier fingerprint covers the whole vocabulary, or rows were cached with just this one before."""
    if vocabulary_is_in_tokenizer_json(model):
        return True
    cache = recipe.data.cache or run.root / "cache"
    notes = list(Path(cache).glob("tokenizer-*.json"))
    digest = tokenizer_hash(model, recipe.model.revision)
    # A second note means that the vocabulary was another one at some time; which phases saw which, nobody can tell.
    return len(notes) == 1 and digest.startswith(notes[0].stem.removeprefix("tokenizer-"))


def left_alone(run: RunDir, plan: Plan, chosen: Iterable[Phase]) -> list[str]:
    """A sentence for each phase in the folder that has the label of a chosen one which is still to be trained, and is
    not in the plan: it is of other settings, and stays as it is."""
    planned = {phase.id for phase in plan.phases}
    to_train = {same_label(phase.id): phase for phase in chosen if not run.phase(phase.id).is_trained() and phase.train}
    sentences = []
    for path in sorted((run.root / "phases").glob("*/status.json")):
        name = path.parent.name
        phase = to_train.get(same_label(name))
        if phase is not None and name not in planned:
            state = run.phase(name).status()
            sentences.append(f"{name} ({state}) is left alone: {_difference(run, name, phase)}")
    return sentences


def _difference(run: RunDir, name: str, phase: Phase) -> str:
    """Why a phase of the folder is not the planned one, as far as its phase.json tells."""
    path = run.phase(name).phase_json
    try:
        described = read_json(path) if path.exists() else {}
    except UserError:
        described = {}
    recorded = described.get("training", {}) if isinstance(described, dict) else {}
    counted = counted_training(phase.training, [get_task(task) for task in phase.train])
    differing = [
        f"{key} is {recorded[key]} there and {value} now"
        for key, value in counted.items()
        if key in recorded and recorded[key] != value
    ]
    if described and described.get("seed") != phase.seed:
        differing.append(f"its seed is {described.get('seed')}")
    return "; ".join(differing) or "its model, data or other settings are not those of the recipe"
