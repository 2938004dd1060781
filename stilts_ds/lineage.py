"""Which weights a phase started from and which it left: hashes by which it is noticed that they are others now.

A phase's id stands for how its model is made. Trained again, on other ranks or another machine, the same phase leaves
other weights, and what was made from the old ones is made again: predictions, and the phases that started from them.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence

from stilts_ds.config import Recipe
from stilts_ds.errors import UserError
from stilts_ds.model_files import model_path, pretrained_weights
from stilts_ds.plan_file import Phase
from stilts_ds.run_dir import PhaseDir, RunDir, hash_json, read_sealed, write_sealed

log = logging.getLogger(__name__)


def encoder_weights(folder: PhaseDir) -> str:
    """Hash of the encoder that a phase exported, as it was taken when the weights were written; empty before."""
    return _weights(folder, "encoder/")


def model_weights(folder: PhaseDir) -> str:
    """Hash of the encoder and the heads that a phase exported; empty before."""
    return _weights(folder, "")


def _weights(folder: PhaseDir, prefix: str) -> str:
    try:
        files = read_sealed(folder.heads_json).get("files", {})
    except UserError:  # none yet, or damaged, which is told where the model is loaded
        return ""
    weights = {name: digest for name, digest in files.items() if name.endswith(".safetensors")}
    # Weights only: a tokenizer file written anew by another library version makes no other model.
    return hash_json({name: digest for name, digest in weights.items() if name.startswith(prefix)})


def start_weights(run: RunDir, recipe: Recipe, phase: Phase) -> str:
    """Hash of the encoder that a phase starts from; empty where it is not here."""
    if phase.init:
        return encoder_weights(run.phase(phase.init))
    return pretrained_weights_of(recipe)


def pretrained_weights_of(recipe: Recipe) -> str:
    """Hash of the model that a study starts from; empty where it is not here."""
    return pretrained_weights(model_path(recipe.model.name_or_path), recipe.model.revision)


def predicting_weights(run: RunDir, recipe: Recipe, phase: Phase) -> str:
    """Hash of the model that a phase predicts with: its own, or the one that it starts from where it trains nothing."""
    return model_weights(run.phase(phase.id)) if phase.train else start_weights(run, recipe, phase)


def is_outdated(run: RunDir, phase: Phase) -> bool:
    """Whether the encoder that a phase started from was trained again since, with other weights."""
    recorded = run.phase(phase.id).read_status().started_from
    now = encoder_weights(run.phase(phase.init)) if phase.init else ""
    # Where either is unknown (an earlier version, a model removed to save space) nothing is redone on suspicion.
    return bool(recorded and now) and recorded != now


def needs_start(run: RunDir, phase: Phase) -> bool:
    """Whether a phase will still read the model that it starts from: not one that is trained and waits for its scores
    alone, nor one that is done."""
    folder = run.phase(phase.id)
    has_read = folder.is_trained() if phase.train else folder.status() == "done"
    return not has_read or is_outdated(run, phase)


def unfinished(run: RunDir, phases: Sequence[Phase]) -> list[Phase]:
    """The phases that are to be run: not done, outdated, behind a phase that is to be run, or before one that needs a
    model which was not kept."""
    wanted: dict[str, Phase] = {}
    for phase in phases:  # each after the one that it starts from
        if run.phase(phase.id).status() != "done" or phase.init in wanted or is_outdated(run, phase):
            wanted[phase.id] = phase
    needed: set[str] = set()
    for phase in reversed(phases):
        to_run = phase.id in wanted or phase.id in needed
        if to_run and needs_start(run, phase) and phase.init and run.phase(phase.init).model_is_gone():
            needed.add(phase.init)
    return [phase for phase in phases if phase.id in wanted or phase.id in needed]


def start_over_if_outdated(run: RunDir, phase: Phase) -> None:
    """Forget what a phase made from an encoder that is another one now, so that it is made again."""
    if not is_outdated(run, phase):
        return
    folder = run.phase(phase.id)
    again = "it is trained again from its start" if phase.train else "it predicts again"
    log.warning("%s: the phase that it started from has other weights since; %s", phase.label, again)
    shutil.rmtree(folder.checkpoints, ignore_errors=True)
    # Last: after a kill half way the phase still counts as outdated, and this runs again.
    folder.status_json.unlink()


def save_start(run: RunDir, recipe: Recipe, phase: Phase) -> None:
    """Complete the status of a phase that an earlier version of this program left without `started_from`."""
    folder = run.phase(phase.id)
    before = folder.read_status()
    if before.pending or before.started_from is not None:
        return
    if weights := start_weights(run, recipe, phase):
        status = before.model_copy(update={"started_from": weights})
        write_sealed(folder.status_json, status.to_json(before))
