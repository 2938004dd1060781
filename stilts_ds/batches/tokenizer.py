"""The only module that calls a tokenizer: token ids of many texts as flat arrays, and their character offsets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from stilts_ds.batches.slices import Slices
from stilts_ds.errors import UserError
from stilts_ds.run_dir import hash_json

LAST_SPACE = 0x3000  # no later character is white space


@dataclass(frozen=True)
class Template:
    """The special tokens around one or two segments."""

    prefix: tuple[int, ...]
    middle: tuple[int, ...]
    suffix: tuple[int, ...]
    single_suffix: tuple[int, ...]

    @property
    def pair_cost(self) -> int:
        return len(self.prefix) + len(self.middle) + len(self.suffix)

    @property
    def single_cost(self) -> int:
        return len(self.prefix) + len(self.single_suffix)


class Encoder:
    """A fast Hugging Face tokenizer with the operations that encoding needs."""

    def __init__(self, tokenizer: Any, name: str) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise UserError(f"the tokenizer of {name} gives no character offsets; use a model with a tokenizer.json")
        self.tokenizer = tokenizer
        self.backend = tokenizer.backend_tokenizer
        self.backend.no_truncation()
        self.backend.no_padding()
        self.template = _template(tokenizer)
        self.fingerprint = hash_json(json.loads(self.backend.to_str()))
        self.pad = tokenizer.pad_token_id
        self.unk = tokenizer.unk_token_id
        self.mask = tokenizer.mask_token_id
        self.special = frozenset(tokenizer.all_special_ids)
        self.vocabulary = len(tokenizer)

    @classmethod
    def load(cls, path: str | Path, revision: str | None = None) -> Encoder:
        """Load from a folder or the hub; raises UserError when there is no tokenizer."""
        from transformers import AutoTokenizer

        try:
            return cls(AutoTokenizer.from_pretrained(str(path), revision=revision), str(path))
        except (OSError, ValueError) as error:
            raise UserError(f"no tokenizer in {path}: {str(error).splitlines()[0]}") from error

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens."""
        encode = getattr(self.backend, "encode_batch_fast", self.backend.encode_batch)
        return [e.ids for e in encode(list(texts), add_special_tokens=False)]

    def slices(self, texts: Sequence[str]) -> Slices:
        """Token ids of each text, without special tokens; a text that occurs twice is tokenised once."""
        number = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        found = Slices.of(self.ids(list(number)))
        if len(number) == len(texts):
            return found
        return found.take(np.fromiter((number[text] for text in texts), np.int64, len(texts)))

    def ids_and_offsets(self, texts: Sequence[str]) -> tuple[Slices, np.ndarray]:
        """Token ids of each text and the (start, end) characters of each token, int32 [T, 2].

        Leading white space is left out of a token's characters.
        """
        encoded = self.backend.encode_batch(list(texts), add_special_tokens=False)
        found = Slices.of([e.ids for e in encoded])
        numbers = chain.from_iterable(chain.from_iterable(e.offsets for e in encoded))
        offsets = np.fromiter(numbers, np.int32, 2 * len(found.flat)).reshape(-1, 2)
        return found, _without_spaces(texts, found, offsets)


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


def _template(tokenizer: Any) -> Template:
    """Read the special tokens off an encoded pair, so that any tokenizer's own format is used."""
    pair = tokenizer("a", "b")
    segments = pair.sequence_ids(0)
    first, second = segments.index(0), segments.index(1)
    last_first = max(i for i, s in enumerate(segments) if s == 0)
    last_second = max(i for i, s in enumerate(segments) if s == 1)
    ids = pair["input_ids"]
    single = tokenizer("a")
    after = max(i for i, s in enumerate(single.sequence_ids(0)) if s == 0) + 1
    return Template(
        tuple(ids[:first]),
        tuple(ids[last_first + 1 : second]),
        tuple(ids[last_second + 1 :]),
        tuple(single["input_ids"][after:]),
    )
