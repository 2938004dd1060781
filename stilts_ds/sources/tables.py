"""Tables as people keep them: csv, tsv, jsonl and parquet files, each also gzipped, and folders of `save_to_disk`.

Every row is a mapping from the table's column names to values, and every fault a UserError with file, line and remedy.

Parquet and Arrow files are read through `datasets`, which knows the names behind class indices. Text files are read
here: `datasets` guesses types from them (a text `NA` becomes none, a text that looks like a date becomes one), finds no
row in a file whose name holds brackets, and names no line where a file breaks.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from stilts_ds.errors import UserError, counted, did_you_mean
from stilts_ds.sources.files import AGAIN, check_text, parse_json, read_json_lines, read_lines, unquote

Row = tuple[str, dict[str, Any]]  # where it stands, as a message says it, and its values by column
STATE = "state.json"  # of a folder that `Dataset.save_to_disk` wrote: it lists the Arrow files in order
SPLITS = "dataset_dict.json"  # of a folder that `DatasetDict.save_to_disk` wrote, which holds a folder for each split
LONGEST_CELL = 1 << 24  # characters; the csv module's own limit is shorter than some documents
KINDS = (".csv", ".tsv", ".jsonl", ".parquet", ".arrow")


def table_rows(path: Path) -> Iterator[Row]:
    """The rows of one file. Raises UserError for a file that is no such table, or whose content is broken."""
    kind = table_kind(path)
    if kind == ".jsonl":
        return _json_rows(path)
    if kind == ".csv":
        return _csv_rows(path)
    if kind == ".tsv":
        return _tsv_rows(path)
    return _arrow_rows(path, kind)


def table_kind(path: Path) -> str:
    """The ending that says how a file is read, without `.gz`. Raises UserError for any other."""
    kind = Path(path.name.removesuffix(".gz")).suffix.lower()
    if kind not in KINDS:
        raise UserError(
            f"{path}: the ending {kind or 'of the name'} is no table's; give .csv, .tsv, .jsonl or .parquet (each also "
            "with .gz behind it), or a folder that `save_to_disk` wrote"
        )
    return kind


def saved_files(folder: Path) -> list[Path]:
    """The Arrow files of a folder that `Dataset.save_to_disk` wrote, in their order.

    Raises UserError for another folder, and where one of the files is missing.
    """
    if (folder / SPLITS).is_file():
        names = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_dir()))
        raise UserError(f"{folder} holds several splits; name one of its folders, {folder.name}/SPLIT, of: {names}")
    if not (folder / STATE).is_file():
        raise UserError(f"{folder} was not written by `save_to_disk` ({STATE} is missing); name a file in it")
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        files = [folder / str(entry["filename"]) for entry in state["_data_files"]]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{folder / STATE} is no state of a data set; save the data set again") from None
    for file in files:
        # A part of a copy that broke off would be a smaller data set without a word.
        if not file.is_file():
            raise UserError(f"{file} is missing, which {STATE} beside it lists; copy the whole folder")
    return files


# --- text -------------------------------------------------------------------------------------------------------------


def _json_rows(path: Path) -> Iterator[Row]:
    if path.suffix != ".gz":
        yield from read_json_lines(path)
        return
    for number, line in enumerate(_unpacked_text(path), start=1):
        if line.strip():
            where = f"{path}:{number}"
            row = parse_json(line, where)
            if not isinstance(row, dict):
                raise UserError(f"{where}: is no JSON object; this must be a JSON lines file, one object a line")
            yield where, row


def _csv_rows(path: Path) -> Iterator[Row]:
    """Quoted cells may hold line ends, so a row's line is the one that it ends on."""
    csv.field_size_limit(LONGEST_CELL)
    # The csv module wants line ends as they stand, to keep those inside of cells.
    lines = _unpacked_text(path) if path.suffix == ".gz" else (f"{line}\n" for _, line in read_lines(path))
    reader = csv.reader(lines, strict=True)
    try:
        header = next(reader, [])
        names = _column_names(header, path)
        for cells in reader:
            if cells:  # a blank line is no row
                yield _row(names, cells, f"{path}:{reader.line_num}")
    except csv.Error as error:
        raise UserError(
            f"{path}:{reader.line_num}: is no valid CSV ({error}); put cells with commas, quotation marks or line ends "
            'into quotation marks, and write " inside as ""'
        ) from None


def _tsv_rows(path: Path) -> Iterator[Row]:
    """One row a line, with cells that may be quoted or hold quotation marks of their own."""
    lines: Iterable[tuple[int, str]]
    if path.suffix == ".gz":
        lines = ((number, line.rstrip("\r\n")) for number, line in enumerate(_unpacked_text(path), start=1))
    else:
        lines = read_lines(path)
    names: list[str] = []
    for number, line in lines:
        cells = [unquote(cell) for cell in line.split("\t")]
        if not names:
            names = _column_names(cells, path)
        elif line.strip():
            yield _row(names, cells, f"{path}:{number}")


def _column_names(header: list[str], path: Path) -> list[str]:
    names = [name.strip() for name in header]
    if not any(names):
        raise UserError(f"{path}:1: has no header; write the names of the columns into the first line")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"{path}:1: two columns are called {twice[0]!r}; give each a name of its own")
    return names


def _row(names: list[str], cells: list[str], where: str) -> Row:
    if len(cells) != len(names):
        raise UserError(f"{where}: {counted(len(cells), 'cell')}, but the header names {len(names)}; check the line")
    return where, dict(zip(names, cells))


def _unpacked_text(path: Path) -> Iterator[str]:
    """The lines of a gzipped text with their ends. Raises UserError for what is no such file."""
    number = 0
    try:
        with gzip.open(path, "rb") as file:
            for number, raw in enumerate(file, start=1):
                yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path}:{number}: is not valid UTF-8; convert the text to UTF-8") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be unpacked ({error}); {AGAIN}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({error.strerror}); check the path and its permissions") from None
    if not number:
        raise UserError(f"{path}: is empty; {AGAIN}")


# --- Arrow ------------------------------------------------------------------------------------------------------------


def _arrow_rows(path: Path, kind: str) -> Iterator[Row]:
    """Rows with the names of classes in place of their indices."""
    data_set = _load_arrow(path, kind)
    named = {name: labels for name in data_set.features if (labels := _class_names(data_set.features[name]))}
    for number, row in enumerate(data_set, start=1):
        where = f"{path}, row {number}"
        for name, labels in named.items():
            row[name] = _named(row[name], labels)
        yield where, row


def _load_arrow(path: Path, kind: str) -> Any:
    try:
        import datasets
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"{path}: reading it needs the package `datasets`; install it, or give a text file") from None
    try:
        if kind == ".arrow":
            return datasets.Dataset.from_file(str(path))
        # Parquet is read from its end, so a gzipped file is unpacked as a whole.
        source = io.BytesIO(gzip.decompress(path.read_bytes())) if path.suffix == ".gz" else path
        return datasets.Dataset(pyarrow.parquet.read_table(source))
    except (pyarrow.ArrowException, OSError, EOFError, zlib.error, ValueError) as error:
        first_line = str(error).split("\n")[0]
        raise UserError(f"{path}: is no whole {kind.removeprefix('.')} file ({first_line}); {AGAIN}") from None


def _class_names(feature: Any) -> list[str]:
    """The names behind a column's class indices, or behind the indices in its lists; [] for any other column."""
    inner = getattr(feature, "feature", feature)  # of a list
    return list(getattr(inner, "names", None) or [])


def _named(value: Any, labels: list[str]) -> Any:
    if isinstance(value, list):
        return [_named(index, labels) for index in value]
    # -1 and none both stand for a row without a label.
    return None if value is None or value == -1 else labels[value]


# --- cells ------------------------------------------------------------------------------------------------------------


def cell(row: dict[str, Any], column: str, where: str) -> Any:
    """The value in a column. Raises UserError naming the nearest columns where there is none."""
    if column not in row:
        columns = ", ".join(map(str, row))[:200]
        raise UserError(f"{where}: there is no column {column!r}{did_you_mean(column, row)} (found: {columns})")
    return row[column]


def text_cell(row: dict[str, Any], column: str, where: str) -> str:
    """The text in a column, which must not be empty."""
    value = cell(row, column, where)
    if not isinstance(value, str):
        kind = type(value).__name__
        raise UserError(f"{where}: column {column!r} must hold text, not {kind}; name another column, or convert it")
    if not value.strip():
        raise UserError(f"{where}: column {column!r} is empty; fill the cell, or remove the row")
    return check_text(value, f"{where}: column {column!r}")


def label_cell(row: dict[str, Any], column: str, where: str) -> str:
    """The label in a column as text: whole numbers and truth values as they are written."""
    value = cell(row, column, where)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    return text_cell(row, column, where).strip()


def number_cell(row: dict[str, Any], column: str, where: str) -> float:
    """The number in a column. Raises UserError for anything that is no finite number."""
    value = cell(row, column, where)
    try:
        number = float(value) if not isinstance(value, bool) else float("nan")
    except (TypeError, ValueError):
        number = float("nan")
    if number != number or number in (float("inf"), float("-inf")):
        raise UserError(f"{where}: column {column!r} must hold a number, not {str(value)[:60]!r}; correct the cell")
    return number
