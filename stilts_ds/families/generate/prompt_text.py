"""Which part of a code prompt is natural language: the documentation of the function, without anything that is code.

A prompt says what to write in a comment or docstring beside a signature. Lines that hold examples (doctests and their
output, calls, equations), names of the signature and words that are code stay as they are: noise there would change the
task, not its wording.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Documentation comments of the benchmarks' languages: /** ... */, =begin ... =end, and runs of # or // lines.
BLOCKS = (
    re.compile(r"/\*(.*?)\*/", re.DOTALL),
    re.compile(r"^=begin\n(.*?)^=(?:end|cut)", re.DOTALL | re.MULTILINE),
    re.compile(r"((?:^[ \t]*(?:#|//)[^\n]*\n)+)", re.MULTILINE),
)
DOCSTRING = re.compile(r'("""|\'\'\')(.*?)\1', re.DOTALL)
# What stands before a line's text: indentation, the comment's own signs.
LEADER = re.compile(r"[ \t]*(?:(?:\*|#|//|/)+[ \t]*)*")
DOCTEST = re.compile(r"(?:>>>|>|\.\.\.|=>)(?:\s|$)")
# A line with one of these shows values, not words.
EXAMPLE = re.compile(r"==|=>|->|➞|→|:=|\w\(.*\)\s*[=:]|^\s*(?:assert|import|from|return|def)\b")
CODE_WORD = re.compile(r"[(){}\[\]=_`\"<>\\/+*^%$#@|~0-9]|[a-z][A-Z]")
LITERALS = frozenset({"True", "False", "None", "true", "false", "null", "nil", "undefined"})
NAME = re.compile(r"[^\W\d]\w*")


@dataclass(frozen=True)
class PromptText:
    """The lines of a prompt that are natural language, as (start, end) in characters, and the words in `text`, the same
    lines one under the other, that must stay."""

    prompt: str
    lines: tuple[tuple[int, int], ...]
    protected: tuple[tuple[int, int], ...]

    @property
    def text(self) -> str:
        return "\n".join(self.prompt[start:end] for start, end in self.lines)

    def replaced(self, text: str) -> str:
        """The prompt with other words in its lines. Raises ValueError for another number of lines."""
        if not self.lines:
            return self.prompt
        pieces: list[str] = []
        done = 0
        for (start, end), line in zip(self.lines, text.split("\n"), strict=True):
            pieces += [self.prompt[done:start], line]
            done = end
        return "".join([*pieces, self.prompt[done:]])


def find_text(prompt: str, entry: str, language: str) -> PromptText:
    """The natural language of a prompt whose function is called `entry`; no lines where none is found.

    `language` is the programming language.
    """
    lines: list[tuple[int, int]] = []
    names = _signature_names(prompt, entry, language)
    for start, end in _documentation(prompt, entry, language):
        lines += _lines_of_words(prompt, start, end, entry)
    # Code words are found in the lines put together, since that is the text that noise gets.
    plain = PromptText(prompt, tuple(lines), ())
    return PromptText(prompt, plain.lines, tuple(_code_words(plain.text, names)))


def _documentation(prompt: str, entry: str, language: str) -> list[tuple[int, int]]:
    """The last documentation comment before the function's end: where its text begins and ends."""
    if language == "python":
        begins = [match.start() for match in re.finditer(rf"^[ \t]*(?:async )?def {re.escape(entry)}\b", prompt, re.M)]
        # The last function of that name: prompts may bring helpers with docstrings of their own in front.
        after = begins[-1] if begins else 0
        strings = [match for match in DOCSTRING.finditer(prompt) if match.start() >= after]
        return [strings[0].span(2)] if strings else []
    for pattern in BLOCKS:
        comments = list(pattern.finditer(prompt))
        if comments:
            return [comments[-1].span(1)]
    return []


def _lines_of_words(prompt: str, start: int, end: int, entry: str) -> list[tuple[int, int]]:
    """The lines of a comment that hold words, without what stands before them. An example and the output below it, up
    to an empty line, are none."""
    lines: list[tuple[int, int]] = []
    in_example = False
    spoken = _spellings(entry)
    for match in re.finditer(r"[^\n]+|(?<=\n)(?=\n)", prompt[start:end]):
        first = start + match.start()
        leader = LEADER.match(prompt, first, start + match.end())
        first = leader.end() if leader is not None else first
        line = prompt[first : start + match.end()].rstrip()
        if not line:
            in_example = False
            continue
        in_example = in_example or DOCTEST.match(line) is not None
        shows_values = EXAMPLE.search(line) is not None or any(f"{name}(" in line for name in spoken)
        if not in_example and not shows_values and any(letter.isalpha() for letter in line):
            lines.append((first, first + len(line)))
    return lines


def _spellings(entry: str) -> set[str]:
    """A name as it stands and in snake case: HumanEval-XL's examples keep Python's in every language."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", entry).lower()
    return {entry, snake}


def _signature_names(prompt: str, entry: str, language: str) -> set[str]:
    """The function's name and those in its signature: parameters and types."""
    # A signature follows its comment, where a docstring follows its signature and may call the function.
    before = r"def[ \t]+" if language == "python" else ""
    signatures = re.findall(rf"^.*{before}{re.escape(entry)}\b.*", prompt, re.MULTILINE)
    return {*NAME.findall(signatures[-1] if signatures else ""), *_spellings(entry)}


def _code_words(text: str, names: set[str]) -> list[tuple[int, int]]:
    """Words that are code: names of the signature, literals, and what has signs or digits in it."""
    words = []
    for match in re.finditer(r"\S+", text):
        bare = match.group().strip(".,;:!?'")
        # A parameter called `a` is left to be the article, which stands in every description.
        is_code = bare in LITERALS or bare in names - {"a", ""}
        if is_code or CODE_WORD.search(bare):
            words.append(match.span())
    return words
