"""Exact match and F1 of answers, under SQuAD's rules for every language or MLQA's rules of each (paper, Scoring)."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from stilts_ds.errors import UserError, counted, did_you_mean
from stilts_ds.families.metrics import Metric, Units, mean_metric, percent, ratio_metric
from stilts_ds.families.span import checklist
from stilts_ds.families.span.record import Span
from stilts_ds.tasks.spec import Task

Normalise = Callable[[str], str]
MULTICHECKLIST = "multichecklist"  # answer rules of its own, and error rates by case

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


def normalise_english(text: str) -> str:
    """SQuAD's answer normalisation: lower case, no ASCII punctuation, no English articles, single spaces.

    XQuAD and TyDiQA use it for every language (paper, Scoring).
    """
    # In the official order: punctuation goes first, so that "a." is an article, too.
    bare = text.lower().translate(_ASCII_PUNCTUATION)
    return " ".join(re.sub(_MLQA_ARTICLES["en"], " ", bare).split())


# Kept by character: texts have few different ones, and asking Unicode's tables is what took the time.
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
    # As in SQuAD 2.0's scorer: a gold answer of articles alone would be equal to "no answer".
    if no_answer:
        wanted = [text for text in wanted if text] or [""]
        if wanted == [""]:
            return float(not answer), float(not answer)
    exact = max(float(text == answer) for text in wanted)
    return exact, max(_token_f1(text.split(), answer.split()) for text in wanted)


# Which rules turn an answer of a language into what is compared; a task's literal names one of them.
ANSWER_RULES: Mapping[str, Callable[[str], Normalise]] = {
    "squad": lambda language: normalise_english,
    "mlqa": lambda language: lambda text: normalise_mlqa(text, language),
}


def metrics(task: Task) -> Mapping[str, Metric]:
    """`exact_match`, `f1` and their mean `exact_match_f1`, by the answer rules that the task's literal names.

    SQuAD 2.0's rules for empty answers hold if any question is impossible. Counting raises UserError when questions
    have no prediction, or no gold answer. MultiCheckList is scored by case.
    """
    if task.answer_rules == MULTICHECKLIST:
        return checklist.METRICS
    rules = ANSWER_RULES[task.answer_rules]

    def count(gold: Sequence[Span], predicted: Mapping[str, str], language: str) -> Units:
        _check_answered(gold, predicted)
        no_answer = any(question.impossible for question in gold)
        normalise = rules(language)
        rows = []
        for question in gold:
            texts = [answer.text for answer in question.answers]
            exact, f1 = answer_scores(texts, predicted[question.id], normalise, no_answer)
            rows.append((exact, f1, 1.0))
        return Units.of((question.id for question in gold), rows, "exact", "token_f1", "questions")

    exact_match = ratio_metric("exact_match", count, "exact", "questions", percent)
    f1 = ratio_metric("f1", count, "token_f1", "questions", percent)
    mean = mean_metric("exact_match_f1", exact_match, f1)
    return {metric.name: metric for metric in (exact_match, f1, mean)}


def _check_answered(gold: Sequence[Span], predicted: Mapping[str, str]) -> None:
    missing = [question.id for question in gold if question.id not in predicted]
    if missing:
        lacking = counted(len(missing), "question has", "questions have")
        raise UserError(f"{lacking} no prediction, first {missing[0]!r}; predict all of them")
    bare = [question.id for question in gold if not question.answers and not question.impossible]
    if bare or not gold:
        raise UserError(f"no gold answers for question {bare[0] if bare else '(none)'!r}; give a labelled split")


def drawing_units(names: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Languages that share a question, directly or through others, are drawn together under the first one's code."""
    unit: dict[str, str] = {}
    questions = {language: set(ids) for language, ids in names.items()}
    for language, ids in questions.items():
        met = {first for earlier, first in unit.items() if ids & questions[earlier]}
        unit[language] = min(met) if met else language
        # A language that shares questions with two units makes one of them.
        for earlier, first in unit.items():
            if first in met:
                unit[earlier] = unit[language]
    return unit
