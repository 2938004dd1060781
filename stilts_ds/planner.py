"""Recipe to plan: a graph of phases, each named by the hash of everything that its result depends on.

A finished phase is skipped, an unfinished one is resumed, and a phase that two conditions share (the baseline, SQuAD
training for XQuAD and MLQA) stands in the plan once. No torch here: a login node can plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from stilts_ds.augmentation import augmentation_of, check_augmentation
from stilts_ds.config import ROW_KEYS, Recipe, TrainingPart
from stilts_ds.ds_files import numbers_in
from stilts_ds.errors import UserError
from stilts_ds.families.registry import family_of, pool_size
from stilts_ds.named_tasks import NamedTasks, check_tasks, train_task_of
from stilts_ds.phase_names import EarlierPhases, counted_lengths, counted_sampling, counted_training, phase_id
from stilts_ds.plan_file import Kind, Phase, Plan
from stilts_ds.run_dir import provenance
from stilts_ds.sources.draw import DRAW
from stilts_ds.task_files import definitions
from stilts_ds.tasks.registry import get_task
from stilts_ds.tasks.spec import FROM, Task


@dataclass(frozen=True)
class PhaseStart:
    """What a phase starts from: `init` as in the plan, and its name or hash as phases' names hold it, today's and the
    earlier one."""

    init: str
    named: str
    named_earlier: str


def most_ranks(phases: Iterable[Phase], only: str | None = None) -> int | None:
    """How many ranks can share the steps of each of the phases: every rank needs an example of a step or, in trained
    retrieval, a pool of them. None where nothing trains, as in a start that does `only` "evaluate"."""
    shares: list[int] = []
    for phase in phases:
        if phase.trains(only):
            setting = phase.setting()
            pool = pool_size([family_of(get_task(name)) for name in phase.train], setting)
            shares.append(setting.train_batch_size // pool)
    return min(shares, default=None)


def make_plan(
    recipe: Recipe, model_hash: str, data_hash: Callable[[str], str], earlier: EarlierPhases | None = None
) -> Plan:
    """The plan of a recipe: each phase after the one it starts from.

    `data_hash(task)` is the hash of a task's train and dev files. Phases of the run folder with `earlier` names keep
    them. Raises UserError for unknown or unfit tasks.
    """
    # All names first: a fault in the last condition is found before files are hashed.
    tasks = check_tasks(recipe)
    planner = _Planner(recipe, tasks, data_hash, earlier or EarlierPhases())
    pretrained = PhaseStart("", model_hash, planner.earlier.model_hash)
    phases: dict[str, Phase] = {}
    use: dict[str, list[str]] = {condition: [] for condition in tasks.conditions}
    for condition, trained in tasks.conditions.items():
        for seed in recipe.seeds:
            origin = pretrained
            if trained:
                first, origin = planner.phase("intermediate", condition, pretrained, trained, [], seed)
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
    tasks: NamedTasks
    data_hash: Callable[[str], str]
    earlier: EarlierPhases

    def after(self, condition: str, origin: PhaseStart, seed: int) -> Iterable[Phase]:
        """Target phases (targets with one train task share one) and the retrieval phase of one encoder."""
        retrieval = [task for task in self.tasks.targets if not task.trains]
        if retrieval:  # nothing is drawn at random: the pretrained encoder's retrieval is the same for every seed
            drawn = seed if origin.init else 0
            yield self.phase("retrieval", condition, origin, [], retrieval, drawn)[0]
        trained = [(train_task_of(task), task) for task in self.tasks.targets if task.trains]
        for source in {source.name: source for source, _ in trained}.values():
            scored = [task for trainer, task in trained if trainer.name == source.name]
            yield self.phase("target", condition, origin, [source], scored, seed)[0]

    def phase(
        self, kind: Kind, condition: str, origin: PhaseStart, tasks: Sequence[Task], scored: Sequence[Task], seed: int
    ) -> tuple[Phase, PhaseStart]:
        """A phase that trains `tasks` and scores `scored`, and what the phases behind it start from."""
        recipe, train, evaluate = self.recipe, [task.name for task in tasks], [task.name for task in scored]
        # A target keeps its own settings when it trains on another task's data (XNLI on MNLI, XQuAD on SQuAD).
        # A phase of one task has the settings of that task's literal; one of several tasks has the defaults.
        alone = tasks[0].origin if kind == "target" else only_task(tasks)
        with_settings = scored if kind == "target" else [task for task in tasks if task.origin == alone]
        defaults = with_settings[0].training if alone else {}
        mlm, several = any(not family_of(task).labelled for task in tasks), bool(tasks) and not alone
        setting = recipe.training(kind, defaults, alone, several, mlm)
        training = setting.in_use() if train else {}
        # Only trained retrieval reads pools.
        if any(family_of(task).pooled for task in tasks):
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


def _check_pool_size(where: str, setting: TrainingPart) -> None:
    """Steps and micro-batches hold whole pools."""
    batch, micro_batch, pool = setting.train_batch_size, setting.per_device_train_batch_size, setting.pool_size
    if batch % pool:
        raise UserError(f"{where}: train_batch_size={batch} is no multiple of pool_size={pool}; set one that is")
    if micro_batch < pool:
        too_small = f"per_device_train_batch_size={micro_batch} is less than pool_size={pool}"
        raise UserError(f"{where}: {too_small}, which one rank computes at once; raise the one or lower the other")
