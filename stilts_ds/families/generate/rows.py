"""Exercises to rows: `<s> prompt </s></s> solution </s>` for encoders, prompt, solution and end for decoders.

A row is cut where it is too long: its prompt loses its beginning, since a program goes on from its end, and then the
solution its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from stilts_ds.config import TrainingPart
from stilts_ds.families.base import ItemTargets, Masking
from stilts_ds.families.generate.record import Exercise
from stilts_ds.rows.chunks import chunks
from stilts_ds.rows.rows import Rows
from stilts_ds.rows.slices import Slices, lay_out
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.rows.whitespace import CodeTokenizer
from stilts_ds.rows.writer import RowsWriter

CUT_PROMPTS = "prompts cut at their beginning (raise max_seq_length)"
CUT_SOLUTIONS = "solutions cut at their end (raise max_seq_length)"
CHANGED = "solutions that do not come back from the tokenizer"
NO_TOKENS = ()


def between(tokenizer: Tokenizer) -> tuple[int, ...]:
    """What stands between prompt and solution: a decoder goes on from the prompt's last token."""
    return tokenizer.template.middle if tokenizer.sees == "both" else NO_TOKENS


def end_of(tokenizer: Tokenizer) -> int:
    """The token that ends a solution."""
    return tokenizer.template.single_suffix[0]


def never_written(tokenizer: Tokenizer, size: int) -> list[int]:
    """Of a vocabulary of `size` rows, the tokens that no program holds: special ones but for the end, and rows without
    a token."""
    return [*sorted(tokenizer.special - {end_of(tokenizer)}), *range(tokenizer.vocabulary, size)]


def encode_exercises(
    records: Iterable[Exercise],
    tokenizer: Tokenizer,
    labels: Sequence[str],
    setting: TrainingPart,
    folder: Path | None = None,
) -> Rows:
    """One row an exercise; without a solution it is the prompt alone, which a model goes on from.

    Raises UserError for a tokenizer that no program comes back from.
    """
    code = CodeTokenizer(tokenizer)
    out = RowsWriter(folder, *(("prefix",) if tokenizer.sees == "both" else ()))
    template, middle, end = tokenizer.template, between(tokenizer), (end_of(tokenizer),)
    for first, chunk in chunks(records):
        solutions = [record.solution for record in chunk]
        prompts, answers = code.prompt_slices([record.prompt for record in chunk]), code.slices(solutions)
        out.tally[CHANGED] += int(np.count_nonzero(~code.come_back(solutions, answers)))
        has_solution = np.array([bool(solution) for solution in solutions])
        room = setting.max_seq_length - len(template.prefix) - len(middle) - has_solution
        ends = Slices(np.array(end, np.int32), np.zeros(len(chunk), np.int64), has_solution.astype(np.int64))
        prompts, answers, ends = _cut(out, prompts, answers, ends, room)
        laid = lay_out([template.prefix, prompts, middle, answers, ends], len(chunk))
        solution_begins = laid.inside(3)
        example = np.arange(first, first + len(chunk))
        # A decoder's rows are read from left to right from their first token on.
        prefix = {"prefix": solution_begins} if tokenizer.sees == "both" else {}
        out.append(laid.ids, laid.lengths, solution_begins, example, width=1, **prefix)
    out.tally = +out.tally  # without the counts of 0
    return out.rows()


def _cut(
    out: RowsWriter, prompts: Slices, answers: Slices, ends: Slices, room: np.ndarray
) -> tuple[Slices, Slices, Slices]:
    """Prompts, solutions and ends that fit into `room` [R]. A solution that is cut has no end to be learnt."""
    kept = np.minimum(prompts.length, np.maximum(room - answers.length, room // 2))
    fitting = np.minimum(answers.length, room - kept)
    is_cut = fitting < answers.length
    out.tally[CUT_PROMPTS] += int(np.count_nonzero(kept < prompts.length))
    out.tally[CUT_SOLUTIONS] += int(np.count_nonzero(is_cut))
    prompts = prompts.part(prompts.length - kept, kept)
    return prompts, answers.up_to(fitting), ends.up_to(np.where(is_cut, 0, ends.length))


def target_count(rows: Rows, item: int, mlm_probability: float) -> int:
    """Every token of the solution, and its end."""
    return _targets_of(rows, item)


def _targets_of(rows: Rows, item: int) -> int:
    return int(rows.row_lengths[item] - rows.second[item])


def targets(rows: Rows, item: int, starts: Sequence[int], ids: np.ndarray, masking: Masking) -> ItemTargets:
    """The token before each of the solution's is read, and gold is the one after it."""
    first, count = starts[0] + int(rows.second[item]), _targets_of(rows, item)
    return ItemTargets(np.arange(first - 1, first + count - 1), ids[first : first + count].copy())


def solutions(rows: Rows) -> list[np.ndarray]:
    """The tokens of each row's solution, and its end."""
    bounds = zip(rows.starts[:-1].tolist(), rows.second.tolist(), rows.starts[1:].tolist())
    return [np.asarray(rows.input_ids[start + second : end]) for start, second, end in bounds]
