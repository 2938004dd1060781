"""Programs for `add(a, b)` in several languages: hostile ones, honest ones, and tests (3 of 1 and 2, 12 of 5 and 7).

They stand in text files beside the tests, each after a line `=== language: name`. No hostile one computes a sum. One
that gets at something it must not get at raises an error that begins with HARM, which the verdict's reason then shows.
FOLDER, VICTIM, PORT and SOCKET stand for what `battery` lays out: a folder with `secret` and `results`, the id of a
process, a TCP port and the name of an abstract socket.
"""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "execute"
HEADING = re.compile(r"^=== (\S+): (.+)\n", re.MULTILINE)


def read_sections(name: str) -> dict[str, dict[str, str]]:
    """Language -> name -> text of a file of sections."""
    _, *parts = HEADING.split((FOLDER / name).read_text(encoding="utf-8"))
    sections: dict[str, dict[str, str]] = {}
    for language, title, text in zip(parts[::3], parts[1::3], parts[2::3]):
        assert title not in sections.setdefault(language, {}), f"{name}: {language}: {title} twice"
        sections[language][title] = text.strip() + "\n"
    return sections


ATTACKS = read_sections("hostile.txt")
HONEST = {language: texts["honest"] for language, texts in read_sections("honest.txt").items()}
TESTS = {language: texts["tests"] for language, texts in read_sections("add_tests.txt").items()}
