"""Writes small XLM-Rs whose vocabulary is cut to that of a text: one of any size with random weights, to be pretrained
by the MLM phase, and the lower layers of a trained one."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer, XLMRobertaConfig, XLMRobertaModel

from stilts_ds.errors import UserError
from stilts_ds.run_dir import read_json
from stilts_ds.sources.files import read_lines


def write_plain_model(
    text: Path, tokenizer: Path, folder: Path, pieces: int, layers: int, hidden: int, positions: int, seed: int
) -> None:
    """Write a random XLM-R encoder and its tokenizer into `folder`; `AutoModel` loads it.

    `text` holds `<language>.txt`, one passage a line. `tokenizer` is the folder of an XLM-R, of whose pieces `pieces`
    are kept. `hidden` is a multiple of 64, the width of an attention head in XLM-R. Raises UserError where it is not,
    where a number is below 1, where there is no text, or where the tokenizer is none of SentencePiece's unigram kind.
    """
    for name, value in (("pieces", pieces), ("layers", layers), ("positions", positions)):
        if value < 1:
            raise UserError(f"{name}: {value} is less than 1; give a positive number")
    if hidden < 1 or hidden % 64:
        raise UserError(f"a hidden size of {hidden} is no multiple of 64, the width of an attention head")
    cut_vocabulary(_text_files(text), tokenizer, folder, pieces)
    loaded = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    config = XLMRobertaConfig(
        vocab_size=len(loaded),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        intermediate_size=4 * hidden,
        max_position_embeddings=positions + 2,  # XLM-R counts from the padding's id + 1
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        bos_token_id=loaded.bos_token_id,
        pad_token_id=loaded.pad_token_id,
        eos_token_id=loaded.eos_token_id,
    )
    # The caller's random state is as it was afterwards.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # Without the pooler, which no head here reads.
        XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(folder)


def write_cut_model(text: Path, model: Path, folder: Path, pieces: int, layers: int) -> None:
    """Write the lower `layers` of a trained XLM-R into `folder`, with its `pieces` that `text` has most often.

    The weights are the model's own: texts whose pieces all stay have its hidden states, to the bit. `text` holds
    `<language>.txt`, one passage a line; `model` is a folder that `AutoModel` loads. Raises UserError where it has
    fewer layers, where a number is below 1, where there is no text, or where its tokenizer is none of SentencePiece's
    unigram kind.
    """
    trained = AutoConfig.from_pretrained(str(model), trust_remote_code=False).num_hidden_layers
    if not 1 <= layers <= trained:
        raise UserError(f"layers: {layers}, and {model} has {trained}; give a number from 1 to {trained}")
    if pieces < 1:
        raise UserError(f"pieces: {pieces} is less than 1; give a positive number")
    kept = cut_vocabulary(_text_files(text), model, folder, pieces)
    # Layers above the last one are left out when the weights are read.
    encoder = AutoModel.from_pretrained(
        str(model), num_hidden_layers=layers, add_pooling_layer=False, trust_remote_code=False
    )
    rows = encoder.get_input_embeddings().weight.detach()[kept].clone()
    encoder.resize_token_embeddings(len(kept))
    encoder.get_input_embeddings().weight.data = rows
    encoder.save_pretrained(folder)


def _text_files(text: Path) -> list[Path]:
    files = sorted(text.glob("*.txt"))
    if not files:
        raise UserError(f"{text}: no <language>.txt; give the folder that data.text is to name")
    return files


def cut_vocabulary(files: list[Path], tokenizer: Path, folder: Path, pieces: int) -> list[int]:
    """Write into `folder` the tokenizer with the `pieces` that occur most often in `files`, and all its characters.

    A word whose piece is gone is cut into shorter ones. Pieces keep their log-probabilities and their order, so that
    `<s>`, `<pad>`, `</s>`, `<unk>` stay 0 to 3; `<mask>` is the last id, as in XLM-R. Returns, by new id, the id that a
    piece had.
    """
    state = read_json(tokenizer / "tokenizer.json")
    if state["model"].get("type") != "Unigram":
        raise UserError(f"{tokenizer}: its pieces have no probabilities; give the folder of an XLM-R")
    whole = AutoTokenizer.from_pretrained(str(tokenizer), trust_remote_code=False).backend_tokenizer
    counts: Counter[int] = Counter()
    characters: set[str] = set()
    for file in files:
        lines = [line for _, line in read_lines(file)]
        characters.update(*lines)
        for encoded in whole.encode_batch(lines, add_special_tokens=False):
            counts.update(encoded.ids)

    frequent = {number for number, _ in counts.most_common(pieces)}
    special = {entry["content"] for entry in state["added_tokens"]}
    # A character without a piece would be unknown wherever no longer piece holds it.
    numbers: dict[str, int] = {piece: number for number, (piece, _) in enumerate(state["model"]["vocab"])}
    last = numbers.pop("<mask>")
    kept = {
        piece: number
        for piece, number in numbers.items()
        if number in frequent or piece in special or piece in characters or piece == "▁"
    }
    kept["<mask>"] = last
    ids = {piece: number for number, piece in enumerate(kept)}
    scores = dict(state["model"]["vocab"]) | {"<mask>": 0.0}
    state["model"]["vocab"] = [(piece, scores[piece]) for piece in kept]
    state["model"]["unk_id"] = ids["<unk>"]
    for entry in state["added_tokens"]:
        entry["id"] = ids[entry["content"]]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(state, ensure_ascii=False), "utf-8")
    (folder / "tokenizer_config.json").write_bytes((tokenizer / "tokenizer_config.json").read_bytes())
    return list(kept.values())
