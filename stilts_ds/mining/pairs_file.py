"""Tables of pairs in files: TSV, JSON lines or parquet, as the name's end says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from stilts_ds.errors import UserError

Row = Sequence[Any]
BLOCK = 1 << 16  # rows of a parquet row group
TAB_FAULT = "which a table of lines cannot hold; remove it, or write .jsonl or .parquet"


def check_name(path: Path) -> None:
    """Raise UserError for a name whose end names no format."""
    if path.suffix not in WRITERS:
        raise UserError(f"{path}: the format is named by the end: {', '.join(WRITERS)}")


def write_table(path: Path, suffix: str, columns: Sequence[str], rows: Iterable[Row]) -> int:
    """Write rows of `columns` in the format of `suffix`; returns how many. Scores are written so that they read back
    as the same float32."""
    count = 0

    def counted_rows() -> Iterator[Row]:
        nonlocal count
        for row in rows:
            count += 1
            yield row

    WRITERS[suffix](path, columns, counted_rows())
    return count


def _tsv(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    # One operation a line: rank 0 writes alone, and the others wait for it. Nine digits tell any two float32 apart.
    forms = {"score": "%.9g"}
    line = "\t".join(forms.get(name, "%s") for name in columns) + "\n"
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(line % tuple(row) for row in rows)


def _json_lines(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(dict(zip(columns, row)), ensure_ascii=False) + "\n")


def _parquet(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    import pyarrow
    from pyarrow import parquet

    types = {"score": pyarrow.float32(), "rank": pyarrow.int32()}
    schema = pyarrow.schema([(name, types.get(name, pyarrow.string())) for name in columns])
    stream = iter(rows)
    with parquet.ParquetWriter(path, schema) as writer:
        while block := list(islice(stream, BLOCK)):
            arrays = [pyarrow.array(values, type=schema.field(name).type) for name, values in zip(columns, zip(*block))]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))


WRITERS: dict[str, Callable[[Path, Sequence[str], Iterable[Row]], None]] = {
    ".tsv": _tsv,
    ".jsonl": _json_lines,
    ".parquet": _parquet,
}
