"""Text that a user's or a stranger's file may have chosen, as Markdown and CSV show it harmlessly."""

from __future__ import annotations

from stilts_ds.errors import printable


def on_one_line(text: str) -> str:
    """The text with single spaces for all white space, and escapes for what steers a terminal."""
    return printable(" ".join(text.split()))


def markdown_escape(text: str) -> str:
    """Text that a Markdown table shows as it is: no new cells, lines, code or HTML."""
    return markdown_prose(text).replace("`", "\\`")


def markdown_prose(text: str) -> str:
    """A sentence of this program's own, which may have code in backticks; names in it make no lines and no HTML."""
    plain = on_one_line(text).replace("\\", "\\\\").replace("|", "\\|")
    plain = plain.replace("](", "]\\(")  # neither links nor images
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def markdown_code(text: str) -> str:
    """Text between backticks, which it cannot leave."""
    return f"`{on_one_line(text.replace('`', chr(39)))}`"


def csv_text(text: str) -> str:
    """A leading = + - or @ would be a formula."""
    text = printable(text)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
