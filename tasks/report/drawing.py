"""The style of the page's drawings, made by matplotlib: axes, kinds of lines and marks, and their form as SVG.

The page's style sheet colours them: each colour here stands for a CSS variable, so that a drawing follows the
reader's light or dark mode. Text stays text, and a mark shows its title when the pointer rests on it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_VARIABLES = ("page", "ink", "soft", "line", "accepted", "resting", "discarded", "excluded", "champion")
COLOUR = {name: f"#00c0{number:02x}" for number, name in enumerate(_VARIABLES)}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name may hold dollar signs
    "font.size": 12,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), COLOUR["soft"]),
    **dict.fromkeys(("axes.spines.left", "axes.spines.right", "axes.spines.top", "ytick.left"), False),
    **dict.fromkeys(("axes.xmargin", "axes.ymargin"), 0),
    "axes.autolimit_mode": "round_numbers",
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": COLOUR["line"],
    "hatch.linewidth": 1,
    "lines.dash_capstyle": "round",
    "lines.scale_dashes": False,
    "lines.markeredgewidth": 1.6,
}  # fmt: skip
_MARKS: dict[str, dict[str, Any]] = {
    "peak": {"color": "ink", "marker": "o", "markersize": 6, "markerfacecolor": "page"},
    "excluded": {"color": "excluded", "marker": "x", "markersize": 9, "markeredgewidth": 2.6},
    "included": {"color": "champion", "marker": "+", "markersize": 10, "markeredgewidth": 2.6},
    "champion": {"color": "champion", "marker": "*", "markersize": 16, "markeredgecolor": "page"},
    "last": {"color": "accepted", "marker": "o", "markersize": 15, "markerfacecolor": "none"},
    "accepted checkpoint": {"color": "accepted", "marker": "o"},
    "discarded checkpoint": {"color": "discarded", "marker": "o", "markerfacecolor": "page"},
}
_LINES: dict[str, dict[str, Any]] = {
    "accepted": {"color": "accepted", "linewidth": 2.4},
    "resting": {"color": "resting", "linewidth": 2},
    "discarded": {"color": "discarded", "linewidth": 1.5, "linestyle": (0, (5, 3))},
    "jump": {"color": "accepted", "linewidth": 1.1, "linestyle": (0, (1.5, 3.5))},
    "border": {"color": "soft", "linewidth": 1, "linestyle": (0, (1, 3)), "alpha": 0.55, "clip_on": False},
    "shade": {"color": "discarded", "fill": False, "hatch": "//", "linewidth": 0, "alpha": 0.45},
}
KINDS: dict[str, dict[str, Any]] = {
    kind: {key: COLOUR.get(value, value) if isinstance(value, str) else value for key, value in style.items()}
    for kind, style in [*_LINES.items(), *((kind, {"linestyle": "", **mark}) for kind, mark in _MARKS.items())]
}
_NOISE = re.compile(
    r' id="[a-z_.0-9]+_\d+"| transform="rotate[^"]*"|xlink:(?=href)|font-family: [^;]*; '
    r'|<title></title>|(?<=>) (?=<)| (?=/>|")'
)


def svg_of(ax: Axes, label: str, salt: str) -> str:
    """Return a drawing as an SVG element that fills its place, whose ids are those of no other `salt`."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context({**STYLE, "svg.hashsalt": salt}):
        figure = ax.get_figure(root=True)
        assert figure is not None
        figure.savefig(buffer, format="svg", metadata=nothing)
    text = " ".join(buffer.getvalue().partition("<svg")[2].split())
    text = re.sub(
        r'^.*?viewBox="([^"]*)".*?</defs>', rf'<svg viewBox="\1" role="img" aria-label="{escape(label)}">', text
    )
    text = re.sub(r'<g id="([a-z -]+)\|([^"]*)">', r'<g class="\1"><title>\2</title>', text)
    text = _NOISE.sub("", re.sub(r"(\.\d\d)\d+", r"\1", text))
    for name, colour in COLOUR.items():
        text = text.replace(colour, f"var(--{name})")
    return text


def axes(horizontal: tuple[int, int, int], vertical: tuple[int, int, int], num_ticks: tuple[int, int]) -> Axes:
    """Return the axes of a new drawing; (left, width, right) and (top, height, bottom) in the page's pixels."""
    (left, width, right), (top, height, bottom) = horizontal, vertical
    total = left + width + right, top + height + bottom
    figure = Figure(figsize=(total[0] / 72, total[1] / 72))
    ax = figure.add_axes((left / total[0], bottom / total[1], width / total[0], height / total[1]))
    figure.patch.set_visible(False)
    ax.patch.set_visible(False)
    for axis, number in ((ax.xaxis, num_ticks[0]), (ax.yaxis, num_ticks[1])):
        axis.set_major_locator(MaxNLocator(number, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    return ax


def plot(ax: Axes, kind: str, points: Sequence[tuple[float, float]], title: str = "", **style: Any) -> None:
    xs, ys = zip(*points, strict=True)
    ax.plot(xs, ys, **{**KINDS[kind], **style}, clip_on=False, label=kind, gid=f"{kind}|{title}")


def write(ax: Axes, x: float, text: str, shift: tuple[float, float], kind: str, **style: Any) -> None:
    """Write a text, shifted by pixels from the top of the axes."""
    ax.annotate(text, (x, 1), shift, ("data", "axes fraction"), "offset points", gid=f"{kind}|", **style)
