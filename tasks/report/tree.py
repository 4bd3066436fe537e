"""Lay out the tree of checkpoints: a lane a round, a place a step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tasks.algorithm.state import CheckpointKey
from tasks.report import words
from tasks.report.axes import Axis, axis_over
from tasks.report.story import RoundStory, Story
from tasks.report.tables import outcome_of

_LANE_PX = 36
_TOP_PX = 22
_WIDTH_PX = 960
_ROOM_PX = 10  # a node with a little air


@dataclass(frozen=True)
class Node:
    """One checkpoint; `kind` is accepted or discarded, and the last accepted one is where the search stands."""

    kind: str
    x: float
    y: float
    is_champion: bool
    is_last: bool
    text: str


@dataclass(frozen=True)
class Branch:
    """Training from one checkpoint to others, drawn from `x` at `y_from` down to its lane and on to each place."""

    kind: str
    x: float
    y_from: float
    y: float
    x_to: float


@dataclass(frozen=True)
class Lane:
    """One round: its number, and what became of it in a few words, with the whole reason."""

    y: float
    index: int
    outcome: str
    reason: str


@dataclass(frozen=True)
class Tree:
    """The drawing in pixels; the horizontal axis counts optimizer steps on the way to a checkpoint."""

    width: float
    height: float
    x: Axis
    radius: float
    lanes: tuple[Lane, ...]
    branches: tuple[Branch, ...]
    nodes: tuple[Node, ...]


def checkpoint_tree(story: Story) -> Tree:
    """Return all published checkpoints of the decided rounds as a tree, the discarded branches beneath."""
    steps = [key.step for told in story.rounds for key in told.position]
    x = axis_over([0.0, float(max(steps))], (76.0, 590.0), 8, exact=True)
    lane_of = {key: told.index for told in story.rounds for key in told.own}
    lanes = tuple(
        Lane(_y(told.index), told.index, outcome_of(story, told), told.reason) for told in story.rounds
    )
    branches = [branch for told in story.rounds for branch in _branches(told, x, lane_of)]
    nodes = [node for told in story.rounds for node in _nodes(story, told, x)]
    return Tree(
        width=_WIDTH_PX,
        height=_TOP_PX + _LANE_PX * len(story.rounds) + 40,
        x=x,
        radius=3.6 if x(max(steps)) - x(0) > _ROOM_PX * len(set(steps)) else 2.4,
        lanes=lanes,
        branches=tuple(sorted(branches, key=lambda branch: branch.kind == "accepted")),
        nodes=tuple(nodes),
    )


def _y(lane: int) -> float:
    return _TOP_PX + _LANE_PX * (lane + 0.5)


def _branches(told: RoundStory, x: Axis, lane_of: dict[CheckpointKey, int]) -> Iterator[Branch]:
    accepted = [key for key in told.own if told.is_accepted(key)]
    from_y, y = _y(lane_of.get(told.start, told.index)), _y(told.index)
    begin = x(told.start.step)
    if len(accepted) < len(told.own):
        turn = x(accepted[-1].step) if accepted else begin
        yield Branch("discarded", turn, y if accepted else from_y, y, x(told.own[-1].step))
    if accepted:
        yield Branch("accepted", begin, from_y, y, x(accepted[-1].step))


def _nodes(story: Story, told: RoundStory, x: Axis) -> Iterator[Node]:
    champion = story.champion.checkpoint if story.champion else None
    is_first = told.start not in {key for other in story.rounds for key in other.own}
    for key in [told.start, *told.own] if is_first and told.index == 0 else told.own:
        kind = "accepted" if key == told.start or told.is_accepted(key) else "discarded"
        mean = sum(told.score(name, key) for name in story.names) / len(story.names)
        yield Node(
            kind=kind,
            x=x(key.step),
            y=_y(told.index),
            is_champion=key == champion,
            is_last=key == story.state.checkpoint,
            text=f"{words.checkpoint(key)} ({kind}): mean {story.metric} {words.score(story.shown(mean), 4)}",
        )
