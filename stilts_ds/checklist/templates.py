"""The table of templates: a row a template or fill-in, a column or several a language.

A language has one column, or several pairs of a column and one that says for which fill-ins (named in English) its
texts hold. So grammar that a fill-in asks for, such as gender, is data of the table: a row has a few texts, and each of
them names the fill-ins that it agrees with.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stilts_ds.errors import UserError, did_you_mean

PIVOT = "en"
WHERE_IT_HOLDS = "-placeholders"  # ends the name of a column that says for which fill-ins the one before holds
TEMPLATES = ("Context", "Question", "Answer")
NAMES = ("first_name", "first_name1", "first_name2")
PROPERTIES = ("color", "size", "age", "shape", "material")
HOLE = re.compile(r"\{(?:[a-z]:)?([^{}]*)\}")  # `{c:obj[1]}`: what stands before the colon is about articles and case
_BRACE = re.compile(r"[{}]")
# The two forms of a fill-in stand side by side, with the comma of their script; in Thai with a space.
_COMMA = re.compile(r"\s*[,،，၊、][\s,،，၊、]*")


@dataclass(frozen=True)
class Test:
    """One of the six tests. `name` is the table's, `id` a short one; `holes` are what its templates may hold.

    `male`: the table has adjectives and nouns in the masculine only, so that names are male.
    """

    id: str
    name: str
    holes: tuple[str, ...]
    lists: tuple[str, ...]
    lists_of: str = ""
    male: bool = False


TESTS = (
    Test("comparison", "A is COMP than B. Who is more / less COMP?", ("adj[0]", "adj[1]"), ("adj",), male=True),
    Test("intensifiers", "Intensifiers (very, super, extremely) and reducers (somewhat, kinda, etc)?",
         ("s", "very", "somewhat"), ("state", "very", "somewhat"), male=True),
    Test("properties", "size, shape, age, color",
         ("obj[0]", "obj[1]", "obj[2]", "p.p1", "p.p2", "p.v1", "p.v2"), ("obj", "property", *PROPERTIES)),
    Test("profession", "Profession vs nationality", ("profession", "nationality"), ("profession", "nationality"),
         male=True),
    Test("animal", "Animal vs Vehicle", ("animal", "vehicle"), ("animal", "vehicle")),
    # The second test on animals has no lists of its own.
    Test("animal_2", "Animal vs Vehicle v2", ("animal", "vehicle"), ("animal", "vehicle"), lists_of="animal"),
)  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """One text of a row in a language, and the English fill-ins that it is for (none: for all)."""

    text: str
    holds_for: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Entry:
    """A row of the table in one language: its variants, and what it reads in English."""

    english: str
    variants: tuple[Variant, ...]


@dataclass
class Template:
    """A test in one language: its contexts, questions and answers in the table's order, and its lists by name."""

    contexts: list[Entry] = field(default_factory=list)
    questions: list[Entry] = field(default_factory=list)
    answers: list[Entry] = field(default_factory=list)
    lists: dict[str, list[Entry]] = field(default_factory=dict)

    def all_templates(self) -> list[Entry]:
        return [*self.contexts, *self.questions, *self.answers]


Table = Mapping[str, Mapping[str, Template]]  # language -> test id -> template


def read_templates(path: Path) -> Table:
    """The table by language and test. Raises UserError with file and line for what is not in the table's schema."""
    # Not by the csv module: a quotation mark in a cell is text.
    lines = _lines(path)
    columns = _columns(path, lines[0] if lines else [])
    table: dict[str, dict[str, Template]] = {language: {} for language in columns}
    test: Test | None = None
    for number, cells in enumerate(lines[1:], start=2):
        name, where = cells[0].strip(), f"{path}:{number}"
        if name == "Name":
            test = _test_named(cells[1] if len(cells) > 1 else "", where)
            for language in columns:
                table[language][test.id] = Template()
        elif name and name != "Capability":
            if test is None:
                raise UserError(f"{where}: {name!r} stands before the first `Name`; use the original table")
            for language, places in columns.items():
                entry = _entry(cells, places, test, name, where)
                _add(table[language][test.id], name, entry, test, where)
    lacking = [test.name for test in TESTS if test.id not in table[PIVOT]]
    if lacking:
        raise UserError(f"{path}: the test {lacking[0]!r} is not in the table; use the original table")
    return table


def _lines(path: Path) -> list[list[str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text; unpack checklist_templates.tsv and give that file") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give the path of checklist_templates.tsv") from error
    return [line.rstrip("\r").split("\t") for line in text.split("\n")]


def _columns(path: Path, header: Sequence[str]) -> dict[str, list[tuple[int, int | None]]]:
    """language -> its columns, each with the one that says for which fill-ins it holds where there is one."""
    columns: dict[str, list[tuple[int, int | None]]] = {}
    for column, name in enumerate(header):
        if column == 0 or name.endswith(WHERE_IT_HOLDS):
            continue
        follows = header[column + 1] if column + 1 < len(header) else ""
        columns.setdefault(name, []).append((column, column + 1 if follows == name + WHERE_IT_HOLDS else None))
    if not header or header[0] != "Field" or PIVOT not in columns:
        raise UserError(f"{path}:1: the columns are not `Field`, `{PIVOT}` and other languages; use the original table")
    strange = [name for name in columns if not re.fullmatch("[a-z]{2,3}", name)]
    if strange:
        raise UserError(f"{path}:1: the column {strange[0]!r} is no language code of two or three letters; rename it")
    return columns


def _test_named(name: str, where: str) -> Test:
    names = {test.name: test for test in TESTS}
    if name.strip() not in names:
        raise UserError(f"{where}: unknown test {name!r}{did_you_mean(name, names)}; MultiCheckList has six")
    return names[name.strip()]


def _entry(cells: Sequence[str], places: Sequence[tuple[int, int | None]], test: Test, row: str, where: str) -> Entry:
    """One language's texts of a row. Rows may end early: editors leave out the empty cells at their ends."""
    variants = []
    for column, condition in places:
        text = _cell(cells, column)
        holds = _cell(cells, condition) if condition is not None else ""
        if text:
            _check_holes(text, test, row, where)
            variants.append(Variant(text, frozenset(items_of(holds))))
        # An answer's second form stands where other rows have their fill-ins.
        if row == "Answer" and _BRACE.search(holds):
            _check_holes(holds, test, row, where)
            variants[-1] = Variant(text)
            variants.append(Variant(holds))
    return Entry(_cell(cells, 1), tuple(variants))


def _cell(cells: Sequence[str], column: int) -> str:
    return cells[column].strip() if column < len(cells) else ""


def items_of(text: str) -> Iterator[str]:
    """The parts of a list with commas, without articles and capitals: conditions name fill-ins with and without."""
    for item in text.split(","):
        plain = re.sub(r"^(a|an|the)\s+", "", item.strip().lower())
        if plain:
            yield plain


def _check_holes(text: str, test: Test, row: str, where: str) -> None:
    if row not in TEMPLATES:
        return
    known = (*NAMES, *test.holes)
    for hole in HOLE.findall(text):
        if hole not in known:
            problem = f"{where}: unknown placeholder {{{hole}}} in {text!r}{did_you_mean(hole, known)}"
            raise UserError(f"{problem}; the test {test.name!r} has {', '.join(known)}")
    if _BRACE.search(HOLE.sub("", text)):
        raise UserError(f"{where}: a brace in {text!r} has no partner; write placeholders as {{first_name}}")


def _add(template: Template, row: str, entry: Entry, test: Test, where: str) -> None:
    kinds = {"Context": template.contexts, "Question": template.questions, "Answer": template.answers}
    if row in kinds:
        kinds[row].append(entry)
    elif row in test.lists and not test.lists_of:
        template.lists.setdefault(row, []).append(entry)
    else:
        problem = f"{where}: unknown row {row!r} of the test {test.name!r}{did_you_mean(row, test.lists)}"
        raise UserError(f"{problem}; use the original table")


def forms_of(text: str) -> list[str]:
    """The forms of a fill-in that has several: `older, old`, `a sofa, the sofa`."""
    forms = [form for form in _COMMA.split(text) if form]
    return forms if len(forms) > 1 else text.split()
