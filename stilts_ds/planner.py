"""Recipe to plan: a graph of phases, each named by the hash of everything that its result depends on.

A finished phase is skipped, an unfinished one is resumed, and a phase that two conditions share (the baseline, SQuAD
training for XQuAD and MLQA) stands in the plan once. No torch here: a login node can plan.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stilts_ds.augmentation import augmentation_of, check_augmentation
from stilts_ds.config import NAME, ROW_KEYS, Recipe, TrainingPart
from stilts_ds.ds_files import numbers_in
from stilts_ds.errors import UserError, did_you_mean
from stilts_ds.families.registry import family_of
from stilts_ds.noise.kinds import KINDS
from stilts_ds.phase_names import EarlierPhases, counted_lengths, counted_sampling, counted_training, phase_id
from stilts_ds.plan_file import Kind, Phase, Plan
from stilts_ds.run_dir import provenance
from stilts_ds.sources.draw import DRAW
from stilts_ds.task_files import definitions
from stilts_ds.tasks.benchmarks import get_benchmark
from stilts_ds.tasks.registry import TASKS, get_task
from stilts_ds.tasks.spec import FROM, Task


def train_task_of(task: Task) -> str:
    """The task whose English train split a target is fine-tuned on."""
    return task.train_on or task.name


@dataclass(frozen=True)
class PhaseStart:
    """What a phase starts from: `init` as in the plan, and its name or hash as phases' names hold it, today's and the
    earlier one."""

    init: str
    named: str
    named_earlier: str


def make_plan(
    recipe: Recipe, model_hash: str, data_hash: Callable[[str], str], earlier: EarlierPhases | None = None
) -> Plan:
    """The plan of a recipe: each phase after the one it starts from.

    `data_hash(task)` is the hash of a task's train and dev files. Phases of the run folder with `earlier` names keep
    them. Raises UserError for unknown or unfit tasks.
    """
    # All names first: a fault in the last condition is found before files are hashed.
    check_tasks(recipe)
    planner = _Planner(recipe, data_hash, earlier or EarlierPhases())
    pretrained = PhaseStart("", model_hash, planner.earlier.model_hash)
    phases: dict[str, Phase] = {}
    use: dict[str, list[str]] = {condition: [] for condition in recipe.intermediate}
    for condition, names in recipe.intermediate.items():
        for seed in recipe.seeds:
            origin = pretrained
            if names:
                first, origin = planner.phase("intermediate", condition, pretrained, names, [], seed)
                # The first condition that asks for a phase gives it its name for people.
                phases.setdefault(first.id, first)
            for phase in planner.after(condition, origin, seed):
                phases.setdefault(phase.id, phase)
                use[condition] += [phase.id] if phase.id not in use[condition] else []
    return Plan(
        name=recipe.name,
        model=recipe.model.name_or_path,
        source=recipe.data.source,
        seeds=tuple(recipe.seeds),
        targets=tuple(recipe.targets),
        phases=tuple(phases.values()),
        use={condition: tuple(ids) for condition, ids in use.items()},
        provenance=provenance(model_hash),
        tasks=definitions(recipe.named_tasks),
    )


@dataclass(frozen=True)
class _Planner:
    """Makes the phases of one recipe."""

    recipe: Recipe
    data_hash: Callable[[str], str]
    earlier: EarlierPhases

    def after(self, condition: str, origin: PhaseStart, seed: int) -> Iterable[Phase]:
        """Target phases (targets with one train task share one) and the retrieval phase of one encoder."""
        targets = [get_task(name) for name in self.recipe.targets]
        retrieval = [task.name for task in targets if not task.trains]
        if retrieval:  # nothing is drawn at random: the pretrained encoder's retrieval is the same for every seed
            drawn = seed if origin.init else 0
            yield self.phase("retrieval", condition, origin, [], retrieval, drawn)[0]
        for source in dict.fromkeys(train_task_of(task) for task in targets if task.trains):
            scored = [task.name for task in targets if task.trains and train_task_of(task) == source]
            yield self.phase("target", condition, origin, [source], scored, seed)[0]

    def phase(
        self, kind: Kind, condition: str, origin: PhaseStart, train: list[str], evaluate: list[str], seed: int
    ) -> tuple[Phase, PhaseStart]:
        """A phase, and what the phases behind it start from."""
        recipe = self.recipe
        tasks = [get_task(name) for name in train]
        # A target keeps its own settings when it trains on another task's data (XNLI on MNLI, XQuAD on SQuAD).
        # A phase of one task has the settings of that task's literal; one of several tasks has the defaults.
        alone = only_task(tasks) if tasks else ""
        settings_of = alone
        if kind == "target" and tasks:
            alone, settings_of = tasks[0].origin, evaluate[0]
        defaults = get_task(settings_of).training if alone else {}
        mlm, several = any(not family_of(task).labelled for task in tasks), bool(tasks) and not alone
        setting = recipe.training(kind, defaults, alone, several, mlm)
        training = setting.in_use() if train else {}
        # Only trained retrieval reads pools.
        if any(_is_pooled(task) for task in tasks):
            _check_pool_size("+".join(train), setting)
        elif train:
            training.pop("pool_size")  # phases that read no pools keep their names, whatever it says
        lengths = {task.name: _lengths(recipe, task) for task in tasks} if several else {}
        if several:  # rows of several tasks have no common lengths and cuts
            training = {key: value for key, value in training.items() if key not in ROW_KEYS}
        content = {
            "kind": kind,
            "origin": origin.named,
            "train": sorted(train),
            "seed": seed,
            "training": counted_training(training, tasks),
            "lengths": counted_lengths(lengths),
            # What a trained phase is scored on does not change its model: a target may be added later.
            "evaluate": sorted(evaluate) if kind == "retrieval" else [],
        }
        # As earlier versions hashed it: with all settings, counted or not.
        before: dict[str, Any] = {**content, "origin": origin.named_earlier, "training": training, "lengths": lengths}
        before |= self._of_training(train, tasks, counted=False)
        if train:
            content |= self._of_training(train, tasks, counted=True) | self._of_copies("+".join(train), tasks, setting)
        # Three names or more would make too long a folder name.
        label = "-".join(train).replace(FROM, ".") if 0 < len(train) <= 2 else condition
        named, named_earlier = phase_id(kind, label, content), self.earlier.find(kind, label, before, content)
        phase = Phase(
            # Today's name wins where the folder has both.
            id=named_earlier if named_earlier in self.earlier and named not in self.earlier else named,
            kind=kind,
            condition=condition,
            init=origin.init,
            train=tuple(train),
            evaluate=tuple(evaluate),
            seed=seed,
            training=training,
            lengths=lengths,
        )
        return phase, PhaseStart(phase.id, named, named_earlier)

    def _of_training(self, train: Sequence[str], tasks: Sequence[Task], counted: bool) -> dict[str, Any]:
        """What a model that is trained depends on besides its settings; not `counted`: as earlier names held it, those
        of phases that train nothing, too."""
        recipe = self.recipe
        mlm = any(not family_of(task).labelled for task in tasks)
        names = {task.base_name for task in tasks}
        sampling = counted_sampling(recipe, mlm) if counted else recipe.sampling.model_dump()
        content: dict[str, Any] = {
            # One task alone is mixed with nothing; running text is mixed by language.
            "sampling": sampling if len(train) > 1 or mlm else {},
            "dtype": recipe.engine.dtype,
            "dropout": recipe.model.dropout,
            "max_train_examples": recipe.data.max_train_examples,
            "train_split": {t: s for t, s in recipe.data.train_split.items() if t in names},
            "data": {task: self.data_hash(task) for task in sorted(train)},
        }
        if train:  # what a model is chosen by decides which one is kept, and when training ends
            content["selection"] = _selection(recipe, tasks)
        if counted:
            content["deepspeed"] = numbers_in(recipe.engine)
        return content

    def _of_copies(self, where: str, tasks: Sequence[Task], setting: TrainingPart) -> dict[str, Any]:
        """What copies with noise depend on besides the settings. Raises UserError where there can be none."""
        augmentation = augmentation_of(setting.robust, self.recipe.data.noise)
        if augmentation is None:
            return {}
        check_augmentation(where, augmentation, tasks)
        return {"copies": {task.name: augmentation.key(task.train_language) for task in tasks}}


def _is_pooled(task: Task) -> bool:
    """Whether the task's examples are each other's wrong candidates (trained retrieval)."""
    head = family_of(task).head
    return head is not None and head.pooled


def _lengths(recipe: Recipe, task: Task) -> dict[str, int | str]:
    """What rows of one of several tasks trained together depend on: the task's own, as in a phase by itself."""
    mlm = not family_of(task).labelled
    return recipe.training("intermediate", task.training, task.origin, several=True, mlm=mlm).rows_in_use()


def _selection(recipe: Recipe, tasks: Sequence[Task]) -> dict[str, Any]:
    """What decides on dev scores besides the training settings: which examples, and how answers are read off."""
    chosen: dict[str, Any] = {"drawn": DRAW, "by": {task.name: task.main_score for task in tasks}}
    for task in tasks:
        chosen |= family_of(task).selection_settings(recipe.evaluation)
    # Only where it is set: phases of recipes without it keep their names.
    given = recipe.data.dev_split
    split = {task.name: given[task.base_name] for task in tasks if task.base_name in given}
    return chosen | ({"dev_split": split} if split else {})


def only_task(tasks: Sequence[Task]) -> str:
    """The one task that a phase trains, whose settings it takes: translations of it and `mlm` beside it do not count.

    Empty where there are several.
    """
    names = {task.origin for task in tasks if family_of(task).labelled} or {task.origin for task in tasks}
    return names.pop() if len(names) == 1 else ""


def scored_split(recipe: Recipe, task: Task) -> str:
    """The split that a recipe scores `task` on."""
    splits = recipe.evaluation.splits
    return splits.get(task.name, splits.get(task.base_name, "test"))


def check_tasks(recipe: Recipe) -> None:
    """Every named task exists and can be used where it is named."""
    for condition, names in recipe.intermediate.items():
        _check_condition(recipe, condition, names)
    for name in recipe.targets:
        task = _task(name, "targets")
        if not family_of(task).group:
            raise UserError(f"targets: {name} is running text and has no score; leave it out")
        if task.noise is not None:
            check_noise(task)
            if task.plain_name not in recipe.targets:
                raise UserError(f"targets: {name} shows what noise costs {task.plain_name}; score that, too")
        if task.second and task.base_name not in recipe.targets:
            raise UserError(f"targets: {name} is compared with {task.base_name}; score that, too")
        if task.source and task.base_name not in recipe.targets:
            raise UserError(f"targets: {name} is compared with {task.base_name}, trained on English; score that, too")
        if task.translation:
            raise UserError(f"targets: {name} is training data; score {task.origin}")
    _check_task_keys(recipe)
    _check_weights(recipe)
    _check_pools(recipe)
    _check_problems(recipe)


def check_noise(task: Task) -> None:
    """Raise UserError for noise that a task's family cannot bear: each of its words has a label."""
    family = family_of(task)
    if task.noise is None:
        return
    if family.noisy is None:
        raise UserError(f"{task.name}: {task.plain_name} has no texts that bear noise; leave it out")
    if family.given_words and not KINDS[task.noise.kind].in_tokens:
        fitting = ", ".join(name for name, kind in KINDS.items() if kind.in_tokens)
        raise UserError(f"{task.name}: {task.noise.kind} noise would change which words there are; take {fitting}")
    if task.noise.context and task.shared_text != "context":
        raise UserError(f"{task.name}: {task.plain_name} has no passages; leave -context out")


def _check_task_keys(recipe: Recipe) -> None:
    """Settings by task name tasks that exist, and that something reads."""
    languages = recipe.evaluation.languages
    by_task: dict[str, Mapping[str, Any]] = {
        "task_training": recipe.task_training,
        "data.train_split": recipe.data.train_split,
        "data.dev_split": recipe.data.dev_split,
        "evaluation.splits": recipe.evaluation.splits,
        "evaluation.languages": languages if isinstance(languages, dict) else {},
    }
    for section, values in by_task.items():
        for name in values:
            task = _task(name, section)
            trains = section in ("task_training", "data.train_split", "data.dev_split")
            if task.translation or (task.source and trains):
                raise UserError(f"{section}: {name} follows {base_name(task)}; give that one")
            # XNLI's phase trains MNLI: what is set for XNLI would have no effect.
            if trains and task.train_on:
                raise UserError(f"{section}: {name} is trained on {task.train_on}; give that one")
    for name, split in recipe.data.dev_split.items():
        _check_dev_split(recipe, get_task(name), split)
    for name, split in recipe.evaluation.splits.items():
        _check_scored_split(get_task(name), split)
    _check_languages(recipe)


def _check_languages(recipe: Recipe) -> None:
    """Languages to score are the benchmark's. The toy world's own are compared where its files are read."""
    asked = recipe.evaluation.languages
    if recipe.data.source == "toy" or not isinstance(asked, dict):
        return
    for name, codes in asked.items():
        known = get_benchmark(recipe.benchmark).fitted(get_task(name)).languages
        if unknown := [code for code in codes if code not in known]:
            problem = f"evaluation.languages.{name}: {unknown[0]!r} is no language of {name} in {recipe.benchmark}"
            raise UserError(f"{problem}; it has {', '.join(known)}")


def base_name(task: Task) -> str:
    return task.origin if task.translation else task.base_name


def _check_dev_split(recipe: Recipe, task: Task, split: str) -> None:
    """A model is selected on dev, or on examples that its own training leaves out."""
    where = f"data.dev_split.{task.name}"
    if split not in ("train", "dev"):
        raise UserError(f"{where}: {split!r} cannot select a model; give `dev`, or `train` to hold examples out of it")
    if family_of(task).multilingual:
        raise UserError(f"{where}: every {task.name} file has passages of its own that select; leave it out")
    trained = [name for names in recipe.intermediate.values() for name in names]
    translated = sorted({name for name in trained if get_task(name).translation and get_task(name).origin == task.name})
    if translated and split == "train":
        raise UserError(
            f"{where}: {translated[0]} trains on translations of the examples that would select; leave one of them out"
        )


def _check_scored_split(task: Task, split: str) -> None:
    """A task is scored on a split of its own: SQuAD's dev, which XQuAD selects on, must not bear XQuAD's name."""
    splits = {*task.local, *task.hub}
    if split not in splits:
        has = ", ".join(sorted(splits))
        raise UserError(f"evaluation.splits.{task.name}: {task.name} has no split {split!r} of its own; it has {has}")


def _task(name: str, where: str) -> Task:
    """The task of that name. Raises UserError naming the key that it stands under."""
    try:
        return get_task(name)
    except UserError as problem:
        raise UserError(f"{where}: {problem}") from None


def _check_condition(recipe: Recipe, condition: str, names: Sequence[str]) -> None:
    if not re.fullmatch(NAME, condition):  # it becomes part of folder and job names
        raise UserError(f"intermediate: {condition!r} is no name; use letters, digits, '.', '_' and '-'")
    for task in (_task(name, f"intermediate.{condition}") for name in names):
        if not task.trains:
            problem = f"intermediate.{condition}: {task.name} is retrieval and has nothing to train on"
            raise UserError(f"{problem}; leave it out")


def _check_problems(recipe: Recipe) -> None:
    """Nothing is scored on programming problems that its model was trained on, in whichever language."""
    for target in map(get_task, recipe.targets):
        scored = target.problems.get(scored_split(recipe, target))
        trained = [
            (f"intermediate.{condition}", name) for condition, names in recipe.intermediate.items() for name in names
        ]
        if target.trains:
            trained.append(("its fine-tuning", train_task_of(target)))
        for where, name in trained:
            if scored is not None and _trained_problems(recipe, name) == scored:
                # Clean of all that the study trains on: the next start must not refuse what this one advises.
                seen = {_trained_problems(recipe, other) for _, other in trained}
                coded = [task for task in TASKS.values() if task.role == "target" and task.problems]
                clean = [task.name for task in coded if seen.isdisjoint(task.problems.values())]
                advice = f"; {' and '.join(clean)} can be scored" if clean else ""
                conflict = f"{target.name} is scored on problems of {scored}, on which {where} trains ({name})"
                raise UserError(f"targets: {conflict}: leave one of them out{advice}")


def _trained_problems(recipe: Recipe, name: str) -> str | None:
    """Which programming problems a task trains on; None for one that is no code."""
    return get_task(name).problems.get(recipe.data.train_split.get(name, "train"))


def _check_pools(recipe: Recipe) -> None:
    """Pools of trained retrieval are consecutive examples of a step, which must all be of one task."""
    for condition, names in recipe.intermediate.items():
        pooled = [name for name in names if _is_pooled(get_task(name))]
        if pooled and len(names) > 1 and recipe.sampling.unit == "example":
            raise UserError(f"intermediate.{condition}: {pooled[0]} needs steps of its own; set sampling.unit=step")


def _check_pool_size(where: str, setting: TrainingPart) -> None:
    """Steps and micro-batches hold whole pools."""
    batch, micro_batch, pool = setting.train_batch_size, setting.per_device_train_batch_size, setting.pool_size
    if batch % pool:
        raise UserError(f"{where}: train_batch_size={batch} is no multiple of pool_size={pool}; set one that is")
    if micro_batch < pool:
        too_small = f"per_device_train_batch_size={micro_batch} is less than pool_size={pool}"
        raise UserError(f"{where}: {too_small}, which one rank computes at once; raise the one or lower the other")


def _check_weights(recipe: Recipe) -> None:
    """Fixed weights name each task of the phases that mix tasks, and no other."""
    weights = recipe.sampling.weights
    if not isinstance(weights, dict):
        return
    mixed = {name for names in recipe.intermediate.values() if len(names) > 1 for name in names}
    # Its share is given, so it needs no weight.
    mixed -= {"mlm"} if recipe.sampling.mlm_share is not None else set()
    for name in sorted(mixed - set(weights)):
        raise UserError(f"sampling.weights has no weight for {name}, which a condition mixes with others; give it one")
    for name in sorted(set(weights) - mixed):
        raise UserError(f"sampling.weights.{name}: no condition mixes {name} with others{did_you_mean(name, mixed)}")
