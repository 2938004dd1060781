"""Programs that a model writes: sampled token by token, and the files that `stilts execute` reads.

A file holds a JSON object a line, a program with all that executing it needs. Beside it `stilts execute` puts its
verdicts, `test-python.verdicts.jsonl` beside `test-python.jsonl`; with them the programs can be scored.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stilts_ds.config import EvaluationPart, TrainingPart
from stilts_ds.errors import UserError, counted
from stilts_ds.execute.programs import Program, read_programs, read_rows, read_verdicts, text_of
from stilts_ds.families.asked import EvaluationSplit, Passes, Work
from stilts_ds.families.base import Family, Masking, Prediction
from stilts_ds.families.decoding import Decoding
from stilts_ds.families.files import Expected, PredictionFile, check_ids, fail
from stilts_ds.families.generate.floors import read_floors
from stilts_ds.families.generate.likelihood import kept_files, measuring, read_likelihoods, solution_rows
from stilts_ds.families.generate.record import Exercise, Gold
from stilts_ds.families.generate.rows import end_of, solutions
from stilts_ds.families.generate.score import WrittenProgram
from stilts_ds.rows.rows import Rows
from stilts_ds.rows.whitespace import CodeTokenizer
from stilts_ds.run_dir import write_atomically
from stilts_ds.tasks.spec import Task

log = logging.getLogger(__name__)
SETTINGS = ("generate",)  # of stilts_ds.config.EvaluationPart


# --- dev: the solution's tokens, each foreseen from the right ones before it -----------------------------------------


def output(likeliest: np.ndarray) -> np.ndarray:
    """The likeliest token at each place that is read, [m]: the head gives its index."""
    return likeliest[:, 0].astype(np.int64)


def decode(
    records: Sequence[Any], rows: Rows, outputs: Sequence[np.ndarray], labels: Sequence[str], evaluation: EvaluationPart
) -> list[np.ndarray]:
    return list(outputs)


def dev_gold(rows: Rows, masking: Masking) -> list[np.ndarray]:
    return solutions(rows)


# --- predicting ------------------------------------------------------------------------------------------------------


def evaluation_rows(split: EvaluationSplit, setting: TrainingPart, evaluation: EvaluationPart) -> tuple[Rows, ...]:
    """Of the prompts, and of the solutions that are known. On rank 0."""
    return prompt_rows(split, setting, evaluation), *solution_rows(split, setting)


def prompt_rows(split: EvaluationSplit, setting: TrainingPart, evaluation: EvaluationPart) -> Rows:
    """The prompts alone, as long as they may be beside what is written behind them, and at least half a row."""
    longest = max(setting.max_seq_length - evaluation.generate.max_new_tokens, setting.max_seq_length // 2)

    def texts() -> tuple[Sequence[Exercise], Any]:
        prompts = [dataclasses.replace(record, solution="") for record in split.records()]
        return prompts, [[record.id, record.prompt] for record in prompts]

    return split.rows_of("prompts", TrainingPart(max_seq_length=longest), texts)


def work(family: Family, asked: Prediction) -> Work:
    """How a split is written: concludes with the programs, sample after sample of each exercise. A collective."""
    records: Sequence[Exercise] = asked.split.records() if asked.model.first else ()
    rows = prompt_rows(asked.split, asked.setting, asked.evaluation)
    task, sampling = asked.split.task, asked.evaluation.generate
    tokenizer = asked.model.tokenizer
    ends = Endings(CodeTokenizer(tokenizer), tuple(task.stop if sampling.stop is None else sampling.stop))
    decoding = Decoding(
        names=asked.model.broadcast([f"{task.base_name}\n{record.id}" for record in records]),
        samples=sampling.samples,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        end=end_of(tokenizer),
        most_tokens=sampling.max_new_tokens,
        row_limit=asked.setting.max_seq_length,
        is_complete=ends.are_reached if ends.stop else None,
    )
    of_solutions = measuring(asked)

    def conclude(made: Sequence[Sequence[Any]]) -> list[WrittenProgram]:
        written, *seen = made
        _log_unfinished(asked, decoding, rows, written)
        [name] = kept_files(asked.split.name, asked.split.language)
        asked.kept[name] = of_solutions.conclude(seen)
        attempts = []
        for record, samples in zip(records, written):
            for number, ids in enumerate(samples):
                # Python and the others refuse a null character in any case, and so does the file of programs.
                completion = ends.text(ids).replace("\0", "\N{REPLACEMENT CHARACTER}")
                attempts.append(WrittenProgram(record.problem.program(completion, number), None))
        return attempts

    return Work([Passes(rows, "programs", decoding), *of_solutions.passes], conclude)


def _log_unfinished(
    asked: Prediction, decoding: Decoding, rows: Rows, written: Sequence[Sequence[Sequence[int]]]
) -> None:
    """Say how many programs broke off where there was no more room: few of these are right."""
    unfinished = sum(
        decoding.breaks_off(ids, prompt) for prompt, samples in zip(rows.row_lengths, written) for ids in samples
    )
    if unfinished:
        log.info(
            "%s %s: %d of %s had no room to end (raise evaluation.generate.max_new_tokens or max_seq_length)",
            asked.split.task.name,
            asked.split.language,
            unfinished,
            counted(sum(map(len, written)), "program"),
        )


@dataclass(frozen=True)
class Endings:
    """Where a program ends besides at the token that ends it: before the first of some `stop` strings."""

    code: CodeTokenizer
    stop: tuple[str, ...]

    def text(self, ids: Sequence[int]) -> str:
        """What was written, up to the first stop string."""
        text = self.code.text(ids)
        return text[: min((text.index(stop) for stop in self.stop if stop in text), default=len(text))]

    def are_reached(self, ids: Sequence[int]) -> bool:
        """Whether a stop string ends in the newest token. The last tokens are looked at first, since each of those
        that make a stop string has one of its bytes at least."""
        longest = max(len(stop.encode()) for stop in self.stop)
        recent = self.code.text(ids[-longest - 1 :])
        if not any(stop in recent for stop in self.stop):
            return False
        text = self.code.text(ids)
        return any(stop in text for stop in self.stop)


def settings(evaluation: EvaluationPart) -> dict[str, Any]:
    return evaluation.generate.model_dump()


# --- files -----------------------------------------------------------------------------------------------------------


def verdicts_path(predictions: Path) -> Path:
    """`test-python.verdicts.jsonl` beside `test-python.jsonl`."""
    return predictions.with_suffix(".verdicts.jsonl")


def unscored(predictions: Path) -> str | None:
    """What has to be done before programs can be scored; None where they have been executed."""
    command = f"`stilts execute {predictions} -o {verdicts_path(predictions)} --allow`, then score again"
    if not verdicts_path(predictions).exists():
        return f"its programs have not been executed: {command}"
    verdicts = read_verdicts(verdicts_path(predictions))
    judged = {verdict.id for verdict in verdicts if verdict.verdict != "withheld"}
    open_verdict = next((verdict for verdict in verdicts if verdict.id not in judged), None)
    if open_verdict is None:
        return None
    # To score it with 0, or the others without it, would be another number under the same name.
    return f"no program of {open_verdict.id} could be judged: {open_verdict.reason}; install that, then {command}"


def read(path: Path, labels: Iterable[str] = ()) -> list[WrittenProgram]:
    """Programs, with their verdicts where they have been executed. Raises UserError with file and line."""
    programs, _ = read_programs(path)
    verdicts = verdicts_path(path)
    by_key = {verdict.key: verdict for verdict in read_verdicts(verdicts)} if verdicts.exists() else {}
    if verdicts.exists() and by_key.keys() != {program.key for program in programs}:
        strange = min(by_key.keys() ^ {program.key for program in programs})
        raise UserError(
            f"{verdicts}: is of other programs than {path.name}, such as sample {strange[1]} of {strange[0]!r}; "
            "execute them again"
        )
    seen = read_likelihoods(path)
    return [WrittenProgram(program, by_key.get(program.key), seen.get(program.id)) for program in programs]


def write(path: Path, values: Sequence[WrittenProgram]) -> None:
    """The programs, in a form that `stilts execute` reads; verdicts of others that stood beside them go."""
    verdicts_path(path).unlink(missing_ok=True)
    write_atomically(path, "".join(f"{json.dumps(_without_defaults(value.program))}\n" for value in values))


def _without_defaults(program: Program) -> dict[str, Any]:
    needed = {"id", "sample", "program", "tests", "language", "entry"}
    return {key: value for key, value in asdict(program).items() if value or key in needed}


def read_labels(path: Path, labels: Iterable[str] = ()) -> list[Gold]:
    gold: dict[str, Gold] = {}
    floors = read_floors(path)
    for where, row in read_rows(path):
        if isinstance(row, UserError):
            raise row
        identity = text_of(row, "id", where)
        if identity in gold:
            raise UserError(f"{where}: problem {identity!r} stands there twice; write each once")
        of_problem = {kind: passes[identity] for kind, passes in floors.items() if identity in passes}
        gold[identity] = Gold(identity, text_of(row, "canonical", where, ""), of_problem)
    if not gold:
        fail(path, 1, "has no problems; give the label file of a split")
    return list(gold.values())


def write_labels(path: Path, values: Sequence[Gold]) -> None:
    rows = [{"id": value.id, "canonical": value.canonical} for value in values]
    write_atomically(path, "".join(f"{json.dumps(row)}\n" for row in rows))


def check(path: Path, predicted: Sequence[WrittenProgram], gold: Sequence[Gold]) -> None:
    """Raise UserError where a problem has no program, or a program no problem or verdict."""
    check_expected(path, predicted, Expected(ids=frozenset(problem.id for problem in gold)))
    without = [attempt.program for attempt in predicted if attempt.verdict is None]
    if without:
        fail(path, 1, f"{counted(len(without), 'program')} without a verdict; {unscored(path)}")


def check_expected(path: Path, predicted: Sequence[WrittenProgram], expected: Expected) -> None:
    check_ids(path, {attempt.program.id: attempt for attempt in predicted}, expected.ids, "problem")


def expect(records: Sequence[Exercise]) -> Expected:
    return Expected(count=len(records), ids=frozenset(record.id for record in records))


FILE = PredictionFile(
    ".jsonl", read, read_labels, write, write_labels, check, check_expected, expect, one_each=False
)  # fmt: skip


def files(task: Task) -> PredictionFile:
    return FILE
