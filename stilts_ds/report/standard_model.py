"""A phase's encoder and one head as a model of transformers that `pipeline()` and AutoModelFor... load as any other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from stilts_ds.data.data import fitted_task
from stilts_ds.errors import UserError, did_you_mean
from stilts_ds.export import load_trained, read_heads
from stilts_ds.families.registry import get_family
from stilts_ds.model.standard import check_same_outputs, standard_model
from stilts_ds.named_tasks import train_task_of
from stilts_ds.plan_file import Phase
from stilts_ds.report.card import CARD, standard_card
from stilts_ds.report.load import RunData
from stilts_ds.run_dir import fresh_folder, open_to_others, write_atomically
from stilts_ds.tasks.spec import Task

# Of the encoder's folder: everything but weights, configuration and what is told of this machine.
NOT_COPIED = ("config.json", "stilts.json", "generation_config.json")


def export_standard(data: RunData, phase: Phase, task_name: str | None, output: Path, licence: str) -> str:
    """Write the model into `output`. Returns what to print.

    Raises UserError where the phase has no such head, and where transformers has no class that computes what it does.
    """
    if output.exists():
        raise UserError(f"{output} exists; give a folder that is not there yet, or remove it")
    if not phase.train:
        raise UserError(f"{phase.label} trains nothing; name the phase whose model it uses, {phase.init or 'none'}")
    task = _task(data, phase, task_name)
    folder = data.run.phase(phase.id)
    # Plain attention: what is compared below are padded rows, as transformers computes them.
    plain = data.recipe.model.model_copy(update={"attn_implementation": "eager"})
    ours = load_trained(folder, data.recipe.model_copy(update={"model": plain}), torch.device("cpu"))
    spec = next(spec for spec in read_heads(folder.root) if spec.name == train_task_of(task).head_name)
    standard = get_family(spec.family).standard.get(ours.backbone.sees)
    if standard is None:
        raise UserError(f"{task.name}: transformers has no class for a head of family {spec.family}")
    head = ours.head(spec.name)
    outputs = len(spec.labels) or standard.outputs
    model = standard_model(folder.encoder, standard.auto_class, head, ours.encoder.state_dict(), spec.labels, outputs)
    if standard.problem:
        model.config.problem_type = standard.problem
    check_same_outputs(model, ours, spec.name, spec.width)
    output.parent.mkdir(parents=True, exist_ok=True)
    # Under another name until it is whole.
    made = fresh_folder(output)
    model.save_pretrained(made)
    for weights in made.glob("*.safetensors"):
        open_to_others(weights)
    _copy_tokenizer(folder.encoder, made, phase, spec.family)
    write_atomically(made / CARD, standard_card(data, phase, task, standard, type(model).__name__, licence))
    made.rename(output)
    return f"{output}: {type(model).__name__} of {phase.label} ({standard.pipeline or 'no pipeline'})"


def _task(data: RunData, phase: Phase, name: str | None) -> Task:
    """The task whose head is exported: one that the phase trains or is scored on."""
    names = [*phase.evaluate, *phase.train]
    if name is None and len(phase.train) > 1:
        raise UserError(f"{phase.label} has several heads; name one with --task, of {', '.join(phase.train)}")
    chosen = name or names[0]
    if chosen not in names:
        raise UserError(f"{phase.label} has no head for {chosen!r}{did_you_mean(chosen, names)}: {', '.join(names)}")
    return fitted_task(chosen, data.recipe)


def _copy_tokenizer(encoder: Path, output: Path, phase: Phase, family: str) -> None:
    for path in sorted(encoder.iterdir()):
        if path.name not in NOT_COPIED and path.suffix not in (".safetensors", ".bin") and "index" not in path.name:
            shutil.copyfile(path, output / path.name)
    # Pairs that are too long lose tokens on the side on which they lost them in training.
    path = output / "tokenizer_config.json"
    if "pair_truncation_side" in get_family(family).row_settings and path.is_file():
        settings = json.loads(path.read_text(encoding="utf-8"))
        settings["truncation_side"] = phase.setting().pair_truncation_side
        write_atomically(path, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
