"""The colours of the heat map: blue for gains, red-orange for losses, no colour where no difference is shown."""

from __future__ import annotations

from collections.abc import Iterable

from stilts_ds.report.stats import Difference
from stilts_ds.report.table import Table

RGB = tuple[float, float, float]
# Blue and orange-red: told apart in the common kinds of colour blindness, and as light and dark in grey print.
GAIN: RGB = (33, 102, 172)
LOSS: RGB = (178, 58, 20)
WHITE: RGB = (255, 255, 255)
FAINTEST = 0.10  # of the full colour, so that a small but significant difference is still seen as one
LIGHTEST_SCALE = 2.0  # points; a table of tiny differences must not look like one of large ones


def scale_of(tables: Iterable[Table]) -> float:
    """The difference in points that gets the full colour: the largest significant one."""
    values = [abs(c.gain.value) for t in tables for row in t.rows for c in row.cells if c.gain and c.gain.significant]
    return max([LIGHTEST_SCALE, *values])


def colours(gain: Difference | None, scale: float) -> tuple[str, str] | None:
    """Background and text colour (CSS hex) of a significant difference; None for every other cell."""
    if gain is None or not gain.significant:
        return None
    share = FAINTEST + (1 - FAINTEST) * min(1.0, abs(gain.value) / scale)
    end = GAIN if gain.value > 0 else LOSS
    back: RGB = tuple(w + (e - w) * share for w, e in zip(WHITE, end))  # type: ignore[assignment]
    text = max(((0, 0, 0), (255, 255, 255)), key=lambda ink: contrast(ink, back))
    return css(back), css(text)


def css(colour: RGB) -> str:
    return "#" + "".join(f"{round(channel):02x}" for channel in colour)


def contrast(a: RGB, b: RGB) -> float:
    """Contrast ratio of two colours, 1 to 21 (WCAG 2.1, relative luminance); text wants at least 4.5."""
    light, dark = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: RGB) -> float:
    red, green, blue = (_linear(channel / 255) for channel in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(channel: float) -> float:
    """A channel of sRGB, 0 to 1, as an amount of light."""
    return channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4
