"""Lay out the validation curves over all training in the order it was done."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tasks.algorithm.state import CheckpointKey
from tasks.report import words
from tasks.report.axes import Axis, Label, axis_over, spread
from tasks.report.story import RoundStory, Story

Point = tuple[float, float]
_WORD_PX, _NUMBER_PX = 56, 18  # room for `round 3`, and for `12`
ScoreAt = Callable[[RoundStory, CheckpointKey], float]


@dataclass(frozen=True)
class Line:
    """A polyline; `kind` is accepted, resting (accepted while excluded), discarded or jump (over what was)."""

    kind: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Mark:
    """A peak, exclusion, return or the champion, with the words that say so."""

    kind: str
    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Band:
    """A stretch of the horizontal axis: a round, or what was discarded of it."""

    x: float
    width: float
    text: str


@dataclass(frozen=True)
class Chart:
    """One drawing in pixels.

    Attributes:
        state: what became of the sub-dataset, in words.
        rounds, shaded: each round, and each discarded stretch.
        labels: texts above the plot.
    """

    title: str
    state: str
    width: float
    height: float
    x: Axis
    y: Axis
    y_label: str
    x_label: str
    rounds: tuple[Band, ...]
    shaded: tuple[Band, ...]
    lines: tuple[Line, ...]
    marks: tuple[Mark, ...]
    labels: tuple[Label, ...] = ()


def mean_chart(story: Story) -> Chart:
    """Return the mean over all sub-datasets, with exclusions, returns and the champion named above it."""

    def mean(told: RoundStory, key: CheckpointKey) -> float:
        return story.shown(statistics.fmean(told.score(name, key) for name in story.names))

    x = _training_axis(story, (56.0, 944.0), 10)
    labels = spread(_named_places(story, x), x.last)
    top = 40.0 + 16 * max([0, *(label.level + 1 for label in labels)])
    values = [mean(told, key) for told in story.rounds for key in told.position]
    y = axis_over(values, (top + 200, top), 5, exact=False)
    lines = [line for told in story.rounds for line in _lines(told, mean, x, y, is_active=True)]
    marks = [
        Mark(kind, x(told.position[told.target]), y(mean(told, told.target)), told.reason)
        for told in story.rounds
        for kind, group in (("excluded", told.exclude), ("included", told.include))
        if group
    ]
    return Chart(
        title=f"Mean {story.metric} over all {len(story.names)} sub-datasets",
        state="",
        width=960,
        height=top + 244,
        x=x,
        y=y,
        y_label=f"mean {story.metric}",
        x_label=f"training done, in {story.unit}, discarded work counted",
        rounds=_rounds(story, x, is_large=True),
        shaded=_shaded(story, x),
        lines=tuple(lines),
        marks=(*marks, *_champion(story, mean, x, y)),
        labels=labels,
    )


def _named_places(story: Story, x: Axis) -> list[tuple[float, str, str]]:
    names = [
        (x(told.position[told.target]), kind, sign + words.listed([words.short(name) for name in group], 1))
        for told in story.rounds
        for kind, sign, group in (("excluded", "− ", told.exclude), ("included", "+ ", told.include))
        if group
    ]
    if story.champion is not None:
        key = story.champion.checkpoint
        names.append((x(story.round_of(key).position[key]), "champion", "champion"))
    return names


def sub_dataset_charts(story: Story) -> tuple[Chart, ...]:
    """Return one chart a sub-dataset; accuracies share one vertical axis, losses have each their own."""
    values = [
        story.shown(point.score) for told in story.rounds for c in told.curves.values() for point in c.points
    ]
    return tuple(_sub_dataset_chart(story, name, values) for name in story.names)


def _sub_dataset_chart(story: Story, name: str, all_values: Sequence[float]) -> Chart:
    def score(told: RoundStory, key: CheckpointKey) -> float:
        return story.shown(told.score(name, key))

    x = _training_axis(story, (44.0, 344.0), 5)
    own = [score(told, key) for told in story.rounds for key in told.position]
    y = axis_over(own if story.by_loss else all_values, (162.0, 20.0), 4, exact=False)
    lines = [
        line for told in story.rounds for line in _lines(told, score, x, y, is_active=name in told.active)
    ]
    return Chart(
        title=name,
        state=_state_of(story, name),
        width=360,
        height=204,
        x=x,
        y=y,
        y_label=story.metric,
        x_label=story.unit,
        rounds=_rounds(story, x, is_large=False),
        shaded=_shaded(story, x),
        lines=tuple(lines),
        marks=(*_marks(story, name, x, y), *_champion(story, score, x, y)),
    )


def _training_axis(story: Story, pixels: tuple[float, float], num_ticks: int) -> Axis:
    return axis_over([0.0, story.spent], pixels, num_ticks, exact=True)


def _rounds(story: Story, x: Axis, *, is_large: bool) -> tuple[Band, ...]:
    """Return the rounds, numbered where the numbers do not meet."""
    bands: list[Band] = []
    last = -math.inf
    for told in story.rounds:
        begin, width = x(told.begin), round(x(told.end) - x(told.begin), 1)
        text = f"round {told.index}" if is_large and width > _WORD_PX else str(told.index)
        is_apart = begin + width / 2 - last > (_WORD_PX if text.startswith("round") else _NUMBER_PX)
        bands.append(Band(begin, width, text if is_apart else ""))
        last = begin + width / 2 if is_apart else last
    return tuple(bands)


def _shaded(story: Story, x: Axis) -> tuple[Band, ...]:
    return tuple(
        Band(
            x(told.accepted_to),
            round(x(told.end) - x(told.accepted_to), 1),
            f"round {told.index}: discarded after {words.checkpoint(told.target)}",
        )
        for told in story.rounds
        if told.end > told.accepted_to
    )


def _lines(told: RoundStory, score: ScoreAt, x: Axis, y: Axis, *, is_active: bool) -> Iterator[Line]:
    def at(key: CheckpointKey) -> Point:
        return x(told.position[key]), y(score(told, key))

    accepted = [told.start, *(key for key in told.own if told.is_accepted(key))]
    discarded = [key for key in told.own if not told.is_accepted(key)]
    if discarded:
        turn = at(accepted[-1])
        yield Line("discarded", (turn, *(at(key) for key in discarded)))
        yield Line("jump", (turn, (x(told.end), turn[1])))
    if len(accepted) > 1:
        yield Line("accepted" if is_active else "resting", tuple(at(key) for key in accepted))


def _marks(story: Story, name: str, x: Axis, y: Axis) -> Iterator[Mark]:
    for told in story.rounds:
        curve = told.curves[name]
        peak = curve.peak
        if name in told.active:
            value = story.shown(peak.score)
            text = f"peak of round {told.index}: {words.score(value)} at {words.checkpoint(peak.checkpoint)}"
            yield Mark("peak", x(told.position[peak.checkpoint]), y(value), text)
        for kind, group in (("excluded", told.exclude), ("included", told.include)):
            if name in group:
                value = story.shown(told.score(name, told.target))
                text = f"{kind} by round {told.index}, from {words.checkpoint(told.target)} on, at {words.score(value)}"
                yield Mark(kind, x(told.position[told.target]), y(value), text)


def _champion(story: Story, score: ScoreAt, x: Axis, y: Axis) -> Iterator[Mark]:
    if story.champion is not None:
        key = story.champion.checkpoint
        told = story.round_of(key)
        value = score(told, key)
        text = f"champion: {words.checkpoint(key)}, {words.score(value)}"
        yield Mark("champion", x(told.position[key]), y(value), text)


def _state_of(story: Story, name: str) -> str:
    left = next((left for left in story.state.excluded if left.sub_dataset == name), None)
    if left is not None:
        return f"excluded in round {left.round}"
    if name not in story.state.active:
        return "not in the mixture yet"
    has_returned = any(name in told.include for told in story.rounds)
    return "active again" if has_returned else "active to the end" if story.state.is_finished else "active"
