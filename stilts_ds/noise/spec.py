"""The notation of noise: `typo-5` is 5 keyboard errors in 100 letters, `typo-5-s2` the same drawn anew.

`<kind>-<rate>[-context][-s<draw>]`. The first draw has no number, so that one set of texts has one name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from stilts_ds.errors import UserError, did_you_mean
from stilts_ds.noise.kinds import KINDS

MARK = "@"
FORM = re.compile(r"([a-z]+)-([0-9]+)(-context)?(?:-s([0-9]+))?")


@dataclass(frozen=True)
class NoiseSpec:
    """One kind of noise at one rate: errors in 100 letters or, for kinds that exchange words, in 100 words.

    `context`: passages get noise, too, and not the questions alone. `draw` numbers independent draws from 1.
    """

    kind: str
    rate: int
    context: bool = False
    draw: int = 1

    def __str__(self) -> str:
        context = "-context" if self.context else ""
        draw = f"-s{self.draw}" if self.draw > 1 else ""
        return f"{self.kind}-{self.rate}{context}{draw}"


def parse_noise(name: str, text: str) -> NoiseSpec:
    """The noise that stands behind the mark in a task's name. Raises UserError for anything but the notation."""
    match = FORM.fullmatch(text)
    if match is None:
        form = f"<task>{MARK}<kind>-<rate>, such as xnli{MARK}typo-5, and -s2 behind it for another draw"
        raise UserError(f"{name!r}: noise is written {form}")
    kind, rate, context, draw = match.groups()
    if kind not in KINDS:
        raise UserError(f"{name!r}: unknown noise {kind!r}{did_you_mean(kind, KINDS)}")
    if len(rate) > 3 or int(rate) > 100:
        raise UserError(f"{name!r}: a rate is errors in 100 {KINDS[kind].unit}s; give at most 100")
    if draw is not None and (len(draw) > 6 or int(draw) < 2):
        raise UserError(f"{name!r}: draws are numbered from 1, and the first has no number; give -s2 or above, or none")
    spec = NoiseSpec(kind, int(rate), context is not None, int(draw or 1))
    if str(spec) != text:  # one set of texts has one name
        raise UserError(f"{name!r}: write {name.partition(MARK)[0]}{MARK}{spec}")
    return spec
