"""Draw a search's validation curves over all training, in the order it was done, and its tree of checkpoints as SVG.

The page's style sheet colours the drawings: each colour here stands for a CSS variable, so that a drawing follows the
reader's light or dark mode. Text stays text, and a mark shows its title when the pointer rests on it.
"""

from __future__ import annotations

import io
import itertools
import math
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tasks.algorithm.state import CheckpointKey
from tasks.record.view import RoundView, SearchView
from tasks.report import words
from tasks.report.findings import changes_of, outcome_of

ScoreAt = Callable[[RoundView, CheckpointKey], float]

_CHARACTER_PX = 7.6  # mean advance of the page's bold 12 px type, rounded up
_ROUND_PX, _NUMBER_PX = 56, 18  # room for `round 3`, and for `12`
_VARIABLES = ("page", "ink", "soft", "line", "accepted", "resting", "discarded", "excluded", "champion")
_COLOUR = {name: f"#00c0{number:02x}" for number, name in enumerate(_VARIABLES)}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name may hold dollar signs
    "font.size": 12,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _COLOUR["soft"]),
    **dict.fromkeys(("axes.spines.left", "axes.spines.right", "axes.spines.top", "ytick.left"), False),
    **dict.fromkeys(("axes.xmargin", "axes.ymargin"), 0),
    "axes.autolimit_mode": "round_numbers",
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _COLOUR["line"],
    "hatch.linewidth": 1,
    "lines.dash_capstyle": "round",
    "lines.scale_dashes": False,
    "lines.markeredgewidth": 1.6,
}
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
_KINDS: dict[str, dict[str, Any]] = {
    kind: {key: _COLOUR.get(value, value) if isinstance(value, str) else value for key, value in style.items()}
    for kind, style in [*_LINES.items(), *((kind, {"linestyle": "", **mark}) for kind, mark in _MARKS.items())]
}
_NOISE = re.compile(
    r' id="[a-z_.0-9]+_\d+"| transform="rotate[^"]*"|xlink:(?=href)|font-family: [^;]*; '
    r'|<title></title>|(?<=>) (?=<)| (?=/>|")'
)


@rc_context(_STYLE)
def mean_chart(view: SearchView) -> Axes:
    """Return the mean over all sub-datasets, with exclusions, returns and the champion named above it."""
    width, height = 888, 200
    labels = list(spread(_named_places(view, width / view.spent), width))
    above = 40 + 16 * max((line + 1 for *_, line in labels), default=0)
    ax = _axes((56, width, 16), (above, height, 44), num_ticks=(10, 5))
    ax.set_xlabel(f"training done, in {view.unit}, discarded work counted")
    mean = _mean_of(view)
    for told in view.rounds:
        _draw_round(ax, told, mean, is_active=True)
    for x, kind, text, side, line in labels:
        top = above - 8 - 16 * line  # of its vertical line, above the plot
        colour, place = _KINDS[kind]["color"], x * view.spent / width
        ax.axvline(place, ymax=1 + top / height, color=colour, linewidth=1, alpha=0.6, clip_on=False)
        _write(ax, place, text, (4 if side == "left" else -4, top - 10), "label", ha=side, color=colour)
    for told in view.rounds:
        for kind, _, _ in changes_of(told):
            _plot(ax, kind, [(told.position[told.target], mean(told, told.target))], told.decided.decision.reason)
    _finish(ax, view, mean, width)
    return ax


@rc_context(_STYLE)
def sub_dataset_chart(view: SearchView, name: str) -> Axes:
    """Return one sub-dataset's curve; accuracies of all charts share one vertical axis, losses have each their own."""

    def score(told: RoundView, key: CheckpointKey) -> float:
        return view.score(told.score(name, key)).shown

    ax = _axes((44, 300, 16), (20, 142, 42), num_ticks=(5, 4))
    ax.set_xlabel(view.unit)
    for told in view.rounds:
        _draw_round(ax, told, score, is_active=name in told.decided.active)
    for told in view.rounds:
        _draw_marks(ax, told, name, score)
    if view.metric == "accuracy":
        ax.update_datalim([(0, p.score) for told in view.rounds for c in told.curves.values() for p in c.points])
    _finish(ax, view, score, 300)
    return ax


@rc_context(_STYLE)
def checkpoint_tree(view: SearchView) -> Axes:
    """Return all published checkpoints of the decided rounds as a tree, a row for each round.

    The horizontal axis counts optimizer steps on the way to a checkpoint.
    """
    rows = [told.index for told in view.rounds]
    steps = {key.step for told in view.rounds for key in told.position}
    ax = _axes((76, 514, 370), (22, 36 * len(rows), 40), num_ticks=(8, 1))
    ax.grid(visible=False, axis="y")
    ax.grid(visible=True, axis="x")
    ax.spines["bottom"].set_visible(False)
    ax.tick_params(length=0)
    ax.set_xlabel("optimizer steps on the way from the base model")
    ax.set(xlim=(0, max(steps)), ylim=(max(rows) + 0.5, min(rows) - 0.5), yticks=rows)
    ax.set_yticklabels([f"round {index}" for index in rows], color=_COLOUR["ink"], ha="left", position=(-72 / 514, 0))
    row_of = {key: told.index for told in view.rounds for key in told.own}
    for kind in ("discarded", "accepted"):
        for told in view.rounds:
            _draw_branch(ax, told, kind, row_of)
    for told in view.rounds:
        place, title = (1 + 18 / 514, told.index), f"outcome|{told.decided.decision.reason}"
        ax.text(*place, outcome_of(view, told), va="center_baseline", transform=ax.get_yaxis_transform(), gid=title)
        _draw_checkpoints(ax, view, told, 3.6 if 10 * len(steps) < 514 else 2.4)
    return ax


def svg_of(ax: Axes, label: str, salt: str) -> str:
    """Return a drawing as an SVG element that fills its place, whose ids are those of no other `salt`."""
    buffer = io.StringIO()
    with rc_context({**_STYLE, "svg.hashsalt": salt}):
        figure = ax.get_figure(root=True)
        assert figure is not None
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = " ".join(buffer.getvalue().partition("<svg")[2].split())
    root = rf'<svg viewBox="\1" role="img" aria-label="{escape(label)}">'
    text = re.sub(r'^.*?viewBox="([^"]*)".*?</defs>', root, text)
    text = re.sub(r'<g id="([a-z -]+)\|([^"]*)">', r'<g class="\1"><title>\2</title>', text)
    text = _NOISE.sub("", re.sub(r"(\.\d\d)\d+", r"\1", text))
    for name, colour in _COLOUR.items():
        text = text.replace(colour, f"var(--{name})")
    return text


def _axes(horizontal: tuple[int, int, int], vertical: tuple[int, int, int], num_ticks: tuple[int, int]) -> Axes:
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


def _plot(ax: Axes, kind: str, points: Sequence[tuple[float, float]], title: str = "", **style: Any) -> None:
    xs, ys = zip(*points, strict=True)
    ax.plot(xs, ys, **{**_KINDS[kind], **style}, clip_on=False, label=kind, gid=f"{kind}|{title}")


def _write(ax: Axes, x: float, text: str, shift: tuple[float, float], kind: str, **style: Any) -> None:
    """Write a text, shifted by pixels from the top of the axes."""
    ax.annotate(text, (x, 1), shift, ("data", "axes fraction"), "offset points", gid=f"{kind}|", **style)


def _mean_of(view: SearchView) -> ScoreAt:
    return lambda told, key: view.score(statistics.fmean(told.score(name, key) for name in view.names)).shown


def _draw_round(ax: Axes, told: RoundView, score: ScoreAt, *, is_active: bool) -> None:
    """Draw a roll-out: its accepted path, and shaded the discarded one with a line over to where the path goes on."""
    points = {key: (told.position[key], score(told, key)) for key in (told.start, *told.own)}
    accepted = [told.start, *(key for key in told.own if told.is_accepted(key))]
    if len(accepted) <= len(told.own):
        title = f"round {told.index}: discarded after {words.checkpoint(told.target)}"
        ax.axvspan(told.accepted_to, told.end, gid=f"shade|{title}", **_KINDS["shade"])
        turn = points[accepted[-1]]
        _plot(ax, "discarded", [turn, *(point for key, point in points.items() if key not in accepted)])
        _plot(ax, "jump", [turn, (told.end, turn[1])])
    if len(accepted) > 1:
        _plot(ax, "accepted" if is_active else "resting", [points[key] for key in accepted])


def _draw_marks(ax: Axes, told: RoundView, name: str, score: ScoreAt) -> None:
    if name in told.decided.active:
        peak = told.curves[name].peak.checkpoint
        value = score(told, peak)
        title = f"peak of round {told.index}: {words.score(value)} at {words.checkpoint(peak)}"
        _plot(ax, "peak", [(told.position[peak], value)], title)
    for kind, _, group in changes_of(told):
        if name in group:
            value = score(told, told.target)
            where = f"from {words.checkpoint(told.target)} on, at {words.score(value)}"
            _plot(ax, kind, [(told.position[told.target], value)], f"{kind} by round {told.index}, {where}")


def _finish(ax: Axes, view: SearchView, score: ScoreAt, width: float) -> None:
    """Draw the champion and the borders of the rounds, numbered where the numbers do not meet."""
    if view.champion is not None:
        key = view.champion.checkpoint
        told = view.round_of(key)
        value = score(told, key)
        title = f"champion: {words.checkpoint(key)}, {words.score(value)}"
        _plot(ax, "champion", [(told.position[key], value)], title)
    px, last = width / view.spent, -math.inf
    for told in view.rounds:
        if told.begin > 0:
            ax.axvline(told.begin, ymax=1.03, **_KINDS["border"])
        is_wide = width > 400 and (told.end - told.begin) * px > _ROUND_PX
        middle = (told.begin + told.end) / 2
        if (middle - last) * px > (_ROUND_PX if is_wide else _NUMBER_PX):
            text = f"round {told.index}" if is_wide else str(told.index)
            _write(ax, middle, text, (0, 8), "round-name", ha="center", fontsize=11)
            last = middle
    ax.set_xlim(0, view.spent)
    ax.autoscale_view(scalex=False)


def _named_places(view: SearchView, px: float) -> Iterator[tuple[float, str, str]]:
    for told in view.rounds:
        for kind, sign, group in changes_of(told):
            text = sign + words.listed([words.short(name) for name in group], 1)
            yield told.position[told.target] * px, kind, text
    if view.champion is not None:
        key = view.champion.checkpoint
        yield view.round_of(key).position[key] * px, "champion", "champion"


def spread(places: Iterable[tuple[float, str, str]], right: float) -> Iterator[tuple[float, str, str, str, int]]:
    """Yield (pixel, kind, text) with the side where a text begins and its line, the first where it meets no other.

    Line 0 is the highest; a text's vertical line runs down to the plot and crosses no text. Near the right end texts
    turn left.
    """
    taken: list[tuple[int, float, float]] = []
    for x, kind, text in sorted(places):
        width = _CHARACTER_PX * len(text)
        side = "right" if x + width > right else "left"
        begin = x - width if side == "right" else x
        line = next(
            line
            for line in itertools.count()
            if not any(n == line and a < begin + width + 8 and begin - 8 < b for n, a, b in taken)
            and not any(n > line and a < x < b for n, a, b in taken)
        )
        taken.append((line, begin, begin + width))
        yield x, kind, text, side, line


def _draw_branch(ax: Axes, told: RoundView, kind: str, row_of: Mapping[CheckpointKey, int]) -> None:
    """Draw a roll-out's accepted or discarded part, from the row of where it begins down to its own."""
    accepted = [key for key in told.own if told.is_accepted(key)]
    own = accepted if kind == "accepted" else told.own[len(accepted) :]
    if not own:
        return
    begin = accepted[-1] if own != accepted and accepted else told.start
    row = told.index if begin != told.start else row_of.get(begin, told.index)
    _plot(ax, kind, [(begin.step, row), (begin.step, told.index), (own[-1].step, told.index)])


def _draw_checkpoints(ax: Axes, view: SearchView, told: RoundView, radius: float) -> None:
    for key in (told.start, *told.own) if told.index == 0 else told.own:
        kind = "accepted" if key == told.start or told.is_accepted(key) else "discarded"
        mean = words.score(_mean_of(view)(told, key), 4)
        title = f"{words.checkpoint(key)} ({kind}): mean {view.selected_on} {mean}"
        place = (float(key.step), float(told.index))
        if key == view.state.checkpoint:
            _plot(ax, "last", [place], title)
        _plot(ax, f"{kind} checkpoint", [place], title, markersize=2 * radius)
        if view.champion and key == view.champion.checkpoint:
            _plot(ax, "champion", [place], title, markersize=18)
            style: dict[str, Any] = {"ha": "center", "color": _COLOUR["champion"], "gid": "label|"}
            ax.annotate("champion", place, (0, 11), textcoords="offset points", **style)
