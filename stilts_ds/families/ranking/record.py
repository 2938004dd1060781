"""Questions and the sentences that answer them: LAReQA's XQuAD-R, and SQuAD 1.1 with sentences of our own breaking.

A candidate's text is a sentence followed by its whole paragraph, without a space between and without newlines, as in
XTREME-R's reference code. SQuAD's questions train; XQuAD-R's search the sentences of all languages at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from stilts_ds.errors import UserError, counted
from stilts_ds.families.ranking.sentences import sentence_bounds
from stilts_ds.sources.files import id_field, int_field, list_field, read_json, shorten, text_field
from stilts_ds.sources.hub import Converter, RowContext
from stilts_ds.sources.source import Part

Bounds = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One text that a query may choose. `id` begins with its language where candidates are in several."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Query:
    """A question or mention, the ids of its right candidates (none: not labelled), and the candidates that it searches.

    A training query's pool is its one right candidate; those of its fellows in a batch are its wrong ones. `passage`
    names the text that the query stands on, which others share.
    """

    id: str
    text: str
    right: tuple[str, ...]
    passage: str
    pool: Sequence[Candidate] = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The right candidates of a query: what label files hold."""

    id: str
    right: tuple[str, ...]


def is_labelled(record: Query) -> bool:
    return bool(record.right)


def gold(record: Query) -> Wanted:
    return Wanted(record.id, record.right)


def texts(record: Query) -> tuple[str, ...]:
    return (record.text,)


def fields(record: Query, most: int) -> list[tuple[str, str]]:
    """The query, the first of its right candidates, and how many it searches."""
    right = set(record.right)
    shown = [(f"right: {candidate.id}", candidate.text) for candidate in record.pool if candidate.id in right][:most]
    return [("query", record.text), *shown, ("searches", counted(len(record.pool), "candidate"))]


def candidate_text(sentence: str, context: str) -> str:
    """What the model reads of an answer: the sentence, then the paragraph around it (run_retrieval_qa.py)."""
    return one_line(sentence + context)


def one_line(text: str) -> str:
    return text.replace("\n", "")


# --- XQuAD-R ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Question:
    """A question of one file, with the passage that it stands on and the sentences of it that are right."""

    id: str
    text: str
    passage: str
    right: tuple[str, ...]


@dataclass(frozen=True)
class Pool:
    """The candidates of all languages in the order in which ties are settled, and the right ones by question id."""

    candidates: tuple[Candidate, ...]
    right: Mapping[str, tuple[str, ...]]


def read_xquad_r(split_file: Part) -> Iterator[Query]:
    """One language's questions, which search the sentences of all languages; right are all that answer them anywhere.

    Raises UserError for sentence breaks that overlap or leave the text, and for an answer that no sentence holds.
    """
    pool = pool_of(split_file.pool)
    for question in _file_questions(split_file.language, split_file.path)[1]:
        yield Query(question.id, question.text, pool.right[question.id], question.passage, pool.candidates)


def pool_of(files: Sequence[tuple[str, Path]]) -> Pool:
    """The pool of files by language. Every language of a task asks for the same one, so the last two are kept."""
    # Sorted, because ties are settled by order; with time and size, so that a file which changed is read anew.
    state = tuple((language, path, path.stat().st_mtime_ns, path.stat().st_size) for language, path in sorted(files))
    return _read_pool(state)


@lru_cache(maxsize=2)
def _read_pool(state: tuple[tuple[str, Path, int, int], ...]) -> Pool:
    candidates: list[Candidate] = []
    right: dict[str, list[str]] = defaultdict(list)
    for language, path, _, _ in state:
        sentences, questions = _file_questions(language, path)
        candidates += sentences
        for question in questions:
            right[question.id] += question.right
    return Pool(tuple(candidates), {id: tuple(ids) for id, ids in right.items()})


def _file_questions(language: str, path: Path) -> tuple[list[Candidate], list[Question]]:
    """The sentences and the questions of one language's file."""
    candidates: list[Candidate] = []
    questions: list[Question] = []
    seen: set[str] = set()
    for number, (where, paragraph) in enumerate(paragraphs_of(path)):
        context = text_field(paragraph, "context", where)
        bounds = _given_bounds(paragraph, context, where)
        sentences = [context[start:end] for start, end in bounds]
        # The language in front is what the metric `own_language` reads off a candidate.
        ids = [f"{language}_{number}_{index}" for index in range(len(sentences))]
        candidates += [Candidate(id, candidate_text(text, context)) for id, text in zip(ids, sentences)]
        for row, question_at in _asked(paragraph, where):
            question = id_field(row, "id", question_at)
            if question in seen:
                raise UserError(f"{question_at}: question id {shorten(question)} occurs twice; make ids unique")
            seen.add(question)
            answer = sentences[sentence_at(bounds, _answer_start(row, question_at), question_at)]
            # A sentence that stands twice in its paragraph is right wherever it stands.
            right = tuple(id for id, text in zip(ids, sentences) if text == answer)
            questions.append(Question(question, one_line(text_field(row, "question", question_at)), str(number), right))
    return candidates, questions


def paragraphs_of(path: Path) -> Iterator[tuple[str, Any]]:
    """Every paragraph of a file in SQuAD's schema, with where it stands."""
    for a, article in enumerate(list_field(read_json(path), "data", str(path))):
        article_at = f"{path}: data[{a}]"
        for p, paragraph in enumerate(list_field(article, "paragraphs", article_at)):
            yield f"{article_at}.paragraphs[{p}]", paragraph


def _asked(paragraph: Any, where: str) -> Iterator[tuple[Any, str]]:
    for index, row in enumerate(list_field(paragraph, "qas", where)):
        yield row, f"{where}.qas[{index}]"


def _given_bounds(paragraph: Any, context: str, where: str) -> list[Bounds]:
    """The file's own sentence breaks: [start, end) pairs of characters, in order."""
    bounds: list[Bounds] = []
    last = 0
    for index, pair in enumerate(list_field(paragraph, "sentence_breaks", where)):
        pair_at = f"{where}.sentence_breaks[{index}]"
        numbers = isinstance(pair, list) and len(pair) == 2 and all(type(value) is int for value in pair)
        if not numbers:
            raise UserError(f"{pair_at}: {shorten(pair)} is no pair of places; write [start, end]")
        start, end = pair
        # Checked here: Python would take a negative or too large bound in silence, and cut other text.
        if not start < end <= len(context) or start < 0:
            problem = f"{pair_at}: [{start}, {end}] is no range of a paragraph of {counted(len(context), 'character')}"
            raise UserError(f"{problem}; use the original file")
        if start < last:
            raise UserError(f"{pair_at}: [{start}, {end}] begins before the sentence in front of it ends, at {last}; "
                            "use the original file")  # fmt: skip
        bounds.append((start, end))
        last = end
    return bounds


def sentence_at(bounds: Sequence[Bounds], start: int, where: str) -> int:
    """The sentence that holds a character. Raises UserError where none does."""
    for sentence, (first, end) in enumerate(bounds):
        if first <= start < end:
            return sentence
    raise UserError(
        f"{where}: the answer at character {start} stands in no sentence of its paragraph; correct `answer_start` or "
        "the paragraph's sentence breaks, or use the original file"
    )


def _answer_start(row: Any, where: str) -> int:
    answers = list_field(row, "answers", where)
    if not answers:
        raise UserError(f"{where}: the question has no answer, so no candidate is right; use a labelled file")
    return int_field(answers[0], "answer_start", where)


# --- SQuAD 1.1 as training pairs -------------------------------------------------------------------------------------


def read_squad_sentences(split_file: Part) -> Iterator[Query]:
    """SQuAD's questions, each with the sentence that holds its first answer; the paragraphs are broken by rule."""
    for number, (where, paragraph) in enumerate(paragraphs_of(split_file.path)):
        context = text_field(paragraph, "context", where)
        bounds = sentence_bounds(context)
        for row, question_at in _asked(paragraph, where):
            start = _answer_start(row, question_at)
            yield _training_query(row, context, bounds, start, number, question_at)


def _training_query(
    row: Mapping[str, Any], context: str, bounds: Sequence[Bounds], start: int, number: int, where: str
) -> Query:
    sentence = sentence_at(bounds, start, where)
    first, end = bounds[sentence]
    right = Candidate(f"{number}_{sentence}", candidate_text(context[first:end], context))
    text = one_line(text_field(row, "question", where))
    return Query(id_field(row, "id", where), text, (right.id,), str(number), (right,))


READERS: dict[str, Callable[[Part], Iterator[Query]]] = {
    "xquad_r": read_xquad_r,
    "squad_sentences": read_squad_sentences,
}


def squad_sentences(rows: Iterable[Mapping[str, Any]], name: str, context: RowContext) -> Iterator[Query]:
    """SQuAD's rows of the hub; those of a paragraph follow one another."""
    # The hub's rows do not number their paragraphs: another context begins the next one.
    number, last = -1, None
    bounds: list[Bounds] = []
    for index, row in enumerate(rows):
        where = f"{name}[{index}]"
        paragraph = text_field(row, "context", where)
        if paragraph != last:
            number, last, bounds = number + 1, paragraph, sentence_bounds(paragraph)
        starts = list_field(row.get("answers"), "answer_start", where)
        if not starts or not isinstance(starts[0], int):
            raise UserError(f"{where}: the question has no answer; use SQuAD 1.1")
        yield _training_query(row, paragraph, bounds, starts[0], number, where)


CONVERTERS: dict[str, Converter] = {"hub_squad_sentences": squad_sentences}
