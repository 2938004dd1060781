"""Text encoders of the installed transformers and known decoders, tiny, with random weights: right or refused by name?

    models_sweep.py > docs/models.md        all of them (some minutes of one core)
    models_sweep.py bert canine             the table's rows of these

A model is right where rows of 3 to 40 tokens (longer than its attention windows, which are 16 here) have the hidden
states of AutoModel for each row alone, and where those of touched vocabulary rows are those of all.
"""

from __future__ import annotations

import copy
import logging
import re
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
)

from stilts_ds.config import ModelPart
from stilts_ds.errors import UserError
from stilts_ds.families.build import build_model
from stilts_ds.model.checks import masks_follow_rows
from stilts_ds.model.dropout import dropout_keys
from stilts_ds.model.encoder import load_encoder, quiet
from stilts_ds.model.vocabulary import narrow_vocabulary
from stilts_ds.model_files import shape_of
from stilts_ds.model_kinds import DECODERS
from stilts_ds.rows.batch import Batch

# What users bring besides those that transformers counts as text encoders.
MORE = ("bloom", "canine", "falcon", "gpt_neo", "gptj", "opt", "xlnet", *DECODERS)
VOCABULARY, LENGTHS = 200, (40, 3, 17)
LARGE = 5_000_000  # parameters; a model with as many is not tiny
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "d_model": 32,
    "emb_dim": 32,
    "dim": 32,
    "num_hidden_layers": 2,
    "n_layers": 2,
    "n_layer": 2,
    "n_embd": 32,
    "n_inner": 64,
    "n_positions": 128,
    "num_layers": 2,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "num_attention_heads": 4,
    "n_heads": 4,
    "n_head": 4,
    "num_heads": 4,
    "num_key_value_heads": 4,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "head_dim": 8,
    "intermediate_size": 64,
    "hidden_dim": 64,
    "d_inner": 64,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "d_ff": 64,
    "ffn_dim": 64,
    "attention_heads": 4,
    "d_kv": 8,
    "d_head": 8,
    "rotary_dim": 4,
    "word_embed_proj_dim": 32,
    "vocab_size": VOCABULARY,
    "pad_token_id": 1,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,
    "sliding_window": 16,
    "local_attention": 16,
    "attention_window": [16, 16],
    "block_size": 16,
    "block_sizes": [1, 1],
    "block_repeats": [1, 1],
    "embedding_size": 16,
    "input_embedding_size": 16,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "cls_token_id": 0,
    "sep_token_id": 2,
    "true_hidden_size": 32,
    "intra_bottleneck_size": 32,
    "entity_vocab_size": 10,
    "shape_vocab_size": 10,
    "pronunciation_vocab_size": 10,
    "languages": ["en_XX", "de_DE"],
    "attn_layers": ["local", "lsh"],
    "local_attn_chunk_length": 16,
    "lsh_attn_chunk_length": 16,
    "axial_pos_shape": [8, 16],
    "axial_pos_embds_dim": [16, 16],
    "num_hash_buckets": 64,
    "attention_types": [[["global", "local"], 1]],
    "window_size": 16,
    "intermediate_size_mlp": 64,
    "vision_output_dim": 64,
    "projector_input_dim": 64,
    "projector_output_dim": 64,
    "num_latents": 8,
    "d_latents": 32,
    "num_self_attends_per_block": 1,
    "num_self_attention_heads": 4,
    "num_cross_attention_heads": 4,
    "codebook_size": 64,
    "base_channels": 32,
    "num_res_blocks": 1,
}
# Configurations whose other sizes would not fit.
OTHERS: dict[str, dict[str, Any]] = {
    "gemma3_text": {"layer_types": ["sliding_attention", "full_attention"]},
    "ultrabert": {"layer_types": ["sliding_attention", "full_attention"]},
    "esm": {"vocab_size": VOCABULARY, "pad_token_id": 1, "mask_token_id": 3},
    "squeezebert": {"embedding_size": 32},
    "reformer": {"hidden_size": 32, "num_attention_heads": 2},
    "funnel": {"architectures": ["FunnelModel"]},  # AutoModel has two of this kind
    "neomme": {"head_dim": 16},
    "emu3": {"vocabulary_map": {"<image>": 10, "<|extra_200|>": 11, "<|visual token 000000|>": 12}},
}

PAGE = """# Which models work

Made by `python tests/tools/models_sweep.py > docs/models.md` with transformers {version}: every model type that it
lists for masked language modelling or text encoding, the known decoders, and some others, each tiny and with random
weights. {types} types: {told}.

*Right*: rows of 3 to 40 tokens, packed or padded, have the hidden states of `AutoModel` for each row alone (windows of
attention are 16 tokens wide here), and so they have with only the touched rows of the vocabulary; `stilts plan` counts
the parameters that are built (without a pooler, which nothing reads), and `model.dropout` acts, or the row says what
does not. Dropout masks are a row's own, whatever stands beside it; the table says where they are not, and losses with
dropout depend on the number of ranks (`stilts` warns). *Refused*: `stilts` ends before training with this reason.
Weights from the hub were not tried here.

X-MOD stays refused: the language of each row would have to reach its adapters from data to prediction, XTREME has
languages for which it has none, and it would then be compared with models that are not told the language.

## Decoders

A model type marked *left to right* is a decoder: a token sees itself and what stands left of it. That is known by its
type and tried when it is loaded: later tokens must not change the hidden states of earlier ones there, and must change
them everywhere else. Everything that an encoder learns a decoder learns, too, with these differences:

- Pairs and the choices of a question are read at a row's **last** token, because the first has seen nothing of the row.
  Where the tokenizer adds no special tokens (GPT-2, Qwen), the token that ends a text (`eos_token`) is put at a row's
  end and, if there is no separator (`sep_token`), between two texts. A tokenizer without any is refused.
- A word's tag is read at its last piece, and "no answer" at the last token of a window.
- `mlm` is next-token prediction with the model's own output layer. It selects by `next_token_accuracy`, and
  `mlm_probability` does not act. After it, `encoder/` is also what `AutoModelForCausalLM` loads, and its
  `generate(do_sample=False)` writes the text that we write: `generation_config.json` names the end and the tokens that
  no text holds. Other phases keep an output layer only where it is the word embeddings.
- Programs are written with packed rows only ([code.md](code.md#rows)).
- A sentence's vector is the mean of its tokens' states, or the last one's (`evaluation.retrieval_pooling`).

| model type | verdict | rows, or the reason |
|---|---|---|
"""


def kinds() -> list[str]:
    return sorted({*MODEL_FOR_MASKED_LM_MAPPING_NAMES, *MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES, *MORE})


def tiny(kind: str) -> Any:
    """A small configuration of a kind, and of all its parts."""
    known = transformers.AutoConfig.for_model(kind).to_dict()
    return transformers.AutoConfig.for_model(kind, **(small(known) | OTHERS.get(kind, {})))


def small(known: dict[str, Any]) -> dict[str, Any]:
    """What makes a configuration small: sizes of its own, and those of the configurations within it."""
    sizes = {key: value for key, value in SIZES.items() if known.get(key) is not None}
    parts = {key: value for key, value in known.items() if isinstance(value, dict) and "model_type" in value}
    return sizes | {key: {"model_type": part["model_type"]} | small(part) for key, part in parts.items()}


@torch.no_grad()
def filled(config: Any) -> Any:
    """A model whose weights are all random: biases of 0, and layers that do nothing at first, would hide faults."""
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config)
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model


def batch() -> Batch:
    torch.manual_seed(1)
    row = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    offsets = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0).tolist()])
    ids = torch.randint(10, VOCABULARY - 10, (len(row),))
    return Batch(ids, torch.zeros_like(row), row, torch.arange(len(row)) - offsets[row], offsets, LENGTHS)


def verdict(kind: str) -> tuple[str, str]:
    """What became of a kind, and how its rows go or why it was refused."""
    config = tiny(kind)
    with torch.device("meta"):
        size = sum(one.numel() for one in transformers.AutoModel.from_config(config).parameters())
    assert size < LARGE, f"{kind}: its tiny model has {size:,} parameters; add what makes it smaller to SIZES"
    with tempfile.TemporaryDirectory() as folder:
        filled(config).save_pretrained(folder)
        try:
            encoder = load_encoder(folder, ModelPart())
        except UserError as problem:
            return "refused", plain(problem, folder)
        return compared(encoder, Path(folder))


@torch.no_grad()
def compared(encoder: Any, folder: Path) -> tuple[str, str]:
    given = batch()
    model = build_model(encoder, [], 1).eval()
    reference = transformers.AutoModel.from_pretrained(folder, trust_remote_code=False).eval()
    found = model.backbone.hidden_states(given)  # the last hidden states, which heads read
    ways = ["packed" if model.packs else "padded"]
    if model.backbone.sees == "left":
        ways.append("left to right")
    for row in range(len(LENGTHS)):
        mine = given.row == row
        alone = reference(input_ids=given.input_ids[mine][None]).last_hidden_state[0]
        if not torch.allclose(found[mine], alone, rtol=1e-3, atol=1e-3):
            return "WRONG", f"hidden states of {ways[0]} rows differ from AutoModel's"
    narrow = copy.deepcopy(model)
    try:
        narrow_vocabulary(narrow.encoder, np.unique(given.input_ids.numpy()), keep_rest=True)
        if not torch.equal(narrow.backbone.hidden_states(given), found):
            return "WRONG", "touched vocabulary rows give other hidden states"
    except UserError:
        ways.append("`vocabulary_rows: all` only")
    # Some models always have a pooler. Nothing reads it, so that it is not trained and not planned.
    built = sum(value.numel() for name, value in encoder.named_parameters() if "pooler" not in name)
    planned = shape_of(folder)
    if planned is None:
        ways.append("its size is not planned")
    elif planned.parameters != built:
        return "WRONG", f"{planned.parameters} parameters are planned, {built} built"
    ways += dropout_of(encoder, folder)
    return "right", ", ".join(ways)


def dropout_of(encoder: Any, folder: Path) -> list[str]:
    """What is to be said about `model.dropout`; [] where it acts and its masks are a row's own: load_encoder refuses it
    where it does not act."""
    if not dropout_keys(encoder.config):
        return ["no dropout to set"]
    said = []
    try:
        dropping = load_encoder(folder, ModelPart(dropout=0.3))  # so much of it that other masks show
    except UserError:
        said.append("`model.dropout` refused")
        dropping = load_encoder(folder, ModelPart())
    if not masks_follow_rows(dropping):
        said.append("dropout depends on the ranks")
    return said


def plain(problem: Exception, folder: str) -> str:
    """The first line of a message, without the folder and what would break a table."""
    text = str(problem).replace(folder, "").strip().split("\n")[0]
    text = re.sub(r"^\([a-z0-9_-]+\): |; use another model$", "", text.strip()).replace("|", "/")
    return text[:160]


def table(names: list[str]) -> list[str]:
    rows = []
    for kind in names:
        rows.append(f"| `{kind}` | {' | '.join(verdict(kind))} |")
        print(rows[-1], file=sys.stderr)
    return rows


def page() -> str:
    rows = table(kinds())
    counts = {name: sum(f"| {name} |" in row for row in rows) for name in ("right", "refused", "WRONG")}
    told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    return PAGE.format(version=version("transformers"), types=len(rows), told=told) + "\n".join(rows) + "\n"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    quiet()
    chosen = sys.argv[1:]
    print("\n".join(table(chosen)) if chosen else page(), end="\n" if chosen else "")
