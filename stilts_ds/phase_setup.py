"""What one phase's training needs: its model, heads, rows and settings, checked before anything is paid for."""

from __future__ import annotations

import ctypes
import gc
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch

from stilts_ds.batches.collate import TaskRows
from stilts_ds.config import EvaluationPart, Recipe
from stilts_ds.data.data import Data
from stilts_ds.ds_files import base_config
from stilts_ds.engine.preflight import check_ranks
from stilts_ds.engine.training_setup import TrainingSetup
from stilts_ds.engine.world import World
from stilts_ds.engine.zero import check_deepspeed
from stilts_ds.errors import UserError
from stilts_ds.evaluate.selection import dev_scores
from stilts_ds.export import check_export, export_model, keep_head
from stilts_ds.families.build import build_model
from stilts_ds.families.registry import family_of, get_family, pool_size
from stilts_ds.model.encoder import load_encoder, read_language_head
from stilts_ds.model.heads import HeadSpec, set_language_head
from stilts_ds.model.multitask import MultiTask
from stilts_ds.model.vocabulary import narrow_vocabulary
from stilts_ds.model_files import Limits, limits_of, model_path, parameter_count
from stilts_ds.plan_file import Phase
from stilts_ds.rows.rows import Rows, touched_ids
from stilts_ds.run_dir import PhaseDir, RunDir, folder_bytes, provenance
from stilts_ds.tasks.registry import get_task

log = logging.getLogger(__name__)


def check_start(run: RunDir, recipe: Recipe, phases: list[Phase], planned: Sequence[Phase], world: World) -> None:
    """Refuse settings that cannot work, ranks that do not fit together and a disk that is too small. A collective.

    `phases` are those that run now, `planned` all of the plan: retrieval after them must be possible.
    """
    model = model_path(recipe.model.name_or_path)
    limits = limits_of(model, recipe.model.revision)
    check_settings(recipe, phases, limits, world)
    check_retrieval(recipe.evaluation, planned, limits)
    needed = world.broadcast(bytes_to_write(parameter_count(model), phases, run) if world.first else None)
    check_ranks(world, run.root, needed)


def check_settings(recipe: Recipe, phases: list[Phase], limits: Limits, world: World) -> None:
    """Refuse what cannot work before anything is paid for."""
    check_deepspeed()
    base_config(recipe.engine)  # which looks at the recipe's own DeepSpeed file
    if recipe.engine.dtype == "fp16" and world.device.type == "cpu":
        raise UserError("engine.dtype=fp16 does not work on CPUs; use engine.dtype=fp32 or bf16")
    for phase in phases:
        if not phase.train:
            continue
        setting = phase.setting()
        longest = max(phase.setting(name).max_seq_length for name in phase.train)
        if limits.tokens is not None and longest > limits.tokens:
            raise UserError(f"{phase.title}: max_seq_length={longest}, but the model takes {limits.tokens} tokens")
        pool = pool_size((family_of(get_task(name)) for name in phase.train), setting)
        if setting.train_batch_size // pool < world.size and pool > 1:
            raise UserError(
                f"{phase.title}: train_batch_size={setting.train_batch_size} makes {setting.train_batch_size // pool} "
                f"pools of pool_size={pool}, fewer than the {world.size} ranks; raise train_batch_size"
            )
        if setting.train_batch_size < world.size:
            raise UserError(
                f"{phase.title}: train_batch_size={setting.train_batch_size} is less than the {world.size} ranks"
            )


def check_retrieval(part: EvaluationPart, phases: Sequence[Phase], limits: Limits) -> None:
    """Refuse rows and layers for retrieval that the model has not got, before the phases that retrieval waits for."""
    if all(phase.train for phase in phases):
        return
    length, layer = part.retrieval_max_seq_length, part.retrieval_layer
    if limits.tokens is not None and length > limits.tokens:
        raise UserError(f"evaluation.retrieval_max_seq_length={length}, but the model takes {limits.tokens} tokens")
    # The embeddings' output is hidden state 0, and the last layer's is -1, too.
    if limits.layers is not None and not -limits.layers - 1 <= layer <= limits.layers:
        raise UserError(
            f"evaluation.retrieval_layer={layer}, but the model has {limits.layers} layers; "
            f"give 0 to {limits.layers}, or -1 for the last"
        )


def bytes_to_write(parameters: int | None, phases: list[Phase], run: RunDir) -> int:
    """Most bytes that training one of the phases will add to the disk; 0 where the model's size is unknown (None).

    A checkpoint holds 12 bytes a parameter (weights and two moments in float32), and one more stands beside the kept
    ones while it is written. Each may name a best model of its own, of 4 bytes a parameter, and one more is newer than
    all of them. What an earlier start left in the folder is there already, and is replaced or removed.
    """
    needed = [0]
    for phase in phases:
        if phase.train:
            checkpoints = phase.setting().save_total_limit + 1
            most = (parameters or 0) * (12 * checkpoints + 4 * (checkpoints + 1))
            needed.append(most - folder_bytes(run.phase(phase.id).checkpoints))
    return max(needed)


def set_up_training(run: RunDir, recipe: Recipe, phase: Phase, data: Data, world: World) -> TrainingSetup:
    """The model, rows and settings of a phase's training; makes its folder. A collective.

    Heads are new, but for a pretrained language model's.
    """
    setting, folder = phase.setting(), run.phase(phase.id)
    splits = {name: data.train(name, phase.setting(name)) for name in sorted(phase.train)}
    rows = {
        name: TaskRows(name, index, split.family, split.task.head_name, split.rows(phase.setting(name)))
        for index, (name, split) in enumerate(splits.items())
    }
    specs = head_specs(rows, data)
    tasks = {name: split.task for name, split in splits.items()}
    torch.manual_seed(phase.seed)  # new heads
    source = str(run.phase(phase.init).encoder) if phase.init else model_path(recipe.model.name_or_path)
    if phase.init:
        check_export(run.phase(phase.init))
    revision = None if phase.init else recipe.model.revision
    encoder = load_encoder(source, recipe.model, revision, world.device, recipe.engine.dtype)
    language_head = None
    if any(get_family(spec.family).trained.ties_embeddings for spec in specs):  # it predicts every vocabulary row
        language_head = read_language_head(source, revision)
    elif recipe.engine.vocabulary_rows == "touched":
        train_touched_rows(encoder, [task.rows for task in rows.values()], phase, data, world)
    lineage = {"init": source, "phase": phase.to_json(), "provenance": provenance().to_json()}
    model = build_model(encoder, specs, len(rows))
    load_language_head(model, language_head, source, world)
    if setting.keep_head:
        lineage["kept_heads"] = keep_heads(model, specs, run.phase(phase.init) if phase.init else None, world)
    folder.root.mkdir(parents=True, exist_ok=True)
    return TrainingSetup(
        title=phase.id,
        model=model,
        tokenizer=data.tokenizer,
        tasks=rows,
        setting=setting,
        sampling=recipe.sampling,
        engine_part=recipe.engine,
        seed=phase.seed,
        folder=folder,
        tensorboard=run.tensorboard / phase.id,
        world=world,
        evaluate=lambda forward: dev_scores(forward, tasks, data, phase, world),
        export=lambda parameters, step: export_model(
            folder.best(step), encoder, data.tokenizer, specs, parameters, {**lineage, "step": step}
        ),
    )


def keep_heads(model: MultiTask, specs: Sequence[HeadSpec], before: PhaseDir | None, world: World) -> dict[str, str]:
    """For each head the one of the phase before that it goes on with, "" where it is new."""
    kept = {spec.name: keep_head(model, spec, before) if before is not None else "" for spec in specs}
    if world.first:
        for name, origin in kept.items():
            log.info("keep_head: the head %s %s", name, f"goes on with that of {origin}" if origin else "is new")
    return kept


def load_language_head(
    model: MultiTask, pretrained: Mapping[str, torch.Tensor] | None, source: str, world: World
) -> None:
    """Give masked language modelling the head that its checkpoint was pretrained with; None: `source` has none."""
    for spec in model.specs.values():
        if not model.head(spec.name).ties_embeddings:
            continue
        if pretrained is not None:
            set_language_head(model.heads[spec.name], pretrained, source)
        if world.first:
            none = f"is new: {source} has none (`lm_head`, or `cls.predictions` with GELU)"
            origin = none if pretrained is None else f"of {source} goes on"
            log.info("the language modelling head %s", origin)


def train_touched_rows(encoder: Any, train: list[Rows], phase: Phase, data: Data, world: World) -> None:
    """Leave only the vocabulary rows that the phase's train and dev data hold in the encoder."""
    dev = [data.dev(name, phase.setting(name)).rows(phase.setting(name)) for name in phase.train]
    size = encoder.get_input_embeddings().num_embeddings
    ids = touched_ids([*train, *dev], data.tokenizer.special, size)
    narrow_vocabulary(encoder, ids, keep_rest=world.first)
    if world.first:
        log.info("%s: %d of %d vocabulary rows are in its data and train", phase.id, len(ids), size)


def head_specs(tasks: Mapping[str, TaskRows], data: Data) -> list[HeadSpec]:
    """The heads of a phase: one for each label space among its training tasks."""
    specs: dict[str, HeadSpec] = {}
    for name, task in sorted(tasks.items()):
        width = int(task.rows.items[1] - task.rows.items[0])  # the choices of a question; 1 where an item is one row
        labels = data.labels(name) if task.family.labelled else ()
        spec = HeadSpec(task.head, task.family.name, tuple(labels), width)
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
