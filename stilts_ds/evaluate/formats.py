"""Prediction and label files in the benchmark's submission layout (paper, Scoring).

One file per task, split and language: `<task>/<split>-<language>.tsv`, or `.json` for question answering. What a file
holds is its *kind*:

- `label`: a label word a line                        (list[str])
- `index`: a whole number from 0 a line               (list[int])
- `tags`: a tag a line, a blank line between sentences (list[list[str]])
- `pairs`: `xx-id<TAB>en-id` a line                   (list[tuple[str, str]])
- `answers`: JSON `{question id: answer text}`        (dict[str, str]); its labels are SQuAD's JSON (list[Span])

Reading is strict: every fault is a UserError that names file and line. A byte order mark and CRLF are accepted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NoReturn

from stilts_ds.errors import UserError, did_you_mean
from stilts_ds.examples.records import Answer, Span
from stilts_ds.run_dir import write_atomically
from stilts_ds.tasks.spec import Family

Kind = Literal["label", "index", "tags", "pairs", "answers"]


def kind_of(family: Family, metrics: Sequence[str]) -> Kind:
    """The kind of a task's files. Bitext measured by F1 is a set of pairs (BUCC), by accuracy an index (Tatoeba)."""
    if family == "bitext":
        return "pairs" if "f1" in metrics else "index"
    kinds: dict[str, Kind] = {"pair": "label", "choice": "index", "tag": "tags", "span": "answers"}
    if family not in kinds:
        raise UserError(f"tasks of family {family!r} have no predictions to score{did_you_mean(family, kinds)}")
    return kinds[family]


def file_name(kind: Kind, split: str, language: str) -> str:
    """`test-de.tsv`, or `test-de.json` for answers."""
    return f"{split}-{language}.{'json' if kind == 'answers' else 'tsv'}"


def _fail(path: Path, line: int, problem: str) -> NoReturn:
    raise UserError(f"{path}, line {line}: {problem}")


# --- lines -----------------------------------------------------------------------------------------------------------


def read_text(path: Path) -> str:
    """A UTF-8 file's text with `\\n` line ends, without byte order mark. Raises UserError with the line at fault."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        reason = f"{path} cannot be read ({error.strerror})"
        raise UserError(f"{reason}; check the folder, the split and the language") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        _fail(path, raw[: error.start].count(b"\n") + 1, "is not UTF-8; convert the file to UTF-8")
    return _one_newline_style(path, text)


def _one_newline_style(path: Path, text: str) -> str:
    if "\r" not in text:
        return text
    lines = text.split("\n")
    ends = [line.endswith("\r") for line in lines[:-1]] + [True] * (lines[-1] == "")
    for number, (line, crlf) in enumerate(zip(lines, ends), start=1):
        if not crlf or "\r" in line.removesuffix("\r"):
            _fail(path, number, "mixes newline styles; end every line with LF, or every line with CRLF")
    return text.replace("\r\n", "\n")


def _lines(path: Path) -> list[str]:
    lines = read_text(path).split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _word(path: Path, number: int, line: str, known: Set[str], what: str) -> str:
    """One line's single word, checked against the known ones (any word if there are none)."""
    word = line.strip(" ")
    if not word:
        _fail(path, number, f"is empty; write one {what} a line")
    if "\t" in word:
        _fail(path, number, f"holds a tab ({line[:200]!r}); write the {what} alone")
    if known and word not in known:
        _fail(path, number, f"unknown {what} {word[:60]!r}{did_you_mean(word, known)}")
    return word


def _index(path: Path, number: int, line: str) -> int:
    word = _word(path, number, line, frozenset(), "index")
    if not (word.isascii() and word.isdigit() and len(word) < 10):
        _fail(path, number, f"{word[:40]!r} is not a whole number from 0; write a 0-based index a line")
    return int(word)


def _sentences(path: Path, known: Set[str]) -> list[list[str]]:
    lines = _lines(path)
    if lines and not lines[-1].strip(" "):
        lines.pop()
    sentences: list[list[str]] = [[]] if lines else []
    for number, line in enumerate(lines, start=1):
        if line.strip(" "):
            sentences[-1].append(_word(path, number, line, known, "tag"))
        elif not sentences[-1]:
            _fail(path, number, "an empty sentence; write one blank line between sentences")
        else:
            sentences.append([])
    if sentences and not sentences[-1]:
        _fail(path, len(lines), "an empty sentence; write one blank line between sentences")
    return sentences


def _pairs(path: Path) -> list[tuple[str, str]]:
    first_seen: dict[tuple[str, str], int] = {}
    for number, line in enumerate(_lines(path), start=1):
        ids = [part.strip(" ") for part in line.split("\t")]
        if len(ids) != 2 or not all(ids):
            _fail(path, number, f"{line[:200]!r} is not two ids with one tab between them; write one pair a line")
        pair = (ids[0], ids[1])
        if pair in first_seen:
            _fail(path, number, f"repeats the pair of line {first_seen[pair]}; write each pair once")
        first_seen[pair] = number
    return list(first_seen)


# --- JSON ------------------------------------------------------------------------------------------------------------


def _line_of(text: str, value: str, occurrence: int) -> int:
    """Line of the n-th occurrence of a JSON string in `text` (1 where an escape hides it)."""
    at = -1
    for _ in range(occurrence):
        at = max(text.find(json.dumps(value, ensure_ascii=False), at + 1), text.find(json.dumps(value), at + 1))
    return text.count("\n", 0, at) + 1 if at >= 0 else 1


def _load_json(path: Path, text: str) -> Any:
    def no_repeats(items: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for key, value in items:
            if key in seen:
                _fail(path, _line_of(text, key, 2), f"repeats the id {key!r}; write each id once")
            seen[key] = value
        return seen

    def no_constants(word: str) -> NoReturn:
        found = re.search(rf"[:\[,]\s*{re.escape(word)}", text)
        line = text.count("\n", 0, found.end() if found else 0) + 1
        _fail(path, line, f"{word} is not a value; the prediction went wrong, predict again")

    try:
        return json.loads(text, object_pairs_hook=no_repeats, parse_constant=no_constants)
    except json.JSONDecodeError as error:
        _fail(path, error.lineno, f"is not valid JSON ({error.msg}); write the file again")
    except (ValueError, RecursionError):  # numbers of thousands of digits, endless nesting
        _fail(path, 1, "is no sensible JSON; write the file again")


def _answers(path: Path) -> dict[str, str]:
    text = read_text(path)
    answers = _load_json(path, text)
    if not isinstance(answers, dict):
        _fail(path, 1, "is not a JSON object; write {question id: answer text}")
    for key, value in answers.items():
        if not isinstance(value, str):
            _fail(path, _line_of(text, key, 1), f"the answer of {key!r} is {value!r}; write a text")
    return answers


def _spans(path: Path) -> list[Span]:
    text = read_text(path)
    try:
        articles = _load_json(path, text)["data"]
        spans = [_span(p["context"], q) for a in articles for p in a["paragraphs"] for q in p["qas"]]
    except (KeyError, TypeError, AttributeError) as error:
        _fail(path, 1, f"is not in SQuAD's JSON schema ({error!r}); write data > paragraphs > qas > answers")
    seen: set[str] = set()
    for span in spans:
        if span.id in seen:
            _fail(path, _line_of(text, span.id, 2), f"repeats the question id {span.id!r}; write each question once")
        seen.add(span.id)
        if not span.impossible and not any(a.text for a in span.answers):
            _fail(path, _line_of(text, span.id, 1), f"question {span.id!r} has no gold answer; give a labelled file")
    return spans


def _span(context: str, question: Mapping[str, Any]) -> Span:
    answers = tuple(Answer(_of(str, a["text"]), _of(int, a["answer_start"])) for a in question["answers"])
    impossible = _of(bool, question.get("is_impossible", False))
    id, asked = str(_of((str, int), question["id"])), _of(str, question["question"])
    return Span(id, asked, _of(str, context), () if impossible else answers, impossible)


def _of(kind: Any, value: Any) -> Any:
    """The value itself. Raises TypeError where it is of another kind: `null` must not become the answer "None"."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{str(value)[:60]!r}")
    return value


# --- the public four -------------------------------------------------------------------------------------------------


def read_predictions(path: Path, kind: Kind, labels: Iterable[str] = ()) -> Any:
    """Read a prediction file; the value's type goes with the kind (module text).

    `labels` are the allowed words of kinds `label` and `tags`; empty allows any. Raises UserError with file and line.
    """
    known = frozenset(labels)
    if kind == "answers":
        return _answers(path)
    if kind == "tags":
        return _sentences(path, known)
    if kind == "pairs":
        return _pairs(path)
    lines = list(enumerate(_lines(path), start=1))
    if kind == "index":
        return [_index(path, number, line) for number, line in lines]
    return [_word(path, number, line, known, "label") for number, line in lines]


def read_labels(path: Path, kind: Kind, labels: Iterable[str] = ()) -> Any:
    """Read a label file: the prediction layout, or SQuAD's JSON as list[Span] for answers. Raises UserError."""
    values = _spans(path) if kind == "answers" else read_predictions(path, kind, labels)
    if not values:
        _fail(path, 1, "has no labels; give a labelled split")
    return values


def write_predictions(path: Path, kind: Kind, values: Any) -> None:
    """Write a prediction file atomically. Raises ValueError for values that would not read back as they are."""
    if kind == "answers":
        if not all(isinstance(text, str) for text in values.values()):
            raise ValueError("an answer is not a text")
        write_atomically(path, json.dumps(dict(values), ensure_ascii=False, indent=1) + "\n")
    else:
        write_atomically(path, "".join(f"{line}\n" for line in _written_lines(kind, values)))


def write_labels(path: Path, kind: Kind, values: Any) -> None:
    """Write a label file atomically: the prediction layout, or SQuAD's JSON from Span records for answers."""
    if kind == "answers":
        write_atomically(path, json.dumps(_squad_json(values), ensure_ascii=False, indent=1) + "\n")
    else:
        write_predictions(path, kind, values)


def _written_lines(kind: Kind, values: Any) -> list[str]:
    if kind == "tags":
        return _tag_lines(values)
    if kind == "pairs":
        return [f"{_writable(source)}\t{_writable(target)}" for source, target in values]
    if kind == "index":
        return [str(_written_index(value)) for value in values]
    return [_writable(value) for value in values]


def _written_index(value: Any) -> int:
    if int(value) != value or value < 0:
        raise ValueError(f"{value!r} is not an index from 0")
    return int(value)


def _writable(word: str) -> str:
    if not word or word != word.strip() or any(c in word for c in "\t\r\n"):
        raise ValueError(f"cannot write {word!r} on a line of its own")
    return word


def _tag_lines(sentences: Iterable[Sequence[str]]) -> list[str]:
    lines: list[str] = []
    for number, tags in enumerate(sentences):
        if not tags:
            raise ValueError(f"sentence {number} has no tags")
        lines += [""] * bool(lines) + [_writable(tag) for tag in tags]
    return lines


def _squad_json(spans: Iterable[Span]) -> dict[str, Any]:
    paragraphs = [
        {"context": context, "qas": [_question_json(span) for span in group]}
        for context, group in groupby(spans, key=lambda span: span.context)
    ]
    return {"version": "1.1", "data": [{"title": "", "paragraphs": paragraphs}]}


def _question_json(span: Span) -> dict[str, Any]:
    answers = [{"text": a.text, "answer_start": a.start} for a in span.answers]
    question: dict[str, Any] = {"id": span.id, "question": span.question, "answers": answers}
    return question | ({"is_impossible": True} if span.impossible else {})


# --- agreement -------------------------------------------------------------------------------------------------------


def check_aligned(path: Path, kind: Kind, predicted: Any, gold: Any) -> None:
    """Check that the predictions of file `path` answer exactly what `gold` asks.

    Raises UserError with the line where the counts part, or the question ids that are missing or unknown. Pairs need
    no counterpart; check them with `check_pair_ids`.
    """
    if kind == "answers":
        check_ids(path, predicted, {span.id for span in gold})
    elif kind == "tags":
        check_sentences(path, [len(tags) for tags in predicted], [len(tags) for tags in gold])
    elif kind != "pairs":
        check_count(path, len(predicted), len(gold))


def check_count(path: Path, found: int, wanted: int) -> None:
    """Check a one-line-per-example file's line count. Raises UserError with the first line too many or missing."""
    if found > wanted:
        _fail(path, wanted + 1, f"one line too many: {found} lines for {wanted} examples; predict this split again")
    if found < wanted:
        _fail(path, found + 1, f"is missing: {found} lines for {wanted} examples; predict this split again")


def check_indices(path: Path, indices: Sequence[int], options: int) -> None:
    """Check that every index is below `options`. Raises UserError with file and line."""
    for number, index in enumerate(indices, start=1):
        if index >= options:
            _fail(path, number, f"the index {index} is beyond the last choice, {options - 1}; indices start at 0")


def check_sentences(path: Path, found: Sequence[int], wanted: Sequence[int]) -> None:
    """Check the number of tags of each sentence. Raises UserError with the line where they part."""
    line = 1
    for number, (words, expected) in enumerate(zip(found, wanted), start=1):
        if words != expected:
            at = line + min(words, expected)
            _fail(path, at, f"sentence {number} has {words} tags for {expected} words; predict this split again")
        line += words + 1
    if len(found) != len(wanted):
        _fail(path, line, f"{len(found)} sentences for {len(wanted)} gold sentences; predict this split again")


def check_ids(path: Path, predicted: Mapping[str, str], wanted: Set[str]) -> None:
    """Check that exactly the wanted questions are answered. Raises UserError listing missing or unknown ids."""
    missing, unknown = sorted(wanted - predicted.keys()), sorted(predicted.keys() - wanted)
    if missing:
        _fail(path, 1, f"{len(missing)} of {len(wanted)} questions have no answer: {_some(missing)}; predict them too")
    if unknown:
        line = _line_of(read_text(path), unknown[0], 1)
        _fail(path, line, f"{len(unknown)} question ids are not in the labels: {_some(unknown)}; remove them")


def check_pair_ids(path: Path, pairs: Sequence[tuple[str, str]], sources: Set[str], targets: Set[str]) -> None:
    """Check that every id of a pairs file (predicted or gold) names a sentence. Raises UserError with file and line."""
    for number, (source, target) in enumerate(pairs, start=1):
        for name, known in ((source, sources), (target, targets)):
            if name not in known:
                _fail(path, number, f"the id {name!r} names no sentence; the pairs belong to other text files")


def _some(names: Sequence[str], shown: int = 5) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(repr(name) for name in names[:shown]) + more
