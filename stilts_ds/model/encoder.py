"""Hugging Face encoders in and out: the only module that loads or saves a transformer."""

from __future__ import annotations

import inspect
import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stilts_ds.config import ModelPart
from stilts_ds.errors import UserError
from stilts_ds.run_dir import hash_file, hash_json, read_json

log = logging.getLogger(__name__)


def load_encoder(path: str | Path, setting: ModelPart, revision: str | None = None) -> nn.Module:
    """Load the encoder of any checkpoint in float32, without pooler or task head.

    Raises UserError for a folder without configuration or weights, or weights that do not fit the configuration.
    """
    from transformers import AutoConfig, AutoModel

    check_folder(path)
    try:
        config = AutoConfig.from_pretrained(str(path), revision=revision)
        _set_dropout(config, setting.dropout)
        model_class = AutoModel._model_mapping[type(config)]
        takes_pooler = "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
        model, info = model_class.from_pretrained(
            str(path), config=config, revision=revision, dtype=torch.float32, output_loading_info=True,
            attn_implementation=setting.attn_implementation, **({"add_pooling_layer": False} if takes_pooler else {}),
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"cannot load a model from {path}: {str(error).splitlines()[0]}") from error
    missing = [k for k in info["missing_keys"] if "position_ids" not in k and "token_type_ids" not in k]
    if missing:
        raise UserError(
            f"{path}: weights are missing for {len(missing)} parameters, such as {sorted(missing)[0]}; "
            "the folder holds another model or only a part of one"
        )
    return model


def _set_dropout(config: Any, dropout: float | None) -> None:
    if dropout is not None:
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout


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


def model_fingerprint(path: str | Path, revision: str | None) -> str:
    """Hash of what is loaded: file contents of a folder; name and revision of a hub model."""
    folder = Path(path)
    if not folder.exists():
        return hash_json([str(path), revision])
    files = [folder / "config.json", *weight_files(folder), *sorted(folder.glob("tokenizer*"))]
    return hash_json([hash_file(file) for file in files])


def save_encoder(model: Any, state: dict[str, torch.Tensor], folder: Path) -> None:
    """Write `state` (this encoder's parameters, float32, on the CPU) so that AutoModel.from_pretrained loads it."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, state_dict=state)


def maximum_length(model_path: str | Path, revision: str | None = None) -> int:
    """Longest row the position embeddings allow, special tokens included."""
    from transformers import AutoConfig

    if Path(model_path).exists():
        config: Any = read_json(Path(model_path) / "config.json")
        positions, padding = config.get("max_position_embeddings", 512), config.get("pad_token_id") or 0
        kind = config.get("model_type", "")
    else:
        loaded = AutoConfig.from_pretrained(str(model_path), revision=revision)
        positions, padding, kind = loaded.max_position_embeddings, loaded.pad_token_id or 0, loaded.model_type
    # RoBERTa-like models number positions from padding_idx + 1.
    return positions - padding - 1 if "roberta" in kind else positions
