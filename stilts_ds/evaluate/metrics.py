"""The metrics of all tasks: pure functions of gold values and predictions, in percent.

Formulas follow the paper's benchmark (section Scoring): tag F1 is seqeval 0.0.12's, question answering is SQuAD's
normalisation for every language, except in MLQA, which has rules per language.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence, Set
from functools import lru_cache

from stilts_ds.errors import UserError, did_you_mean
from stilts_ds.examples.records import Span

Chunk = tuple[str, int, int]
Normalise = Callable[[str], str]

_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
_MLQA_ARTICLES = {
    "en": r"\b(a|an|the)\b",
    "es": r"\b(un|una|unos|unas|el|la|los|las)\b",
    "de": r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "vi": r"\b(của|là|cái|chiếc|những)\b",
    "ar": r"ال",
    "hi": "",
    "zh": "",
}
_CJK_CHARACTER = re.compile(r"([\u4e00-\u9fa5])")


def _same_length(gold: Sequence[object], predicted: Sequence[object]) -> None:
    if len(gold) != len(predicted):
        raise ValueError(f"{len(gold)} gold values but {len(predicted)} predictions")
    if not gold:
        raise ValueError("no gold values to score against")


def _precision_recall_f1(correct: int, predicted: int, gold: int) -> dict[str, float]:
    precision = correct / predicted if predicted else 0.0
    recall = correct / gold if gold else 0.0
    f1 = 2 * precision * recall / (precision + recall) if correct else 0.0
    return {"f1": f1 * 100, "precision": precision * 100, "recall": recall * 100}


def accuracy(gold: Sequence[object], predicted: Sequence[object]) -> float:
    """Share of equal values, in percent. Raises ValueError for unequal lengths or no values at all."""
    _same_length(gold, predicted)
    return sum(g == p for g, p in zip(gold, predicted)) / len(gold) * 100


def binary_f1(gold: Sequence[str], predicted: Sequence[str], positive: str = "1") -> float:
    """F1 of the class `positive`, in percent (QQP). 0 when no positive is predicted rightly."""
    _same_length(gold, predicted)
    correct = sum(g == p == positive for g, p in zip(gold, predicted))
    return _precision_recall_f1(correct, list(predicted).count(positive), list(gold).count(positive))["f1"]


def token_accuracy(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> float:
    """Share of words with the right tag, in percent, over all words of all sentences."""
    _same_length(gold, predicted)
    for gold_tags, predicted_tags in zip(gold, predicted):
        _same_length(gold_tags, predicted_tags)
    return accuracy([t for tags in gold for t in tags], [t for tags in predicted for t in tags])


def chunks(tags: Sequence[str]) -> set[Chunk]:
    """Chunks of one sentence as (type, first word, last word), as seqeval 0.0.12 finds them.

    A tag's first letter is its position in the chunk (B I E S, O for none) and its type is what follows the last
    hyphen. A tag without a hyphen is its own type, so runs of one part of speech form one chunk; yet tags that begin
    with S (SYM, SCONJ) still read as single-word chunks. `I-X` without a `B-X` before it opens a chunk.
    """
    found: set[Chunk] = set()
    before, start = ("O", ""), 0
    for i, tag in enumerate([*tags, "O"]):
        now = (tag[0], tag.rsplit("-", 1)[-1])
        if _ends(before, now):
            found.add((before[1], start, i - 1))
        if _starts(before, now):
            start = i
        before = now
    return found


def _ends(before: tuple[str, str], now: tuple[str, str]) -> bool:
    """Whether a chunk that holds the word before does not reach the word now."""
    if before[0] in "ES" or (before[0] in "BI" and now[0] in "BSO"):
        return True
    return before[0] not in "O." and before[1] != now[1]


def _starts(before: tuple[str, str], now: tuple[str, str]) -> bool:
    """Whether the word now is the first of a chunk."""
    if now[0] in "BS" or (now[0] in "EI" and before[0] in "ESO"):
        return True
    return now[0] not in "O." and before[1] != now[1]


def chunk_f1(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, float]:
    """Micro-averaged `f1`, `precision` and `recall` of chunks, in percent (POS and PAN-X; paper, Scoring).

    Both are one tag list per sentence. Raises ValueError where a sentence has a different number of tags.
    """
    _same_length(gold, predicted)
    correct = n_predicted = n_gold = 0
    for gold_tags, predicted_tags in zip(gold, predicted):
        _same_length(gold_tags, predicted_tags)
        gold_chunks, predicted_chunks = chunks(gold_tags), chunks(predicted_tags)
        correct += len(gold_chunks & predicted_chunks)
        n_predicted += len(predicted_chunks)
        n_gold += len(gold_chunks)
    return _precision_recall_f1(correct, n_predicted, n_gold)


def set_f1(gold: Set[Hashable], predicted: Set[Hashable]) -> dict[str, float]:
    """`f1`, `precision` and `recall` of a mined set of pairs, in percent (BUCC). 0 when nothing is right."""
    return _precision_recall_f1(len(gold & predicted), len(predicted), len(gold))


def normalise_english(text: str) -> str:
    """SQuAD's answer normalisation: lower case, no ASCII punctuation, no English articles, single spaces.

    XQuAD and TyDiQA use it for every language (paper, Scoring).
    """
    bare = text.lower().translate(_ASCII_PUNCTUATION)
    return " ".join(re.sub(_MLQA_ARTICLES["en"], " ", bare).split())


@lru_cache(maxsize=65536)
def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def normalise_mlqa(text: str, language: str) -> str:
    """MLQA's answer normalisation: no Unicode punctuation, the language's own articles, each CJK character apart.

    In Arabic every `ال` counts as an article, within words too, as in MLQA's official scorer. Raises UserError for a
    language that MLQA does not have.
    """
    if language not in _MLQA_ARTICLES:
        raise UserError(f"MLQA has no answer rules for language {language!r}{did_you_mean(language, _MLQA_ARTICLES)}")
    bare = "".join(c for c in text.lower() if not _is_punctuation(c))
    if _MLQA_ARTICLES[language]:
        bare = re.sub(_MLQA_ARTICLES[language], " ", bare)
    if language == "zh":
        bare = _CJK_CHARACTER.sub(r" \1 ", bare)
    return " ".join(bare.split())


def _token_f1(gold: list[str], predicted: list[str]) -> float:
    same = sum((Counter(gold) & Counter(predicted)).values())
    if not same:
        return 0.0
    precision, recall = same / len(predicted), same / len(gold)
    return 2 * precision * recall / (precision + recall)


def answer_scores(gold: Sequence[str], predicted: str, normalise: Normalise, no_answer: bool) -> tuple[float, float]:
    """Exact match and token F1 of one answer, each from 0 to 1, best over the gold answers.

    With `no_answer` (SQuAD 2.0), gold answers that normalise to nothing are left out, a question without any wants
    an empty answer, and two empty answers agree.
    """
    answer = normalise(predicted)
    wanted = [normalise(text) for text in gold]
    if no_answer:
        wanted = [text for text in wanted if text] or [""]
        if wanted == [""]:
            return float(not answer), float(not answer)
    exact = max(float(text == answer) for text in wanted)
    return exact, max(_token_f1(text.split(), answer.split()) for text in wanted)


def span_scores(gold: Sequence[Span], predicted: Mapping[str, str], normalise: Normalise) -> dict[str, float]:
    """`exact_match` and `f1` over all questions, in percent. SQuAD 2.0's rules hold if any question is impossible.

    Raises UserError when questions have no prediction, or no gold answer.
    """
    missing = [q.id for q in gold if q.id not in predicted]
    if missing:
        raise UserError(f"{len(missing)} questions have no prediction, first {missing[0]!r}; predict all of them")
    bare = [q.id for q in gold if not q.answers and not q.impossible]
    if bare or not gold:
        raise UserError(f"no gold answers for question {bare[0] if bare else '(none)'!r}; give a labelled split")
    no_answer = any(q.impossible for q in gold)
    pairs = [answer_scores([a.text for a in q.answers], predicted[q.id], normalise, no_answer) for q in gold]
    exact, f1 = (100.0 * sum(column) / len(gold) for column in zip(*pairs))
    return {"exact_match": exact, "f1": f1}
