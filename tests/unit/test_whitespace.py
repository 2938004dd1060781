"""Programs through tokenizers and back: which ones need their white space marked is tried, and what is lost is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from folding_tokenizer import SPECIALS, fast, folding
from test_tokenizer_kinds import wordpiece
from tiny_decoders import plain_tokenizer
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, trainers

from stilts_ds.errors import UserError
from stilts_ds.execute.benchmarks import read_problems
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.rows.whitespace import ESCAPE, MARKS, SAMPLES, CodeTokenizer, mark_whitespace, restore_whitespace

HARD_TEXTS = [
    "",
    " ",
    "\n",
    "x",
    "  x  y ",
    "\t\n\t x\n",
    "a §¶→·⇥ b",
    f"{ESCAPE}{ESCAPE}",
    f"s = '{MARKS[' ']}'  # a mark of its own",
    "def f():\n     return 1  \n",
]


@pytest.mark.parametrize("text", [*HARD_TEXTS, *SAMPLES])
def test_marked_white_space_is_restored_to_the_character(text: str) -> None:
    marked = mark_whitespace(text)
    assert restore_whitespace(marked) == text
    assert not {"\n", "\t"} & set(marked) and "  " not in marked and marked == marked.strip(" ")


def test_marks_stand_for_what_the_documents_say() -> None:
    assert mark_whitespace("if x:\n      return  1\n") == "if x:¶→··return··1¶"
    assert mark_whitespace("\tx §") == "⇥x §§"
    assert restore_whitespace("x§") == "x§"  # what a model wrote may end in an escape


def test_a_tokenizer_that_folds_white_space_gets_marks() -> None:
    marked = [mark_whitespace(text) for text in (*SAMPLES, "a §¶→·⇥ b")]
    code = CodeTokenizer(Tokenizer(folding(marked), "small"))
    assert code.marks
    assert code.come_back(SAMPLES, code.slices(SAMPLES)).all()


def test_a_tokenizer_that_keeps_white_space_gets_none() -> None:
    code = CodeTokenizer(Tokenizer(plain_tokenizer(list(SAMPLES), eos_token="<|end|>"), "small", sees="left"))
    assert not code.marks
    assert code.come_back(SAMPLES, code.slices(SAMPLES)).all()


def test_what_a_decoder_writes_keeps_its_first_space() -> None:
    """SentencePiece puts a space before a text and its decoder drops one: behind a prompt there is none to drop."""
    backend = Backend(models.BPE(unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=[*SPECIALS, *bytes_], show_progress=False)
    lines = [line for sample in SAMPLES for line in sample.split("\n")]
    backend.train_from_iterator(lines, trainer)  # line ends are bytes to it, as to Llama's
    state = json.loads(backend.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] not in bytes_]
    backend = Backend.from_str(json.dumps(state))
    code = CodeTokenizer(Tokenizer(fast(backend), "llama", sees="left"))
    assert not code.marks
    prompt, solution = "def f(x):\n", "    return x"
    row = code.prompt_slices([prompt]).lists()[0] + code.slices([solution]).lists()[0]
    assert backend.decode(row, skip_special_tokens=False) == prompt + solution
    assert code.text(code.slices([solution]).lists()[0]) == solution


def test_a_vocabulary_without_the_marks_is_refused_with_the_missing_ones() -> None:
    without = [text.replace("\t", "    ") for text in SAMPLES]
    with pytest.raises(UserError, match="no token for ¶ → · ⇥ §.*use a model whose vocabulary has these"):
        CodeTokenizer(Tokenizer(folding(without), "small"))


def test_a_tokenizer_that_parts_punctuation_is_refused_with_what_it_makes_of_code() -> None:
    backend, trainer = wordpiece()
    backend.train_from_iterator([mark_whitespace(text) for text in (*SAMPLES, "a §¶→·⇥ b")] * 9, trainer)
    with pytest.raises(UserError, match=r"changes programs: 'def add.*comes back as .*SentencePiece or byte-level"):
        CodeTokenizer(Tokenizer(fast(backend), "small"))


def test_texts_that_do_not_come_back_are_named() -> None:
    marked = [mark_whitespace(text) for text in (*SAMPLES, "a §¶→·⇥ b")]
    code = CodeTokenizer(Tokenizer(folding(marked), "small"))
    # NFKC changes the ligature, the vocabulary lacks the letter, and `</s>` becomes the token that ends a row.
    texts = ["x = 1", "x = 'ﬁ'", "x = '漢'", "x = '</s>'"]
    assert code.come_back(texts, code.slices(texts)).tolist() == [True, False, False, False]


@pytest.mark.long  # where the model is built for others, too
def test_every_solution_of_humaneval_and_mbpp_comes_back_from_xlm_r(mini_xlmr: Path, shared_data: Path) -> None:
    code = CodeTokenizer(Tokenizer.load(mini_xlmr))
    assert code.marks
    for benchmark, file, count in (("humaneval", "HumanEval", 164), ("mbpp", "mbpp", 974)):
        path = shared_data / "code" / benchmark / f"{file}.jsonl.gz"
        solutions = [problem.canonical for problem in read_problems(benchmark, path).values()]
        assert len(solutions) == count
        assert code.come_back(solutions, code.slices(solutions)).all()
        code.marks = False
        assert not code.come_back(solutions, code.slices(solutions)).any()
        code.marks = True
