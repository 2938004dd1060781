"""Mined pairs `source id TAB pivot id` (BUCC), or for each pivot sentence the index of its nearest one (Tatoeba).

Which of the two a task's files hold is said by its literal (`Task.predictions`).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stilts_ds.config import SWEEP, EvaluationPart, TrainingPart
from stilts_ds.errors import UserError
from stilts_ds.families.asked import EvaluationSplit
from stilts_ds.families.base import Family, LayerScores, Prediction
from stilts_ds.families.bitext.record import Bitext, Sentence
from stilts_ds.families.files import (
    CENTRED_FILES,
    INDEX_FILE,
    Expected,
    PredictionFile,
    centred_name,
    check_labelled,
    fail,
    file_lines,
    writable,
    write_lines,
)
from stilts_ds.rows.rows import Rows
from stilts_ds.run_dir import read_json
from stilts_ds.tasks.spec import Task

if TYPE_CHECKING:
    from stilts_ds.families.bitext.head import Mined, Place

Pair = tuple[str, str]
log = logging.getLogger(__name__)

SETTINGS = ("retrieval_centering",)  # of stilts_ds.config.EvaluationPart


# --- predicting ------------------------------------------------------------------------------------------------------


def evaluation_rows(split: EvaluationSplit, setting: TrainingPart, evaluation: EvaluationPart) -> tuple[Rows, Rows]:
    """Rows of both sides, as long as retrieval reads them whatever was trained before."""
    # Not `setting`, which is that of the phase before: retrieval would depend on which task trained last.
    length = TrainingPart(max_seq_length=evaluation.retrieval_max_seq_length)

    def rows_of_side(name: str) -> Rows:
        def texts() -> tuple[Sequence[Sentence], Any]:
            [record] = split.records()
            side: Sequence[Sentence] = getattr(record, name)
            return side, [[sentence.id, sentence.text] for sentence in side]

        return split.rows_of(name, length, texts)

    return rows_of_side("source"), rows_of_side("pivot")


def searched_rows(split: EvaluationSplit, setting: TrainingPart, evaluation: EvaluationPart) -> int:
    """Sentences of the larger side."""
    return max(len(rows) for rows in evaluation_rows(split, setting, evaluation))


def predict(family: Family, asked: Prediction) -> Any:
    """Indices or mined pairs; None on ranks other than 0. A collective: vectors stay on the ranks that made them.

    With `retrieval_centering: language`, what is found among centred vectors is kept beside them.
    """
    rows_of_sides = evaluation_rows(asked.split, asked.setting, asked.evaluation)
    model = asked.model
    source, pivot = (model.vectors(rows, asked.evaluation) for rows in rows_of_sides)
    # Imported late: this module is read where there is no torch.
    from stilts_ds.families.bitext.head import Place, centred

    runtime = Place(model.comm, model.device, model.stop_if_requested)
    retrieved = _retrieve(asked, source, pivot, runtime)
    beside = None
    if asked.evaluation.retrieval_centering == "language":
        # Each side by its own mean: one mean taken off both would leave the distance between the two languages.
        source, pivot = centred(source, asked.split.language, runtime), centred(pivot, asked.split.task.pivot, runtime)
        beside = _retrieve(asked, source, pivot, runtime, CENTRED_FILES)
    if model.first:
        # None takes away what an earlier start kept, which would else be scored.
        asked.kept[centred_name(asked.split.name, asked.split.language)] = beside
    return retrieved


def _retrieve(asked: Prediction, source: Any, pivot: Any, runtime: Place, column: str = "") -> Any:
    """What is found between this rank's vectors of both sides; None on ranks other than 0. `column` is
    CENTRED_FILES where the vectors are: they have a threshold of their own. A collective."""
    from stilts_ds.families.bitext.head import bucc_predict, tatoeba_predict

    split = asked.split
    if not _mines(split.task):
        nearest = tatoeba_predict(source, pivot, runtime)
        return nearest if asked.model.first else None

    mined = _mined(asked, source, pivot, runtime)
    if not asked.model.first:
        return None
    [record] = split.records()
    # The threshold first: on dev it also keeps the drawn ones, which the spread is made of.
    threshold = _threshold(asked, mined, record, column)
    _keep_spread(asked, mined, record, column)
    return bucc_predict(mined, threshold)


def _mined(asked: Prediction, source: Any, pivot: Any, runtime: Place) -> list[Mined]:
    """Pairs between this rank's vectors of both sides, best first; [] on ranks other than 0. A collective."""
    from stilts_ds.families.bitext.head import EmbeddedSide, bucc_mine

    def side(name: str, sentences: Sequence[Sentence], vectors: Any) -> EmbeddedSide:
        return EmbeddedSide(name, [s.id for s in sentences], [s.text for s in sentences], vectors)

    source_texts: Sequence[Sentence] = ()
    pivot_texts: Sequence[Sentence] = ()
    if asked.model.first:
        [record] = asked.split.records()
        source_texts, pivot_texts = record.source, record.pivot
    sides = side(asked.split.language, source_texts, source), side(asked.split.task.pivot, pivot_texts, pivot)
    return bucc_mine(*sides, runtime=runtime)


def layer_scores(family: Family, asked: Prediction) -> LayerScores | None:
    """F1 of mining a dev split at the threshold that suits it best, at every layer; None on ranks other than 0, and for
    what mines nothing. A collective. Raises UserError for a split without gold pairs."""
    from stilts_ds.families.bitext.head import NothingLeftError, Place, best_threshold, centred

    split, model = asked.split, asked.model
    if not _mines(split.task):
        return None
    # Before anything is paid for. Rank 0 alone has the texts, and scores what was mined.
    gold = _gold_of_dev(split, split.records()[0]) if model.first else set()
    sweep = asked.evaluation.model_copy(update={"retrieval_layer": SWEEP})
    rows_of_sides = evaluation_rows(split, asked.setting, sweep)
    # All layers of both sides at once: one forward pass is what a sweep costs besides the searches.
    source, pivot = (model.vectors(rows, sweep) for rows in rows_of_sides)
    runtime = Place(model.comm, model.device, model.stop_if_requested)

    def f1_on_rank_0(at_source: Any, at_pivot: Any) -> float:
        mined = _mined(asked, at_source, at_pivot, runtime)
        return best_threshold(mined, gold)[1] if model.first else 0.0

    plain, beside = [], []
    for layer in range(source.shape[1]):
        at_source, at_pivot = source[:, layer].contiguous(), pivot[:, layer].contiguous()
        plain.append(f1_on_rank_0(at_source, at_pivot))
        if asked.evaluation.retrieval_centering == "language":
            try:
                at_source = centred(at_source, split.language, runtime)
                at_pivot = centred(at_pivot, split.task.pivot, runtime)
            except NothingLeftError as error:
                # At the embeddings, the vector of a first token is that of every sentence: no pair is found by it.
                if model.first:
                    log.warning(
                        "%s dev-%s, layer %d scores 0 centred: %s", split.task.name, split.language, layer, error
                    )
                beside.append(0.0)
                continue
            beside.append(f1_on_rank_0(at_source, at_pivot))
    return LayerScores(plain, beside) if model.first else None


def _threshold(asked: Prediction, mined: Any, record: Bitext, column: str) -> float:
    """Chosen on dev (and kept beside its predictions), applied to test."""
    from stilts_ds.families.bitext.head import best_threshold, drawn_thresholds

    split = asked.split
    file = _threshold_file(column, split.language)
    if split.name != "dev":
        return float(asked.read_kept(file)["threshold"])
    gold = _gold_of_dev(split, record)
    value, f1 = best_threshold(mined, gold)
    drawn = drawn_thresholds(mined, gold, [sentence.id for sentence in record.source])
    asked.kept[file] = {"threshold": value, "dev_f1": f1, "drawn": drawn}
    return value


def _gold_of_dev(split: EvaluationSplit, record: Bitext) -> set[Pair]:
    if record.gold is None:
        raise UserError(f"{split.task.name} dev-{split.language} has no gold pairs to choose the mining threshold on")
    return set(record.gold)


def _keep_spread(asked: Prediction, mined: Any, record: Bitext, column: str) -> None:
    """Keep the split's F1 at the thresholds that other dev sentences would have chosen, for the report's intervals."""
    from stilts_ds.families.bitext.head import f1_at

    split = asked.split
    drawn = asked.read_kept(_threshold_file(column, split.language)).get("drawn", [])  # none from earlier versions
    if record.gold is not None:
        asked.kept[_spread_file(column + split.name, split.language)] = f1_at(mined, set(record.gold), drawn)


def _threshold_file(column: str, language: str) -> str:
    return f"threshold-{column}{language}.json"


def _spread_file(split: str, language: str) -> str:
    return f"drawn-f1-{split}-{language}.json"


def kept_files(split: str, language: str) -> tuple[str, ...]:
    """The mining threshold that dev chose, and what other ones would give, which only mining writes; the same of
    centred vectors, and what was found among these."""
    mining = [
        name
        for column in ("", CENTRED_FILES)
        for name in (_threshold_file(column, language), _spread_file(column + split, language))
    ]
    return (*mining, centred_name(split, language))


def read_centred(folder: Path, split: str, language: str) -> Any:
    """What was found among centred vectors, as it stands in a prediction file; None where these were not asked for.

    Raises UserError naming the file where it is damaged.
    """
    path = folder / centred_name(split, language)
    if not path.exists():
        return None
    values = read_json(path)
    if isinstance(values, list):
        if all(type(value) is int and value >= 0 for value in values):
            return values
        if all(isinstance(value, list) and [type(id) for id in value] == [str, str] for value in values):
            return [tuple(value) for value in values]
    raise UserError(f"{path} holds no indices or pairs of ids; delete it and run `stilts evaluate` on the run")


def spread(folder: Path, split: str, language: str) -> list[float]:
    """Scores of a prediction file if other dev sentences had chosen its threshold; [] where they are not kept.

    Raises UserError naming the file where it is damaged.
    """
    path = folder / _spread_file(split, language)
    if not path.exists():
        return []
    scores = read_json(path)
    if not isinstance(scores, list) or not all(isinstance(f1, float) and 0 <= f1 <= 100 + 1e-6 for f1 in scores):
        raise UserError(f"{path} holds no scores from 0 to 100; delete it and run `stilts evaluate` on the run")
    return scores


def _mines(task: Task) -> bool:
    return files(task) is PAIRS_FILE


def predicted_splits(task: Task, split: str) -> tuple[str, ...]:
    """Mining a test split needs the threshold of its dev split."""
    return ("dev", "test") if split == "test" and _mines(task) else (split,)


def label_values(family: Family, task: Task, records: Sequence[Bitext]) -> Any:
    """Gold pairs in order, or the place of each pivot sentence's translation; None without gold."""
    [record] = records
    if record.gold is None:
        return None
    if _mines(task):
        return sorted(record.gold)
    row_of = {sentence.id: i for i, sentence in enumerate(record.source)}
    source_of = {pivot: source for source, pivot in record.gold}
    # In the order of the English file, as the submission has them (Tatoeba's gold covers every line).
    return [row_of[source_of[sentence.id]] for sentence in record.pivot]


def fits_on_scored(task: Task, split: str) -> bool:
    """The threshold for mining is chosen on dev: there F1 is the largest of all thresholds."""
    return _mines(task) and split == "dev"


def limit(evaluation: EvaluationPart) -> int | None:
    return evaluation.max_bitext


def settings(evaluation: EvaluationPart) -> dict[str, Any]:
    kept: dict[str, Any] = {
        "retrieval_layer": evaluation.retrieval_layer,
        "retrieval_pooling": evaluation.retrieval_pooling,
        "max_bitext": evaluation.max_bitext,
        "max_seq_length": evaluation.retrieval_max_seq_length,
    }
    # Only where it is on: results of earlier versions, which lack it, are of the same protocol without it.
    if evaluation.retrieval_centering != "none":
        kept["retrieval_centering"] = evaluation.retrieval_centering
    return kept


# --- files -----------------------------------------------------------------------------------------------------------


def read_pairs(path: Path, labels: Iterable[str] = ()) -> list[tuple[str, str]]:
    first_seen: dict[tuple[str, str], int] = {}
    for number, line in enumerate(file_lines(path), start=1):
        ids = [cell.strip(" ") for cell in line.split("\t")]
        if len(ids) != 2 or not all(ids):
            fail(path, number, f"{line[:200]!r} is not two ids with one tab between them; write one pair a line")
        pair = (ids[0], ids[1])
        if pair in first_seen:
            fail(path, number, f"repeats the pair of line {first_seen[pair]}; write each pair once")
        first_seen[pair] = number
    return list(first_seen)


def read_gold_pairs(path: Path, labels: Iterable[str] = ()) -> list[Pair]:
    return check_labelled(path, read_pairs(path))


def write_pairs(path: Path, values: Iterable[Pair]) -> None:
    write_lines(path, [f"{writable(source)}\t{writable(target)}" for source, target in values])


def check_pair_ids(path: Path, pairs: Sequence[tuple[str, str]], sources: Set[str], targets: Set[str]) -> None:
    """Check that every id of a pairs file (predicted or gold) names a sentence. Raises UserError with file and line."""
    for number, (source, target) in enumerate(pairs, start=1):
        for name, known in ((source, sources), (target, targets)):
            if name not in known:
                fail(path, number, f"the id {name!r} names no sentence; the pairs belong to other text files")


def check_sides(path: Path, pairs: Sequence[Pair], gold: Sequence[Pair]) -> None:
    """Check that ids stand on the side on which gold has them, as far as gold says so.

    Predictions of the other order, or of another language, would score 0 in silence. Gold names few of the sentences,
    so an id that it has not is no fault; but ids are numbered within a side (`de-000001`), and what stands before the
    number tells the sides apart. Raises UserError with file and line.
    """
    of_side = [{pair[side] for pair in gold} for side in (0, 1)]
    # Where both sides number alike, a single id does not tell its side; only all pairs together do.
    if not of_side[0].isdisjoint(of_side[1]):  # plain numbers on both sides
        if pairs and not set(pairs) & set(gold) and {pair[::-1] for pair in pairs} & set(gold):
            fail(path, 1, f"no pair is right, and with its columns exchanged some are; {EXCHANGED}")
        return
    prefixes = [{_side_name(id) for id in ids} for ids in of_side]
    for number, pair in enumerate(pairs, start=1):
        for side, id in enumerate(pair):
            if id in of_side[1 - side]:
                fail(path, number, f"{id!r} is an id of the other side in the labels; {EXCHANGED}")
            [*known] = prefixes[side]
            # One prefix only: a side whose gold ids begin in several ways says nothing of the others.
            if len(known) == 1 and known[0] and _side_name(id) != known[0]:
                fail(
                    path,
                    number,
                    f"{id!r} is no id of this side, whose ids in the labels begin with {known[0]!r}; "
                    "write source id TAB pivot id, of this language",
                )


EXCHANGED = "write source id TAB pivot id, in predictions and labels alike"


def _side_name(id: str) -> str:
    """What stands before the number of an id: `de-` of `de-000001`, nothing of a plain number."""
    return id.rstrip("0123456789")


def check_expected_pairs(path: Path, values: Sequence[Pair], expected: Expected) -> None:
    check_pair_ids(path, values, expected.sources, expected.targets)


def expect(records: Sequence[Bitext]) -> Expected:
    """A line for each pivot sentence, ids of both sides, and as many options as there are source sentences."""
    [record] = records
    sources, targets = (frozenset(s.id for s in side) for side in (record.source, record.pivot))
    return Expected(len(record.pivot), sources=sources, targets=targets, options=len(record.source))


def expect_nearest(records: Sequence[Bitext]) -> Expected:
    """XTREME's preparation sorts the English sentences, without the white space around them, and grades in that order;
    the original files stand in another one."""
    [record] = records
    texts = [sentence.text.strip() for sentence in record.pivot]
    return dataclasses.replace(expect(records), order=tuple(sorted(range(len(texts)), key=texts.__getitem__)))


PAIRS_FILE = PredictionFile(
    ".tsv", read_pairs, read_gold_pairs, write_pairs, write_pairs, check_sides, check_expected_pairs, expect,
    one_each=False,
)  # fmt: skip
NEAREST_FILE = dataclasses.replace(INDEX_FILE, expect=expect_nearest)
FILES = {"pairs": PAIRS_FILE, "nearest": NEAREST_FILE}


def files(task: Task) -> PredictionFile:
    return FILES[task.predictions]
