"""Prediction and label files in the benchmark's submission layout (paper, Scoring): what their families share.

One file per task, split and language: `<task>/<split>-<language>.tsv`, or `.json` for question answering. What stands
in it is the family's to say (`families/<name>/predictions.py`). Reading is strict: every fault is a UserError that
names file and line. A byte order mark, CRLF and blank lines at the end are accepted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from stilts_ds.errors import UserError, counted, did_you_mean
from stilts_ds.run_dir import write_atomically

CENTRED_FILES = "centred-"  # before the split's name, in names of files that centred vectors made


@dataclass(frozen=True, slots=True)
class Expected:
    """What the test data of one task and language asks of its prediction file.

    `count` examples; for tags the `words` of each sentence; for questions their `ids`; for BUCC the ids of both sides;
    for Tatoeba and choices the number of `options` that an index chooses from (0: not known). `order` are the lines of
    the run's file in the order in which the benchmark grades them (empty: as they stand).
    """

    count: int = 0
    words: tuple[int, ...] = ()
    ids: frozenset[str] = frozenset()
    sources: frozenset[str] = frozenset()
    targets: frozenset[str] = frozenset()
    options: int = 0
    order: tuple[int, ...] = ()


def expect_count(records: Sequence[Any]) -> Expected:
    return Expected(len(records))


def check_nothing(path: Path, predicted: Any, gold: Any) -> None:
    """For files that need no counterpart of the gold values."""


def itself(gold: Any) -> Any:
    return gold


@dataclass(frozen=True)
class PredictionFile:
    """How a family's predictions and labels stand in files.

    read(path, labels) gives values; `labels` are the allowed words, none of them allows any. read_labels gives gold
    values. The writers are atomic and raise ValueError for values that would not read back as they are.
    check(path, predicted, gold) raises UserError where predictions do not answer what the gold values ask;
    expect(records) and check_expected(path, values, expected) do so for a test file without labels. `one_each`: whether
    there is a value for each example, so that their number tells the test set's. right(gold value) is what of it a
    reader holds against a prediction.
    """

    suffix: str
    read: Callable[[Path, Iterable[str]], Any]
    read_labels: Callable[[Path, Iterable[str]], Any]
    write: Callable[[Path, Any], None]
    write_labels: Callable[[Path, Any], None]
    check: Callable[[Path, Any, Any], None]
    check_expected: Callable[[Path, Any, Expected], None]
    expect: Callable[[Sequence[Any]], Expected] = expect_count
    one_each: bool = True
    right: Callable[[Any], Any] = itself

    def name(self, split: str, language: str) -> str:
        """`test-de.tsv`, or `test-de.json` for answers."""
        return f"{split}-{language}{self.suffix}"


def fail(path: Path, line: int, problem: str) -> NoReturn:
    raise UserError(f"{path}, line {line}: {problem}")


def check_labelled(path: Path, values: Any) -> Any:
    """The gold values of a label file. Raises UserError where there are none."""
    if not values:
        fail(path, 1, "has no labels; give a labelled split")
    return values


def centred_name(split: str, language: str) -> str:
    """`centred-test-de.json` beside `test-de.tsv`: what retrieval found among centred vectors."""
    return f"{CENTRED_FILES}{split}-{language}.json"


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
        fail(path, raw[: error.start].count(b"\n") + 1, "is not UTF-8; convert the file to UTF-8")
    return _one_newline_style(path, text)


def _one_newline_style(path: Path, text: str) -> str:
    if "\r" not in text:
        return text
    lines = text.split("\n")
    # What stands behind the last line feed has no line end that could be of another style.
    ends = [line.endswith("\r") for line in lines[:-1]] + [True] * (lines[-1] == "")
    for number, (line, crlf) in enumerate(zip(lines, ends), start=1):
        if not crlf or "\r" in line.removesuffix("\r"):
            fail(path, number, "mixes newline styles; end every line with LF, or every line with CRLF")
    return text.replace("\r\n", "\n")


def file_lines(path: Path) -> list[str]:
    """A file's lines without the blank ones at its end, which are no values: a count that is wrong is told as such."""
    lines = read_text(path).split("\n")
    while lines and not lines[-1].strip(" "):
        lines.pop()
    return lines


def read_word(path: Path, number: int, line: str, known: Set[str], kind: str) -> str:
    """One line's single word, checked against the known ones (any word if there are none)."""
    # Spaces alone: a tab would hide a second column, which is a fault to be named.
    word = line.strip(" ")
    if not word:
        fail(path, number, f"is empty; write one {kind} a line")
    if "\t" in word:
        fail(path, number, f"holds a tab ({line[:200]!r}); write the {kind} alone")
    if known and word not in known:
        fail(path, number, f"unknown {kind} {word[:60]!r}{did_you_mean(word, known)}")
    return word


def _index(path: Path, number: int, line: str) -> int:
    word = read_word(path, number, line, frozenset(), "index")
    # `isdigit` alone takes superscripts, and int() would read other scripts' digits.
    if not (word.isascii() and word.isdigit() and len(word) < 10):
        fail(path, number, f"{word[:40]!r} is not a whole number from 0; write a 0-based index a line")
    return int(word)


# --- JSON ------------------------------------------------------------------------------------------------------------


def line_of(text: str, value: str, occurrence: int) -> int:
    """Line of the n-th occurrence of a JSON string in `text` (1 where an escape hides it)."""
    at = -1
    # Writers differ in whether they escape letters beyond ASCII, so both spellings are looked for.
    spellings = (json.dumps(value, ensure_ascii=False), json.dumps(value))
    for _ in range(occurrence):
        at = max(text.find(spelling, at + 1) for spelling in spellings)
    return text.count("\n", 0, at) + 1 if at >= 0 else 1


def load_json(path: Path, text: str) -> Any:
    # Python keeps the last value of a repeated key in silence: a prediction would be lost.
    def no_repeats(items: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for key, value in items:
            if key in seen:
                fail(path, line_of(text, key, 2), f"repeats the id {key!r}; write each id once")
            seen[key] = value
        return seen

    # NaN and Infinity are no JSON, but Python reads them.
    def no_constants(word: str) -> NoReturn:
        match = re.search(rf"[:\[,]\s*{re.escape(word)}", text)
        line = text.count("\n", 0, match.end() if match else 0) + 1
        fail(path, line, f"{word} is not a value; the prediction went wrong, predict again")

    try:
        return json.loads(text, object_pairs_hook=no_repeats, parse_constant=no_constants)
    except json.JSONDecodeError as error:
        fail(path, error.lineno, f"is not valid JSON ({error.msg}); write the file again")
    except (ValueError, RecursionError):  # numbers of thousands of digits, endless nesting
        fail(path, 1, "is no sensible JSON; write the file again")


# --- lines out and agreement ------------------------------------------------------------------------------------------


def writable(word: str) -> str:
    # What `read_word` would strip or refuse, so that no file is written that does not read back.
    if not word or word != word.strip() or any(c in word for c in "\t\r\n"):
        raise ValueError(f"cannot write {word!r} on a line of its own")
    return word


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines atomically, each with a line feed."""
    write_atomically(path, "".join(f"{line}\n" for line in lines))


def check_count(path: Path, lines: int, examples: int) -> None:
    """Check a one-line-per-example file's line count. Raises UserError with the first line too many or missing."""
    counts = f"{counted(lines, 'line')} for {counted(examples, 'example')}; predict this split again"
    if lines > examples:
        fail(path, examples + 1, f"one line too many: {counts}")
    if lines < examples:
        fail(path, lines + 1, f"is missing: {counts}")


def some(names: Sequence[str], shown: int = 5) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(repr(name) for name in names[:shown]) + more


def check_ids(
    path: Path, predicted: Mapping[str, Any], wanted: Set[str], noun: str = "question", partly: bool = False
) -> None:
    """Check that exactly the wanted ids are answered or, with `partly`, no others. Raises UserError listing them."""
    missing, unknown = sorted(wanted - predicted.keys()), sorted(predicted.keys() - wanted)
    if missing and not partly:
        plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
        fail(path, 1, f"{len(missing)} of {len(wanted)} {plural} have no answer: {some(missing)}; predict them too")
    if unknown:
        # Read again, since a line is only needed where the file is refused.
        line = line_of(read_text(path), unknown[0], 1)
        unknown_ids = counted(len(unknown), f"{noun} id is", f"{noun} ids are")
        fail(path, line, f"{unknown_ids} not in the labels: {some(unknown)}; remove them")


def check_indices(path: Path, indices: Sequence[int], options: int) -> None:
    """Check that every index is below `options`. Raises UserError with file and line."""
    for number, index in enumerate(indices, start=1):
        if index >= options:
            fail(path, number, f"the index {index} is beyond the last choice, {options - 1}; indices start at 0")


# --- which items share a text -----------------------------------------------------------------------------------------


def shared_texts_file(labels: Path) -> Path:
    """`test-de.texts` beside the label file `test-de.tsv`."""
    return labels.with_suffix(".texts")


def write_shared_texts(labels: Path, texts: Sequence[str]) -> None:
    """Write a number a line beside a label file: equal numbers where items share a text, from 0 as they appear."""
    # Numbers rather than texts: all that the report asks is which items go together.
    numbers: dict[str, int] = {}
    write_lines(shared_texts_file(labels), [str(numbers.setdefault(text, len(numbers))) for text in texts])


def read_shared_texts(task: Any, labels: Path, gold: Sequence[Any]) -> list[str] | None:
    """The numbers beside a label file, None where an older run wrote none. Raises UserError with file and line."""
    path = shared_texts_file(labels)
    if not path.exists():
        return None
    numbers = [str(_index(path, number, line)) for number, line in enumerate(file_lines(path), start=1)]
    check_count(path, len(numbers), len(gold))
    return numbers


# --- an index a line (choices, nearest sentences) --------------------------------------------------------------------


def written_index(value: Any) -> int:
    # Compared as a number, since values may be numpy's integers.
    if int(value) != value or value < 0:
        raise ValueError(f"{value!r} is not an index from 0")
    return int(value)


def read_indices(path: Path, labels: Iterable[str] = ()) -> list[int]:
    return [_index(path, number, line) for number, line in enumerate(file_lines(path), start=1)]


def read_gold_indices(path: Path, labels: Iterable[str] = ()) -> list[int]:
    return check_labelled(path, read_indices(path))


def write_indices(path: Path, values: Iterable[Any]) -> None:
    write_lines(path, [str(written_index(value)) for value in values])


def check_as_many(path: Path, predicted: Sequence[Any], gold: Sequence[Any]) -> None:
    """Check that there is a line for each gold value."""
    check_count(path, len(predicted), len(gold))


def check_expected_count(path: Path, values: Sequence[Any], expected: Expected) -> None:
    """Check that there is a line for each example of a test file."""
    check_count(path, len(values), expected.count)


def check_expected_indices(path: Path, values: Sequence[int], expected: Expected) -> None:
    check_count(path, len(values), expected.count)
    # 0 where the number of choices is not known: then no index can be called wrong.
    if expected.options:
        check_indices(path, values, expected.options)


INDEX_FILE = PredictionFile(
    ".tsv", read_indices, read_gold_indices, write_indices, write_indices, check_as_many, check_expected_indices
)
