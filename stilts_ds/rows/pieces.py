"""Texts to the tokens of a fast tokenizer, each word only once.

A tokenizer that cuts at spaces before its model sees the text gives a word the same tokens wherever it stands. For
plain texts (Latin letters, digits and punctuation, one space between words) the tokens of each word are therefore
looked up; everything else goes through the tokenizer as a whole. What comes out is the same, and faster. Which
tokenizers these are is read off their own description, never guessed.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np

from stilts_ds.rows.slices import Slices

LAST_SPACE = 0x3000  # no later character is white space
LIMIT = 1 << 18  # words remembered; about 60 MB
OTHER = "a"  # a word that others are put behind to see their tokens there
WORDS_IN_TEXT = 64
SINGLE_SPACES = {"Regex": " {2,}"}  # the pattern by which XLM-R's tokenizers join spaces
CHARACTER_WISE = ("Nmt", "NFC", "NFKC", "Precompiled", "Lowercase", "BertNormalizer")


def tokenise(backend: Any, texts: Sequence[str]) -> tuple[Slices, np.ndarray]:
    """Token ids of each text and the (start, end) characters of each token, int32 [T, 2], through the tokenizer.

    Leading white space is left out of a token's characters.
    """
    encoded = backend.encode_batch(list(texts), add_special_tokens=False)
    tokens = Slices.of([e.ids for e in encoded])
    numbers = chain.from_iterable(chain.from_iterable(e.offsets for e in encoded))
    offsets = np.fromiter(numbers, np.int32, 2 * len(tokens.flat)).reshape(-1, 2)
    return tokens, _without_spaces(texts, tokens, offsets)


def _without_spaces(texts: Sequence[str], tokens: Slices, offsets: np.ndarray) -> np.ndarray:
    """Move the start of each token behind the white space that it begins with."""
    characters = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
    space = np.append(_is_space()[np.minimum(characters, LAST_SPACE + 1)], False)
    sizes = np.fromiter(map(len, texts), np.int64, len(texts))
    base = np.repeat(np.cumsum(sizes) - sizes, tokens.length)
    start, end = offsets[:, 0] + base, offsets[:, 1] + base
    moving = np.flatnonzero(space[start] & (start < end))
    while len(moving):
        start[moving] += 1
        moving = moving[space[start[moving]] & (start[moving] < end[moving])]
    return np.stack([start - base, end - base], 1).astype(np.int32)


@lru_cache(maxsize=1)
def _is_space() -> np.ndarray:
    """Whether a code point up to LAST_SPACE is white space; the one after it stands for all later ones."""
    return np.array([chr(code).isspace() for code in range(LAST_SPACE + 2)])


class Words:
    """The tokens of every word seen so far, in a flat array; forgotten when they become too many."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        state = json.loads(backend.to_str())
        self.plain = re.compile(plain_pattern(state)) if cuts_at_spaces(state) else None
        self.other = len(backend.encode(OTHER, add_special_tokens=False).ids)
        self.forget()

    def forget(self) -> None:
        """Begin anew without any word."""
        self.number: dict[str, int] = {}
        self.tokens = Slices.of([])
        self.offsets = np.zeros((0, 2), np.int32)

    def tokenise(self, texts: Sequence[str]) -> tuple[Slices, np.ndarray]:
        """As the function of that name; the slices' order in the flat array is not the texts' order."""
        if self.plain is None:
            return tokenise(self.backend, texts)
        known = np.fromiter((self.plain.fullmatch(text) is not None for text in texts), bool, len(texts))
        looked_up = self._look_up([text for text, is_known in zip(texts, known.tolist()) if is_known])
        others = tokenise(self.backend, [text for text, is_known in zip(texts, known.tolist()) if not is_known])
        first, length = np.empty((2, len(texts)), np.int64)
        first[known], first[~known] = looked_up[0].first, others[0].first + len(looked_up[0].flat)
        length[known], length[~known] = looked_up[0].length, others[0].length
        flat = np.concatenate([looked_up[0].flat, others[0].flat])
        return Slices(flat, first, length), np.concatenate([looked_up[1], others[1]])

    def _look_up(self, texts: Sequence[str]) -> tuple[Slices, np.ndarray]:
        """Texts as the tokens of their words. The key of a first word begins with a space, as no other key does."""
        split = [text.split(" ") for text in texts]
        for words in split:
            words[0] = f" {words[0]}"
        keys = list(chain.from_iterable(split))
        count = np.fromiter(map(len, split), np.int64, len(split))
        self._learn(keys)
        numbers = np.fromiter(map(self.number.__getitem__, keys), np.int64, len(keys))
        pieces = self.tokens.take(numbers)
        starts = np.cumsum(count) - count  # each text's first word
        ends = np.append(0, np.cumsum(pieces.length))
        first, last = ends[starts], ends[starts + count]
        sizes = np.fromiter(map(len, keys), np.int64, len(keys)) + 1  # characters of a word and the space before it
        sizes[starts] -= 1  # the first word's key has that space already
        begin = np.cumsum(sizes) - sizes
        begin -= np.repeat(begin[starts], count)
        positions = pieces.positions
        offsets = self.offsets[positions] + np.repeat(begin, pieces.length)[:, None].astype(np.int32)
        return Slices(self.tokens.flat[positions], first, last - first), offsets

    def _learn(self, keys: Sequence[str]) -> None:
        new = [key for key in dict.fromkeys(keys) if key not in self.number]
        if len(self.number) + len(new) > LIMIT:
            self.forget()
            new = list(dict.fromkeys(keys))
        at_ends = [key for key in new if key[:1] in ("", " ")]
        between = [key for key in new if key[:1] not in ("", " ")]
        self.number.update(zip([*at_ends, *between], range(len(self.number), len(self.number) + len(new))))
        for tokens, offsets in (self._at_ends(at_ends), self._between(between)):
            length = np.concatenate([self.tokens.length, tokens.length])
            flat = np.concatenate([self.tokens.flat, tokens.flat[tokens.positions]])
            self.offsets = np.concatenate([self.offsets, offsets[tokens.positions]])
            self.tokens = Slices(flat, np.cumsum(length) - length, length)

    def _at_ends(self, keys: Sequence[str]) -> tuple[Slices, np.ndarray]:
        """Words that begin a text, and the empty word behind a last space; that one comes after another word."""
        tokens, offsets = tokenise(self.backend, [key[1:] or f"{OTHER} " for key in keys])
        empty = np.fromiter((not key for key in keys), bool, len(keys))
        shift = np.repeat(np.where(empty, len(OTHER) + 1, 0), tokens.length)
        skip = np.where(empty, self.other, 0)
        return tokens.part(skip, tokens.length - skip), offsets - shift[:, None].astype(np.int32)

    def _between(self, keys: Sequence[str]) -> tuple[Slices, np.ndarray]:
        """Words behind other words: many in one text, which is cut again where words begin."""
        size = WORDS_IN_TEXT
        texts = [[OTHER, *keys[i : i + size]] for i in range(0, len(keys), size)]
        tokens, offsets = tokenise(self.backend, [" ".join(words) for words in texts])
        words = list(chain.from_iterable(texts))
        sizes = np.fromiter(map(len, words), np.int64, len(words)) + 1
        begin = np.cumsum(sizes) - sizes  # as if the texts stood behind one another
        text_begin = np.repeat(begin[:: size + 1], tokens.length)
        word = np.searchsorted(begin, text_begin + offsets[:, 0], side="right") - 1
        offsets = offsets - (begin[word] - text_begin)[:, None].astype(np.int32)
        length = np.bincount(word, minlength=len(words))
        is_key = np.arange(len(words)) % (size + 1) != 0
        return Slices(tokens.flat, np.cumsum(length) - length, length).take(is_key), offsets


def cuts_at_spaces(state: dict[str, Any]) -> bool:
    """Whether a tokenizer with this description gives the words of a plain text tokens of their own."""
    added = [token["content"] for token in state["added_tokens"]]
    cutters = [step["type"] for step in _flat(state["pre_tokenizer"], "pretokenizers")]
    spaces = [step for step in _flat(state["pre_tokenizer"], "pretokenizers") if step["type"] == "Metaspace"]
    return (
        cutters in (["Metaspace"], ["WhitespaceSplit", "Metaspace"], ["BertPreTokenizer"])
        and all(step["prepend_scheme"] == "always" and step["split"] for step in spaces)
        and all(_is_character_wise(step) for step in _flat(state["normalizer"], "normalizers"))
        and not any(content[:1].isalnum() or content[:1].isspace() for content in added)
    )


def _flat(step: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    if step is None:
        return []
    return step[key] if step["type"] == "Sequence" else [step]


def _is_character_wise(step: dict[str, Any]) -> bool:
    """Whether a normaliser changes plain characters one by one and leaves single spaces alone."""
    if step["type"] == "Replace":
        pattern = next(iter(step["pattern"].values()))
        return step["pattern"] == SINGLE_SPACES or (len(pattern) == 1 and pattern not in _plain_characters())
    return step["type"] in CHARACTER_WISE


def plain_pattern(state: dict[str, Any]) -> str:
    """Words of plain characters, one space between them and perhaps at the end, which then makes an empty last word.

    No added token (`<mask>`, `[SEP]`) can begin in such a word.
    """
    begins = {token["content"][:1] for token in state["added_tokens"]}
    word = "[" + "".join(re.escape(c) for c in _plain_characters() if c not in begins) + "]+"
    return f"{word}(?: {word})* ?"


@lru_cache(maxsize=1)
def _plain_characters() -> str:
    """Latin letters, digits, punctuation and signs that are their own normal form and join with no other character."""
    ranges = (range(0x21, 0x250), range(0x2010, 0x2028), range(0x2030, 0x205F), range(0x20A0, 0x20C0))
    return "".join(c for c in map(chr, chain(*ranges))
                   if unicodedata.category(c)[0] in "LNPS" and unicodedata.normalize("NFKC", c) == c)  # fmt: skip
