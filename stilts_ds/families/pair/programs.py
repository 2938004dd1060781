"""Programs in pairs: CoSQA's searches and functions, Devign's functions that are vulnerable, BigCloneBench's clones.

The files are those of CodeXGLUE (Lu et al. 2021, arXiv 2102.04664).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from stilts_ds.errors import UserError, counted
from stilts_ds.families.pair.record import Pair
from stilts_ds.sources.files import (
    check_label,
    filled_lines,
    id_field,
    read_json_lines,
    read_json_rows,
    shorten,
    text_field,
)
from stilts_ds.sources.hub import Converter, RowContext, row_by_row, row_id, row_label
from stilts_ds.sources.source import Part

ALONE = ""  # the second text of an example that has one text


def read_cosqa(split_file: Part) -> Iterator[Pair]:
    """`doc`, a search for Python code, and `code`, a function; `label` says whether it answers the search."""
    for where, row in read_json_rows(split_file.path):
        texts = text_field(row, "doc", where), text_field(row, "code", where)
        yield Pair(id_field(row, "idx", where), *texts, binary_label(row, "label", split_file, where))


def read_devign(split_file: Part) -> Iterator[Pair]:
    """`func`, a C function, and `target`: 1 where a later commit mended a vulnerability in it."""
    for where, row in read_json_lines(split_file.path):
        label = binary_label(row, "target", split_file, where)
        yield Pair(id_field(row, "idx", where), text_field(row, "func", where), ALONE, label)


def binary_label(row: Mapping[str, Any], key: str, split_file: Part, where: str) -> str:
    """The label under `key`, which files write as 0 or 1, in quotes or not."""
    return check_label(str(int_or_text(row, key, where)), split_file.task.labels, where)


def int_or_text(row: Mapping[str, Any], key: str, where: str) -> int | str:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        return text_field(row, key, where)
    return value


def read_clones(split_file: Part) -> Iterator[Pair]:
    """`idx TAB idx TAB label` of functions in `data.jsonl`. Raises UserError for a function that is not there."""
    [(_, functions_file)] = split_file.pool
    functions = functions_of(functions_file)
    for number, line in filled_lines(split_file.path):
        where = f"{split_file.path}:{number}"
        cells = line.split("\t")
        if len(cells) != 3:
            columns = counted(len(cells), "column")
            raise UserError(f"{where}: {columns}, expected idx TAB idx TAB label; download the file again")
        *pair, label = (cell.strip(" ") for cell in cells)
        unknown = [name for name in pair if name not in functions]
        if unknown:
            problem = f"{where}: {functions_file} has no function {shorten(unknown[0])}"
            raise UserError(f"{problem}; use the files of one release")
        texts = functions[pair[0]], functions[pair[1]]
        yield Pair(where, *texts, check_label(label, split_file.task.labels, where))


def functions_of(path: Path) -> dict[str, str]:
    """BigCloneBench's functions by `idx`. Train, dev and test name those of one file, so the last one is kept."""
    state = path.stat()
    return _read_functions(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=1)
def _read_functions(path: Path, changed: int, size: int) -> dict[str, str]:
    functions: dict[str, str] = {}
    for where, row in read_json_lines(path):
        name = str(int_or_text(row, "idx", where))
        if name in functions:
            raise UserError(f"{where}: function {shorten(name)} stands there twice; download the file again")
        functions[name] = text_field(row, "func", where)
    return functions


READERS: dict[str, Callable[[Part], Iterator[Pair]]] = {
    "cosqa_json": read_cosqa,
    "devign_jsonl": read_devign,
    "clone_tsv": read_clones,
}


# --- hub rows ---------------------------------------------------------------------------------------------------------


def cosqa(row: Mapping[str, Any], where: str, context: RowContext) -> Pair:
    texts = text_field(row, "doc", where), text_field(row, "code", where)
    return Pair(row_id(row, where, "idx"), *texts, row_label(row, context.task.labels, where))


def devign(row: Mapping[str, Any], where: str, context: RowContext) -> Pair:
    label = row_label({"label": row.get("target")}, context.task.labels, where)
    return Pair(row_id(row, where, "id"), text_field(row, "func", where), ALONE, label)


def clones(row: Mapping[str, Any], where: str, context: RowContext) -> Pair:
    texts = text_field(row, "func1", where), text_field(row, "func2", where)
    return Pair(row_id(row, where, "id"), *texts, row_label(row, context.task.labels, where))


CONVERTERS: dict[str, Converter] = {
    "hub_cosqa": row_by_row(cosqa),
    "hub_devign": row_by_row(devign),
    "hub_clones": row_by_row(clones),
}
