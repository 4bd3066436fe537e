"""Draw a search's validation curves, over all training in the order it was done, and its tree of checkpoints."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes

from tasks.algorithm.state import CheckpointKey
from tasks.record.view import RoundView, SearchView
from tasks.report import words
from tasks.report.drawing import COLOUR, KINDS, STYLE, axes, plot, write
from tasks.report.tables import outcome_of

ScoreAt = Callable[[RoundView, CheckpointKey], float]

_CHARACTER_PX = 7.6  # mean advance of the page's bold 12 px type, rounded up
_ROUND_PX, _NUMBER_PX = 56, 18  # room for `round 3`, and for `12`


@rc_context(STYLE)
def mean_chart(view: SearchView) -> Axes:
    """Return the mean over all sub-datasets, with exclusions, returns and the champion named above it."""

    def mean(told: RoundView, key: CheckpointKey) -> float:
        return view.score(statistics.fmean(told.score(name, key) for name in view.names)).shown

    width, height = 888, 200
    labels = list(spread(_named_places(view, width / view.spent), width))
    above = 40 + 16 * max((line + 1 for *_, line in labels), default=0)
    ax = axes((56, width, 16), (above, height, 44), num_ticks=(10, 5))
    ax.set_xlabel(f"training done, in {view.unit}, discarded work counted")
    for told in view.rounds:
        _draw_round(ax, told, mean, is_active=True)
    for x, kind, text, side, line in labels:
        top = above - 8 - 16 * line  # of its vertical line, above the plot
        colour, place = KINDS[kind]["color"], x * view.spent / width
        ax.axvline(place, ymax=1 + top / height, color=colour, linewidth=1, alpha=0.6, clip_on=False)
        write(ax, place, text, (4 if side == "left" else -4, top - 10), "label", ha=side, color=colour)
    for told in view.rounds:
        for kind, group in (("excluded", told.exclude), ("included", told.decided.decision.include)):
            if group:
                plot(ax, kind, [(told.position[told.target], mean(told, told.target))], told.decided.decision.reason)
    _finish(ax, view, mean, width)
    return ax


@rc_context(STYLE)
def sub_dataset_chart(view: SearchView, name: str) -> Axes:
    """Return one sub-dataset's curve; accuracies of all charts share one vertical axis, losses have each their own."""

    def score(told: RoundView, key: CheckpointKey) -> float:
        return view.score(told.score(name, key)).shown

    ax = axes((44, 300, 16), (20, 142, 42), num_ticks=(5, 4))
    ax.set_xlabel(view.unit)
    for told in view.rounds:
        _draw_round(ax, told, score, is_active=name in told.decided.active)
    for told in view.rounds:
        _draw_marks(ax, view, told, name)
    if not view.started.by_loss:
        ax.update_datalim([(0, p.score) for told in view.rounds for c in told.curves.values() for p in c.points])
    _finish(ax, view, score, 300)
    return ax


@rc_context(STYLE)
def checkpoint_tree(view: SearchView) -> Axes:
    """Return all published checkpoints of the decided rounds as a tree, a row for each round.

    The horizontal axis counts optimizer steps on the way to a checkpoint.
    """
    rows = [told.index for told in view.rounds]
    steps = {key.step for told in view.rounds for key in told.position}
    ax = axes((76, 514, 370), (22, 36 * len(rows), 40), num_ticks=(8, 1))
    ax.grid(visible=False, axis="y")
    ax.grid(visible=True, axis="x")
    ax.spines["bottom"].set_visible(False)
    ax.tick_params(length=0)
    ax.set_xlabel("optimizer steps on the way from the base model")
    ax.set(xlim=(0, max(steps)), ylim=(max(rows) + 0.5, min(rows) - 0.5), yticks=rows)
    ax.set_yticklabels([f"round {index}" for index in rows], color=COLOUR["ink"], ha="left", position=(-72 / 514, 0))
    row_of = {key: told.index for told in view.rounds for key in told.own}
    for kind in ("discarded", "accepted"):
        for told in view.rounds:
            _draw_branch(ax, told, kind, row_of)
    for told in view.rounds:
        place = (1 + 18 / 514, told.index)
        ax.text(*place, outcome_of(view, told), va="center_baseline", transform=ax.get_yaxis_transform(),
                gid=f"outcome|{told.decided.decision.reason}")  # fmt: skip
        _draw_checkpoints(ax, view, told, 3.6 if 10 * len(steps) < 514 else 2.4)
    return ax


def _draw_round(ax: Axes, told: RoundView, score: ScoreAt, *, is_active: bool) -> None:
    """Draw a roll-out: its accepted path, and shaded the discarded one with a line over to where the path goes on."""
    points = {key: (told.position[key], score(told, key)) for key in (told.start, *told.own)}
    accepted = [told.start, *(key for key in told.own if told.is_accepted(key))]
    if len(accepted) <= len(told.own):
        title = f"round {told.index}: discarded after {words.checkpoint(told.target)}"
        ax.axvspan(told.accepted_to, told.end, gid=f"shade|{title}", **KINDS["shade"])
        turn = points[accepted[-1]]
        plot(ax, "discarded", [turn, *(point for key, point in points.items() if key not in accepted)])
        plot(ax, "jump", [turn, (told.end, turn[1])])
    if len(accepted) > 1:
        plot(ax, "accepted" if is_active else "resting", [points[key] for key in accepted])


def _draw_marks(ax: Axes, view: SearchView, told: RoundView, name: str) -> None:
    if name in told.decided.active:
        peak = told.curves[name].peak
        value = view.score(peak.score).shown
        title = f"peak of round {told.index}: {words.score(value)} at {words.checkpoint(peak.checkpoint)}"
        plot(ax, "peak", [(told.position[peak.checkpoint], value)], title)
    for kind, group in (("excluded", told.exclude), ("included", told.decided.decision.include)):
        if name in group:
            value = view.score(told.score(name, told.target)).shown
            where = f"from {words.checkpoint(told.target)} on, at {words.score(value)}"
            plot(ax, kind, [(told.position[told.target], value)], f"{kind} by round {told.index}, {where}")


def _finish(ax: Axes, view: SearchView, score: ScoreAt, width: float) -> None:
    """Draw the champion and the borders of the rounds, numbered where the numbers do not meet."""
    if view.champion is not None:
        key = view.champion.checkpoint
        told = view.round_of(key)
        value = score(told, key)
        title = f"champion: {words.checkpoint(key)}, {words.score(value)}"
        plot(ax, "champion", [(told.position[key], value)], title)
    px, last = width / view.spent, -math.inf
    for told in view.rounds:
        if told.begin > 0:
            ax.axvline(told.begin, ymax=1.03, **KINDS["border"])
        is_wide = width > 400 and (told.end - told.begin) * px > _ROUND_PX
        middle = (told.begin + told.end) / 2
        if (middle - last) * px > (_ROUND_PX if is_wide else _NUMBER_PX):
            text = f"round {told.index}" if is_wide else str(told.index)
            write(ax, middle, text, (0, 8), "round-name", ha="center", fontsize=11)
            last = middle
    ax.set_xlim(0, view.spent)
    ax.autoscale_view(scalex=False)


def _named_places(view: SearchView, px: float) -> Iterator[tuple[float, str, str]]:
    for told in view.rounds:
        for kind, sign, group in (("excluded", "− ", told.exclude), ("included", "+ ", told.decided.decision.include)):
            if group:
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
    plot(ax, kind, [(begin.step, row), (begin.step, told.index), (own[-1].step, told.index)])


def _draw_checkpoints(ax: Axes, view: SearchView, told: RoundView, radius: float) -> None:
    champion = view.champion.checkpoint if view.champion else None
    for key in (told.start, *told.own) if told.index == 0 else told.own:
        kind = "accepted" if key == told.start or told.is_accepted(key) else "discarded"
        mean = sum(told.score(name, key) for name in view.names) / len(view.names)
        title = f"{words.checkpoint(key)} ({kind}): mean {view.selected_on} {words.score(view.score(mean).shown, 4)}"
        place = [(float(key.step), float(told.index))]
        if key == view.state.checkpoint:
            plot(ax, "last", place, title)
        plot(ax, f"{kind} checkpoint", place, title, markersize=2 * radius)
        if key == champion:
            plot(ax, "champion", place, title, markersize=18)
            style: dict[str, Any] = {"ha": "center", "color": COLOUR["champion"], "gid": "label|"}
            ax.annotate("champion", place[0], (0, 11), textcoords="offset points", **style)
