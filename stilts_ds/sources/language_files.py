"""A folder of running text: `<language>.txt`, or `<language>/*.txt`, or both.

Every file that is read becomes a part of the mixture, and what is not read is missing from it. So what could be text
and stands elsewhere is refused by name; what is clearly none (hidden files, README.md, LICENSE) is passed over.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NoReturn

from stilts_ds.errors import UserError
from stilts_ds.tasks.programming import MBXP_FILES

# A language tag: two or three letters, then script, region or variant (de, zh-Hant, sr_Latn).
TAG = re.compile(r"[a-z]{2,3}([-_][A-Za-z0-9]{1,8})*")
# Three-letter words of every folder. A language with such a code can be named by a longer tag (new-Deva).
WORDS = {"all", "dev", "doc", "log", "mix", "new", "old", "out", "raw", "tmp", "txt", "val"}
NOTES = re.compile(r"(readme|licen[cs]e|copying|notice|changelog|changes|authors|sources?)\b.*", re.IGNORECASE)
SUFFIX = ".txt"
LAYOUT = f"text is read from <language>{SUFFIX} and <language>/*{SUFFIX}"


def language_files(folder: Path) -> list[Path]:
    """The text files, in the order of their names. Raises UserError for what might be text and would not be read."""
    files: list[Path] = []
    for entry in _visible(folder):
        if entry.is_dir():
            files += _files_in(entry)
        elif entry.name.endswith(SUFFIX):
            if not _is_language(entry.stem):
                _refuse(
                    entry,
                    "its name is no language code (such as de or zh-Hant) and no programming language (such as python)",
                )
            files.append(entry)
        # de.txt.gz or de.jsonl would be missed; a file of another name is none of a language's.
        elif _is_language(entry.name.split(".")[0]) and "." in entry.name:
            _refuse(entry, f"it does not end in {SUFFIX}")
    for path in files:
        if path.parent == folder and (folder / path.stem).is_dir():
            _refuse(path, f"the folder {path.stem} holds this language, too, and the same text may stand in both")
    # In the order of file names, as all globs are read (Local in stilts_ds.tasks.spec).
    return sorted(files, key=lambda path: (path.name, str(path)))


def language_of(path: Path, folder: Path) -> str:
    """The language that a file of `folder`, or the folder that it stands in, is named after."""
    return path.stem if path.parent == folder else path.parent.name


def _files_in(folder: Path) -> list[Path]:
    """The text files of one language's folder; [] for a folder without text that is named otherwise."""
    inside = list(_visible(folder))
    if not _is_language(folder.name):
        text = next((path for path in folder.rglob(f"*{SUFFIX}") if path.is_file()), None)
        if text is not None:
            _refuse(text, f"its folder's name, {folder.name!r}, is no language code (such as de or zh-Hant)")
        return []
    files = []
    for path in inside:
        if path.is_dir():
            if next(path.rglob(f"*{SUFFIX}"), None) is not None:
                _refuse(path, "it is a folder inside a language's folder")
        elif NOTES.fullmatch(path.name):
            if path.name.endswith(SUFFIX):
                _refuse(path, "it looks like a note about the text, not text")
        elif path.name.endswith(SUFFIX):
            files.append(path)
        else:
            _refuse(path, f"it does not end in {SUFFIX}")
    if not files:
        _refuse(folder, f"it holds no {SUFFIX} file")
    return files


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _is_language(name: str) -> bool:
    """Whether a name is the tag of a natural language, or the name of a programming language."""
    return name in MBXP_FILES or (TAG.fullmatch(name) is not None and name not in WORDS)


def _refuse(path: Path, problem: str) -> NoReturn:
    raise UserError(
        f"{path}: would not be read as text of a language: {problem}. {LAYOUT}; rename it, unpack it or "
        "move it out of the folder"
    )
