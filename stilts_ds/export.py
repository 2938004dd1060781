"""What a phase leaves: `encoder/` for AutoModel and AutoTokenizer, `heads.safetensors` and `heads.json`.

While a phase trains, each new best model is written beside its checkpoints as `checkpoints/best-<step>`. A checkpoint
names the one that it knows, so a start that goes on from it finds just that one, whatever came after it and was lost.
The model that the last step knows is published when training is over.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from stilts_ds.config import Recipe
from stilts_ds.engine.sharded import ShardedModel, shard
from stilts_ds.engine.weights import encoder_of_ranks, send_weights
from stilts_ds.engine.world import World
from stilts_ds.errors import UserError
from stilts_ds.families.build import build_model
from stilts_ds.families.generate.rows import end_of, never_written
from stilts_ds.families.registry import get_family
from stilts_ds.model.backbone import Backbone
from stilts_ds.model.encoder import load_encoder, save_encoder, save_generation_config
from stilts_ds.model.heads import HeadSpec
from stilts_ds.model.multitask import MultiTask
from stilts_ds.model.onednn import block_weights
from stilts_ds.model_files import model_source
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.run_dir import (
    HEADS_JSON,
    LINEAGE,
    PhaseDir,
    hash_file,
    model_damage,
    open_to_others,
    read_sealed,
    write_json,
    write_sealed,
)

PREFIX_ENCODER, PREFIX_HEADS = "encoder.", "heads."


def export_model(
    folder: Path,
    encoder: Any,
    tokenizer: Tokenizer,
    specs: list[HeadSpec],
    parameters: dict[str, torch.Tensor],
    lineage: dict[str, Any],
) -> None:
    """Write encoder, tokenizer and heads into `folder`, which is emptied first; `heads.json` says that all is there."""
    shutil.rmtree(folder, ignore_errors=True)
    # The same file names as in a phase's folder, so that publishing is only linking.
    target = PhaseDir(folder)
    backbone = Backbone(encoder)
    output_layer = _output_layer(backbone, specs, parameters)
    save_encoder(encoder, _part(parameters, PREFIX_ENCODER), target.encoder, output_layer)
    tokenizer.save(target.encoder)
    if backbone.sees == "left":
        unused = never_written(tokenizer, encoder.config.vocab_size)
        save_generation_config(target.encoder, end_of(tokenizer), unused)
    write_json(target.encoder / LINEAGE, lineage)
    save_file(_part(parameters, PREFIX_HEADS), target.heads)
    for weights in (target.heads, *target.encoder.glob("*.safetensors")):
        open_to_others(weights)
    # Hashed after they are on disk: heads.json vouches for bytes that a power cut cannot take back.
    hashes = _on_disk(target.encoder.iterdir())
    # Without the lineage: it says where the model is from, and nobody who loads the model depends on it.
    files = {f"encoder/{name}": digest for name, digest in hashes.items() if name != LINEAGE}
    files |= _on_disk([target.heads])
    described = {"heads": [spec.to_json() for spec in specs], "step": lineage["step"], "files": files}
    # Last: a folder without it is one that a killed start left half written.
    write_sealed(target.heads_json, described)


def _output_layer(
    backbone: Backbone, specs: Sequence[HeadSpec], parameters: dict[str, torch.Tensor]
) -> torch.Tensor | None:
    """The output layer that a decoder's phase has trained, where that is a matrix of its own."""
    if backbone.sees == "both" or backbone.ties_output:
        return None
    trained = [spec.name for spec in specs if get_family(spec.family).verbs(backbone.sees).ties_embeddings]
    return parameters[f"{PREFIX_HEADS}{trained[0]}.weight"] if trained else None


def publish(folder: PhaseDir, step: int) -> None:
    """Put the best model of a training that is over where others look for it.

    `best-<step>` stays as it is, because a start that is killed before the status says `trained` goes on from the
    checkpoint that names it: the files get a second name, or a copy where the file system has no hard links.
    """
    withdraw(folder)
    best = PhaseDir(folder.best(step))
    shutil.copytree(best.encoder, folder.encoder, copy_function=_link)
    _link(best.heads, folder.heads)
    # Last, as when it was written: it vouches for the rest.
    _link(best.heads_json, folder.heads_json)


def withdraw(folder: PhaseDir) -> None:
    """Remove the model of a phase that is not trained: an earlier start had got that far when it was killed."""
    # First, so that nobody takes a model for whole while its files go.
    folder.heads_json.unlink(missing_ok=True)
    folder.heads.unlink(missing_ok=True)
    shutil.rmtree(folder.encoder, ignore_errors=True)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        # A file system without hard links: its copy has to reach the disk like the first one.
        shutil.copyfile(source, target)
        _on_disk([Path(target)])


def _on_disk(paths: Iterable[Path]) -> dict[str, str]:
    """Hashes of files by name, once their bytes have left the page cache: a power cut leaves them whole."""
    # Sorted: heads.json is the same to the byte for the same files.
    hashes = {}
    for path in sorted(paths):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        hashes[path.name] = hash_file(path)
    return hashes


def check_export(folder: PhaseDir) -> None:
    """Raise UserError where a file of the exported model is not what was written, or the model was not kept."""
    if folder.model_is_gone():
        problem = f"{folder.root}: its model was not kept (`keep` in the recipe)"
        raise UserError(f"{problem}; delete {folder.status_json}, and `stilts run` trains this phase again")
    if damage := model_damage(folder.root):
        raise UserError(f"{damage}; delete {folder.status_json}, and the same command trains this phase again")


def _part(parameters: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {n.removeprefix(prefix): t.contiguous() for n, t in parameters.items() if n.startswith(prefix)}


def load_trained(folder: PhaseDir | None, recipe: Recipe, device: torch.device) -> MultiTask:
    """The exported model for prediction, in float32 and evaluation mode; without a folder the pretrained encoder.

    Raises UserError where the export is damaged.
    """
    if folder is not None:
        check_export(folder)
    source, revision, specs = _stored_model(folder, recipe)
    model = build_model(load_encoder(source, recipe.model, revision, device), specs, len(specs))
    _load_heads(model, folder)
    return model.to(device).eval()


def load_trained_on_ranks(folder: PhaseDir | None, recipe: Recipe, world: World) -> MultiTask | ShardedModel:
    """What `load_trained` gives, on the device of each rank; rank 0 checks and reads it for all. A collective.

    At stage 3 the ranks share it, as they do in training: no device has to hold it whole.
    """
    world.on_rank_0(None if folder is None else partial(check_export, folder))
    source, revision, specs = _stored_model(folder, recipe)
    encoder = encoder_of_ranks(source, recipe.model, revision, "fp32", world)
    model = build_model(encoder, specs, len(specs))
    world.on_rank_0(partial(_load_heads, model, folder))
    if recipe.engine.zero_stage == 3 and world.size > 1:
        return shard(model.eval(), recipe.engine, world)
    model = model.to(world.device).eval()
    send_weights(model, world)
    block_weights(model.encoder)  # as `stilts embed` does: one sentence has the same vector in both
    return model


def _stored_model(folder: PhaseDir | None, recipe: Recipe) -> tuple[str, str | None, list[HeadSpec]]:
    """What to load an encoder from, its revision, and the heads beside it."""
    if folder is None:
        return *model_source(recipe.model.name_or_path, recipe.model.revision), []
    # The exported encoder is a folder of its own; the revision is that of the hub model it came from.
    return str(folder.encoder), None, read_heads(folder.root)


def _load_heads(model: MultiTask, folder: PhaseDir | None) -> None:
    if folder is not None:
        # Strict: a head that is missing or left over is an error, not random weights.
        model.heads.load_state_dict(load_file(folder.heads))


def keep_head(model: MultiTask, spec: HeadSpec, before: PhaseDir) -> str:
    """Load the weights of the one head of an earlier phase that is of the same family and labels into a head.

    Returns that head's name, "" where the phase has none; choices may be of another number, since one score is given
    to each. Raises UserError where several could be meant.
    """
    alike = [head for head in read_heads(before.root) if (head.family, head.labels) == (spec.family, spec.labels)]
    if len(alike) > 1:
        names = ", ".join(head.name for head in alike)
        raise UserError(f"keep_head: {before.root} has several heads for {spec.name!r}: {names}; set keep_head=false")
    if not alike:
        return ""
    prefix = f"{alike[0].name}."
    weights = {name.removeprefix(prefix): t for name, t in load_file(before.heads).items() if name.startswith(prefix)}
    model.heads[spec.name].load_state_dict(weights)
    return alike[0].name


def read_heads(folder: Path) -> list[HeadSpec]:
    """The head descriptions beside an encoder."""
    described = read_sealed(folder / HEADS_JSON)
    try:
        return [HeadSpec(h["name"], h["family"], tuple(h["labels"]), h["width"]) for h in described["heads"]]
    except (KeyError, TypeError) as error:
        problem = f"{folder / HEADS_JSON} is no description of heads ({error})"
        raise UserError(f"{problem}; train the phase again") from error
