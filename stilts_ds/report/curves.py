"""Curves as inline SVG: training loss (one chart for each set of training tasks, one line for each condition and
seed), and scores over the rates of a kind of noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from stilts_ds.report.load import RunData

# Okabe and Ito's colours, which colour-blind readers can tell apart; yellow is left out, it vanishes on white,
# and black is the colour of text, which is light on a dark page.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "currentColor")
DASHES = ("", "6 3", "2 3")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 360, 220, 46, 12, 12, 34
POINTS = 120  # of a line; more steps are averaged in groups

Points = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Line:
    """One phase's loss, or a condition's mean score over seeds (`seed` None); `condition` decides its colour."""

    condition: str
    seed: int | None
    points: Points


def charts(data: RunData) -> list[tuple[str, list[Line]]]:
    """(title, lines) of every chart that has a curve: intermediate phases together, then each target's."""
    lines: dict[str, list[Line]] = {}
    for phase in data.phases.values():
        points = thinned(data.curves[phase.id].loss)
        if points:
            title = "Intermediate training" if phase.kind == "intermediate" else f"Target: {' + '.join(phase.train)}"
            lines.setdefault(title, []).append(Line(phase.condition, phase.seed, points))
    return list(lines.items())


def thinned(points: Points, most: int = POINTS) -> Points:
    """At most `most` points: the means of equal groups of steps, at their last step."""
    # Rounded up, so that no more than `most` groups come out.
    size = -(-len(points) // most) if points else 1
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    means = [sum(value for _, value in group) / len(group) for group in groups]
    return tuple((group[-1][0], mean) for group, mean in zip(groups, means))


def ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round numbers from `low` to `high`, about as many as wanted."""
    if high <= low:
        return [low]
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    # 1, 2 or 5 times a power of ten, as people read axes. The small terms make up for rounding in the divisions.
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * (1 - 1e-9))
    return [round(i * step, 10) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def svg(
    title: str, lines: Sequence[Line], conditions: Sequence[str], value: str = "training loss", along: str = "step"
) -> str:
    """A chart of one value along another from 0 on; colours follow the order of `conditions`."""
    last = max(line.points[-1][0] for line in lines)
    # From 0, with some air above the highest point; 1.0 where every loss is 0.
    top = max(value for line in lines for _, value in line.points) * 1.05 or 1.0

    def at(step: float, value: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * step / max(last, 1)
        return x, HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top

    parts = [*_axes(at, last, top, along)]
    for line in lines:
        where = conditions.index(line.condition)
        colour, dash = COLOURS[where % len(COLOURS)], DASHES[where // len(COLOURS) % len(DASHES)]
        pixels = [at(*point) for point in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in pixels)
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"{dashed}>'
            f"<title>{escape(_line_name(line))}</title></polyline>"
        )
    said = escape(f"{title}: {value} by {along}", quote=True)
    return (f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{said}" xmlns="http://www.w3.org/2000/svg">'
            + "".join(parts) + "</svg>")  # fmt: skip


def _line_name(line: Line) -> str:
    return line.condition if line.seed is None else f"{line.condition}, seed {line.seed}"


def _axes(at: Callable[[float, float], tuple[float, float]], last: int, top: float, along: str) -> list[str]:
    bottom = HEIGHT - BOTTOM
    parts = []
    for value in ticks(0, top):
        y = at(0, value)[1]
        parts += [
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>',
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>',
        ]
    for step in ticks(0, last):
        x = at(step, 0)[0]
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{step:g}</text>')
    parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}" class="axis"/>')
    return [*parts, f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{along}</text>']


def key(lines: Sequence[Line], conditions: Sequence[str]) -> str:
    """The chart's legend: a coloured stroke for each condition."""
    present = [c for c in conditions if any(line.condition == c for line in lines)]
    return "".join(f"<li>{_stroke(conditions.index(c))}{escape(c)}</li>" for c in present)


def _stroke(where: int) -> str:
    # Colours first, and dashes when these are used up: seven times three lines can be told apart.
    dash = DASHES[where // len(COLOURS) % len(DASHES)]
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<svg viewBox="0 0 24 8" class="stroke" aria-hidden="true"><line x1="0" x2="24" y1="4" y2="4" '
        f'stroke="{COLOURS[where % len(COLOURS)]}" stroke-width="3"{dashed}/></svg>'
    )
