"""Every kind of tokenizer that encoders bring: rows hold the tokens that the tokenizer itself gives."""

from __future__ import annotations

import pytest
from tokenizers import Regex, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerFast

from stilts_ds.config import TrainingPart
from stilts_ds.families.pair.record import Pair
from stilts_ds.families.pair.rows import encode_pair
from stilts_ds.families.tag.record import Tagged
from stilts_ds.families.tag.rows import encode_tag
from stilts_ds.rows.tokenizer import Tokenizer

TEXTS = [
    "ma soeur vend une pomme rouge",
    "Der Lehrer liest 1234 Bücher in Hamburg, nicht zwei!",
    "姉は 赤い りんごを 売る",
    "बहन लाल सेब बेचती है",
    "don't  stop   here",
    "🙂 e\u0301té",
]
SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
# Of Llama 3's form: words with the space before them, up to three digits, what is neither, white space.
LLAMA_3 = r" ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+"


def sentencepiece() -> tuple[Backend, trainers.Trainer]:
    backend = Backend(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    return backend, trainers.UnigramTrainer(
        vocab_size=150, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False
    )


def wordpiece() -> tuple[Backend, trainers.Trainer]:
    backend = Backend(models.WordPiece(unk_token="<unk>"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return backend, trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIALS, show_progress=False)


def byte_bpe(prefix_space: bool) -> tuple[Backend, trainers.Trainer]:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    return backend, byte_trainer()


def llama_3() -> tuple[Backend, trainers.Trainer]:
    backend = Backend(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(Regex(LLAMA_3), "isolated")
    by_byte = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, by_byte])
    return backend, byte_trainer()


def byte_trainer() -> trainers.Trainer:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False)


KINDS = {
    "SentencePiece": sentencepiece,
    "WordPiece": wordpiece,
    "byte BPE": lambda: byte_bpe(prefix_space=False),
    "byte BPE with a prefix space": lambda: byte_bpe(prefix_space=True),
    "Llama 3": llama_3,
}


@pytest.fixture(params=KINDS)
def given(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    backend, trainer = KINDS[request.param]()
    backend.train_from_iterator(TEXTS[:4] * 9, trainer)
    used = [(token, backend.token_to_id(token)) for token in ("<s>", "</s>")]
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=used
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        mask_token="<mask>", cls_token="<s>", sep_token="</s>",
    )  # fmt: skip


def test_texts_have_the_tokenizers_own_tokens_and_characters(given: PreTrainedTokenizerFast) -> None:
    slices, offsets = Tokenizer(given, "model").ids_and_offsets(TEXTS)
    for index, text in enumerate(TEXTS):
        own = given(text, add_special_tokens=False, return_offsets_mapping=True)
        tokens = slice(slices.first[index], slices.first[index] + slices.length[index])
        assert slices.flat[tokens].tolist() == own["input_ids"]
        for (start, end), (low, high) in zip(offsets[tokens].tolist(), own["offset_mapping"], strict=True):
            assert text[start:end] == text[low:high].lstrip()


def test_a_pair_is_the_tokenizers_own(given: PreTrainedTokenizerFast) -> None:
    pairs = [Pair(str(i), a, b, "x") for i, (a, b) in enumerate(zip(TEXTS, TEXTS[1:]))]
    rows = encode_pair(pairs, Tokenizer(given, "model"), ("x",), TrainingPart(max_seq_length=512))
    for index, pair in enumerate(pairs):
        row = rows.input_ids[rows.starts[index] : rows.starts[index + 1]].tolist()
        assert row == given(pair.text_a, pair.text_b)["input_ids"]


@pytest.mark.parametrize("text", TEXTS[:4])
def test_tagged_words_are_running_text_with_a_label_each(given: PreTrainedTokenizerFast, text: str) -> None:
    words = tuple(text.split())
    record = Tagged("1", words, ("O",) * len(words))
    rows = encode_tag([record], Tokenizer(given, "model"), ("O",), TrainingPart(max_seq_length=512))
    assert rows.token_label is not None and int((rows.token_label == 0).sum()) == len(words)
    assert rows.input_ids.tolist() == given(" ".join(words))["input_ids"]
