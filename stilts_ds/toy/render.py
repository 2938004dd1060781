"""Meanings to sentences: words, part-of-speech tags, supertags, entity tags and the slot each word fills."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stilts_ds.toy.languages import PROFILES, ToyLanguage, inflect, words
from stilts_ds.toy.lexicon import SYNONYMS
from stilts_ds.toy.meanings import Event, is_name

Borrow = Callable[[], str]
VARIANTS = 4  # wordings of an event: each of two changes made or not
SYNONYM, MOVED = 1, 2  # the bit of each change in a variant's number
WH = {"agent": "who", "patient": "what", "place": "where", "time": "when", "number": "how many"}


@dataclass(frozen=True, slots=True)
class Token:
    """One word of a sentence. `slot` is the part of the event it expresses."""

    text: str
    pos: str
    ccg: str
    ner: str = "O"
    slot: str = ""


class _Renderer:
    """One sentence in the making. `variant` 1 takes synonyms, 2 moves the adverbs to the other end, 3 does both."""

    def __init__(self, event: Event, language: ToyLanguage, variant: int, asked: str, borrow: Borrow | None) -> None:
        self.event, self.language, self.asked = event, language, asked
        self.borrow = borrow or (lambda: language.code)
        self.synonyms = bool(variant & SYNONYM)
        self.adverbs_first = language.adverbs_first != bool(variant & MOVED)
        # In CCG, a modifier in front of the sentence looks for it to the right (/), one behind it to the left (\).
        self.adverb = "S/S" if self.adverbs_first else "S\\S"

    def word(self, concept: str, form: str = "") -> str:
        """The word for a concept, in a form (`plural`, `past`, `future`); a borrowed word brings its own affix."""
        code = self.borrow()  # may draw from the dice: once a word, whether or not a form follows
        second = self.synonyms and concept in SYNONYMS
        word = words(code)[f"{concept}/2" if second else concept]
        return inflect(word, getattr(PROFILES[code], form)) if form else word

    def entity(self, entity: str, slot: str) -> list[Token]:
        """A name (possibly of several words) or a common noun, plural where a number stands with it."""
        if is_name(entity):
            kind, name = entity.split(":")
            first, *further = name.split()
            beginning = Token(first, "PROPN", "NP", f"B-{kind}", slot)
            return [beginning, *(Token(text, "PROPN", "NP", f"I-{kind}", slot) for text in further)]
        # "how many" asks for a number that is not said, and still needs the plural.
        plural = slot == "patient" and (self.event.number is not None or self.asked == "number")
        return [Token(self.word(entity, "plural" if plural else ""), "NOUN", "N", slot=slot)]

    def phrase(self, entity: str, attribute: str | None, slot: str) -> list[Token]:
        """A noun with its attribute, on the side where this language puts it."""
        noun = self.entity(entity, slot)
        extra = [Token(self.word(attribute), "ADJ", "N/N", slot=slot)] if attribute else []
        return extra + noun if self.language.attribute_first else noun + extra

    def question_word(self) -> Token:
        concept = WH[self.asked]
        if self.asked == "patient" and self.event.patient.startswith(("PER", "ORG")):
            concept = "who"
        word = self.word(concept)
        if self.asked in ("place", "time"):
            return Token(word, "ADV", self.adverb)
        return Token(word, "PRON", "N/N" if self.asked == "number" else "NP")

    def agent(self) -> list[Token]:
        if self.asked == "agent":
            return [self.question_word()]
        return self.phrase(self.event.agent, self.event.agent_attribute, "agent")

    def patient(self) -> list[Token]:
        marker = [Token(self.word("object"), "ADP", "NP\\NP")] if self.language.object_marker else []
        if self.asked == "patient":
            return [self.question_word(), *marker]
        noun = self.phrase(self.event.patient, self.event.patient_attribute, "patient")
        if self.asked == "number":
            noun.insert(0, self.question_word())
        elif self.event.number:
            noun.insert(0, Token(self.event.number, "NUM", "N/N", slot="number"))
        return noun + marker

    def verb(self) -> list[Token]:
        form = "" if self.event.tense == "present" else self.event.tense  # the present is the bare word
        tokens = [Token(self.word(self.event.verb, form), "VERB", "(S\\NP)/NP", slot="verb")]
        if self.event.negated:
            negation = Token(self.word("not"), "PART", "(S\\NP)/(S\\NP)", slot="negated")
            tokens.insert(0 if self.language.negation_first else 1, negation)
        return tokens

    def place(self) -> list[Token]:
        if self.asked == "place":
            return [self.question_word()]
        if self.event.place is None:
            return []
        noun = self.entity(self.event.place, "place")
        inside = [Token(self.word("in"), "ADP", f"({self.adverb})/NP")]
        return inside + noun if self.language.prepositions else noun + inside

    def time(self) -> list[Token]:
        if self.asked == "time":
            return [self.question_word()]
        return [Token(self.word(self.event.time), "ADV", self.adverb, slot="time")] if self.event.time else []

    def sentence(self) -> list[Token]:
        constituents = {"S": self.agent(), "V": self.verb(), "O": self.patient()}
        clause = [token for role in self.language.order for token in constituents[role]]
        adverbs = self.place() + self.time()
        end = Token("?" if self.asked else ".", "PUNCT", ".")
        return [*adverbs, *clause, end] if self.adverbs_first else [*clause, *adverbs, end]


def sentence(event: Event, code: str, variant: int = 0, asked: str = "", borrow: Borrow | None = None) -> list[Token]:
    """Render an event, or the question for its slot `asked`, in the language `code`.

    `borrow` says for each word in turn which language it is taken from (code-switching).
    """
    return _Renderer(event, PROFILES[code], variant, asked, borrow).sentence()


def noun_phrase(concept: str, code: str) -> str:
    return words(code)[concept]


def lay_out(tokens: Sequence[Token]) -> tuple[str, list[int]]:
    """Join tokens to text, punctuation close to its word; return the text and each token's first character."""
    text, starts = "", []
    for token in tokens:
        if text and token.pos != "PUNCT":
            text += " "
        starts.append(len(text))
        text += token.text
    return text, starts


def text(event: Event, code: str, variant: int = 0, asked: str = "") -> str:
    return lay_out(sentence(event, code, variant, asked))[0]
