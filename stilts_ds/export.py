"""What a phase leaves: `encoder/` for AutoModel and AutoTokenizer, `heads.safetensors` and `heads.json`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from stilts_ds.config import Recipe
from stilts_ds.errors import UserError
from stilts_ds.families.build import build_model
from stilts_ds.model.encoder import load_encoder, save_encoder
from stilts_ds.model.heads import HeadSpec
from stilts_ds.model.multitask import MultiTask
from stilts_ds.model_files import model_path
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.run_dir import PhaseDir, hash_file, read_sealed, write_json, write_sealed

PREFIX_ENCODER, PREFIX_HEADS = "encoder.", "heads."
LINEAGE = "stilts.json"


def export_model(
    folder: PhaseDir, encoder: Any, tokenizer: Tokenizer, specs: list[HeadSpec], parameters: dict[str, torch.Tensor],
    lineage: dict[str, Any],
) -> None:
    """Write encoder, tokenizer and heads; the new `encoder/` replaces the old one only when it is whole."""
    fresh = folder.root / "encoder.new"
    shutil.rmtree(fresh, ignore_errors=True)
    save_encoder(encoder, _part(parameters, PREFIX_ENCODER), fresh)
    tokenizer.save(fresh)
    write_json(fresh / LINEAGE, lineage)
    heads = folder.heads.with_suffix(".new")
    save_file(_part(parameters, PREFIX_HEADS), heads)
    files = {f"encoder/{name}": digest for name, digest in _on_disk(fresh.iterdir()).items() if name != LINEAGE}
    files[folder.heads.name] = _on_disk([heads])[heads.name]
    os.replace(heads, folder.heads)
    described = {"heads": [spec.to_json() for spec in specs], "step": lineage["step"], "files": files}
    write_sealed(folder.root / "heads.json", described)
    shutil.rmtree(folder.encoder, ignore_errors=True)
    os.rename(fresh, folder.encoder)


def _on_disk(paths: Iterable[Path]) -> dict[str, str]:
    """Hashes of files by name, once their bytes have left the page cache: a power cut leaves them whole."""
    found = {}
    for path in sorted(paths):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        found[path.name] = hash_file(path)
    return found


def check_export(folder: PhaseDir) -> None:
    """Raise UserError where a file of the exported model is not what was written."""
    for name, digest in read_sealed(folder.root / "heads.json").get("files", {}).items():
        path = folder.root / name
        if not path.exists() or hash_file(path) != digest:
            raise UserError(
                f"{path} {'changed since it was written' if path.exists() else 'is missing'}; delete "
                f"{folder.status_json}, and the same command trains this phase again"
            )


def _part(parameters: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {n.removeprefix(prefix): t.contiguous() for n, t in parameters.items() if n.startswith(prefix)}


def load_trained(folder: PhaseDir | None, recipe: Recipe, device: torch.device) -> MultiTask:
    """The exported model for prediction, in float32 and evaluation mode; without a folder the pretrained encoder."""
    specs: list[HeadSpec] = []
    source, revision = model_path(recipe.model.name_or_path), recipe.model.revision
    if folder is not None:
        check_export(folder)
        specs = read_heads(folder.root)
        source, revision = str(folder.encoder), None
    model = build_model(load_encoder(source, recipe.model, revision), specs, len(specs))
    if folder is not None:
        model.heads.load_state_dict(load_file(folder.heads))
    return model.to(device).eval()


def read_heads(folder: Path) -> list[HeadSpec]:
    """The head descriptions beside an encoder."""
    described = read_sealed(folder / "heads.json")
    try:
        return [HeadSpec(h["name"], h["family"], tuple(h["labels"]), h["width"]) for h in described["heads"]]
    except (KeyError, TypeError) as error:
        problem = f"{folder / 'heads.json'} is no description of heads ({error})"
        raise UserError(f"{problem}; train the phase again") from error
