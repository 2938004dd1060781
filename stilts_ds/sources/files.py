"""Text and JSON files as they really arrive: byte-order marks, CRLF, half downloads, pointers, error pages.

Lines end at `\\n` only, since U+2028 and other separators occur inside sentences. Everything that cannot be read
raises UserError with file, line and remedy.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from stilts_ds.errors import UserError, did_you_mean

AGAIN = "download the file again"
PACKED = ".gz"  # end of the name of a gzip-compressed file
# What people have in place of the data, by its first bytes; these are compared in small letters.
MAGIC = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the data; run `git lfs pull` where it comes from"),
    (b"<!doctype html", f"is an HTML page, probably an error message, not the data; {AGAIN}"),
    (b"<html", f"is an HTML page, probably an error message, not the data; {AGAIN}"),
    (b"\x1f\x8b", "is gzip-compressed; unpack it"),
    (b"pk\x03\x04", "is a zip archive; unpack it"),
    (b"\xff\xfe", "is UTF-16 text; convert it to UTF-8"),
    (b"\xfe\xff", "is UTF-16 text; convert it to UTF-8"),
    (b"\xfd7zxz\x00", "is xz-compressed; unpack it"),
    (b"\x28\xb5\x2f\xfd", "is zstd-compressed; unpack it"),
    (b"par1", "is a parquet file; give the data set's text or JSON files"),
    (b"\x93numpy", "is a NumPy array, not text; end the name of a file of vectors in .npy"),
)


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its end). A final line feed makes no empty last line.

    Raises UserError for a missing or empty file, content that is no text, invalid UTF-8, and carriage returns inside a
    line: where other programs end a line there, the file would have fewer lines here than there.
    """
    for number, raw in _numbered(path):
        yield number, _one_line(raw, path, number)


def _one_line(raw: bytes, path: Path, number: int) -> str:
    line = _decode(raw, path, number)
    if "\r" in line:
        raise UserError(
            f"{path}:{number}: a carriage return (CR) stands inside the line, as in files with the "
            "line ends of old Macs; end lines with LF (`tr '\\r' '\\n'`), or remove it"
        )
    return line


def split_id(line: str, where: str) -> tuple[str, str]:
    """Id and text of a line `id TAB text`. Raises UserError where it is none."""
    # At the first tab only: a text may hold others.
    id, tab, text = line.partition("\t")
    if not tab or not id:
        raise UserError(f"{where}: expected id TAB text; download the file again")
    return id, text


def filled_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of `read_lines` without the blank ones at the file's end, which are no rows."""
    blank: list[tuple[int, str]] = []
    for number, line in read_lines(path):
        if line.strip():
            # A blank line with more behind it is a row with nothing in it, which the reader refuses by its number.
            yield from blank
            blank = []
            yield number, line
        else:
            blank.append((number, line))


def indexed_lines(path: Path, step: int) -> Iterator[tuple[int, str, int | None]]:
    """The lines of `read_lines`; each first one of `step` lines with the byte at which it begins, the others with None.

    `lines_from` starts at such a byte, without the lines before.
    """
    first_byte = 0
    for number, raw in _numbered(path):
        # Bytes, not characters: only they can be sought without reading what comes before.
        yield number, _one_line(raw, path, number), first_byte if (number - 1) % step == 0 else None
        first_byte += len(raw)


def lines_from(path: Path, first_byte: int, number: int, count: int) -> list[str]:
    """`count` lines from the byte `place` on, where line `number` begins. Raises UserError as `read_lines`, and where
    the file ends before."""
    with _opened(path) as file:
        file.seek(first_byte)
        lines = [_one_line(raw, path, number + i) for i, raw in enumerate(islice(file, count))]
    # The file was counted when it was indexed, so it has changed since.
    if len(lines) < count:
        raise UserError(f"{path}: has fewer lines than when it was looked at; let no program write it meanwhile")
    return lines


def _raw_lines(path: Path) -> Iterator[tuple[int, str]]:
    for number, raw in _numbered(path):
        yield number, _decode(raw, path, number)


def _numbered(path: Path) -> Iterator[tuple[int, bytes]]:
    """A file's lines from 1."""
    check_head(path)
    with _opened(path) as file:
        yield from enumerate(file, 1)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The bytes of a file. Raises UserError where it cannot be opened, and where a packed one is damaged."""
    with _open(path) as file:
        try:
            yield file
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UserError(f"{path}: the compressed file is damaged ({error}); {AGAIN}") from None


def _open(path: Path) -> Any:
    try:
        # Some authors ship their files packed, and the name says so.
        return gzip.open(path, "rb") if path.suffix == PACKED else path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({error.strerror}); check the path and its permissions") from None


def check_head(path: Path) -> None:
    """Raise UserError if the file is empty or its first bytes show that it is not the data."""
    # Tables are looked at by their reader (stilts_ds.sources.tables).
    if path.suffix in (".parquet", ".arrow"):
        return
    with _opened(path) as file:
        # Enough for every magic number and the beginning of a web page that was saved in place of the data.
        head = file.read(512)
    # Web pages differ in case, and in what white space and byte order mark they begin with.
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not start:
        raise UserError(f"{path}: is empty; {AGAIN}")
    for magic, meaning in MAGIC:
        if start.startswith(magic):
            raise UserError(f"{path}: {meaning}")
    if b"\0" in head:
        raise UserError(
            f"{path}: holds NUL bytes, so it is no UTF-8 text (UTF-16, or not text at all); give a UTF-8 text file"
        )


def _decode(raw: bytes, path: Path, number: int) -> str:
    try:
        # Windows programs write a byte order mark before the first line; inside the text it would be a character.
        text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        where = f"{path}:{number}: byte {error.start + 1} of the line (0x{error.object[error.start]:02x})"
        raise UserError(f"{where} is not valid UTF-8; convert the file to UTF-8 or {AGAIN}") from None
    return text.removesuffix("\n").removesuffix("\r")


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises UserError for anything that is not one whole JSON value."""
    text = "\n".join(line for _, line in _raw_lines(path))  # a carriage return is white space in JSON
    return parse_json(text, str(path))


def read_json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (`file:line`, object) of a file that is one JSON list of objects; the line is where the object begins."""
    text = "\n".join(line for _, line in _raw_lines(path))
    rows = parse_json(text, str(path))  # as a whole, which finds and names what is no JSON
    if not isinstance(rows, list):
        raise UserError(f"{path}: is no JSON list; {AGAIN}")
    decoder = json.JSONDecoder()
    position, line = text.index("[") + 1, 1 + text.count("\n", 0, text.index("["))
    for row in rows:
        between = BETWEEN_ROWS.match(text, position)
        assert between is not None  # it matches nothing, too
        begin = between.end()
        line += text.count("\n", position, begin)
        where = f"{path}:{line}"
        if not isinstance(row, dict):
            raise UserError(f"{where}: is no JSON object; {AGAIN}")
        yield where, row
        _, position = decoder.raw_decode(text, begin)
        line += text.count("\n", begin, position)


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (`file:line`, object) of a JSON lines file; blank lines are skipped."""
    first = True
    for number, line in read_lines(path):
        if line.strip():
            where = f"{path}:{number}"
            try:
                row = parse_json(line, where)
            # The first line of one indented JSON value is a bare bracket: say what the file is, not where it breaks.
            except UserError:
                if first:
                    _check_not_one_value(path)
                raise
            if not isinstance(row, dict):
                raise UserError(f"{where}: is no JSON object; {ONE_A_LINE}")
            first = False
            yield where, row


BETWEEN_ROWS = re.compile(r"[ \t\r\n,]*")
ONE_A_LINE = "this must be a JSON lines file, one object a line (`jq -c '.[]'` writes a JSON array so)"


def _check_not_one_value(path: Path) -> None:
    """Raise UserError if the whole file is one JSON value: an array or an object over several lines."""
    try:
        json.loads("\n".join(line for _, line in _raw_lines(path)))
    except (ValueError, RecursionError):
        return
    raise UserError(f"{path}: is one JSON value over several lines; {ONE_A_LINE}")


def parse_json(text: str, where: str) -> Any:
    """The value of a JSON text. Raises UserError saying where it breaks, and whether it looks cut short."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            raise UserError(
                f"{where}: another value follows after the first, at line {error.lineno} column {error.colno}; if it "
                "is a JSON lines file, this must be one JSON value: use the data set's own file"
            ) from None
        # Half a download breaks at its end, or inside the text in which it ends.
        if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
            raise UserError(f"{where}: the JSON ends too early, the file looks cut short; {AGAIN}") from None
        position = f"line {error.lineno} column {error.colno}"
        raise UserError(f"{where}: invalid JSON at {position}: {error.msg}; {AGAIN}") from None
    except (ValueError, RecursionError):  # numbers of thousands of digits, endless nesting
        raise UserError(f"{where}: is no sensible JSON; {AGAIN}") from None


def text_field(row: Any, key: str, where: str) -> str:
    """The text under `key`. Raises UserError if it is missing, no text, or holds half a surrogate pair."""
    value = _field(row, key, where)
    if not isinstance(value, str):
        raise UserError(f"{where}: `{key}` must be text, not {type(value).__name__}; check the file's schema")
    return check_text(value, f"{where}: `{key}`")


def check_text(value: str, where: str) -> str:
    """The text itself. JSON escapes can name half a surrogate pair, which no tokeniser or file can take."""
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UserError(f"{where} holds half a surrogate pair; repair the text") from None
    return value


def id_field(row: Any, key: str, where: str) -> str:
    """The id under `key`, a text or a whole number; `where` (file and place) where the row has none."""
    value = row.get(key) if isinstance(row, dict) else None
    if value is None:
        return where
    if isinstance(value, int) and not isinstance(value, bool):  # true is an integer in Python
        return str(value)
    return text_field(row, key, where)


def int_field(row: Any, key: str, where: str) -> int:
    """The whole number under `key`; digits in quotes are accepted."""
    value = _field(row, key, where)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"{where}: `{key}` must be a whole number, not {shorten(value)}; check the file's schema")
    return value


def list_field(row: Any, key: str, where: str) -> list[Any]:
    value = _field(row, key, where)
    if not isinstance(value, list):
        raise UserError(f"{where}: `{key}` must be a list, not {type(value).__name__}; check the file's schema")
    return value


def texts_field(row: Any, key: str, where: str) -> list[str]:
    """The list of texts under `key`. Raises UserError for a list that holds anything else."""
    values = list_field(row, key, where)
    if not all(isinstance(value, str) for value in values):
        raise UserError(f"{where}: `{key}` must hold texts only; check the file's schema")
    return [check_text(value, f"{where}: `{key}`") for value in values]


def _field(row: Any, key: str, where: str) -> Any:
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected a JSON object with `{key}`; check the file's schema")
    if key not in row:
        fields = ", ".join(sorted(map(str, row))[:8]) or "none"
        raise UserError(f"{where}: there is no field `{key}` (found: {fields}); check the file's schema")
    return row[key]


def shorten(value: Any, length: int = 60) -> str:
    """A value as it may stand in a message."""
    # `ascii`, since the character at fault may be one that a terminal does not show.
    text = ascii(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= length else text[: length - 3] + "..."


def unquote(cell: str) -> str:
    """Undo CSV quoting of one cell; a cell that is not consistently quoted is returned as it is."""
    # Only where all quotes inside are doubled: a sentence may begin and end with quotation marks of its own.
    inner = cell[1:-1]
    quoted = len(cell) >= 2 and cell[0] == cell[-1] == '"'
    return inner.replace('""', '"') if quoted and '"' not in inner.replace('""', "") else cell


def quote_cell(text: str, where: str) -> str:
    """A text as a cell that reads back as it is. Raises UserError for one that would break the table."""
    if any(separator in text for separator in "\t\n\r"):
        raise UserError(f"{where}: a text holds a tab or a line end, which a table of lines cannot hold; remove it")
    # Only what would read back as another text is quoted: all other cells stay to the byte.
    needs_quotes = unquote(text) != text
    return '"' + text.replace('"', '""') + '"' if needs_quotes else text


def check_label(label: str, labels: tuple[str, ...], where: str) -> str:
    """The label itself. Raises UserError if the task does not know it."""
    if labels and label not in labels:
        raise UserError(f"{where}: unknown label {label[:60]!r}{did_you_mean(label, labels)}")
    return label
