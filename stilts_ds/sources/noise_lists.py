"""Word lists and keyboards of the folder `data.noise`: what noise needs and the project does not bring.

    dictionaries/de-en.tsv      word TAB translation; read both ways
    misspellings/de.tsv         word TAB misspelling [TAB misspelling ...]
    synonyms/en.tsv             word TAB synonym [TAB synonym ...]
    keyboards/de.tsv            one line, as in stilts_ds/noise/keyboards.tsv; wins over that table

Lines that begin with # say where a list comes from and under which licence; they are logged.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from stilts_ds.errors import UserError
from stilts_ds.noise.keyboards import Keyboard, parse_keyboard
from stilts_ds.sources.files import filled_lines

log = logging.getLogger(__name__)
NOTE = "#"
Words = dict[str, tuple[str, ...]]


def list_files(folder: Path | None, name: str, language: str) -> list[Path]:
    """The lists of one kind for a language, sorted; [] where there are none."""
    if folder is None or not name:
        return []
    if not folder.is_dir():
        raise UserError(f"data.noise: there is no folder {folder}; put dictionaries or misspellings there")
    # A dictionary is named after both of its languages and serves both.
    files = sorted((folder / name).glob("*.tsv"))
    return [path for path in files if language in path.stem.split("-")]


def read_words(folder: Path | None, name: str, language: str) -> Words:
    """What each word of a language may be exchanged for, out of all of its lists. Raises UserError for a bad line."""
    # Dictionaries as ordered sets: a word that two lists have is as likely as any other, and order decides a draw.
    lists: dict[str, dict[str, None]] = {}
    for path in list_files(folder, name, language):
        backwards = "-" in path.stem and path.stem.split("-")[1] == language
        for word, replacements in _rows(path):
            for replacement in replacements:
                key, value = (replacement, word) if backwards else (word, replacement)
                lists.setdefault(key, {})[value] = None
    return {word: tuple(replacements) for word, replacements in lists.items()}


def _rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    for number, line in filled_lines(path):
        if line.startswith(NOTE):
            log.info("%s: %s", path, line.lstrip("# "))
            continue
        # One word is one string, whichever form of Unicode list and texts are in; `_exchanged` looks it up so.
        word, *replacements = (unicodedata.normalize("NFC", cell.strip()) for cell in line.split("\t"))
        if not word or not replacements or not all(replacements):
            raise UserError(f"{path}:{number}: expected word TAB word, as in a dictionary; repair the line")
        yield word, replacements


def read_keyboard(folder: Path | None, language: str) -> Keyboard | None:
    """The folder's own keyboard of a language; None where it has none. Raises UserError for another form."""
    files = list_files(folder, "keyboards", language)
    if not files:
        return None
    rows = [(f"{path}:{number}", line) for path in files for number, line in filled_lines(path)]
    lines = [(where, line) for where, line in rows if not line.startswith(NOTE)]
    # Exactly one: of two keyboards nothing says which the texts were typed on.
    if len(lines) != 1 or lines[0][1].split("\t")[0] != language:
        raise UserError(f"{files[0]}: expected one line that begins with {language}, then layout, script and four rows")
    return parse_keyboard(lines[0][1], lines[0][0])
