"""Small fast tokenizers made on the spot: one shaped like XLM-R's (SentencePiece), one like BERT's (token types)."""

from __future__ import annotations

from string import ascii_lowercase

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

PIECES = ("▁the", "▁cat", "▁on", "▁mat", "▁dog", "ing", "er", "▁sat", "an", "▁s", ".", "?", ",")


def xlmr_tokenizer() -> PreTrainedTokenizerFast:
    """Unigram pieces with `▁`; `<s> A </s></s> B </s>`; zero-width spaces vanish, as in XLM-R's normaliser."""
    vocabulary = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0)]
    vocabulary += [(letter, -6.0) for letter in ascii_lowercase + "éß"] + [(piece, -3.0) for piece in PIECES]
    backend = Tokenizer(models.Unigram(vocabulary, unk_id=3))
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex("\u200b"), "")])
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        cls_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
    )


def bert_tokenizer() -> PreTrainedTokenizerFast:
    """WordPiece; `[CLS] A [SEP] B [SEP]` with B of token type 1. The special tokens stand among the others."""
    names = ["[PAD]", "the", "cat", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "on", "mat", "##s", ".", "?"]
    names += [*ascii_lowercase, *(f"##{letter}" for letter in ascii_lowercase if letter != "s")]
    backend = Tokenizer(models.WordPiece({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 4), ("[SEP]", 5)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
