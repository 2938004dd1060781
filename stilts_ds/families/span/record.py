"""Questions about a context, in SQuAD's JSON: SQuAD 1.1 and 2.0, XQuAD, MLQA and TyDiQA-GoldP."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stilts_ds.errors import UserError
from stilts_ds.families.columns import Columns, TableRow
from stilts_ds.sources.files import id_field, int_field, list_field, read_json, shorten, text_field
from stilts_ds.sources.hub import Converter, RowContext, row_by_row
from stilts_ds.sources.source import Part
from stilts_ds.sources.tables import cell, text_cell
from stilts_ds.tasks.languages import name_of


@dataclass(frozen=True, slots=True)
class Answer:
    """A gold answer: `context[start : start + len(text)] == text` (characters)."""

    text: str
    start: int


@dataclass(frozen=True, slots=True)
class Span:
    """A question about a context. No answers and `impossible` means that the context holds none (SQuAD 2.0); no answers
    alone, that the file has no labels."""

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...]
    impossible: bool = False


def texts(record: Span) -> tuple[str, ...]:
    return (record.context, record.question)


def attributes(records: Sequence[Span]) -> dict[str, list[float]]:
    # The first answer is the one that is learnt; a question without any has one of no length.
    answers = [record.answers[0].text if record.answers else "" for record in records]
    return {
        "characters of the question": [float(len(record.question)) for record in records],
        "characters of the passage": [float(len(record.context)) for record in records],
        "characters of the answer": [float(len(answer)) for answer in answers],
    }


def is_labelled(record: Span) -> bool:
    return bool(record.answers or record.impossible)


def gold(record: Span) -> Span:
    """The question itself: all of its answers count."""
    # Whether it is impossible counts, too, which a list of answers would not say.
    return record


def fields(record: Span, most: int) -> list[tuple[str, str]]:
    return [("question", record.question), ("context", record.context), ("answers", _shown_answers(record))]


def _shown_answers(record: Span) -> str:
    if not record.answers:
        return "none in this context" if record.impossible else "not labelled"
    return " | ".join(dict.fromkeys(f"{answer.text} (at {answer.start})" for answer in record.answers))


def read_squad(split_file: Part) -> Iterator[Span]:
    """Yield the questions in file order. Raises UserError for an id that occurs twice or a misplaced answer."""
    seen: set[str] = set()
    for paragraph_at, paragraph in squad_paragraphs(read_json(split_file.path), str(split_file.path)):
        context = text_field(paragraph, "context", paragraph_at)
        for index, question in enumerate(list_field(paragraph, "qas", paragraph_at)):
            span = question_of(question, context, f"{paragraph_at}.qas[{index}]")
            if span.id in seen:
                raise UserError(
                    f"{paragraph_at}.qas[{index}]: question id {shorten(span.id)} occurs twice; make ids unique"
                )
            seen.add(span.id)
            yield span


def squad_paragraphs(data: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Every paragraph of SQuAD's JSON, with where it stands."""
    for a, article in enumerate(list_field(data, "data", where)):
        article_at = f"{where}: data[{a}]"
        for p, paragraph in enumerate(list_field(article, "paragraphs", article_at)):
            yield f"{article_at}.paragraphs[{p}]", paragraph


def question_of(row: Any, context: str, question_at: str) -> Span:
    """One question. Its answers are empty where the question has none, or where XTREME blanked them in test files."""
    id = id_field(row, "id", question_at)
    # `id_field` gives the position where there is no id, which predictions could not be filed under.
    if id == question_at:
        raise UserError(
            f"{question_at}: the question has no `id`, which its answer is filed under; number the questions"
        )
    where = f"{question_at}: question {shorten(id)}"
    impossible = row.get("is_impossible", False)
    if not isinstance(impossible, bool):
        raise UserError(f"{where}: `is_impossible` must be true or false; repair the row")
    answers: list[Any] = []
    # What an impossible question lists is no answer; XTREME's blanked test files may lack the key.
    if not impossible and "answers" in row:
        answers = list_field(row, "answers", where)
    given = [(text_field(answer, "text", where), int_field(answer, "answer_start", where)) for answer in answers]
    checked = tuple(check_answer(text, start, context, where) for text, start in given if text)
    return Span(id, text_field(row, "question", where), context, checked, impossible)


def check_answer(text: str, start: int, context: str, where: str) -> Answer:
    """An answer that stands in the context at `start` (characters). Raises UserError if it does not."""
    at_start = context[start : start + len(text)] if start >= 0 else ""
    if at_start != text:
        problem = f"{where}: the answer {shorten(text)} is not at character {start} of the context"
        raise UserError(f"{problem}, which reads {shorten(at_start)}; correct answer_start or use the original file")
    return Answer(text, start)


READERS: dict[str, Callable[[Part], Iterator[Span]]] = {"squad_json": read_squad}


# --- hub rows ---------------------------------------------------------------------------------------------------------


def squad(row: Mapping[str, Any], where: str, context: RowContext) -> Span:
    return question_of({**row, "answers": _answers(row, where)}, text_field(row, "context", where), where)


def squad_v2(row: Mapping[str, Any], where: str, context: RowContext) -> Span:
    # The hub's SQuAD 2.0 has no `is_impossible`: a question without answers is one.
    answers = _answers(row, where)
    filled = {**row, "answers": answers, "is_impossible": not answers}
    return question_of(filled, text_field(row, "context", where), where)


def tydiqa(row: Mapping[str, Any], where: str, context: RowContext) -> Span | None:
    """Ids begin with the language's name; rows of other languages are passed over."""
    in_language = text_field(row, "id", where).startswith(f"{name_of(context.language).lower()}-")
    return squad(row, where, context) if in_language else None


def _answers(row: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    answers = row.get("answers")
    texts, starts = list_field(answers, "text", where), list_field(answers, "answer_start", where)
    return [{"text": text, "answer_start": start} for text, start in zip(texts, starts)]


def table_question(row: TableRow) -> Span:
    """A question, its context and its answers as SQuAD's tables hold them: {text: [...], answer_start: [...]}. A
    labelled question without an answer has none in its context."""
    question, context = (text_cell(row.values, row.columns[role], row.where) for role in ("question", "context"))
    fields: dict[str, Any] = {"id": row.id, "question": question}
    if row.labelled:
        answers = _answers({"answers": cell(row.values, row.columns["answers"], row.where)}, row.where)
        fields |= {"answers": answers, "is_impossible": not answers}
    return question_of(fields, context, row.where)


COLUMNS = Columns(("question", "context"), "answers", ("f1", "exact_match"), table_question)
CONVERTERS: dict[str, Converter] = {
    "hub_squad": row_by_row(squad),
    "hub_squad_v2": row_by_row(squad_v2),
    "hub_tydiqa": row_by_row(tydiqa),
}
