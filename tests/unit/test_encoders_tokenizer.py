"""Tokenizers of all kinds: words of a tagged sentence have the tokens of running text; what is missing is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from stilts_ds.config import TrainingPart
from stilts_ds.errors import UserError
from stilts_ds.families.pair.record import Pair
from stilts_ds.families.pair.rows import encode_pair
from stilts_ds.families.tag.record import Tagged
from stilts_ds.families.tag.rows import encode_tag
from stilts_ds.families.text.record import Text
from stilts_ds.families.text.rows import encode_text
from stilts_ds.model_files import TOKENIZER_FILES, TOY
from stilts_ds.rows.tokenizer import Tokenizer

SENTENCES = ["ma soeur vend une pomme rouge", "der Lehrer liest zwei Bücher in Hamburg", "soeur ma pomme une vend"]
WORDS = tuple(SENTENCES[0].split())


def byte_level(pair: str = "<s> $A </s> $B </s>", prefix_space: bool = False, **names: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE: as Llama 3's, without an unknown token, unless `names` give it one."""
    specials = ["<s>", "</s>", *names.values()]
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        SENTENCES * 9,
        trainers.BpeTrainer(vocab_size=400, special_tokens=specials, show_progress=False, initial_alphabet=alphabet),
    )
    used = [(token, backend.token_to_id(token)) for token in ("<s>", "</s>")]
    backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", pair=pair, special_tokens=used)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", **names)


def tagged(tokenizer: Tokenizer, words: tuple[str, ...], length: int = 128) -> list[list[int]]:
    record, setting = Tagged("1", words, ("O",) * len(words)), TrainingPart(max_seq_length=length)
    rows = encode_tag([record], tokenizer, ("O",), setting)
    assert rows.token_label is not None and int((rows.token_label == 0).sum()) == len(words)
    return [rows.input_ids[a:b].tolist() for a, b in zip(rows.starts[:-1], rows.starts[1:])]


@pytest.mark.parametrize("prefix_space, space", [(False, " "), (True, "")])
def test_words_of_a_tagged_sentence_keep_their_space(prefix_space: bool, space: str) -> None:
    given = byte_level(prefix_space=prefix_space)
    tokenizer = Tokenizer(given, "model")
    assert tokenizer.space == space
    assert tagged(tokenizer, WORDS) == [given(SENTENCES[0])["input_ids"]]
    cut = tagged(tokenizer, WORDS * 2, 8)
    whole = given(" ".join(WORDS * 2))["input_ids"]
    assert len(cut) > 1 and [i for row in cut for i in row[1:-1]] == whole[1:-1]


def test_the_toy_models_words_have_the_same_tokens_everywhere() -> None:
    tokenizer = Tokenizer.load(TOY)
    assert tokenizer.space == ""
    assert tokenizer.fingerprint == Tokenizer.load(TOY).fingerprint


def test_a_word_without_tokens_needs_an_unknown_token() -> None:
    with pytest.raises(UserError, match="makes no token of the word '' and has no unknown token"):
        tagged(Tokenizer(byte_level(), "model"), ("", "ma"))
    known = Tokenizer(byte_level(unk_token="<unk>"), "model")
    assert tagged(known, ("", "ma"))[0][1] == known.unk


def test_masked_language_modelling_needs_a_mask_token() -> None:
    with pytest.raises(UserError, match="the tokenizer of model has no mask token"):
        encode_text([Text("1", "ma soeur", "fr")], Tokenizer(byte_level(), "model"), ("fr",), TrainingPart())
    masked = Tokenizer(byte_level(mask_token="<mask>"), "model")
    assert len(encode_text([Text("1", "ma soeur", "fr")], masked, ("fr",), TrainingPart())) == 1


def test_two_texts_need_a_token_between_them() -> None:
    record = [Pair("1", "ma", "soeur", "a")]
    with pytest.raises(UserError, match="no token between two texts"):
        encode_pair(record, Tokenizer(byte_level(pair="<s> $A $B </s>"), "model"), ("a",), TrainingPart())
    assert len(encode_pair(record, Tokenizer(byte_level(), "model"), ("a",), TrainingPart())) == 1


@pytest.mark.parametrize("more, fits", [(0, True), (3, False)])
def test_tokens_without_an_embedding_are_refused(more: int, fits: bool, tmp_path: Path) -> None:
    given: Any = byte_level()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "xlm-roberta", "vocab_size": len(given)}))
    given.add_tokens([f"word{number}" for number in range(more)])
    given.save_pretrained(tmp_path)
    if fits:
        assert Tokenizer.load(tmp_path).vocabulary == len(given)
    else:
        with pytest.raises(UserError, match=f"token ids up to {len(given) - 1}, the model's vocabulary"):
            Tokenizer.load(tmp_path)


def test_a_tokenizer_of_sentencepiece_only_names_the_package(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "deberta-v2", "vocab_size": 9}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "DebertaV2Tokenizer"}))
    (tmp_path / "spm.model").write_bytes(b"no model")
    with pytest.raises(UserError, match="pip install sentencepiece protobuf"):
        Tokenizer.load(tmp_path)


def test_every_file_of_a_tokenizer_is_known() -> None:
    for name in (
        "spm.model",
        "spiece.model",
        "sentencepiece.bpe.model",
        "vocab.txt",
        "vocab.json",
        "merges.txt",
        "bpe.codes",
        "tokenizer.json",
        "special_tokens_map.json",
        "added_tokens.json",
    ):
        assert any(Path(name).match(pattern) for pattern in TOKENIZER_FILES), name


@pytest.mark.parametrize("sees", ["both", "left"])
def test_a_rank_without_the_models_folder_tokenises_alike(sees: Any) -> None:
    told = Tokenizer(byte_level(), "other", sees)
    plain = json.loads(json.dumps(told.to_plain()))  # as it travels
    made = Tokenizer.from_plain(plain)
    setting = TrainingPart(max_seq_length=24)
    pairs = [Pair(str(number), text, SENTENCES[0], "a") for number, text in enumerate(SENTENCES)]
    rows, same = (encode_pair(pairs, tokenizer, ("a",), setting) for tokenizer in (told, made))
    assert rows.input_ids.tolist() == same.input_ids.tolist()
    assert made.to_plain() == plain and made.fingerprint == told.fingerprint and made.special == told.special
    assert made.backend.decode(rows.input_ids.tolist()) == told.backend.decode(rows.input_ids.tolist())
