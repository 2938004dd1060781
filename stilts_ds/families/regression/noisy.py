"""Texts with noise; their numbers stay."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from stilts_ds.families.regression.record import Rated
from stilts_ds.noise.noiser import TextNoise
from stilts_ds.tasks.spec import Task


def noisy(records: Sequence[Rated], noise: TextNoise, task: Task) -> list[Rated]:
    return [
        dataclasses.replace(
            record,
            text=noise.text(record.text, record.id, "text").text,
            text_pair=None if record.text_pair is None else noise.text(record.text_pair, record.id, "text_pair").text,
        )
        for record in records
    ]
