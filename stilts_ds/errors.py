"""Errors a user can act on: what is wrong, where (file, line, key), and what to do about it."""

from __future__ import annotations

import difflib
import errno
import io
import os
import re
import sys
from collections.abc import Iterable


class UserError(Exception):
    """A problem in the user's input. Printed without a traceback; the process exits with status 2.

    The message names the file, line or key at fault and ends with the remedy. It may quote what a stranger's file
    holds, so characters that would steer a terminal stand in it as escapes.
    """

    def __init__(self, message: str) -> None:
        # Here, and not where errors are printed: every message passes here, also those that go into files.
        super().__init__(printable(redacted(message)))


class UnreadableError(UserError):
    """The file system failed while a file was read. The file may be whole: it must be neither removed nor replaced."""


# Control characters, line separators, marks that turn the direction of text, halves of surrogate pairs.
_STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "WANDB_API_KEY")
# Tokens of the hub, ids of AWS keys, and what stands before the @ of an address.
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{8,}|(?:AKIA|ASIA)[0-9A-Z]{16}|(?<=://)[^/\s@]+(?=@)")


def printable(text: str) -> str:
    """The text with all that would steer a terminal as Python escapes; line feeds stay."""
    return _STEERING.sub(lambda match: ascii(match[0])[1:-1], text)


def redacted(text: str) -> str:
    """The text without the user's tokens, which a library or a mistyped setting may have put into it."""
    for secret in (os.environ.get(name, "") for name in _SECRETS):
        # A shorter value is a placeholder ("none", "x") and would black out ordinary words.
        text = text.replace(secret, "(token)") if len(secret) >= 8 else text
    return _TOKEN.sub("(token)", text)


def holds_secret(text: str) -> bool:
    return redacted(text) != text


def first_line(error: BaseException) -> str:
    """What an exception says, on one line; its name where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# What makes a folder one of a group, whose members continue each other's runs and use each other's rows.
SHARE_WITH_GROUP = "have its owner run `chmod -R g+rwXs` on it for a group that shares it, all with umask 002"


# How torch's allocators, and Rust and C below them, say it.
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", os.strerror(errno.ENOMEM).lower())


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether a device or the host has no more memory."""
    # torch's own type by its name, since nothing here imports torch. On CPUs it is a plain RuntimeError, which only its
    # words tell from others.
    by_type = isinstance(problem, MemoryError) or type(problem).__name__ == "OutOfMemoryError"
    said = str(problem).lower()
    return by_type or any(words in said for words in NO_MEMORY)


def is_full_disk(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is that a disk or a user's quota on it has no more room."""
    return no_room(error) is not None


def no_room(error: BaseException | None) -> str | None:
    """What there is no more of where an error, or what caused it, says so: room on the disk, or of a quota, which may
    end while `df` shows free space. safetensors tells it in its text only."""
    names = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota is used up (`quota -s`, `lfs quota` show it)"}
    seen: list[BaseException] = []  # an error may be its own cause
    while error is not None and error not in seen:
        for number, name in names.items():
            if getattr(error, "errno", None) == number or os.strerror(number) in str(error):
                return name
        seen.append(error)
        error = error.__cause__ or error.__context__
    return None


def os_problem(error: OSError) -> str:
    """What the operating system refused, about which file, and what to do."""
    if problem := no_room(error):
        return f"{error}: {problem}; free some space, and the same command continues"
    reason = error.strerror or first_line(error)
    files = " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    remedy = "check what the last lines say"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        remedy = f"give a folder that you may write, such as output_dir=..., or {SHARE_WITH_GROUP}"
    elif files:
        remedy = "check the path"
    return printable(redacted(f"{files + ': ' if files else ''}{reason}; {remedy}"))


def missing_package(error: ModuleNotFoundError) -> str:
    """What to do about a library that is not installed: a light installation has only what its verbs need."""
    # One of our own that is missing is a fault, and no matter of what is installed.
    if (error.name or "stilts").startswith("stilts"):
        raise error
    return f"this needs {error.name}, which is not installed; `pip install stilts-ds` brings all"


def print_anywhere() -> None:
    """Have standard output write what its encoding lacks as escapes (a Latin-1 terminal, a log in ASCII): a run must
    not fail because of the table that it prints."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def check_docstrings() -> None:
    """Refuse a Python without docstrings: transformers reads its own, and stumbles far from the cause."""
    if sys.flags.optimize >= 2:
        raise UserError(
            "Python runs without docstrings (PYTHONOPTIMIZE=2 or -OO), which transformers needs; unset the variable, "
            "or give 1 at most"
        )


def counted(number: int, noun: str, plural: str = "") -> str:
    """`1 phase`, `2 phases`, `1,234 phases`; `plural` for a noun that does not just take an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def rough_time(seconds: float) -> str:
    """A time that is not known exactly: `0.4 s`, `40 s`, `12 min`, `3.5 h`, `1,200.0 h`."""
    if seconds < 90:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean A or B?` for the names nearest to `word`, or a list of the known ones."""
    known = sorted(known)
    # 0.5, where difflib takes 0.6: task names are short, and two right letters of four still point to one.
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; known: {', '.join(known)}"
