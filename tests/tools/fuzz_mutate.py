"""Damage to valid files that knows their structure: bytes, lines and cells, JSON values, and how they arrive broken."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Dice = random.Random
BYTES = (
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\r",
    b"\n",
    b"\t",
    b'"',
    b"\x1b[2J",
    b"\xed\xa0\x80",
    b"[" * 3000,
    b"\xc2\x85",
    b"\xe2\x80\xa8",
    b"{",
    b"}",
    b",",
    b"\xff\xfe",
    b"PK\x03\x04",
    b"\x1f\x8b",
    b"version https://git-lfs",
)
WORDS = (
    "",
    " ",
    "-",
    "-1",
    "0",
    "1e999",
    "9" * 5000,
    "nan",
    "NaN",
    "Infinity",
    "null",
    "true",
    "../../up",
    "/etc/passwd",
    "\x1b[31mred",
    "\x00",
    "\u202e",
    "\ud800",
    "a\tb",
    "a\nb",
    "a\rb",
    '"',
    '""',
    "'",
    "`id`",
    "$(id)",
    "%s{0}",
    "<script>",
    "é" * 300,
    "2000-99-99",
    "!!python/object/apply:os.system",
    "*",
    "&a",
    "<<",
    "~",
    "0x",
    "1:99",
    "=",
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2**31,
    2**63,
    -(2**64),
    10**40,
    0.5,
    1e308,
    -1e-320,
    float("nan"),
    float("inf"),
    float("-inf"),
    [],
    {},
    [None],
    [[]],
    {"": None},
    {"a": {"b": [1]}},
    ["x", 3],
    *WORDS,
)


def word(dice: Dice) -> str:
    return dice.choice(WORDS)


def value(dice: Dice) -> Any:
    return copy.deepcopy(dice.choice(VALUES))


# --- bytes and lines -------------------------------------------------------------------------------------------------


def damage_bytes(dice: Dice, data: bytes, most: int = 3) -> bytes:
    """A few faults as disks, networks and editors make them."""
    for _ in range(dice.randint(1, most)):
        data = dice.choice(BYTE_FAULTS)(dice, data)
    return data


def _place(dice: Dice, data: Sequence[Any]) -> int:
    return dice.randrange(len(data) + 1)


def _flip(dice: Dice, data: bytes) -> bytes:
    if not data:
        return data
    at = dice.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << dice.randrange(8)]) + data[at + 1 :]


def _cut(dice: Dice, data: bytes) -> bytes:
    return data[: _place(dice, data)]


def _drop(dice: Dice, data: bytes) -> bytes:
    start = _place(dice, data)
    return data[:start] + data[start + dice.choice((1, 2, 7, 64, 4096)) :]


def _repeat(dice: Dice, data: bytes) -> bytes:
    start = _place(dice, data)
    stop = min(len(data), start + dice.choice((1, 8, 100)))
    return data[:stop] + data[start:stop] * dice.choice((1, 2, 50)) + data[stop:]


def _insert(dice: Dice, data: bytes) -> bytes:
    at = _place(dice, data)
    return data[:at] + dice.choice(BYTES) + data[at:]


def _zeros(dice: Dice, data: bytes) -> bytes:
    """A hole, as a power cut leaves in a file whose length was written first."""
    start = _place(dice, data)
    length = min(len(data) - start, dice.choice((1, 16, 512)))
    return data[:start] + bytes(length) + data[start + length :]


def _noise(dice: Dice, data: bytes) -> bytes:
    return dice.randbytes(dice.choice((0, 1, 8, 40, 300)))


BYTE_FAULTS: tuple[Callable[[Dice, bytes], bytes], ...] = (_flip, _flip, _cut, _drop, _repeat, _insert, _zeros, _noise)


def damage_lines(dice: Dice, data: bytes) -> bytes:
    """Faults of tables: lines and cells that are lost, doubled, exchanged, renamed, or end in another way."""
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    for _ in range(dice.randint(1, 3)):
        _line_fault(dice, lines)
    return dice.choice(("\n", "\n", "\n", "\n", "\r\n", "\r")).join(lines).encode("utf-8", "surrogatepass")


def _line_fault(dice: Dice, lines: list[str]) -> None:
    at = dice.randrange(len(lines)) if lines else 0
    what = dice.randrange(7) if lines else 1
    if what == 0:
        del lines[at]
    elif what == 1:
        lines.insert(at, word(dice))
    elif what == 2:
        lines.insert(at, lines[at])
    elif what == 3:
        other = dice.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    elif what == 4:
        lines[at] = lines[at][: _place(dice, lines[at])]
    else:
        lines[at] = _cell_fault(dice, lines[at])


def _cell_fault(dice: Dice, line: str) -> str:
    mark = dice.choice(("\t", "\t", ",", " ", ":"))
    cells = line.split(mark)
    at = dice.randrange(len(cells))
    what = dice.randrange(4)
    if what == 0:
        del cells[at]
    elif what == 1:
        cells.insert(at, word(dice))
    elif what == 2:
        cells.append(cells[at])
    else:
        cells[at] = word(dice)
    return mark.join(cells)


# --- JSON ------------------------------------------------------------------------------------------------------------


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) below a JSON value."""
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in keys:
        yield tree, key
        yield from places(tree[key])


def damage_value(dice: Dice, tree: Any, most: int = 3) -> Any:
    """A JSON value with a few parts lost, exchanged, renamed or of another type."""
    tree = copy.deepcopy(tree)
    for _ in range(dice.randint(1, most)):
        spots = list(places(tree))
        if not spots:
            return value(dice)
        _value_fault(dice, *dice.choice(spots), spots)
    return tree


def _value_fault(dice: Dice, holder: Any, key: Any, spots: Sequence[tuple[Any, Any]]) -> None:
    what = dice.randrange(6)
    if what == 0:
        del holder[key]
    elif what == 1 and isinstance(holder, dict):
        holder[dice.choice((f"{key}x", word(dice), str(key).upper()))] = holder.pop(key)
    elif what == 1 or what == 2:
        other, name = dice.choice(spots)
        with_it = copy.deepcopy(other[name]) if _holds(other, name) else None
        holder[key] = with_it
    elif what == 3:
        holder[key] = [holder[key]]
    elif what == 4 and isinstance(holder[key], str):
        text = holder[key]
        at = _place(dice, text)
        holder[key] = text[:at] + word(dice) + text[at:]
    else:
        holder[key] = value(dice)


def _holds(holder: Any, key: Any) -> bool:
    return key in holder if isinstance(holder, dict) else key < len(holder)


def as_json(dice: Dice, tree: Any) -> bytes:
    """The value as text; lone surrogates stay escapes, as JSON allows."""
    return json.dumps(tree, indent=dice.choice((None, 1))).encode()


def damage_json(dice: Dice, tree: Any) -> bytes:
    """JSON of another shape or, once in four, the right shape as damaged text."""
    if dice.random() < 0.25:
        return damage_bytes(dice, as_json(dice, tree))
    return as_json(dice, damage_value(dice, tree))


def damage_json_lines(dice: Dice, rows: Sequence[Any]) -> bytes:
    if dice.random() < 0.25:
        return damage_lines(dice, b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    spoiled = dice.randrange(len(rows))
    made = [damage_value(dice, row, 2) if at == spoiled else row for at, row in enumerate(rows)]
    return b"".join(json.dumps(row).encode() + b"\n" for row in made)


def damage_text(dice: Dice, data: bytes) -> bytes:
    return damage_lines(dice, data) if dice.random() < 0.6 else damage_bytes(dice, data)
