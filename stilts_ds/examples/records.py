"""The typed records that every data reader yields, one class per task family.

A record is one raw example: untokenised text and gold labels. `label`, `tags` and `answers` are empty (None or ()) in
test files that ship without labels. Labels are strings here; the task's label list turns them into indices.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts and the relation between them (NLI, paraphrase)."""

    id: str
    text_a: str
    text_b: str
    label: str | None


@dataclass(frozen=True, slots=True)
class Choice:
    """A prompt and its candidate continuations or answers; `label` is the index of the right one."""

    id: str
    prompt: str
    choices: tuple[str, ...]
    label: int | None


@dataclass(frozen=True, slots=True)
class Answer:
    """A gold answer: `context[start : start + len(text)] == text` (characters)."""

    text: str
    start: int


@dataclass(frozen=True, slots=True)
class Span:
    """A question about a context. No answers and `impossible` means that the context holds none (SQuAD 2.0)."""

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...]
    impossible: bool = False


@dataclass(frozen=True, slots=True)
class Tagged:
    """A sentence as words, and one tag for each word (None without labels)."""

    id: str
    words: tuple[str, ...]
    tags: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Bitext:
    """One sentence of one side of a bitext collection."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Text:
    """A passage of running text (masked language modelling); `language` is a code."""

    id: str
    text: str
    language: str = ""


Record = Pair | Choice | Span | Tagged | Bitext | Text
