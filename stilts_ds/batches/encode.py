"""Records to token rows: the only module that uses a tokenizer.

Input formats follow PAPER protocol: pairs as `<s> A </s></s> B </s>`, over-long pairs cut from the front of the longer
part; each (prompt, choice) on its own row; question-answering windows that share `doc_stride` tokens; the first piece
of a word carries its tag, and sentences longer than a row are cut between words, so that no word is lost.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from stilts_ds.batches.rows import Rows, RowsBuilder
from stilts_ds.config import TrainingPart
from stilts_ds.errors import UserError, first_line
from stilts_ds.examples.records import Choice, Pair, Record, Span, Tagged, Text
from stilts_ds.model_files import check_tokenizer
from stilts_ds.run_dir import hash_json
from stilts_ds.tasks.spec import Task

CHUNK = 2048  # records tokenised at a time: enough to use all cores, small enough for memory


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

        check_tokenizer(Path(path))
        try:
            return cls(AutoTokenizer.from_pretrained(str(path), revision=revision), str(path))
        except UserError:
            raise
        except BaseException as error:  # damaged files end in all kinds, a panic of the Rust library among them
            if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
                raise
            remedy = "give a folder that save_pretrained wrote, or copy it again"
            raise UserError(f"no tokenizer in {path}: {first_line(error)}; {remedy}") from error

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens."""
        encode = getattr(self.backend, "encode_batch_fast", self.backend.encode_batch)
        return [e.ids for e in encode(list(texts), add_special_tokens=False)]

    def ids_and_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Token ids and character offsets; leading white space is left out of a token's offsets."""
        encoded = self.backend.encode_batch(list(texts), add_special_tokens=False)
        return [(e.ids, [_trim(text, *o) for o in e.offsets]) for text, e in zip(texts, encoded)]

    def words(self, sentences: Sequence[Sequence[str]]) -> Iterator[list[list[int]]]:
        """The pieces of each word of each sentence; a word without pieces becomes `<unk>`."""
        flat = self.ids([word for sentence in sentences for word in sentence])
        pieces = iter(flat)
        for sentence in sentences:
            yield [ids or [self.unk] for ids in islice(pieces, len(sentence))]


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    return start, end


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


def cut_pair(a: list[int], b: list[int], room: int) -> tuple[list[int], list[int]]:
    """Drop tokens from the front of the longer part, one by one, until both fit in `room` (the first on a tie)."""
    extra = len(a) + len(b) - room
    if extra <= 0:
        return a, b
    difference = len(a) - len(b)
    only = min(extra, abs(difference))
    rest = extra - only
    cut_a = (only if difference > 0 else 0) + (rest + 1) // 2
    cut_b = (only if difference < 0 else 0) + rest // 2
    return a[cut_a:], b[cut_b:]


def _add_pair(out: RowsBuilder, template: Template, a: list[int], b: list[int], limit: int, example: int) -> None:
    kept_a, kept_b = cut_pair(a, b, limit - template.pair_cost)
    if len(kept_a) + len(kept_b) < len(a) + len(b):
        out.tally["rows cut to max_seq_length"] += 1
    head = [*template.prefix, *kept_a, *template.middle]
    out.add_row([*head, *kept_b, *template.suffix], len(head), example)


def _label_index(labels: Sequence[str], label: str | None, record_id: str) -> int:
    if label is None:
        return -1
    try:
        return labels.index(label)
    except ValueError:
        raise UserError(f"example {record_id}: unknown label {label!r}; known: {', '.join(labels[:20])}") from None


def encode_pair(records: Iterable[Pair], encoder: Encoder, labels: Sequence[str], setting: TrainingPart) -> Rows:
    out = RowsBuilder(labels=True)
    for index, chunk in _chunks(records):
        a = encoder.ids([r.text_a for r in chunk])
        b = encoder.ids([r.text_b for r in chunk])
        for i, record in enumerate(chunk):
            _add_pair(out, encoder.template, a[i], b[i], setting.max_seq_length, index + i)
            out.end_item()
            assert out.label is not None
            out.label.append(_label_index(labels, record.label, record.id))
    return out.rows()


def encode_choice(records: Iterable[Choice], encoder: Encoder, labels: Sequence[str], setting: TrainingPart) -> Rows:
    """Rows of one question stand together; every question of a task must have the same number of choices."""
    out = RowsBuilder(labels=True)
    width = 0
    for index, chunk in _chunks(records):
        prompts = encoder.ids([r.prompt for r in chunk])
        choices = iter(encoder.ids([c for r in chunk for c in r.choices]))
        for i, record in enumerate(chunk):
            width = width or len(record.choices)
            if len(record.choices) != width:
                raise UserError(f"example {record.id} has {len(record.choices)} choices, the ones before it {width}")
            for _ in record.choices:
                _add_pair(out, encoder.template, prompts[i], next(choices), setting.max_seq_length, index + i)
            out.end_item()
            assert out.label is not None
            out.label.append(-1 if record.label is None else record.label)
    return out.rows()


def encode_span(records: Iterable[Span], encoder: Encoder, labels: Sequence[str], setting: TrainingPart) -> Rows:
    """Windows of question and context. A window that lacks the first gold answer points at position 0."""
    out = RowsBuilder(spans=True, places=True)
    for index, chunk in _chunks(records):
        questions = encoder.ids([r.question for r in chunk])
        unique = list(dict.fromkeys(r.context for r in chunk))
        contexts = dict(zip(unique, encoder.ids_and_offsets(unique)))
        for i, record in enumerate(chunk):
            query = questions[i][: setting.max_query_length]
            if len(query) < len(questions[i]):
                out.tally["questions cut to max_query_length"] += 1
            _add_windows(out, encoder.template, query, contexts[record.context], record, index + i, setting)
    return out.rows()


def _add_windows(
    out: RowsBuilder,
    template: Template,
    query: list[int],
    context: tuple[list[int], list[tuple[int, int]]],
    record: Span,
    example: int,
    setting: TrainingPart,
) -> None:
    ids, offsets = context
    room = setting.max_seq_length - template.pair_cost - len(query)
    if room <= setting.doc_stride and len(ids) > room:
        raise UserError(
            f"question {record.id}: {room} tokens are left for the context, not more than doc_stride="
            f"{setting.doc_stride}; raise max_seq_length or lower doc_stride or max_query_length"
        )
    answer = _answer_tokens(record, offsets)
    head = [*template.prefix, *query, *template.middle]
    for begin in _window_starts(len(ids), room, setting.doc_stride):
        end = min(begin + room, len(ids))
        out.add_row([*head, *ids[begin:end], *template.suffix], len(head), example)
        out.end_item()
        place = np.full((len(head) + end - begin + len(template.suffix), 2), -1, np.int32)
        if end > begin:
            place[len(head) : len(head) + end - begin] = offsets[begin:end]
        inside = answer is not None and begin <= answer[0] and answer[1] < end
        assert out.span is not None and out.place is not None
        out.place.append(place)
        shift = len(head) - begin
        out.span.append((answer[0] + shift, answer[1] + shift) if inside and answer else (0, 0))


def _window_starts(length: int, room: int, stride: int) -> list[int]:
    """First context token of each window; neighbours share `stride` tokens; there is always one window."""
    starts = [0]
    while starts[-1] + room < length:
        starts.append(starts[-1] + room - stride)
    return starts


def _answer_tokens(record: Span, offsets: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """First and last context token of the first gold answer."""
    if record.impossible or not record.answers:
        return None
    answer = record.answers[0]
    first = next((t for t, (_, end) in enumerate(offsets) if end > answer.start), None)
    stop = answer.start + len(answer.text.rstrip())
    last = next((t for t in range(len(offsets) - 1, -1, -1) if offsets[t][0] < stop), None)
    return None if first is None or last is None or last < first else (first, last)


def encode_tag(records: Iterable[Tagged], encoder: Encoder, labels: Sequence[str], setting: TrainingPart) -> Rows:
    out = RowsBuilder(tags=True, places=True)
    room = setting.max_seq_length - encoder.template.single_cost
    known = {tag: i for i, tag in enumerate(labels)}
    for index, chunk in _chunks(records):
        for i, pieces in enumerate(encoder.words([r.words for r in chunk])):
            tags = chunk[i].tags
            indices = [-1] * len(pieces) if tags is None else [_tag_index(known, t, chunk[i].id, out) for t in tags]
            parts = _word_chunks(pieces, room)
            if len(parts) > 1:
                out.tally["sentences cut in chunks and rejoined"] += 1
            for first, last in parts:
                _add_tag_row(out, encoder.template, pieces, indices, first, last, room, index + i)
    return out.rows()


def _tag_index(known: dict[str, int], tag: str, record_id: str, out: RowsBuilder) -> int:
    """Index of a tag; a tag that the train split never showed (open tag sets such as CCG) can only be missed."""
    if tag not in known:
        out.tally["tags not in the label list"] += 1
        return -1
    return known[tag]


def _word_chunks(pieces: Sequence[Sequence[int]], room: int) -> list[tuple[int, int]]:
    """Cut a sentence between words so that each chunk's pieces fit; (first word, word after the last)."""
    chunks, first, used = [], 0, 0
    for word, ids in enumerate(pieces):
        size = min(len(ids), room)
        if used + size > room:
            chunks.append((first, word))
            first, used = word, 0
        used += size
    return [*chunks, (first, len(pieces))]


def _add_tag_row(
    out: RowsBuilder,
    template: Template,
    pieces: Sequence[Sequence[int]],
    labels: Sequence[int],
    first: int,
    last: int,
    room: int,
    example: int,
) -> None:
    ids, token_label, place = list(template.prefix), [-1] * len(template.prefix), [-1] * len(template.prefix)
    for word in range(first, last):
        kept = pieces[word][:room]
        ids += kept
        token_label += [labels[word], *[-1] * (len(kept) - 1)]
        place += [word, *[-1] * (len(kept) - 1)]
    ids += template.single_suffix
    padding = [-1] * len(template.single_suffix)
    out.add_row(ids, len(ids), example)
    out.end_item()
    assert out.token_label is not None and out.place is not None
    out.token_label.append(np.asarray(token_label + padding, np.int32))
    words = np.asarray(place + padding, np.int32)
    out.place.append(np.stack([words, np.minimum(words, 0)], 1))


def encode_text(records: Iterable[Text], encoder: Encoder, labels: Sequence[str], setting: TrainingPart) -> Rows:
    """Plain texts. A text longer than a row becomes several rows, so that nothing is dropped (bitext: see below).

    `labels` are languages: a row's label is its language, by which the mixture draws.
    """
    out = RowsBuilder(labels=True)
    assert out.label is not None
    room = setting.max_seq_length - encoder.template.single_cost
    for index, chunk in _chunks(records):
        for i, ids in enumerate(encoder.ids([r.text for r in chunk])):
            for begin in range(0, max(len(ids), 1), room):
                row = [*encoder.template.prefix, *ids[begin : begin + room], *encoder.template.single_suffix]
                out.add_row(row, len(row), index + i)
                out.end_item()
                out.label.append(labels.index(chunk[i].language) if labels else 0)
    return out.rows()


def encode_bitext(records: Iterable[Any], encoder: Encoder, labels: Sequence[str], setting: TrainingPart) -> Rows:
    """One row a sentence: a sentence vector needs one row, so the end of a longer sentence is cut and counted."""
    out = RowsBuilder()
    room = setting.max_seq_length - encoder.template.single_cost
    for index, chunk in _chunks(records):
        for i, ids in enumerate(encoder.ids([r.text for r in chunk])):
            out.tally["sentences cut to max_seq_length"] += len(ids) > room
            row = [*encoder.template.prefix, *ids[:room], *encoder.template.single_suffix]
            out.add_row(row, len(row), index + i)
            out.end_item()
    return out.rows()


ENCODE: dict[str, Callable[..., Rows]] = {
    "pair": encode_pair,
    "choice": encode_choice,
    "span": encode_span,
    "tag": encode_tag,
    "text": encode_text,
    "bitext": encode_bitext,
}


def encode(
    task: Task, records: Iterable[Record], encoder: Encoder, labels: Sequence[str], setting: TrainingPart
) -> Rows:
    """Encode records of `task`. `labels` is the label list of its head; settings used: lengths and stride."""
    return ENCODE[task.family](records, encoder, labels, setting)


def _chunks(records: Iterable[Any]) -> Iterator[tuple[int, list[Any]]]:
    stream, index = iter(records), 0
    while chunk := list(islice(stream, CHUNK)):
        yield index, chunk
        index += len(chunk)
