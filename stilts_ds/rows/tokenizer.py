"""The only module that calls a tokenizer: token ids of many texts as flat arrays, and their character offsets."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stilts_ds.errors import UserError, first_line
from stilts_ds.model_files import check_tokenizer, model_folder, read_config, refuse_own_code, size_of
from stilts_ds.model_kinds import Sees, sees_of
from stilts_ds.rows.pieces import Words
from stilts_ds.rows.slices import Slices
from stilts_ds.run_dir import hash_json

PLAIN = ("name", "sees", "space", "fingerprint", "unk", "mask", "vocabulary")  # attributes that are plain values


@dataclass(frozen=True)
class TokenTemplate:
    """The special tokens around one or two segments."""

    prefix: tuple[int, ...]
    middle: tuple[int, ...]
    suffix: tuple[int, ...]
    single_suffix: tuple[int, ...]

    @property
    def pair_cost(self) -> int:
        """Special tokens of two segments. Raises UserError where nothing stands between them."""
        if not self.middle:
            raise UserError(
                "the model's tokenizer puts no token between two texts, so that they cannot be told apart; "
                "use another model"
            )
        return len(self.prefix) + len(self.middle) + len(self.suffix)

    @property
    def single_cost(self) -> int:
        return len(self.prefix) + len(self.single_suffix)


class Tokenizer:
    """A fast Hugging Face tokenizer with the operations that encoding needs. `sees` is how the model's tokens see."""

    def __init__(self, tokenizer: Any, name: str, sees: Sees = "both") -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise UserError(f"the tokenizer of {name} gives no character offsets; use a model with a tokenizer.json")
        self.tokenizer = tokenizer
        self.backend = tokenizer.backend_tokenizer
        # tokenizer.json may cut and pad by itself; here the layout decides, with each task's own limit.
        self.backend.no_truncation()
        self.backend.no_padding()
        given = _template(tokenizer)
        self.sees = sees
        self.template = given if sees == "both" else _closed(given, tokenizer, name)
        self.words = Words(self.backend)
        self.name = name
        self.space = _own_space(self.backend)
        state = json.loads(self.backend.to_str())
        # What rows depend on besides: before words had their own space, and rows an end, they were others.
        besides: list[Any] = [self.space] if self.space else []
        if self.template != given:
            besides.append(dataclasses.asdict(self.template))
        # Without anything besides the hash is that of earlier versions: their cached rows stay valid.
        self.fingerprint = hash_json([state, *besides] if besides else state)
        self.unk = tokenizer.unk_token_id
        self.mask = tokenizer.mask_token_id
        self.special = frozenset(tokenizer.all_special_ids)
        self.vocabulary = len(tokenizer)

    @classmethod
    def load(cls, path: str | Path, revision: str | None = None) -> Tokenizer:
        """Load from a folder or the hub; raises UserError when there is no tokenizer."""
        # Slow to import, and most commands tokenise nothing.
        from transformers import AutoTokenizer

        check_tokenizer(Path(path))
        try:
            # Never code from a model's folder.
            loaded = AutoTokenizer.from_pretrained(str(path), revision=revision, trust_remote_code=False)
            _check_ids(loaded, str(path), revision)
            return cls(loaded, str(path), _sees(str(path), revision))
        except UserError:
            raise
        except BaseException as error:  # damaged files end in all kinds, a panic of the Rust library among them
            if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
                raise
            refuse_own_code(path, error)
            remedy = "give a folder that save_pretrained wrote, or copy it again"
            if _only_sentencepiece(Path(path)):
                remedy = "its tokenizer is only a SentencePiece file: `pip install sentencepiece protobuf` reads it"
            raise UserError(f"no tokenizer in {path}: {first_line(error)}; {remedy}") from error

    def to_plain(self) -> dict[str, Any]:
        """All that tokenises and fills batches, as plain values, for ranks that read no model folder."""
        return {
            "backend": self.backend.to_str(),
            "template": dataclasses.asdict(self.template),
            "special": sorted(self.special),
            **{name: getattr(self, name) for name in PLAIN},
        }

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> Tokenizer:
        """The tokenizer of which another rank told `to_plain`. It cannot be saved, which is that rank's to do."""
        import tokenizers

        made = cls.__new__(cls)
        made.tokenizer, made.backend = None, tokenizers.Tokenizer.from_str(values["backend"])
        made.template = TokenTemplate(**values["template"])
        made.special = frozenset(values["special"])
        made.words = Words(made.backend)
        for name in PLAIN:
            setattr(made, name, values[name])
        return made

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)

    def slices(self, texts: Sequence[str]) -> Slices:
        """Token ids of each text, without special tokens; a text that occurs twice is tokenised once."""
        number = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        pieces, _ = self.words.tokenise(list(number))
        return pieces.take(np.fromiter((number[text] for text in texts), np.int64, len(texts)))

    def ids_and_offsets(self, texts: Sequence[str]) -> tuple[Slices, np.ndarray]:
        """Token ids of each text and the (start, end) characters of each token of the flat array, int32 [T, 2].

        Leading white space is left out of a token's characters.
        """
        return self.words.tokenise(texts)


def _own_space(backend: Any) -> str:
    """What stands before a word inside a text to have the tokens that it has there: a space for byte-level BPE (`Ġman`
    is not `man`), nothing where a word has the same tokens everywhere."""
    # Tried, not looked up by name: any tokenizer may be given.
    text, alone, behind = (backend.encode(t, add_special_tokens=False).ids for t in ("a a", "a", " a"))
    return " " if text != alone + alone and text == alone + behind else ""


def _check_ids(tokenizer: Any, path: str, revision: str | None) -> None:
    """Raise UserError where the tokenizer has tokens for which the model has no embedding."""
    folder = model_folder(path, revision)
    if folder is None or not (folder / "config.json").exists():
        return
    rows, most = size_of(read_config(folder), "vocab_size"), max(tokenizer.get_vocab().values(), default=0)
    if rows is not None and most >= rows:
        raise UserError(
            f"{path}: the tokenizer has token ids up to {most}, the model's vocabulary {rows} rows; after tokens are "
            "added, resize_token_embeddings makes rows for them"
        )


def _only_sentencepiece(folder: Path) -> bool:
    return not (folder / "tokenizer.json").exists() and any(folder.glob("*.model"))


def _sees(path: str, revision: str | None) -> Sees:
    """Which way the tokens of the model beside a tokenizer see; `both` where there is no model."""
    # From a folder or the hub's cache alike.
    from transformers.utils import cached_file

    file = cached_file(path, "config.json", revision=revision, _raise_exceptions_for_missing_entries=False)
    return "both" if file is None else sees_of(read_config(Path(file).parent))


def _closed(template: TokenTemplate, tokenizer: Any, name: str) -> TokenTemplate:
    """The template of a decoder: where its tokenizer puts nothing, a token between two texts and one at a row's end.

    The last token stands for the row, and should be the same in all rows. It is the token that ends a text (GPT-2's
    `<|endoftext|>`); between two texts, the tokenizer's separator where it has one.
    Raises UserError for a tokenizer that has neither.
    """
    separator, end = tokenizer.sep_token_id, tokenizer.eos_token_id
    end = separator if end is None else end
    if end is None:
        raise UserError(
            f"the tokenizer of {name} has no token that ends a text, which a model that reads from left to right needs "
            "to stand for a row; name one as eos_token in tokenizer_config.json"
        )
    separator = end if separator is None else separator
    return TokenTemplate(
        template.prefix,
        template.middle or (separator,),
        template.suffix or (end,),
        template.single_suffix or (end,),
    )


def _template(tokenizer: Any) -> TokenTemplate:
    """Read the special tokens off an encoded pair, so that any tokenizer's own format is used."""
    pair = tokenizer("a", "b")
    segments = pair.sequence_ids(0)
    first, second = segments.index(0), segments.index(1)
    last_first = max(i for i, s in enumerate(segments) if s == 0)
    last_second = max(i for i, s in enumerate(segments) if s == 1)
    ids = pair["input_ids"]
    # What closes one text need not be what closes two.
    single = tokenizer("a")
    after = max(i for i, s in enumerate(single.sequence_ids(0)) if s == 0) + 1
    return TokenTemplate(
        tuple(ids[:first]),
        tuple(ids[last_first + 1 : second]),
        tuple(ids[last_second + 1 :]),
        tuple(single["input_ids"][after:]),
    )
