"""What one phase's training needs: its model, heads, rows and settings, checked before anything is paid for."""

from __future__ import annotations

import ctypes
import gc
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import Any

import torch

from stilts_ds.batches.collate import TaskRows
from stilts_ds.config import SWEEP, EvaluationPart, Recipe
from stilts_ds.data.data import Data, DataIndex
from stilts_ds.data.prepare import prepare_data
from stilts_ds.disk import disk_use, train_again
from stilts_ds.display import concern
from stilts_ds.ds_files import base_config
from stilts_ds.engine.checkpoint import await_saved
from stilts_ds.engine.contract import check_deepspeed
from stilts_ds.engine.guards import MORE_TO_LOAD, memory_explained
from stilts_ds.engine.loop import train
from stilts_ds.engine.preflight import check_ranks, node_name
from stilts_ds.engine.progress import Progress
from stilts_ds.engine.training_setup import TrainingSetup
from stilts_ds.engine.weights import encoder_of_ranks, read_on_rank_0
from stilts_ds.engine.world import World
from stilts_ds.errors import UserError
from stilts_ds.evaluate.selection import dev_scores
from stilts_ds.export import check_export, export_model, keep_head, publish, withdraw
from stilts_ds.families.build import build_model
from stilts_ds.families.registry import family_of, get_family, pool_size
from stilts_ds.lineage import is_outdated, start_over_if_outdated
from stilts_ds.locks import phase_lock
from stilts_ds.model.backbone import Backbone
from stilts_ds.model.checks import masks_follow_rows
from stilts_ds.model.encoder import read_language_head, read_output_layer
from stilts_ds.model.heads import HeadSpec, set_language_head
from stilts_ds.model.multitask import MultiTask
from stilts_ds.model.vocabulary import narrow_vocabulary
from stilts_ds.model_files import ModelLimits, limits_of, model_folder, model_path, model_source, vector_setting_problem
from stilts_ds.phase_names import left_alone
from stilts_ds.phase_tracking import tracking_of
from stilts_ds.plan_file import Phase, Plan
from stilts_ds.rows.rows import Rows, touched_ids
from stilts_ds.run_dir import PhaseDir, RunDir, hash_file, provenance
from stilts_ds.tasks.registry import get_task
from stilts_ds.trackers import check_trackers
from stilts_ds.weight_files import parameter_count

log = logging.getLogger(__name__)


def check_start(
    run: RunDir, recipe: Recipe, phases: list[Phase], plan: Plan, world: World, only: str | None = None
) -> None:
    """Refuse settings that cannot work, ranks that do not fit together and a disk that is too small. A collective.

    `phases` are those that run now, or what is `only` done of them. Of the whole plan, retrieval must be possible, and
    all that it still writes must fit on the disk: a study that fills it is found out now, and not after days.
    """
    model = model_path(recipe.model.name_or_path)
    limits = limits_of(model, recipe.model.revision)
    check_settings(recipe, phases, limits, world, only)
    check_trackers(recipe.report_to)
    check_retrieval(recipe.evaluation, plan.phases, limits)
    needed = world.broadcast(bytes_to_write(recipe, plan, run) if world.first else None)
    check_ranks(world, run.root, needed)
    # After it: ranks of other versions would not come to one answer.
    if any(phase.trains(only) for phase in phases):
        check_deepspeed(recipe.engine, world)


def bytes_to_write(recipe: Recipe, plan: Plan, run: RunDir) -> int:
    """Most bytes that the plan will add to the disk at any time; 0 where the model's size is unknown."""
    folder = model_folder(recipe.model.name_or_path, recipe.model.revision)
    parameters = parameter_count(str(folder)) if folder is not None else None
    if parameters is None:
        return 0
    return disk_use(run, plan, recipe.keep, parameters, recipe.launch.phases_at_once).more


def check_settings(
    recipe: Recipe, phases: list[Phase], limits: ModelLimits, world: World, only: str | None = None
) -> None:
    """Refuse what cannot work before anything is paid for."""
    base_config(recipe.engine)  # which looks at the recipe's own DeepSpeed file
    if recipe.execute.allow:
        recipe.execute.settings()  # which looks at the folders that the sandbox is to show
    if recipe.engine.dtype == "fp16" and world.device.type == "cpu":
        raise UserError("engine.dtype=fp16 does not work on CPUs; use engine.dtype=fp32 or bf16")
    for phase in phases:
        if not phase.train:
            continue
        setting = phase.setting()
        families = [family_of(get_task(name)) for name in phase.train]
        for family in families:
            family.verbs(limits.sees)  # which refuses families that a decoder cannot learn
        # Tasks that are trained together may have rows of their own lengths.
        longest = max(phase.setting(name).max_seq_length for name in phase.train)
        if limits.tokens is not None and longest > limits.tokens:
            problem = f"max_seq_length={longest}, but the model takes {limits.tokens} tokens"
            raise UserError(f"{phase.title}: {problem}; set max_seq_length to {limits.tokens} or less")
        if not phase.trains(only):  # no steps are dealt: any number of ranks predicts
            continue
        pool = pool_size(families, setting)
        if setting.train_batch_size // pool < world.size and pool > 1:
            raise UserError(
                f"{phase.title}: train_batch_size={setting.train_batch_size} makes {setting.train_batch_size // pool} "
                f"pools of pool_size={pool}, fewer than the {world.size} ranks; raise train_batch_size"
            )
        # Each step deals its examples to the ranks: one of them would get none. `stilts run` and jobs start fewer.
        if setting.train_batch_size < world.size:
            raise UserError(
                f"{phase.title}: train_batch_size={setting.train_batch_size} is less than the {world.size} ranks; "
                f"start {setting.train_batch_size}, or raise it"
            )


def check_retrieval(evaluation: EvaluationPart, phases: Sequence[Phase], limits: ModelLimits) -> None:
    """Refuse rows, layers and sentence tokens for retrieval that the model has not got, before the phases that
    retrieval waits for."""
    if all(phase.train for phase in phases):
        return
    length = evaluation.retrieval_max_seq_length
    layer = -1 if evaluation.retrieval_layer == SWEEP else evaluation.retrieval_layer
    problem = vector_setting_problem(length, layer, evaluation.retrieval_pooling, limits)
    if problem is not None:
        raise UserError(f"evaluation.retrieval_{problem[0]}{problem[1]}")


def check_folders(run: RunDir, plan: Plan, phases: Sequence[Phase]) -> None:
    """Look at the folders of the phases that are to run, on rank 0: whole, and nobody at work in them."""
    run.check_links()
    train_again(run, plan, phases)
    for phase in phases:
        folder = run.phase(phase.id)
        folder.read_status()
        if folder.root.exists():  # refused now, and not hours later when it is the phase's turn
            with phase_lock(folder):
                pass
    for sentence in left_alone(run, plan, phases):
        log.info("%s", sentence)


def read_data(data: Data, phases: Sequence[Phase], world: World) -> None:
    """Have rank 0 read and tokenise what the phases need; the other ranks get to know what it found, and read no
    source. A collective.

    A cache that is not shared by the nodes is filled once on each of them. Raises UserError for faulty data.
    """
    found: list[DataIndex] = []

    def read() -> None:
        prepare_data(data, phases)
        found.append(data.index())

    world.on_rank_0(read)
    index = DataIndex(*world.broadcast(tuple(found[0]) if world.first else None))
    problem: UserError | None = None
    # One rank a node: the others of it would only make the same rows.
    fills = not world.first and world.local_rank == 0 and not data.sees(index)
    if fills:
        try:
            prepare_data(data, phases)
        except UserError as error:
            problem = error
    world.agree(problem, "reading the data on another node")
    filled = node_name() if fills else ""
    nodes = [node for node in world.all_gather(filled) if node]
    if world.first and nodes:
        log.warning("data.cache %s is not shared: rows were made on %s, too", data.store.folder, ", ".join(nodes))
    if not world.first:
        data.follow(index)


def take_up(run: RunDir, phase: Phase, only: str | None) -> None:
    """Make sure, on rank 0, that what a phase has done so far was made from the encoder that it starts from now."""
    if only == "evaluate" and phase.train and is_outdated(run, phase):
        raise UserError(
            f"what {phase.label} started from was trained again, with other weights; `stilts run` trains that again"
        )
    start_over_if_outdated(run, phase)
    await_saved(run.phase(phase.id))


def train_phase(run: RunDir, recipe: Recipe, phase: Phase, data: Data, world: World) -> Progress:
    """Train one phase from the pretrained model or an earlier phase's encoder, with new heads, and publish its best
    model.

    Returns where training ended and which model it kept.
    """
    folder = run.phase(phase.id)
    # Before training: a model of an earlier start must not be taken for the result of this one.
    world.on_rank_0(lambda: withdraw(folder))
    progress = train(set_up_training(run, recipe, phase, data, world))
    world.on_rank_0(lambda: publish(folder, progress.best_step))
    if world.first:
        log.info(
            "%s: best dev score %.2f at step %d of %d",
            phase.label,
            progress.best_score,
            progress.best_step,
            progress.step,
        )
        if not folder.metrics.exists() or hash_file(folder.metrics) != progress.curve:
            log.warning("%s is not what training wrote; the report will say so", folder.metrics)
    release_memory()
    return progress


def set_up_training(run: RunDir, recipe: Recipe, phase: Phase, data: Data, world: World) -> TrainingSetup:
    """The model, rows and settings of a phase's training; makes its folder. A collective.

    Heads are new, but for a pretrained language model's.
    """
    setting, folder = phase.setting(), run.phase(phase.id)
    # Sorted, so that every rank numbers the tasks alike.
    splits = {name: data.train(name, phase.setting(name)) for name in sorted(phase.train)}
    rows = {
        name: TaskRows(
            name, index, split.family, split.task.head_name, split.rows(phase.setting(name)), data.tokenizer.sees
        )
        for index, (name, split) in enumerate(splits.items())
    }
    specs = head_specs(rows, data)
    with memory_explained(f"while the model of {phase.label} was loaded", MORE_TO_LOAD):
        model, lineage = model_of_phase(run, recipe, phase, data, rows, specs, world)
    folder.root.mkdir(parents=True, exist_ok=True)

    def export(parameters: dict[str, torch.Tensor], step: int) -> None:
        told = {**lineage, "step": step}
        export_model(folder.best(step), model.encoder, data.tokenizer, specs, parameters, told)

    return TrainingSetup(
        title=phase.label,
        model=model,
        tokenizer=data.tokenizer,
        tasks=rows,
        setting=setting,
        sampling=recipe.sampling,
        engine_part=recipe.engine,
        seed=phase.seed,
        folder=folder,
        tracking=tracking_of(run, recipe, phase),
        world=world,
        evaluate=lambda forward: dev_scores(forward, data, phase, world),
        export=export,
        concern=concern(recipe.data.source),
    )


def model_of_phase(
    run: RunDir,
    recipe: Recipe,
    phase: Phase,
    data: Data,
    rows: dict[str, TaskRows],
    specs: list[HeadSpec],
    world: World,
) -> tuple[MultiTask, dict[str, Any]]:
    """The model that a phase starts from, with its heads, and on rank 0 what its export says of where it comes from. A
    collective."""
    # Heads are new in each phase: by its seed they begin alike on every rank and in every start.
    torch.manual_seed(phase.seed)
    source = str(run.phase(phase.init).encoder) if phase.init else model_path(recipe.model.name_or_path)
    # An encoder that changed since its phase exported it would be trained on under the same name. Rank 0 looks for all:
    # its hashes read the whole model.
    world.on_rank_0(partial(check_export, run.phase(phase.init)) if phase.init else None)
    # An exported encoder is a folder and has no revision.
    stored, revision = (source, None) if phase.init else model_source(source, recipe.model.revision)
    encoder = encoder_of_ranks(stored, recipe.model, revision, recipe.engine.dtype, world)
    warn_of_dropout(encoder, source, world)
    backbone = Backbone(encoder)
    check_packing(recipe, backbone)
    if data.tokenizer.sees != backbone.sees:
        raise UserError(
            f"{source} is another kind of model than {data.tokenizer.name}, by whose tokenizer the rows were made; "
            "delete its phase, and the same command trains it again"
        )
    language_head = None
    if any(task.verbs.ties_embeddings for task in rows.values()):  # it predicts every vocabulary row
        language_head = read_on_rank_0(lambda: read_output(stored, revision, backbone), world)
    elif recipe.engine.vocabulary_rows == "touched":
        train_touched_rows(encoder, [task.rows for task in rows.values()], phase, data, world)
    lineage: dict[str, Any] = {}
    if world.first:  # which alone exports, and asks git
        lineage = {"init": source, "phase": phase.to_json(), "provenance": provenance().to_json()}
    model = build_model(encoder, specs, len(rows))
    # Rank 0 sends its heads with the encoder.
    world.on_rank_0(lambda: load_language_head(model, language_head, source, concern(recipe.data.source)))
    if phase.setting().keep_head:
        before = run.phase(phase.init) if phase.init else None
        world.on_rank_0(lambda: lineage.update(kept_heads=keep_heads(model, specs, before)))
    return model, lineage


def read_output(source: str, revision: str | None, backbone: Backbone) -> dict[str, torch.Tensor] | None:
    """The pretrained weights of a language modelling head, {} where a decoder's head has none but the word embeddings;
    None where the checkpoint lacks them."""
    if backbone.sees == "both":
        return read_language_head(source, revision)
    return {} if backbone.ties_output else read_output_layer(source, revision)


def check_packing(recipe: Recipe, backbone: Backbone) -> None:
    """Refuse a model whose rows are padded where any phase of the study needs them packed: before the first of them
    trains, and not days later when that one begins."""
    named = [*recipe.targets, *chain.from_iterable(recipe.intermediate.values())]
    for name in named:
        if family_of(get_task(name)).packed_only:
            backbone.check_packs(name)


def warn_of_dropout(encoder: Any, source: str, world: World) -> None:
    """Say so where the masks of an encoder's dropout are not those of its rows: the curve depends on the ranks then."""
    if world.first and not masks_follow_rows(encoder):
        log.warning(
            "%s (%s): its dropout masks depend on the rows beside a row, so that other numbers of ranks or "
            "micro-batches draw other losses; model.dropout=0 gives one curve",
            source,
            encoder.config.model_type,
        )


def keep_heads(model: MultiTask, specs: Sequence[HeadSpec], before: PhaseDir | None) -> dict[str, str]:
    """For each head the one of the phase before that it goes on with, "" where it is new (on rank 0)."""
    kept = {spec.name: "" for spec in specs}
    if before is not None:
        kept = {spec.name: keep_head(model, spec, before) for spec in specs}
    for name, origin in kept.items():
        log.info("keep_head: the head %s %s", name, f"goes on with that of {origin}" if origin else "is new")
    return kept


def load_language_head(
    model: MultiTask, pretrained: Mapping[str, torch.Tensor] | None, source: str, doubt: int
) -> None:
    """Give language modelling the head that its checkpoint was pretrained with (on rank 0); None: `source` has none,
    which is logged at the level `doubt`."""
    for spec in model.specs.values():
        if not get_family(spec.family).verbs(model.backbone.sees).ties_embeddings:
            continue
        if pretrained is not None:
            set_language_head(model.heads[spec.name], pretrained, source)
            log.info("the language modelling head of %s goes on", source)
            continue
        # Masked words are then learned from nothing, which costs steps that a study may not have.
        none = f"{source} has none (`lm_head`, or `cls.predictions` with GELU)"
        log.log(doubt, "the language modelling head is new: %s", none)


def train_touched_rows(encoder: Any, train: list[Rows], phase: Phase, data: Data, world: World) -> None:
    """Leave only the vocabulary rows that the phase's train and dev data hold in the encoder."""
    dev = [data.dev(name, phase.setting(name)).rows(phase.setting(name)) for name in phase.train]
    size = encoder.get_input_embeddings().num_embeddings
    ids = touched_ids([*train, *dev], data.tokenizer.special, size)
    # Rank 0 alone exports, and puts the rows that were left out back then.
    narrow_vocabulary(encoder, ids, keep_rest=world.first)
    if world.first:
        log.info("%s: %d of %d vocabulary rows are in its data and train", phase.label, len(ids), size)


def head_specs(tasks: Mapping[str, TaskRows], data: Data) -> list[HeadSpec]:
    """The heads of a phase: one for each label space among its training tasks."""
    specs: dict[str, HeadSpec] = {}
    for name, task in sorted(tasks.items()):
        width = int(task.rows.items[1] - task.rows.items[0])  # the choices of a question; 1 where an item is one row
        labels = data.labels(name) if task.family.labelled else ()
        spec = HeadSpec(task.head, task.family.name, tuple(labels), width)
        # Several tasks may share a head (MNLI and its translations), but only with the same labels.
        if specs.setdefault(spec.name, spec) != spec:
            raise UserError(f"tasks of head {spec.name!r} disagree on its labels; give them heads of their own")
    return list(specs.values())


def release_memory() -> None:
    """Give back the engine's buffers before the next phase allocates its own.

    Steps of ever other sizes leave glibc's heap full of holes, gigabytes in the end, which only `malloc_trim` returns.
    """
    gc.collect()
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
