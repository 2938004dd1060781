"""Programs through a tokenizer and back, character by character.

Many tokenizers fold white space: XLM-R's makes one space of a line end and of every run of spaces, so that no Python
program comes back. For these, line ends, spaces and tabs are written as visible characters that the vocabulary has
(MARKS); single spaces between words stay what they are. Which way a tokenizer needs is tried, not assumed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from stilts_ds.errors import UserError
from stilts_ds.rows.slices import Slices
from stilts_ds.rows.tokenizer import Tokenizer

# All of them are pieces of XLM-R's vocabulary, as few characters of this kind are. An indentation is one character.
MARKS = {"\n": "¶", "    ": "→", " ": "·", "\t": "⇥"}
ESCAPE = "§"  # stands before a mark, or itself, that the text holds
INDENT = 4  # spaces in the longest mark

_WHITESPACE_OF = {mark: whitespace for whitespace, mark in MARKS.items()}
_OWN_MARKS = re.compile(f"[{ESCAPE}{''.join(_WHITESPACE_OF)}]")
# Tokenizers drop a space at the ends of a text and join those of a run.
_LOST_SPACES = re.compile(r"\A +| {2,}| +\Z")
_MARKED = re.compile(f"{ESCAPE}(.)|[{''.join(_WHITESPACE_OF)}]")

# Code with all that has to come back: indentations, blank lines, tabs, runs of spaces, spaces at both ends.
SAMPLES = (
    'def add(x, y):\n    """Add  two."""\n    if x < 1:\n        return [y]\n\n    return x + y\n',
    "    total = 0\n\n\tfor i in range(10):  # ten\n\t\ttotal += i\n    return total",
    " x = a[1:2] \n",
)


def mark_whitespace(text: str) -> str:
    """The text with MARKS for its line ends, tabs, runs of spaces and spaces at its ends."""
    escaped = _OWN_MARKS.sub(lambda match: ESCAPE + match[0], text)
    spaced = _LOST_SPACES.sub(lambda match: _marked_spaces(len(match[0])), escaped)
    return spaced.replace("\n", MARKS["\n"]).replace("\t", MARKS["\t"])


def _marked_spaces(count: int) -> str:
    return MARKS["    "] * (count // INDENT) + MARKS[" "] * (count % INDENT)


def restore_whitespace(text: str) -> str:
    """The text that `mark_whitespace` was given. An escape that stands before nothing stays: a model may end so."""
    return _MARKED.sub(lambda match: match[1] or _WHITESPACE_OF[match[0]], text)


class CodeTokenizer:
    """A tokenizer for programs: token ids of texts that come back as they were.

    A decoder goes on from a prompt, so that the tokens of what it writes are those behind a line end: some tokenizers
    put a space before every text, which stands in no program. An encoder's solution is a segment of its own.

    `marks`: whether white space is marked for it. Raises UserError for a tokenizer that no program comes through.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.lead = "\n" if tokenizer.sees == "left" else ""
        for self.marks in (False, True):
            self._lead_ids = self._encode([self.lead]).lists()[0] if self.lead else []
            if self.come_back(SAMPLES, self.slices(SAMPLES)).all():
                return
        raise UserError(self._problem())

    def slices(self, texts: Sequence[str]) -> Slices:
        """Token ids of each text, without special tokens."""
        if not self.lead:
            return self._encode(texts)
        size = len(self._lead_ids)
        alone = self._encode(texts).lists()
        continued = []
        for number, ids in enumerate(self._encode([self.lead + text for text in texts]).lists()):
            # Where the lead and the text's beginning became one token, the text's own tokens are the next best.
            continued.append(ids[size:] if ids[:size] == self._lead_ids else alone[number])
        return Slices.of(continued)

    def prompt_slices(self, texts: Sequence[str]) -> Slices:
        """Token ids of texts that begin a row."""
        return self._encode(texts)

    def _encode(self, texts: Sequence[str]) -> Slices:
        return self.tokenizer.slices([mark_whitespace(text) for text in texts] if self.marks else texts)

    def text(self, ids: Sequence[int]) -> str:
        """The text of token ids; a token that stands for no text is shown by its name."""
        # A SentencePiece decoder drops the first space: what stands before the ids keeps theirs.
        lead = self._decode(self._lead_ids)
        text = self._decode([*self._lead_ids, *ids]).removeprefix(lead)
        return restore_whitespace(text) if self.marks else text

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.backend.decode(list(ids), skip_special_tokens=False))

    def come_back(self, texts: Sequence[str], slices: Slices) -> np.ndarray:
        """Whether each text is what its ids are decoded to and none of these is special, bool [N]."""
        special = self.tokenizer.special
        pairs = zip(texts, slices.lists())
        return np.array([special.isdisjoint(ids) and self.text(ids) == text for text, ids in pairs], bool)

    def _problem(self) -> str:
        name = self.tokenizer.name
        unknown = [
            mark for mark in (*MARKS.values(), ESCAPE) if self.tokenizer.unk in self.tokenizer.slices([mark]).flat
        ]
        if unknown:
            return (
                f"the tokenizer of {name} folds line ends and spaces, and has no token for {' '.join(unknown)}, which "
                "would stand for them: no program comes back from it; use a model whose vocabulary has these "
                "characters (XLM-R's has), or a byte-level one"
            )
        return (
            f"the tokenizer of {name} changes programs: {SAMPLES[0]!r} comes back as "
            f"{self.text(self.slices(SAMPLES[:1]).flat.tolist())!r}; use a model with a SentencePiece or byte-level "
            "tokenizer that keeps case and the spaces around punctuation"
        )
