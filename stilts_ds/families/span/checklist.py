"""MultiCheckList: its questions, and error rates by case. A case passes only if all of its answers are right.

The files are those of `stilts checklist`: SQuAD's schema, where a question's id is `test.case.number`. An answer need
not stand in its context: in a few languages the table of templates gives it in another form.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from stilts_ds.checklist.templates import TESTS
from stilts_ds.errors import UserError
from stilts_ds.families.metrics import Metric, Units, percent, ratio_metric
from stilts_ds.families.span.record import Answer, Span, question_of, squad_paragraphs
from stilts_ds.sources.files import list_field, read_json, shorten, text_field
from stilts_ds.sources.source import Part

TEST_IDS = tuple(test.id for test in TESTS)
_ID = re.compile(rf"({'|'.join(TEST_IDS)})\.(\d+)\.(\d+)")

# What is left out of an answer before it is compared, by language: words that count as articles, here as whole words.
_ARTICLES = {
    "af": "’n",
    "de": "ein eine einen",
    "el": "Ο ένα μια",
    "en": "a an the in at",
    "es": "un una unos unas el la los las",
    "eu": "bat",
    "fa": "یک",
    "fr": "un une le la en",
    "hu": "egy",
    "it": "un una",
    "nl": "een",
    "pt": "um uma",
    "tl": "Si",
    "tr": "bir",
    "vi": "một",
    "wo": "dafa",
    "yo": "kan",
}
# Here at the beginning of a word, whatever follows.
_PREFIXES = {
    "bn": "একটি একজন",
    "hi": "एक",
    "ml": "ഒരു",
    "mr": "एक",
    "my": "တစ်ဦး",
    "pa": "ਇੱਕ ਇਕ",
    "ta": "ஒரு",
}
_ANYWHERE = {"ar": "ال"}
_EDGES = {"bn": "৷", "hi": "৷", "pa": "।", "pl": "„”", "ur": "\u200f"}  # at an answer's ends, beside `,. `


def read_checklist(split_file: Part) -> Iterator[Span]:
    """The questions in file order. Raises UserError for an id that is no `test.case.number` or occurs twice."""
    seen: set[str] = set()
    for paragraph_at, paragraph in squad_paragraphs(read_json(split_file.path), str(split_file.path)):
        context = text_field(paragraph, "context", paragraph_at)
        for index, row in enumerate(list_field(paragraph, "qas", paragraph_at)):
            where = f"{paragraph_at}.qas[{index}]"
            answers = list_field(row, "answers", where)
            texts = tuple(text_field(answer, "text", where) for answer in answers)
            if not all(text.strip() for text in texts) or not texts:
                raise UserError(f"{where}: every answer needs a text; make the files with `stilts checklist`")
            # Without its answers, which `question_of` wants to stand in the context.
            question = question_of({**row, "answers": []}, context, where)
            case_of(question.id, where)  # raises where the id is none of this data set's
            if question.id in seen:
                raise UserError(f"{where}: question id {shorten(question.id)} occurs twice; make ids unique")
            seen.add(question.id)
            # An answer in another form than its context has gets the place 0: it is compared as a text only.
            starts = [max(0, context.find(text)) for text in texts]
            gold = tuple(Answer(text, start) for text, start in zip(texts, starts))
            yield Span(question.id, question.question, context, gold)


def case_of(id: str, where: str) -> tuple[str, str]:
    """The test of a question, and its case. Raises UserError for the id of another data set's question."""
    match = _ID.fullmatch(id)
    if not match:
        raise UserError(f"{where}: {shorten(id)} is no id of MultiCheckList (test.case.number); make the files with "
                        "`stilts checklist`")  # fmt: skip
    return match[1], f"{match[1]}.{match[2]}"


def normalise(text: str, language: str) -> str:
    """An answer without its language's articles, and without commas, full stops and spaces at its ends.

    The rules of MultiCheckList's own comparison (xtreme, multichecklist): case and what is inside an answer count.
    """
    words = "|".join(map(re.escape, _ARTICLES.get(language, "").split()))
    if words:
        # An apostrophe is no letter: there is no word boundary in front of Afrikaans' article.
        start = "" if language == "af" else r"\b"
        text = re.sub(rf"{start}({words})\b", " ", text)
    prefixes = "|".join(_PREFIXES.get(language, "").split())
    if prefixes:
        text = re.sub(rf"\b({prefixes})", " ", text)
    if language in _ANYWHERE:
        text = text.replace(_ANYWHERE[language], " ")
    return text.strip(",. " + _EDGES.get(language, ""))


def count_cases(gold: Sequence[Span], predicted: Mapping[str, str], language: str) -> Units:
    """Cases, the ones that failed, and both for each test: columns failed, cases, failed_<test>, cases_<test>."""
    right: dict[tuple[str, str], bool] = {}
    for question in gold:
        test = case_of(question.id, f"the labels of {language}")
        wanted = {normalise(answer.text, language) for answer in question.answers}
        answered = normalise(predicted[question.id], language) in wanted
        right[test] = right.get(test, True) and answered
    rows = []
    for (test_id, _), passed in right.items():
        failed = float(not passed)
        counts = [failed, 1.0]
        # Zeros for the other tests, so that one set of units serves all error rates and is drawn once.
        for name in TEST_IDS:
            counts += [failed, 1.0] if name == test_id else [0.0, 0.0]
        rows.append(counts)
    columns = [f"{column}_{name}" for name in TEST_IDS for column in ("failed", "cases")]
    return Units.of((case for _, case in right), rows, "failed", "cases", *columns)


READERS: Mapping[str, Callable[[Part], Iterator[Span]]] = {"checklist_json": read_checklist}


def _error(name: str, suffix: str = "") -> Metric:
    """An error rate in percent: 100 is the worst, so it is told and nothing is selected by it."""
    return ratio_metric(name, count_cases, f"failed{suffix}", f"cases{suffix}", percent, diagnostic=True)


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (_error("error_rate"), *(_error(f"error_{name}", f"_{name}") for name in TEST_IDS))
}
