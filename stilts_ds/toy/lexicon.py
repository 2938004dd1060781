"""What can be talked about: the concepts of the miniature world and the fixed facts about them.

A concept is named by an English gloss; names of persons, organisations and places carry a prefix (`PER:Mira Tolan`)
and are written alike in every language. `languages.py` gives every other concept a word of its own per language.
"""

from __future__ import annotations

CATEGORIES: dict[str, tuple[str, ...]] = {
    "animal": ("dog", "cat", "horse", "bird", "cow"),
    "person": ("teacher", "farmer", "doctor", "king", "baker"),
    "food": ("bread", "soup", "apple", "cheese", "rice"),
    "tool": ("hammer", "knife", "rope", "lamp"),
    "vehicle": ("cart", "boat", "sled"),
    "garment": ("coat", "hat", "scarf"),
}
NOUNS: tuple[str, ...] = tuple(noun for nouns in CATEGORIES.values() for noun in nouns)
HYPERNYM: dict[str, str] = {noun: category for category, nouns in CATEGORIES.items() for noun in nouns}

PLACES: tuple[str, ...] = ("house", "market", "forest", "river")

# Which kinds of thing each action is done to: the world knowledge behind HellaSwag, Cosmos QA and CommonsenseQA.
AFFINITY: dict[str, tuple[str, ...]] = {
    "cook": ("food",),
    "eat": ("food",),
    "wash": ("garment",),
    "wear": ("garment",),
    "repair": ("vehicle",),
    "break": ("vehicle", "tool"),
    "ride": ("vehicle",),
    "feed": ("animal",),
    "help": ("person",),
    "hinder": ("person",),
    "love": ("person", "animal"),
    "hate": ("person", "animal"),
    "buy": ("food", "tool", "vehicle", "garment"),
    "sell": ("food", "tool", "vehicle", "garment"),
    "find": ("animal", "tool", "garment", "person"),
    "lose": ("animal", "tool", "garment", "person"),
}
VERBS: tuple[str, ...] = tuple(AFFINITY)
SOCIAL_VERBS: tuple[str, ...] = tuple(verb for verb, kinds in AFFINITY.items() if "person" in kinds)
ORG_VERBS: tuple[str, ...] = ("buy", "sell", "repair", "help", "hinder")

# What usually follows an action, done by the same agent to the same thing.
FOLLOWS: dict[str, str] = {"cook": "eat", "wash": "wear", "repair": "ride", "feed": "love"}

ANTONYM_PAIRS: tuple[tuple[str, str], ...] = (
    ("buy", "sell"),
    ("find", "lose"),
    ("love", "hate"),
    ("repair", "break"),
    ("help", "hinder"),
    ("big", "small"),
    ("old", "new"),
    ("red", "blue"),
    ("clean", "dirty"),
)
ANTONYM: dict[str, str] = {a: b for pair in ANTONYM_PAIRS for a, b in (pair, pair[::-1])}
ATTRIBUTES: tuple[str, ...] = tuple(word for word in ANTONYM if word not in AFFINITY)

TIMES: dict[str, str] = {
    "yesterday": "past",
    "today": "present",
    "tomorrow": "future",
}
FUNCTION_WORDS: tuple[str, ...] = ("not", "in", "object", "then", "who", "what", "where", "when", "how many")

# Concepts with a second word in every language: what paraphrases are made of.
SYNONYMS: tuple[str, ...] = ("buy", "find", "help", "eat", "big", "old")

CONCEPTS: tuple[str, ...] = (
    *FUNCTION_WORDS,
    *VERBS,
    *ATTRIBUTES,
    *CATEGORIES,
    *NOUNS,
    *PLACES,
    *TIMES,
    *(f"{concept}/2" for concept in SYNONYMS),
)

FIRST_NAMES: tuple[str, ...] = (
    "Mira", "Tolan", "Ferid", "Josune", "Wendel", "Quirin", "Hathor", "Yelva",
    "Cyrus", "Ximena", "Rufus", "Willow",
)  # fmt: skip
SURNAMES: tuple[str, ...] = ("Fawley", "Hyde", "Wexford", "Yarrow")
PLACE_NAMES: tuple[str, ...] = (
    "Vexia", "Wyford", "Jaffna", "Quito", "Hylton", "Fycamp", "Xativa", "Cefalu",
)  # fmt: skip
# The same words name organisations and places: only the context tells which.
ORG_NAMES: tuple[str, ...] = ("Vexia", "Wyford", "Hylton", "Xativa", "Fyjo", "Jycorp")
