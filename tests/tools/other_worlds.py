"""Pretrain a model in a toy world that the package does not have, and run studies there.

    python tests/tools/other_worlds.py WORLD pretrain_toy OUT_DIR [key=value ...]
    python tests/tools/other_worlds.py WORLD stilts run toy_retrieval model.name_or_path=OUT_DIR [key=value ...]

`WORLD` is one of: unchanged, eight_layers, five_hundred_concepts, shared_words, retold. What follows is
`python -m stilts_launcher.pretrain_toy` or `stilts` with its arguments. The change is made in this process, which
writes the world's files and the model with random weights; ranks read both and need no change. A run's folder keeps
its world: give each world names of its own (`name=...`).
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable

KINDS = 9  # of each action, attribute, thing and place, in the world of 500 concepts
SHARED = 3  # every third concept has one word in all languages, in the world of shared words


def unchanged() -> None:
    """The world that the package has, to compare the others with after a pretraining as short as theirs."""


def eight_layers() -> None:
    """The same text, and a model with eight layers."""
    from stilts_ds.toy import model

    four = model.tiny_config

    def eight(tokenizer: model.PreTrainedTokenizerFast) -> model.XLMRobertaConfig:
        config = four(tokenizer)
        config.update({"num_hidden_layers": 8})
        return config

    model.tiny_config = eight


def five_hundred_concepts() -> None:
    """Nine of each action, attribute, thing and place, all nine used alike; the first has the word that it had. The
    vocabulary has as many pieces as ever."""
    from stilts_ds.toy import languages, lexicon

    def kinds(concept: str) -> tuple[str, ...]:
        return (concept, *(f"{concept}~{kind}" for kind in range(2, KINDS + 1)))

    def each(concepts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(kind for concept in concepts for kind in kinds(concept))

    before = lexicon.CONCEPTS
    lexicon.CATEGORIES = {category: each(nouns) for category, nouns in lexicon.CATEGORIES.items()}
    lexicon.NOUNS, lexicon.PLACES = each(lexicon.NOUNS), each(lexicon.PLACES)
    lexicon.HYPERNYM = {kind: category for noun, category in lexicon.HYPERNYM.items() for kind in kinds(noun)}
    lexicon.AFFINITY = {kind: done_to for verb, done_to in lexicon.AFFINITY.items() for kind in kinds(verb)}
    lexicon.VERBS, lexicon.SOCIAL_VERBS = each(lexicon.VERBS), each(lexicon.SOCIAL_VERBS)
    lexicon.ORG_VERBS, lexicon.ATTRIBUTES = each(lexicon.ORG_VERBS), each(lexicon.ATTRIBUTES)
    lexicon.FOLLOWS = dict(pair for verbs in lexicon.FOLLOWS.items() for pair in zip(*map(kinds, verbs)))
    lexicon.ANTONYM = dict(pair for words in lexicon.ANTONYM.items() for pair in zip(*map(kinds, words)))
    grown = (*lexicon.VERBS, *lexicon.ATTRIBUTES, *lexicon.NOUNS, *lexicon.PLACES)
    # Behind the others: words are drawn in this order, and those of before stay.
    lexicon.CONCEPTS = (*before, *(concept for concept in grown if concept not in before))
    languages.CONCEPTS = lexicon.CONCEPTS  # read with the package's first module


def shared_words() -> None:
    """A third of the concepts has the pivot's word in every language; affixes stay each language's own."""
    from stilts_ds.toy import languages

    own = languages.words

    @functools.cache
    def words(code: str) -> dict[str, str]:
        pivot = own(languages.PIVOT)
        numbered = enumerate(own(code).items())
        return {concept: word if number % SHARED else pivot[concept] for number, (concept, word) in numbered}

    languages.words = words


def retold() -> None:
    """Where a story was code-switched, its last sentence retells an earlier one in another language."""
    from stilts_ds.toy import corpus

    corpus.BILINGUAL, corpus.SWITCHED = corpus.BILINGUAL + corpus.SWITCHED, 0


WORLDS: dict[str, Callable[[], None]] = {
    world.__name__: world for world in (unchanged, eight_layers, five_hundred_concepts, shared_words, retold)
}


def main(arguments: list[str]) -> int:
    if len(arguments) < 2 or arguments[0] not in WORLDS or arguments[1] not in ("pretrain_toy", "stilts"):
        print(__doc__)
        return 2
    world, command, *further = arguments
    # Before what makes sentences is imported: it takes words and tables by their names.
    WORLDS[world]()
    if command == "stilts":
        from stilts_launcher.cli import main as stilts

        return stilts(further)
    from stilts_launcher.pretrain_toy import main as pretrain_toy

    return pretrain_toy(further)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
