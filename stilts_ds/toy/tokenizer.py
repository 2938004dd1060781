"""A small fast tokenizer shaped like XLM-R's: shared pieces for all languages, the same special tokens and pairs.

The pieces are merges (BPE): XLM-R's unigram trainer needs more text than this world has, and cuts names to letters.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

MAX_LENGTH = 256
SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")


def train_tokenizer(lines: Iterable[str], pieces: int = 900) -> PreTrainedTokenizerFast:
    """Learn pieces from text. As in XLM-R, `<s>`, `<pad>`, `</s>`, `<unk>` are 0 to 3 and `<mask>` is the last id."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFKC()  # as XLM-R's SentencePiece model does
    # Full stops are pieces of their own, because answers end before them.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    tokenizer.decoder = decoders.Metaspace()
    # One piece fewer: `<mask>` is no piece of the model, so the wrapper below adds it behind the last one.
    trainer = trainers.BpeTrainer(vocab_size=pieces - 1, special_tokens=list(SPECIAL_TOKENS), show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MAX_LENGTH,
        bos_token="<s>",
        cls_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],  # no token types: XLM-R has one only
    )


def world_lines(world: Path) -> list[str]:
    """Return every line of a world's `text/` folder, languages in order of their codes."""
    return [line for path in sorted((world / "text").glob("*.txt")) for line in path.read_text("utf-8").splitlines()]
