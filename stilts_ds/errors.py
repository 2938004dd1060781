"""Errors a user can act on: what is wrong, where (file, line, key), and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A problem in the user's input. Printed without a traceback; the process exits with status 2.

    The message names the file, line or key at fault and ends with the remedy. It may quote what a stranger's file
    holds, so characters that would steer a terminal stand in it as escapes.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def printable(text: str) -> str:
    """The text with control characters, bidirectional marks and the like as Python escapes; line feeds stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def first_line(error: BaseException) -> str:
    """What an exception says, on one line; its name where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean A or B?` for the names nearest to `word`, or a list of the known ones."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; known: {', '.join(known)}"
