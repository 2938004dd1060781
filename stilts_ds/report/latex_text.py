"""A text in LaTeX: what is escaped, where a line may end, and about how wide it is set at 8 points."""

from __future__ import annotations

import re

from stilts_ds.escape import on_one_line
from stilts_ds.report.table import LEGEND

HEAD_WIDTH = 44.0  # a longer name at the head of a column is broken into lines
LETTERS = 5  # so many of the widest fit into the head of a column

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "°": r"$^\circ$", "†": r"$^\dagger$", "‡": r"$^\ddagger$", "§": r"\S{}", "¶": r"\P{}",
}  # fmt: skip
T1 = r"\usepackage[T1]{fontenc}"
UNICODE = r"letters beyond pdflatex: compile with lualatex, \usepackage{fontspec} \setmainfont{a font that has them}"
# Letters of T1 end there, but for the signs of typography that follow.
END_OF_T1, SIGNS_OF_T1 = "\u017f", "–—‘’‚“”„…"


def latex_escape(text: str) -> str:
    escaped = "".join(_LATEX.get(character, character) for character in on_one_line(text))
    # Two hyphens would be set as a dash.
    return escaped.replace("--", "-{}-")


def needed_for_letters(latex: str) -> str:
    """What a document needs for the letters of a fragment, as its first comment says it."""
    # pdflatex stops at the first letter that its fonts lack, and T1 under LuaLaTeX drops such letters without a word.
    beyond = any(letter > END_OF_T1 and letter not in SIGNS_OF_T1 for letter in latex)
    return UNICODE if beyond else T1


def breakable(text: str, room: float = HEAD_WIDTH) -> str:
    """Escaped, with places where a line may end in words that are wider than `room` points."""
    # Escaped before the places come in, which must be the only commands that the text did not hold itself.
    words = (map(latex_escape, _pieces(word, room)) for word in on_one_line(text).split(" "))
    return " ".join(r"\allowbreak{}".join(pieces) for pieces in words)


def _pieces(word: str, room: float) -> list[str]:
    """What stands between the places where a word may be broken."""
    if text_width(word) <= room:
        return [word]
    # TeX breaks where it has to: after signs, as in a+b, and else within letters.
    pieces: list[str] = re.findall(rf"[^\W_]{{1,{LETTERS}}}[\W_]?|[\W_]", word)
    return pieces


def lines_taken(text: str, room: float) -> int:
    """Of a breakable text that is set in lines as wide as `room`."""
    lines, used = 1, 0.0
    for piece in all_pieces(text):
        # The space that ends a word takes no room at the end of a line.
        if used and used + text_width(piece.rstrip()) > room:
            lines, used = lines + 1, 0.0
        used += text_width(piece)
    return lines


def all_pieces(text: str) -> list[str]:
    """What a breakable text cannot be broken within; the last piece of a word ends with its space."""
    words = [_pieces(word, HEAD_WIDTH) for word in on_one_line(text).split(" ")]
    return [piece for *first, last in words for piece in (*first, f"{last} ")]


def text_width(text: str) -> float:
    """About how many points a text is wide at 8 points of Computer Modern, rather more than less."""
    return sum(_letter_width(letter) for letter in text)


def _letter_width(letter: str) -> float:
    if letter in "iljtfI.,:;|!'()[]/ ":
        return 3.2
    if letter in LEGEND:
        return 4.5
    if letter in "mwMW@%&" or ord(letter) > 0x2E80:
        return 8.8
    return 6.2 if letter.isupper() else 4.5
