"""Code benchmarks with noise in the words of their prompts: files that the benchmark's own readers read.

OUT/humaneval@typo-5/HumanEval.jsonl     the benchmark's rows; signature, examples, tests and solutions stay
OUT/humaneval@typo-5/noise.json          version, hash, error rates, and the problems in which nothing changed
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stilts_ds.data.noise_files import MANIFEST, rates
from stilts_ds.data.noisy import generator
from stilts_ds.errors import UserError, counted, did_you_mean
from stilts_ds.execute.benchmarks import Problem, problem_rows
from stilts_ds.families.generate.prompt_text import PromptText, find_text
from stilts_ds.noise.kinds import KINDS
from stilts_ds.noise.noiser import Collector, Noiser, make_noiser
from stilts_ds.noise.spec import MARK, NoiseSpec
from stilts_ds.run_dir import hash_file, write_atomically, write_json
from stilts_ds.sources.noise_lists import list_files, read_keyboard, read_words
from stilts_ds.tasks.languages import LANGUAGES

PROMPT = "prompt"
DESCRIPTION = "text"  # MBPP's rows hold their wording alone, without a signature


@dataclass(frozen=True)
class NoisyRow:
    """One row of a benchmark's file and the words in one of its fields."""

    row: dict[str, Any]
    problem: Problem
    field: str
    words: PromptText


def write_noisy_prompts(
    benchmark: str, path: Path, spec: NoiseSpec, language: str | None, lists: Path | None, output: Path
) -> str:
    """Write a benchmark's file with noise in the natural language of its prompts; returns a line about it.

    `language` is the code of that language; None: what the rows name, or English. Raises UserError for a faulty file,
    for noise that does not apply to the language, and where nothing would change.
    """
    rows = [_row(row, problem) for _, row, problem in problem_rows(benchmark, path)]
    # One language a file: a keyboard and word lists are those of one.
    codes = {language or language_code(row.problem.natural_language) for row in rows}
    if len(codes) != 1:
        raise UserError(f"{path}: prompts in {', '.join(sorted(codes))}; give a file of one language")
    [code] = codes
    noiser = _noiser(benchmark, rows, spec, code, lists)
    changed = [_noisy(row, noiser) for row in rows]
    same = [old.problem.id for old, new in zip(rows, changed) if old.row == new]
    if spec.rate and len(same) == len(rows):
        raise UserError(f"{path}: {spec.kind} noise finds nothing to change in the words of these prompts")
    folder = output / f"{benchmark}{MARK}{spec}"
    target = folder / f"{path.name.removesuffix('.gz').removesuffix('.json').removesuffix('.jsonl')}.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(target, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in changed))
    manifest = {
        "benchmark": benchmark, "language": code, "noise": spec.kind, "rate": spec.rate, "draw": spec.draw,
        "generator": generator(), "sha256": {target.name: hash_file(target)}, "problems": len(rows),
        **rates(noiser.tally), "unchanged": same,
    }  # fmt: skip
    write_json(folder / MANIFEST, manifest)
    rate = f"{noiser.tally.edits_per_100_letters:.2f} edits in 100 letters of the words"
    return f"{target}: {counted(len(rows), 'problem')} in {code}, {rate}, {len(same)} unchanged"


def language_code(name: str) -> str:
    """The code of a natural language that a benchmark names in English; "" is English. Raises UserError."""
    names = {language.name: code for code, language in LANGUAGES.items()}
    if not name or name in LANGUAGES:
        return name or "en"
    if name not in names:
        raise UserError(f"no language is called {name!r}{did_you_mean(name, names)}; give its code with --language")
    return names[name]


def _row(row: dict[str, Any], problem: Problem) -> NoisyRow:
    if PROMPT in row and problem.prompt:
        return NoisyRow(row, problem, PROMPT, find_text(row[PROMPT], problem.entry, problem.language))
    field = DESCRIPTION if DESCRIPTION in row else PROMPT  # sanitised MBPP has its wording there
    text = str(row.get(field, ""))
    # Wording that stands alone is put into quotes, so that one reader of docstrings serves both.
    docstring = f'"""{text}"""'
    inside = find_text(docstring, problem.entry, "python")
    moved = tuple((start - 3, end - 3) for start, end in inside.lines)  # without the three quotes in front
    return NoisyRow(row, problem, field, PromptText(text, moved, inside.protected))


def _noiser(benchmark: str, rows: Sequence[NoisyRow], spec: NoiseSpec, language: str, lists: Path | None) -> Noiser:
    collected = Collector(spec)
    for row in rows:
        collected.text(row.words.text, row.problem.id, row.field)
    name = KINDS[spec.kind].list_name
    if name and not list_files(lists, name, language):
        raise UserError(f"{benchmark}: --lists has no {name}/ list for {language!r}; write one, word TAB word")
    where = f"{benchmark} {rows[0].problem.language} {language}"
    return make_noiser(collected, language, where, read_words(lists, name, language), read_keyboard(lists, language))


def _noisy(row: NoisyRow, noiser: Noiser) -> dict[str, Any]:
    if noiser.spec.rate == 0:
        return row.row  # as it was read, to the byte
    noisy = noiser.text(row.words.text, row.problem.id, row.field, row.words.protected).text
    return {**row.row, row.field: row.words.replaced(noisy)}
