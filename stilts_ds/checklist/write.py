"""Generated cases as files in SQuAD's schema, which any question answering code reads: `test-{language}.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from stilts_ds.checklist.cases import CASES, Case, Example, draw_cases
from stilts_ds.checklist.templates import read_templates
from stilts_ds.errors import UserError, counted, did_you_mean
from stilts_ds.run_dir import hash_file, write_atomically

VERSION = 1  # of the sampler: other versions draw other cases


def write_checklist(
    templates: Path, output: Path, languages: Sequence[str] = (), seed: int = 1, cases: int = CASES
) -> list[str]:
    """Write the cases of some languages of the table (none named: of all) into `output`; returns a line for each.

    Raises UserError for a faulty table, and for a language that it has not.
    """
    if cases < 1:
        raise UserError(f"--cases {cases}: give at least 1")
    table = read_templates(templates)
    # Before the first file is written: half of what was asked for would look like all of it.
    unknown = [code for code in languages if code not in table]
    if unknown:
        raise UserError(f"--language {unknown[0]}: {templates} has no such column{did_you_mean(unknown[0], table)}")
    made_of = {"generator": VERSION, "seed": seed, "cases": cases, "templates_sha256": hash_file(templates)}
    summaries = []
    for language in languages or table:
        drawn = list(draw_cases(table, language, seed, cases))
        path = output / f"test-{language}.json"
        write_atomically(path, json.dumps(squad_json(drawn, made_of), ensure_ascii=False, indent=1) + "\n")
        summaries.append(_summary(language, drawn))
    return summaries


def squad_json(cases: Sequence[Case], made_of: dict[str, Any]) -> dict[str, Any]:
    """An article a case; the questions of a context are together, and each says its test and case."""
    articles = []
    for case in cases:
        paragraphs = [
            {"context": context, "qas": [_question(case, example) for example in examples]}
            for context, examples in groupby(case.examples, key=lambda example: example.context)
        ]
        articles.append({"title": f"{case.test} {case.number}", "paragraphs": paragraphs})
    return {"version": "MultiCheckList", **made_of, "data": articles}


def _question(case: Case, example: Example) -> dict[str, Any]:
    """Where the table gives an answer in another form than its context has, `answer_start` is 0."""
    start = max(0, example.context.find(example.answer))
    answers = [{"text": example.answer, "answer_start": start}]
    return {"id": example.id, "test": case.test, "case": case.number, "question": example.question, "answers": answers}


def _summary(language: str, cases: Sequence[Case]) -> str:
    examples = [example for case in cases for example in case.examples]
    elsewhere = sum(example.answer not in example.context for example in examples)
    note = f"; {counted(elsewhere, 'answer')} in another form than the context's" if elsewhere else ""
    return f"{language}: {counted(len(cases), 'case')}, {counted(len(examples), 'example')}{note}"
