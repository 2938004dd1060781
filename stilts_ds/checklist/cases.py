"""Cases of a test in a language: fill-ins that go together, put into the templates.

What is drawn is English: rows of the table's lists. A language then says them in its own words, with the variant of
each text that its fill-ins ask for. Case n of a test is drawn from (seed, test, n) alone; where a language cannot say
it, the next draw is taken. So languages with one text for everything have the same cases.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from stilts_ds.checklist.templates import (
    HOLE,
    NAMES,
    PIVOT,
    PROPERTIES,
    TESTS,
    Entry,
    Table,
    Template,
    Test,
    forms_of,
    items_of,
)
from stilts_ds.errors import UserError

CASES = 200  # of each test, as in the published suites
DRAWS = 2_000  # tries for one case before a language counts as unable to say it
# Given names that many languages have; one list for all, in Latin letters.
MALE = (
    "Adam", "Albert", "Anton", "Bruno", "Carlos", "Daniel", "David", "Edgar", "Felix", "Hugo", "Igor", "Ivan", "Jakob",
    "Josef", "Karim", "Leo", "Lukas", "Marco", "Martin", "Max", "Nikolai", "Omar", "Oscar", "Paul", "Peter", "Rafael",
    "Robert", "Samuel", "Simon", "Thomas", "Victor", "Yusuf",
)  # fmt: skip
FEMALE = (
    "Ada", "Alma", "Amina", "Anna", "Carla", "Clara", "Diana", "Elena", "Emma", "Eva", "Fatima", "Flora", "Helena",
    "Ida", "Irina", "Julia", "Laura", "Lena", "Leila", "Lucia", "Maria", "Marta", "Mina", "Nadia", "Nina", "Olga",
    "Rosa", "Sara", "Sofia", "Teresa", "Vera", "Zoe",
)  # fmt: skip
LEAD = {"tr": {"i": "İ"}, "az": {"i": "İ"}}  # capitals that are not Unicode's default


Chosen = Mapping[str, frozenset[str]]  # list, `property` or `template` -> what conditions may call what was drawn


@dataclass(frozen=True)
class Example:
    """A question of a case. `id` is `test.case.number`, counted from 0."""

    id: str
    context: str
    question: str
    answer: str


@dataclass(frozen=True)
class Case:
    test: str
    number: int
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Draw:
    """Fill-ins by their holes as (list, row of the list), the names, and the two properties where there are such."""

    rows: Mapping[str, tuple[str, int]]
    names: tuple[str, ...]
    properties: tuple[str, ...] = ()


class _Unsayable(Exception):
    """The language has no text for this draw."""


def draw_cases(table: Table, language: str, seed: int = 1, cases: int = CASES) -> Iterator[Case]:
    """The cases of all tests in a language, test by test.

    Raises UserError for a language that the table has not, or that has too few texts for so many different cases.
    """
    for test in TESTS:
        writer = _Writer(table, language, test)
        seen: set[tuple[str, ...]] = set()
        for number in range(cases):
            yield _case(writer, seed, number, seen)


def _case(writer: _Writer, seed: int, number: int, seen: set[tuple[str, ...]]) -> Case:
    """The first draw that the language can say and that is not a case yet."""
    test = writer.test
    rng = random.Random(f"multichecklist {seed} {test.id} {number}")
    for _ in range(DRAWS):
        draw = _draw(writer.english, test, rng)
        try:
            said = writer.examples(draw)
        except _Unsayable:
            continue
        # By its words, not by its draw: different rows of a list may read alike in a language.
        key = tuple(text for triple in said for text in triple)
        if key not in seen:
            seen.add(key)
            examples = (
                Example(f"{test.id}.{number}.{number_in_case}", *triple) for number_in_case, triple in enumerate(said)
            )
            return Case(test.id, number, tuple(examples))
    raise UserError(
        f"{writer.language}: the table has no texts for {number + 1} different cases of {test.name!r}; ask for fewer "
        "with --cases"
    )


def _draw(english: Template, test: Test, rng: random.Random) -> Draw:
    # Drawn in English before any language is asked, so that all languages draw the same.
    names = rng.sample(MALE if test.male else MALE + FEMALE, len(NAMES))
    if test.id == "properties":
        first, second = rng.sample(PROPERTIES, 2)
        holes = {"obj": "obj", "p.v1": first, "p.v2": second}
        rows = {hole: (name, rng.randrange(len(english.lists[name]))) for hole, name in holes.items()}
        return Draw(rows, tuple(names), (first, second))
    holes = {"state": "s"}
    rows = {holes.get(name, name): (name, rng.randrange(len(english.lists[name]))) for name in test.lists}
    return Draw(rows, tuple(names))


class _Writer:
    """A test in a language: what a draw reads there."""

    def __init__(self, table: Table, language: str, test: Test) -> None:
        if language not in table:
            raise UserError(f"the table of templates has no language {language!r}; it has {' '.join(sorted(table))}")
        self.language, self.test = language, test
        self.template, self.english = table[language][test.id], table[PIVOT][test.id]
        if test.lists_of:
            self.template = _with_lists(self.template, table[language][test.lists_of])
            self.english = _with_lists(self.english, table[PIVOT][test.lists_of])
        self.items = {name: _items(entries) for name, entries in self.english.lists.items()}
        self.items["property"] = frozenset(PROPERTIES)
        # Some conditions name the template that a fill-in stands in, of tests that share their lists.
        owner = test.lists_of or test.id
        siblings = [table[PIVOT][sibling.id] for sibling in TESTS if (sibling.lists_of or sibling.id) == owner]
        self.items["template"] = frozenset().union(*(_items(template.all_templates()) for template in siblings))

    def examples(self, draw: Draw) -> list[tuple[str, str, str]]:
        """(context, question, answer) for each context and question. Raises _Unsayable where a text is lacking."""
        chosen = {name: self._english(name, row) for name, row in draw.rows.values()}
        filled = []
        for context in self.template.contexts:
            shown = self._filled(context, draw, {**chosen, **_property(draw, 0)})
            for index, (question, answer) in enumerate(zip(self.template.questions, self.template.answers)):
                asked = self._filled(question, draw, {**chosen, **_property(draw, index)})
                filled.append((shown, asked, self._answer(answer, draw, chosen, context, shown)))
        return filled

    def _english(self, name: str, row: int) -> frozenset[str]:
        """What conditions may call a fill-in."""
        english = self.english.lists[name][row].english
        return frozenset((*items_of(english), english.lower()))

    def _filled(self, entry: Entry, draw: Draw, chosen: Chosen) -> str:
        chosen = {**chosen, "template": frozenset(items_of(entry.english))}
        return self._fill(self._text(entry, chosen), draw, chosen)

    def _answer(self, entry: Entry, draw: Draw, chosen: Chosen, context: Entry, shown: str) -> str:
        """The answer; of several forms, the one that stands in the context.

        It may be written with the fill-ins that an answer takes or with those that the context takes.
        """
        forms: list[str] = []
        for variant in entry.variants:
            for template in (entry, context):
                chosen = {**chosen, "template": frozenset(items_of(template.english))}
                with suppress(_Unsayable):
                    forms.append(self._fill(variant.text, draw, chosen, sentence=False))
        if not forms:
            raise _Unsayable
        return next((form for form in forms if form in shown), forms[0])

    def _text(self, entry: Entry, chosen: Chosen) -> str:
        """The variant that is for the chosen fill-ins, else the one that is for all."""
        # The specific ones first: the sort is stable, and False comes before True.
        for variant in sorted(entry.variants, key=lambda variant: not variant.holds_for):
            if self._holds(variant.holds_for, chosen):
                return variant.text
        raise _Unsayable

    def _holds(self, condition: frozenset[str], chosen: Chosen) -> bool:
        """Of each list that a condition names items of, the chosen one must be among them."""
        concerned = [name for name in chosen if condition & self.items[name]]
        # A condition that names nothing of what was drawn is about other fill-ins, so its text is not for these.
        return bool(concerned or not condition) and all(condition & chosen[name] for name in concerned)

    def _fill(self, text: str, draw: Draw, chosen: Chosen, sentence: bool = True) -> str:
        """A template with its holes filled; with `sentence`, a fill-in that begins one has a capital."""
        parts: list[str] = []
        end = 0
        for hole in HOLE.finditer(text):
            parts.append(text[end : hole.start()])
            value = self._value(hole[1], draw, chosen)
            begins = sentence and _begins_sentence("".join(parts))
            parts.append(self._capital(value) if begins else value)
            end = hole.end()
        return "".join(parts) + text[end:]

    def _value(self, hole: str, draw: Draw, chosen: Chosen) -> str:
        if hole in NAMES:
            return draw.names[NAMES.index(hole)]
        if hole in ("p.p1", "p.p2"):
            index = PROPERTIES.index(draw.properties[hole == "p.p2"])
            return self._text(self._property_entries()[index], chosen)
        name, _, form = hole.removesuffix("]").partition("[")
        kind, row = draw.rows[name]
        text = self._text(self.template.lists[kind][row], chosen)
        if not form:
            return text
        forms = forms_of(text)
        if int(form) >= len(forms):
            raise _Unsayable
        return forms[int(form)]

    def _property_entries(self) -> list[Entry]:
        """The rows that name the properties, in the order of PROPERTIES."""
        by_name = {entry.english: entry for entry in self.template.lists["property"]}
        return [by_name[name] for name in PROPERTIES]

    def _capital(self, text: str) -> str:
        """With a capital, as a sentence begins; titlecase leaves Georgian as it is, which has none in sentences."""
        first = LEAD.get(self.language, {}).get(text[:1], text[:1].title())
        return first + text[1:]


def _items(entries: Sequence[Entry]) -> frozenset[str]:
    """What conditions may call the fill-ins of a list."""
    return frozenset(item for entry in entries for item in items_of(entry.english))


def _with_lists(template: Template, donor: Template) -> Template:
    return Template(template.contexts, template.questions, template.answers, donor.lists)


def _property(draw: Draw, index: int) -> dict[str, frozenset[str]]:
    """The property that the question at this place asks for, as conditions name it."""
    return {"property": frozenset({draw.properties[index]})} if draw.properties else {}


def _begins_sentence(before: str) -> bool:
    plain = before.rstrip(" ")
    return not plain or plain[-1] in ".?!¿¡"
