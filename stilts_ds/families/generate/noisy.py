"""Exercises with noise in the words of their prompts: signature, examples, code and tests stay."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from stilts_ds.families.generate.prompt_text import find_text
from stilts_ds.families.generate.record import Exercise
from stilts_ds.noise.noiser import TextNoise
from stilts_ds.tasks.spec import Task


def noisy(records: Sequence[Exercise], noise: TextNoise, task: Task) -> list[Exercise]:
    """The same exercises, asked for in other words; what a program begins with is the noisy prompt."""
    changed = []
    for record in records:
        words = find_text(record.prompt, record.problem.entry, record.problem.language)
        text = noise.text(words.text, record.id, "prompt", words.protected).text
        prompt = words.replaced(text)
        problem = dataclasses.replace(record.problem, prompt=prompt)
        changed.append(dataclasses.replace(record, prompt=prompt, problem=problem))
    return changed
