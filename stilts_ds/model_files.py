"""What can be said about a model without loading it: is the folder whole, what is its hash, how long may a row be."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from stilts_ds.errors import UserError
from stilts_ds.run_dir import hash_file, hash_json, read_json

TOY = Path(__file__).parent / "toy" / "model"


def model_path(name_or_path: str) -> str:
    """The folder or hub id that `model.name_or_path` means."""
    return str(TOY) if name_or_path == "toy" else name_or_path


def check_folder(path: str | Path) -> None:
    """Raise UserError where a local model folder lacks its configuration or weights; hub ids pass."""
    folder = Path(path)
    if not folder.exists():
        if str(path).count("/") > 1 or str(path).startswith((".", "/", "~")):
            raise UserError(f"model folder {path} does not exist")
        return
    if not (folder / "config.json").exists():
        raise UserError(f"model folder {path} has no config.json; give the folder that save_pretrained wrote")
    if not weight_files(folder):
        raise UserError(f"model folder {path} has no weights (*.safetensors or pytorch_model*.bin)")


def weight_files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")])


def fingerprint(path: str, revision: str | None) -> str:
    """Hash of what will be loaded: the files of a folder; name and revision of a hub model."""
    folder = Path(path)
    if not folder.exists():
        return hash_json([path, revision])
    files = [folder / "config.json", *weight_files(folder), *sorted(folder.glob("tokenizer*"))]
    return hash_json([hash_file(file) for file in files if file.exists()])


def parameter_count(path: str) -> int | None:
    """Parameters in a model folder, read off its weight files' headers; None for hub models and other formats."""
    folder = Path(path)
    files = sorted(folder.glob("*.safetensors")) if folder.exists() else []
    return sum(_parameters_in(file) for file in files) or None


def _parameters_in(file: Path) -> int:
    with open(file, "rb") as data:
        length = int.from_bytes(data.read(8), "little")
        if not 0 < length < min(100_000_000, file.stat().st_size):
            raise UserError(f"{file} is no safetensors file (its header is damaged); copy or download it again")
        try:
            header = json.loads(data.read(length))
        except ValueError as error:
            raise UserError(f"{file}: its header is damaged ({error}); copy or download it again") from error
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def longest_row(path: str) -> int | None:
    """Longest row that a model folder's position embeddings allow, special tokens included; None for hub models."""
    if not Path(path).exists():
        return None
    config: Any = read_json(Path(path) / "config.json")
    positions = int(config.get("max_position_embeddings", 512))
    # RoBERTa-like models number positions from padding_idx + 1.
    return positions - int(config.get("pad_token_id") or 0) - 1 if "roberta" in config["model_type"] else positions
