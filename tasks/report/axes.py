"""Where numbers stand in a drawing: linear axes with round ticks, and labels that do not meet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_CHARACTER_PX = 7.6  # mean advance of the report's bold 12 px type, rounded up


@dataclass(frozen=True)
class Axis:
    """Maps values to pixels.

    Attributes:
        low, high: the values at its ends.
        first, last: their pixels; `first` is the larger one on a vertical axis, since SVG counts downwards.
        ticks: values worth a label, within the ends.
    """

    low: float
    high: float
    first: float
    last: float
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        """Return the pixel of a value, to a tenth."""
        return round(self.first + (value - self.low) / (self.high - self.low) * (self.last - self.first), 1)

    def label(self, tick: float) -> str:
        """Return a tick's text, with as many digits as its neighbours differ by."""
        step = self.ticks[1] - self.ticks[0] if len(self.ticks) > 1 else 1.0
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        return f"{tick:,.{digits}f}"


def axis_over(values: Sequence[float], pixels: tuple[float, float], num_ticks: int, *, exact: bool) -> Axis:
    """Return an axis that holds all values; `exact` ends at the outermost ones, else at round numbers beyond."""
    low, high = min(values), max(values)
    if high - low < 1e-9:
        low, high = low - 0.05, high + 0.05
    step = _round_step((high - low) / num_ticks)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(number * step, 10) for number in range(first, last + 1))
    if exact:
        return Axis(low, high, *pixels, tuple(t for t in ticks if low - 1e-9 <= t <= high + 1e-9))
    return Axis(ticks[0], ticks[-1], *pixels, ticks)


def _round_step(least: float) -> float:
    scale = 10.0 ** math.floor(math.log10(least))
    return next(scale * factor for factor in (1, 2, 5, 10) if scale * factor >= least * (1 - 1e-9))


@dataclass(frozen=True)
class Label:
    """A text at a place; `anchor` as SVG has it, `level` the line it stands in, from 0; `kind` as marks have it."""

    kind: str
    x: float
    text: str
    anchor: str
    level: int


def spread(places: Sequence[tuple[float, str, str]], right: float) -> tuple[Label, ...]:
    """Return the texts (place, kind, text), each in the first line where it meets none before it.

    Near the right end they turn left.
    """
    taken: list[tuple[int, float, float]] = []
    labels = []
    for x, kind, text in sorted(places):
        width = _CHARACTER_PX * len(text)
        anchor = "end" if x + width > right else "start"
        begin = x - width if anchor == "end" else x
        level = _free_level(taken, x, begin - 8, begin + width + 8)
        taken.append((level, begin, begin + width))
        labels.append(Label(kind, x, text, anchor, level))
    return tuple(labels)


def _free_level(taken: Sequence[tuple[int, float, float]], x: float, begin: float, end: float) -> int:
    """Return the first line with room, from where the line down to the plot crosses no text below it."""
    lowest = max((level for level, _, _ in taken), default=-1)
    for level in range(lowest + 1):
        is_free = all(end <= a or b <= begin for n, a, b in taken if n == level)
        is_clear = all(not a < x < b for n, a, b in taken if n > level)
        if is_free and is_clear:
            return level
    return lowest + 1
