"""What can be said about a model without loading it: is the folder whole, what is its hash, how long may a row be."""

from __future__ import annotations

import importlib.metadata
import logging
import math
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from stilts_ds.config import EvaluationPart, Recipe
from stilts_ds.errors import UserError
from stilts_ds.model_kinds import GATED, Sees, encoder_decoder, sees_of, sentence_token, ties_output
from stilts_ds.run_dir import hash_file, hash_json, read_json
from stilts_ds.weight_files import parameter_count, shards_in, weight_files, weights_header

log = logging.getLogger(__name__)
TOY = Path(__file__).parent / "toy" / "model"
# Files that decide what a fast tokenizer makes of a text.
TOKENIZER_FILES = (
    "tokenizer*",
    "sentencepiece*",
    "spiece*",
    "spm*",
    "vocab*",
    "merges.txt",
    "bpe.codes",
    "special_tokens_map.json",
    "added_tokens.json",
)
# Sizes in config.json and the largest that is believed.
MOST = {
    "num_hidden_layers": 1000,
    "hidden_size": 1 << 17,
    "intermediate_size": 1 << 20,
    "num_attention_heads": 1 << 12,
    "vocab_size": 1 << 24,
    "max_position_embeddings": 1 << 24,
    "type_vocab_size": 1 << 16,
    "pad_token_id": 1 << 24,
}
# Their parameters follow from the sizes alike. XLM-R XL has no LayerNorm at the embeddings, and one behind the layers.
BERT_LIKE = ("bert", "roberta", "xlm-roberta", "camembert", "xlm-roberta-xl")
# Relatives of RoBERTa: positions begin behind the padding token's id.
FROM_PADDING = (
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "roberta-prelayernorm",
    "camembert",
    "data2vec-text",
    "longformer",
    "mpnet",
    "ibert",
    "luke",
    "esm",
    "layoutlmv3",
    "lilt",
    "markuplm",
)
# Names of the same size in configurations.
NAMES = {
    "num_hidden_layers": ("num_hidden_layers", "n_layers", "num_layers", "n_layer"),
    "hidden_size": ("hidden_size", "dim", "emb_dim", "d_model", "n_embd"),
    "intermediate_size": ("intermediate_size", "hidden_dim", "d_inner", "ffn_dim", "n_inner"),
    "num_attention_heads": ("num_attention_heads", "n_heads", "n_head", "attention_heads"),
    "vocab_size": ("vocab_size", "n_words"),
}
WORDS = re.compile(r"embed|^(.+\.)?wte\b")  # word embeddings, under any name
OUTPUTS = re.compile(r"^(lm_head|embed_out)\.")  # a decoder's output layer beside its body
# Tensors of weight files that are no parameters of the encoder: the last ones are I-BERT's, of its integer arithmetic.
NOT_TRAINED = re.compile(
    r"pooler|position_ids$|token_type_ids$|inv_freq$|_integer$|scaling_factor$|\.(?:x_min|x_max|shift)$"
)
MASKS = re.compile(r"attn\.(masked_)?bias$")  # of old GPT-2 files, four-dimensional or single values


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
    if read_config(folder).get("is_encoder_decoder") is True:  # a plan says so, and not the first phase
        raise encoder_decoder(path, read_config(folder).get("model_type"))
    if not weight_files(folder):
        raise UserError(f"model folder {path} has no weights (*.safetensors or pytorch_model*.bin); fetch it again")
    for index in (*folder.glob("*.safetensors.index.json"), *folder.glob("pytorch_model*.index.json")):
        shards_in(index)  # names of files in other folders end here
    _check_sizes(folder)


def _check_sizes(folder: Path) -> None:
    """Raise UserError where config.json asks for more than the weights can fill: it would be made of random numbers,
    and a damaged digit could ask for all memory."""
    shape, stored = shape_of(folder), parameter_count(str(folder))
    if shape is not None and stored is not None and shape.parameters > stored:
        raise UserError(
            f"{folder}: config.json makes a model of {shape.parameters:,} parameters, but its weights are {stored:,}; "
            "the folder mixes the files of two models"
        )


def refuse_own_code(path: str | Path, error: BaseException) -> None:
    """Raise UserError where `error` is transformers' refusal to run Python that lies beside a model.

    `trust_remote_code=False` stands in every call: left out, it means to ask on standard input.
    """
    if "trust_remote_code" in str(error):
        raise UserError(
            f"{path} needs Python code of its own (auto_map), which is never run here; give a model whose type "
            "transformers has itself"
        ) from error


def check_tokenizer(folder: Path) -> None:
    """Raise UserError for token ids that no tokenizer has: its library makes a list as long as the largest."""
    path = folder / "tokenizer.json"
    if not path.exists():
        return
    described = read_json(path)
    sections = described if isinstance(described, dict) else {}
    model, added = sections.get("model"), sections.get("added_tokens")
    words = model.get("vocab") if isinstance(model, dict) else None
    ids = list(words.values()) if isinstance(words, dict) else []
    if isinstance(added, list):
        ids += [token.get("id") for token in added if isinstance(token, dict)]
    # type(...) is int: true and false are ints to isinstance.
    if not all(type(token_id) is int and 0 <= token_id <= MOST["vocab_size"] for token_id in ids):
        raise UserError(f"{path} has damaged token ids; give a folder that save_pretrained wrote, or copy it again")


def read_config(folder: Path) -> dict[str, Any]:
    """A model's config.json. Raises UserError for sizes that no model has."""
    path = folder / "config.json"
    config = read_json(path)
    remedy = "give a folder that save_pretrained wrote, or copy it again"
    if not isinstance(config, dict) or not isinstance(config.get("model_type", ""), str):
        raise UserError(f"{path} is no configuration of a model; {remedy}")
    for name, most in MOST.items():
        size = config.get(name, 1)
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= most):
            raise UserError(f"{path}: {name} is {str(size)[:40]}; {remedy}")
    return config


def fingerprint(path: str, revision: str | None) -> str:
    """Hash of what will be loaded: configuration, weights and all vocabulary files of a folder; name and revision of a
    hub model."""
    folder = Path(path)
    if not folder.exists():
        return hash_json([path, revision])
    # Behind the earlier hashes: a folder without such files keeps its fingerprint, and its phases their names.
    vocabulary = [[file.name, hash_file(file)] for file in _other_vocabulary(folder)]
    return hash_json([*_hashes(folder), *vocabulary])


def earlier_fingerprint(path: str, revision: str | None) -> str:
    """The hash that named phases before all vocabulary files counted."""
    folder = Path(path)
    return hash_json(_hashes(folder)) if folder.exists() else hash_json([path, revision])


def _hashes(folder: Path) -> list[str]:
    files = [folder / "config.json", *weight_files(folder), *sorted(folder.glob("tokenizer*"))]
    return [hash_file(file) for file in files if file.exists()]


def _other_vocabulary(folder: Path) -> list[Path]:
    """Vocabulary files that are not called tokenizer*."""
    files = {file for pattern in TOKENIZER_FILES for file in folder.glob(pattern) if file.is_file()}
    return sorted(files - set(folder.glob("tokenizer*")))


def vocabulary_is_in_tokenizer_json(path: str) -> bool:
    """Whether the files called tokenizer* say all about a model's vocabulary; so it is for one on the hub, whose
    revision does."""
    folder = Path(path)
    return not folder.exists() or (folder / "tokenizer.json").exists() or not _other_vocabulary(folder)


def pretrained_weights(path: str, revision: str | None) -> str:
    """Hash that stands for a pretrained model's weights: a folder's, or the commit that the hub's cache holds. Empty
    where nobody can tell, because the model is not on this machine."""
    folder = model_folder(path, revision)
    if folder is None:
        return ""
    if not os.path.exists(path):  # a snapshot's folder is called after its commit
        return hash_json([path, folder.name])
    return _hash_of_weights(
        tuple((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in weight_files(folder))
    )


@lru_cache(maxsize=4)
def _hash_of_weights(files: tuple[tuple[str, int, int], ...]) -> str:
    """One hash over weight files, given with their time and size: a start asks for it more than once."""
    return hash_json([hash_file(Path(name)) for name, _, _ in files])


def model_folder(name_or_path: str, revision: str | None) -> Path | None:
    """Where a model's files are on this machine: its folder or the hub cache's. None where there are none."""
    path = model_path(name_or_path)
    if os.path.exists(path):
        return Path(path)
    from huggingface_hub import try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(path, "config.json", revision=revision)
    except ValueError:  # no repository can have this name
        return None
    return Path(cached).parent if isinstance(cached, str) else None


def model_source(name_or_path: str, revision: str | None) -> tuple[str, str | None]:
    """What to load a model from: its folder, which asks no hub about each file, or the hub's name and revision."""
    folder = model_folder(name_or_path, revision)
    return (str(folder), None) if folder is not None else (name_or_path, revision)


def tokenizer_hash(name_or_path: str, revision: str | None) -> str:
    """Hash of what decides on token ids: the tokenizer's files (hub without cache: its name) and transformers' version.

    Stands for the tokenizer where it must not be loaded.
    """
    try:
        version = importlib.metadata.version("transformers")
    except importlib.metadata.PackageNotFoundError:
        version = ""
    folder = model_folder(name_or_path, revision)
    if folder is None:
        return hash_json([name_or_path, revision, version])
    files = {file for pattern in ("config.json", *TOKENIZER_FILES) for file in folder.glob(pattern) if file.is_file()}
    return hash_json([[[file.name, hash_file(file)] for file in sorted(files)], version])


@dataclass(frozen=True)
class Shape:
    """A backbone's sizes. `body` is its parameters but for the word embeddings, whose rows have `width` values: the
    hidden size, or `embedding` where that is another. `sees` is which way its tokens see, `output` the parameters of a
    decoder's output layer where that is not the word embeddings, and `gated` whether its feed-forward part has a gate.
    """

    layers: int
    hidden: int
    heads: int
    intermediate: int
    vocabulary: int
    body: int
    embedding: int | None = None
    sees: Sees = "both"
    output: int = 0
    gated: bool = False

    @property
    def width(self) -> int:
        return self.hidden if self.embedding is None else self.embedding

    @property
    def parameters(self) -> int:
        return self.body + self.vocabulary * self.width


def bert_shape(layers: int, hidden: int, heads: int, inner: int, vocabulary: int, rows: int) -> Shape:
    """A BERT or RoBERTa with `rows` embeddings of positions and types."""
    # Four projections of attention, the feed-forward part's two, and two LayerNorms of a layer.
    layer = 4 * (hidden * hidden + hidden) + 2 * hidden * inner + inner + hidden + 4 * hidden
    return Shape(layers, hidden, heads, inner, vocabulary, rows * hidden + 2 * hidden + layers * layer)


def shape_of(folder: Path) -> Shape | None:
    """Sizes from config.json and the headers of the weight files; None where those do not say.

    For BERT and RoBERTa the parameters follow from the sizes. For others they are the shapes in safetensors files. No
    pooler and no task head: those are not used.
    """
    config = read_config(folder)
    sees = sees_of(config)
    named = {name: size_of(config, name) for name in NAMES}
    if named["intermediate_size"] is None and named["hidden_size"] is not None and sees == "left":
        named["intermediate_size"] = 4 * named["hidden_size"]  # GPT-2's `n_inner: null`
    sizes = list(named.values())
    if None in sizes:
        return None
    layers, hidden, inner, heads, vocabulary = (int(size) for size in sizes if size is not None)
    if config.get("model_type") in BERT_LIKE:
        rows = sum(config.get(name) or 0 for name in ("max_position_embeddings", "type_vocab_size"))
        return bert_shape(layers, hidden, heads, inner, vocabulary, rows)
    shapes = _encoder_shapes(folder, vocabulary)
    if shapes is None:
        return None
    words, whole = shapes
    width = None if words[1] == hidden else words[1]
    output = vocabulary * hidden if sees == "left" and not ties_output(config) else 0
    gated = config.get("model_type") in GATED
    return Shape(layers, hidden, heads, inner, vocabulary, whole - math.prod(words), width, sees, output, gated)


def size_of(config: dict[str, Any], name: str) -> int | None:
    """A size under any of its names; None where a configuration has none of them."""
    values = (config.get(alias) for alias in NAMES[name])
    return next((size for size in values if type(size) is int), None)


def _encoder_shapes(folder: Path, vocabulary: int) -> tuple[list[int], int] | None:
    """Shape of the word embeddings in the weight files, and the values of the whole encoder; None without them."""
    shapes = {name: tensor["shape"] for file in sorted(folder.glob("*.safetensors"))
              for name, tensor in weights_header(file)[1].items() if name != "__metadata__"}  # fmt: skip
    words = [
        name
        for name, shape in shapes.items()
        if WORDS.search(name) and not OUTPUTS.search(name) and len(shape) == 2 and shape[0] == vocabulary
    ]
    if not words:
        return None
    # Under a task head the encoder's names begin with its own, such as `electra.`.
    first = words[0].split(".")[0]
    prefix = "" if WORDS.search(first) else f"{first}."
    used = {name: shape for name, shape in shapes.items() if name.startswith(prefix) and not OUTPUTS.search(name)}
    trained = [shape for name, shape in used.items() if not NOT_TRAINED.search(name) and not _is_mask(name, shape)]
    return shapes[words[0]], sum(map(math.prod, trained))


def _is_mask(name: str, shape: list[int]) -> bool:
    """Whether a tensor is a mask of attention that old versions of transformers saved beside the weights."""
    return MASKS.search(name) is not None and len(shape) in (0, 4)


def longest_row(path: str) -> int | None:
    """Longest row that a model folder's position embeddings allow, special tokens included; None for hub models."""
    if not os.path.exists(path):
        return None
    config = read_config(Path(path))
    positions = int(config.get("max_position_embeddings") or config.get("n_positions") or 512)
    kind = config.get("model_type", "")
    if kind == "big_bird":  # longer rows are attended to at random
        blocks = 5 + 2 * int(config.get("num_random_blocks") or 3)
        positions = min(positions, blocks * int(config.get("block_size") or 64))
    if kind not in FROM_PADDING:  # positions count from 0
        return positions
    return positions - int(config.get("pad_token_id") or 0) - 1


@dataclass(frozen=True)
class ModelLimits:
    """What a model takes: tokens of a row, and layers; None where that is not known (a hub model not yet fetched).
    `sees`: which way its tokens see, as far as is known."""

    tokens: int | None
    layers: int | None
    sees: Sees = "both"


def limits_of(name_or_path: str, revision: str | None) -> ModelLimits:
    folder = model_folder(name_or_path, revision)
    if folder is None or not (folder / "config.json").exists():
        return ModelLimits(None, None)
    config = read_config(folder)
    return ModelLimits(longest_row(str(folder)), size_of(config, "num_hidden_layers"), sees_of(config))


def vector_setting_problem(length: int, layer: int, pooling: str, limits: ModelLimits) -> tuple[str, str] | None:
    """Which of the settings of sentence vectors a model cannot have ("max_seq_length", "layer" or "pooling"), and why;
    None where it can have all."""
    if limits.tokens is not None and length > limits.tokens:
        return "max_seq_length", f"={length}, but the model takes {limits.tokens} tokens"
    # The embeddings' output is hidden state 0, and the last layer's is -1, too.
    if limits.layers is not None and not -limits.layers - 1 <= layer <= limits.layers:
        known = f"but the model has {limits.layers} layers; give 0 to {limits.layers}, or -1 for the last"
        return "layer", f"={layer}, {known}"
    if pooling == "first" and sentence_token(limits.sees) == "last":
        return "pooling", (
            "=first, but the model reads from left to right, so that the first token has seen nothing of its sentence; "
            "give mean or last"
        )
    return None


def fit_retrieval_length(recipe: Recipe) -> Recipe:
    """The recipe with the default length of retrieval's rows lowered to what its model takes; other lengths are the
    user's, and checked before training."""
    evaluation = recipe.evaluation
    default = EvaluationPart.model_fields["retrieval_max_seq_length"].default
    limit = limits_of(recipe.model.name_or_path, recipe.model.revision).tokens
    if limit is None or limit >= default or evaluation.retrieval_max_seq_length != default:
        return recipe
    log.info("evaluation.retrieval_max_seq_length is %d: the model takes no longer rows", limit)
    return recipe.model_copy(update={"evaluation": evaluation.model_copy(update={"retrieval_max_seq_length": limit})})
