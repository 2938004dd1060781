"""JSON by query id: its best candidates, best first; labels `{query id: [ids of right candidates]}`.

Two layouts, named by the task's literal (`Task.predictions`): `best` is a list of ids, which is Mewsli-X's; `ranked`
adds the ranks of right candidates behind the list, so that the full mean average precision can be formed from the file:
`{"best": [ids], "further": {id: rank}}`. Both are read in either layout.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stilts_ds.config import EvaluationPart, TrainingPart
from stilts_ds.errors import UserError
from stilts_ds.families.asked import EvaluationSplit, Passes, Work
from stilts_ds.families.base import Family, Prediction
from stilts_ds.families.files import (
    Expected,
    PredictionFile,
    centred_name,
    check_ids,
    check_labelled,
    fail,
    line_of,
    load_json,
    read_text,
)
from stilts_ds.families.ranking.record import Candidate, Query, Wanted
from stilts_ds.families.ranking.score import TOP, Ranking
from stilts_ds.rows.rows import Rows
from stilts_ds.run_dir import write_atomically
from stilts_ds.tasks.spec import Task

# --- predicting ------------------------------------------------------------------------------------------------------


def output(logits: np.ndarray) -> np.ndarray:
    """The vectors of an item's rows [m, H], without the scale."""
    return logits[:, :-1]


def decode(
    records: Sequence[Query],
    rows: Rows,
    outputs: Sequence[np.ndarray],
    labels: Sequence[str],
    evaluation: EvaluationPart,
) -> dict[str, Ranking]:
    """Rankings of dev queries among the right candidates of all of them: what selects a model."""
    vectors = np.stack(outputs)
    index_of: dict[str, int] = {}
    bank = []
    for record, candidate in zip(records, vectors[:, 1]):
        # Several questions share an answer sentence: twice in the bank, it would stand in its own way.
        if record.right[0] not in index_of:
            index_of[record.right[0]] = len(index_of)
            bank.append(candidate)
    candidates = [Candidate(id, "") for id in index_of]
    return rank(records, candidates, vectors[:, 0], np.stack(bank), whole=True)


def rank(
    records: Sequence[Query], candidates: Sequence[Candidate], queries: np.ndarray, bank: np.ndarray, whole: bool
) -> dict[str, Ranking]:
    """The ranking of each query [N, H] among the candidates [M, H]: the best TOP, of equal ones the earlier first.

    With `whole`, right candidates behind these are given with their ranks.
    """
    # Imported late: this module is read where there is no torch.
    from stilts_ds.families.ranking.head import as_tensors, nearest, ranks_of

    left, right = as_tensors(queries, bank)
    best = nearest(left, right, TOP).tolist()
    ids = [candidate.id for candidate in candidates]
    chosen = [tuple(ids[index] for index in indices) for indices in best]
    # Ranks behind the list cost a second pass over all scores, in float64: only where the file names them.
    if not whole:
        return {record.id: Ranking(named) for record, named in zip(records, chosen)}
    index_of = {id: index for index, id in enumerate(ids)}
    wanted = [[index_of[id] for id in record.right] for record in records]
    ranks = ranks_of(left, right, wanted)
    return {
        record.id: Ranking(named, _further(record, named, at))
        for record, named, at in zip(records, chosen, ranks)
    }  # fmt: skip


def _further(record: Query, best: Sequence[str], ranks: Sequence[int]) -> dict[str, int]:
    """The ranks of right candidates that are not among the best."""
    return {id: rank for id, rank in zip(record.right, ranks) if id not in best}


def evaluation_rows(split: EvaluationSplit, setting: TrainingPart, evaluation: EvaluationPart) -> tuple[Rows, Rows]:
    """Rows of a language's queries and of the whole pool; all languages find the pool's in the cache."""

    def queries() -> list[Candidate]:
        # As single texts: a query that is predicted needs no row of its right candidate beside it.
        return [Candidate(record.id, record.text) for record in split.records()]

    def candidates() -> Sequence[Candidate]:
        return split.records()[0].pool

    short = setting.model_copy(update={"max_seq_length": setting.max_query_length})
    return _rows_of(split, "queries", short, queries), _rows_of(split, "candidates", setting, candidates)


def _rows_of(split: EvaluationSplit, name: str, setting: TrainingPart, read: Callable[[], Sequence[Candidate]]) -> Rows:
    def texts() -> tuple[Sequence[Candidate], Any]:
        of_name = read()
        return of_name, [[text.id, text.text] for text in of_name]

    return split.rows_of(name, setting, texts)


def work(family: Family, asked: Prediction) -> Work:
    """How one language's queries are ranked. A collective.

    The pool's vectors are computed once for all languages of a task and its noisy versions.
    """
    split, model = asked.split, asked.model
    rows, pool_rows = evaluation_rows(split, asked.setting, asked.evaluation)
    name = f"candidates of {split.task.plain_name} {split.name}"
    pool = model.once(name, lambda: model.outputs(family, asked.head, pool_rows, asked.setting))

    def conclude(made: Sequence[Sequence[np.ndarray]]) -> dict[str, Ranking]:
        records = split.records()
        whole = _names_ranks(split.task) and all(record.right for record in records)
        candidates, vectors, bank = records[0].pool, np.concatenate(made[0]), np.concatenate(pool)
        beside = None
        languages = pool_languages(split.task, candidates)
        if asked.evaluation.retrieval_centering == "language" and languages:
            without = centred(vectors, [split.language] * len(vectors)), centred(bank, languages)
            beside = _named(rank(records, candidates, *without, whole), whole)
        # None takes away what an earlier start kept, which would else be scored.
        asked.kept[centred_name(split.name, split.language)] = beside
        return rank(records, candidates, vectors, bank, whole)

    return Work([Passes(rows, "outputs")], conclude)


def pool_languages(task: Task, pool: Sequence[Candidate]) -> list[str]:
    """The language of each candidate, [] where they are not told apart (LAReQA's ids begin with it)."""
    languages = [candidate.id.partition("_")[0] for candidate in pool]
    return languages if set(languages) <= set(task.languages) else []


def centred(vectors: np.ndarray, languages: Sequence[str]) -> np.ndarray:
    """Vectors [N, H] less the mean of their language, at length 1 again: float32; means are formed in float64.

    Raises UserError where nothing is left of one, as of a language with one vector.
    """
    left = vectors.astype(np.float64)
    codes = np.asarray(languages)
    for code in set(languages):
        left[codes == code] -= left[codes == code].mean(axis=0)
    length = np.linalg.norm(left, axis=1, keepdims=True)
    if (length <= 1e-6 * np.linalg.norm(vectors, axis=1, keepdims=True)).any():
        code = languages[int(np.argmin(length))]
        raise UserError(
            f"a vector of {code} is the mean of its language, so that nothing of it is left when that is taken off; "
            "give several different texts, or leave evaluation.retrieval_centering at none"
        )
    return np.asarray(left / length, np.float32)


def kept_files(split: str, language: str) -> tuple[str, ...]:
    """What was ranked among centred vectors."""
    return (centred_name(split, language),)


def read_centred(folder: Path, split: str, language: str) -> dict[str, Ranking] | None:
    """What was ranked among centred vectors; None where these were not asked for. Raises UserError with file and line
    where it is damaged."""
    path = folder / centred_name(split, language)
    return read(path) if path.exists() else None


def settings(evaluation: EvaluationPart) -> dict[str, Any]:
    # Only where it is on: results of earlier versions, which lack it, are of the same protocol without it.
    centering = evaluation.retrieval_centering
    return {} if centering == "none" else {"retrieval_centering": centering}


def _names_ranks(task: Task) -> bool:
    return task.predictions == "ranked"


# --- files -----------------------------------------------------------------------------------------------------------


def read(path: Path, labels: Iterable[str] = ()) -> dict[str, Ranking]:
    text = read_text(path)
    rankings = load_json(path, text)
    if not isinstance(rankings, dict):
        fail(path, 1, "is not a JSON object; write {query id: [candidate ids, best first]}")
    return {id: _ranking(path, text, id, value) for id, value in rankings.items()}


def _ranking(path: Path, text: str, id: str, value: Any) -> Ranking:
    # Exactly these two keys: any other object is a fault of whoever wrote the file, and is named below.
    best, further = value, {}
    if isinstance(value, dict) and value.keys() == {"best", "further"}:
        best, further = value["best"], value["further"]
    line = line_of(text, id, 1)
    if not isinstance(best, list) or not all(isinstance(name, str) for name in best):
        fail(path, line, f"the ranking of {id!r} is no list of candidate ids; write them best first")
    if not isinstance(further, dict) or not all(type(rank) is int for rank in further.values()):
        fail(path, line, f"`further` of {id!r} must give ranks by candidate id")
    early = [name for name, rank in further.items() if rank <= len(best)]
    if early:
        fail(
            path,
            line,
            f"{early[0]!r} of {id!r} has rank {further[early[0]]}, where `best` names another; predict again",
        )
    return Ranking(tuple(best), further)


def read_labels(path: Path, labels: Iterable[str] = ()) -> list[Wanted]:
    text = read_text(path)
    right_ids = load_json(path, text)
    if not isinstance(right_ids, dict):
        fail(path, 1, "is not a JSON object; write {query id: [ids of right candidates]}")
    for id, right in right_ids.items():
        if not isinstance(right, list) or not right or not all(isinstance(name, str) for name in right):
            fail(path, line_of(text, id, 1), f"query {id!r} has no list of right candidates; give a labelled file")
    return check_labelled(path, [Wanted(id, tuple(name.strip() for name in right)) for id, right in right_ids.items()])


def write_best(path: Path, values: Mapping[str, Ranking]) -> None:
    _write(path, _named(values, whole=False))


def write_ranked(path: Path, values: Mapping[str, Ranking]) -> None:
    _write(path, _named(values, whole=True))


def _named(values: Mapping[str, Ranking], whole: bool) -> dict[str, Any]:
    """Rankings as they stand in a file: lists of ids and, with `whole`, the ranks of right ones behind them."""
    if not whole:
        return {id: list(ranking.best) for id, ranking in values.items()}
    return {id: {"best": list(ranking.best), "further": dict(ranking.further)} for id, ranking in values.items()}


def write_labels(path: Path, values: Iterable[Wanted]) -> None:
    _write(path, {wanted.id: list(wanted.right) for wanted in values})


def _write(path: Path, values: Mapping[str, Any]) -> None:
    """A query a line."""
    lines = [
        f"{json.dumps(id, ensure_ascii=False)}: {json.dumps(value, ensure_ascii=False)}" for id, value in values.items()
    ]
    write_atomically(path, "{\n" + ",\n".join(lines) + "\n}\n")


def check(path: Path, predicted: Mapping[str, Ranking], gold: Iterable[Wanted], partly: bool = False) -> None:
    """Check that the labels' queries are answered. With `partly`, some need not be: they count as 0 (Mewsli-X)."""
    check_ids(path, predicted, {wanted.id for wanted in gold}, "query", partly)


def check_expected(path: Path, values: Mapping[str, Ranking], expected: Expected, partly: bool = False) -> None:
    check_ids(path, values, expected.ids, "query", partly)


def expect(records: Sequence[Query]) -> Expected:
    return Expected(len(records), ids=frozenset(record.id for record in records))


def _file(write: Callable[[Path, Any], None], partly: bool) -> PredictionFile:
    return PredictionFile(
        ".json", read, read_labels, write, write_labels, partial(check, partly=partly),
        partial(check_expected, partly=partly), expect, one_each=not partly, right=lambda wanted: list(wanted.right),
    )  # fmt: skip


FILES = {"ranked": _file(write_ranked, partly=False), "best": _file(write_best, partly=True)}


def files(task: Task) -> PredictionFile:
    return FILES[task.predictions]
