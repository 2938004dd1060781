"""The model that makes sentence vectors: found, checked and loaded, from a folder, a phase of a run, or the hub."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from stilts_ds.config import EvaluationPart, ModelPart
from stilts_ds.errors import UserError, did_you_mean
from stilts_ds.evaluate.embedding import Embedder
from stilts_ds.families.build import build_model
from stilts_ds.model.encoder import load_encoder
from stilts_ds.model.onednn import block_weights
from stilts_ds.model.pooling import POOLINGS
from stilts_ds.model_files import check_folder, fingerprint, limits_of, read_config, size_of, vector_setting_problem
from stilts_ds.model_hub import ensure_model_files
from stilts_ds.rows.batch import pack_rows
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.sources.files import check_text

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
DEFAULT_LENGTH: int = EvaluationPart.model_fields["retrieval_max_seq_length"].default


@dataclass(frozen=True)
class VectorSettings:
    """What vectors depend on besides model and text. `layer`: hidden_states index (0 is the embedding output, -1 the
    last); `pooling`: mean, first or last token; `prefix` stands before every text; `dtype` of the network: fp32 or
    bf16; `max_length`: tokens of a row, what is longer is cut (None: 512, or what the model takes); `batch_size`:
    sentences of a forward pass."""

    layer: int = -1
    pooling: str = "mean"
    prefix: str = ""
    dtype: str = "fp32"
    max_length: int | None = None
    batch_size: int = 32

    def check(self) -> None:
        """Raise UserError for values that none can be."""
        for name, value, known in (("pooling", self.pooling, POOLINGS), ("dtype", self.dtype, DTYPES)):
            if value not in known:
                raise UserError(f"unknown {name} {value!r}{did_you_mean(value, known)}")
        check_text(self.prefix, "prefix")
        if self.batch_size < 1:
            raise UserError(f"batch size {self.batch_size}: give 1 or more")
        if self.max_length is not None and self.max_length < 8:
            raise UserError(f"max length {self.max_length}: give 8 tokens or more")


DEFAULTS = VectorSettings()


@dataclass(frozen=True)
class Encoder:
    """What makes vectors of texts: a folder that save_pretrained wrote, the folder of a trained phase, or a hub id at a
    `revision`; and the settings of its vectors."""

    model: str | Path
    revision: str | None = None
    settings: VectorSettings = DEFAULTS


@dataclass(frozen=True)
class ModelFolder:
    """A model on this machine, and the hash of its files; `width` numbers a vector (None where config.json does not
    say)."""

    folder: Path
    digest: str
    width: int | None
    length: int
    settings: VectorSettings

    @classmethod
    def find(cls, encoder: Encoder) -> ModelFolder:
        """A folder, a phase of a run (its `encoder`), `toy`, or a hub id, which is downloaded where it is not in the
        cache. Raises UserError where there is none, or settings that the model cannot have."""
        settings = encoder.settings
        settings.check()
        folder = model_files_of(encoder)
        limits = limits_of(str(folder), None)
        length = settings.max_length or min(DEFAULT_LENGTH, limits.tokens or DEFAULT_LENGTH)
        # Read off the configuration: a length or layer that the model has not is refused before weights are loaded.
        problem = vector_setting_problem(length, settings.layer, settings.pooling, limits)
        if problem is not None:
            raise UserError(f"{problem[0].replace('max_seq_length', 'max length')}{problem[1]}")
        width = size_of(read_config(folder), "hidden_size")
        return cls(folder, fingerprint(str(folder), None), width, length, settings)

    def inputs(self) -> dict[str, Any]:
        """What the vectors depend on, for the note beside them."""
        # With the length in use, so that a new default does not pass for the old one.
        return {"model": self.digest, **asdict(self.settings), "max_length": self.length}

    def load(self, device: torch.device) -> Embedder:
        """The model on `device`, ready to embed. The one that was asked for last is kept: sides follow each other."""
        return _loaded(self, device)


def model_files_of(encoder: Encoder) -> Path:
    """The folder with a model's files, downloaded where need be. Raises UserError where there is none."""
    path = Path(encoder.model)
    # A phase's folder holds its encoder one level down, beside heads that make no vectors.
    if not (path / "config.json").exists() and (path / "encoder" / "config.json").exists():
        path = path / "encoder"
    # What is no path is a hub's id.
    name = str(path) if path.exists() else str(encoder.model)
    check_folder(name)
    return ensure_model_files(name, encoder.revision)


@lru_cache(maxsize=1)
def _loaded(folder: ModelFolder, device: torch.device) -> Embedder:
    settings = folder.settings
    encoder = load_encoder(folder.folder, ModelPart(), None, device, settings.dtype)
    # Without heads: vectors are hidden states.
    model = build_model(encoder, [], 0).to(device, DTYPES[settings.dtype]).eval()
    tokenizer = Tokenizer.load(folder.folder)
    with torch.no_grad():
        layer = model.backbone.drop_layers_above(settings.layer, pack_rows([], tokenizer).to(device))
    # After layers were let go: the weights of these need not be copied.
    block_weights(model.encoder)
    return Embedder(model, tokenizer, device, settings.batch_size, layer, settings.pooling)
