"""What work costs: FLOPs by formula, and the accepted, discarded, evaluation and restart parts of a search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ModelShape:
    """The numbers of a model that its cost depends on.

    Attributes:
        body_parameters: weights of the matrix products below the head; an embedding's look-up costs nothing.
        head_parameters: weights of the output projection, tied or not; applied at supervised positions only.
        trainable_share: share of the weights whose gradients are computed; 1 for full fine-tuning.
        attention_width: layers × heads × head dimension.
    """

    body_parameters: int
    head_parameters: int
    trainable_share: float
    attention_width: int

    def forward_flops(self, num_tokens: float, num_pairs: float, num_head_positions: float) -> float:
        """Return the FLOPs of a forward pass: 2 a weight and token, and attention's 4 a width and pair.

        Args:
            num_tokens: tokens without padding.
            num_pairs: sum over rows of the squared row length, the pairs that attention's products form.
            num_head_positions: positions at which logits are computed.
        """
        products = 2.0 * (self.body_parameters * num_tokens + self.head_parameters * num_head_positions)
        return products + 4.0 * self.attention_width * num_pairs

    def training_flops(self, num_tokens: float, num_pairs: float, num_head_positions: float) -> float:
        """Return the FLOPs of forward and backward: the latter forms two products for each of the former's.

        Frozen weights need the product for the activations' gradient, not the one for their own.
        """
        forward = self.forward_flops(num_tokens, num_pairs, num_head_positions)
        attention = 4.0 * self.attention_width * num_pairs
        return forward * 2 + (forward - attention) * self.trainable_share + attention


@dataclass(frozen=True)
class RowCost:
    """Sums over rows, as `ModelShape` takes them; floats, since a plan also has parts of rows."""

    num_tokens: float
    num_pairs: float
    num_head_positions: float

    @classmethod
    def of(cls, lengths: Sequence[int], supervised: Sequence[int]) -> RowCost:
        """Return the sums over rows of these lengths and numbers of supervised tokens."""
        return cls(sum(lengths), sum(length * length for length in lengths), sum(supervised))

    def __add__(self, other: RowCost) -> RowCost:
        return RowCost(
            self.num_tokens + other.num_tokens,
            self.num_pairs + other.num_pairs,
            self.num_head_positions + other.num_head_positions,
        )

    def __mul__(self, factor: float) -> RowCost:
        return RowCost(self.num_tokens * factor, self.num_pairs * factor, self.num_head_positions * factor)

    def training_flops(self, shape: ModelShape) -> float:
        """Return the FLOPs of training on these rows."""
        return shape.training_flops(self.num_tokens, self.num_pairs, self.num_head_positions)

    def forward_flops(self, shape: ModelShape) -> float:
        """Return the FLOPs of one forward pass over these rows."""
        return shape.forward_flops(self.num_tokens, self.num_pairs, self.num_head_positions)


@dataclass(frozen=True)
class LedgerLine:
    """The cost of one kind of work in one round; `kind` is accepted, discarded, evaluation or restart.

    Attributes:
        num_bytes: bytes of the checkpoints that the work left behind; evaluation leaves none.
    """

    round: int
    kind: str
    num_tokens: int
    num_examples: int
    flops: float
    seconds: float
    num_bytes: int


_COSTS = ("num_tokens", "num_examples", "flops", "seconds", "num_bytes")


def ledger_lines(event: Mapping[str, Any]) -> list[LedgerLine]:
    """Return the four lines of a `round_decided` event.

    Training up to the checkpoint that is rolled back to is accepted; what came after it is discarded. Restart is
    training that was under way when its process ended, and was done again. A round that was decided before rounds
    named their checkpoints and restarts has none of either.
    """
    sums = {kind: dict.fromkeys(_COSTS, 0.0) for kind in ("accepted", "discarded", "evaluation", "restart")}
    for part in (*event["intervals"], *event.get("checkpoints", ())):
        _add(sums["accepted" if _is_accepted(part["key"], event) else "discarded"], part)
    _add(sums["evaluation"], event["evaluation"])
    for restart in event.get("restarts", ()):
        _add(sums["restart"], restart["lost"])
    return [_line(event["round"], kind, costs) for kind, costs in sums.items()]


def total_by_kind(lines: Iterable[LedgerLine]) -> dict[str, LedgerLine]:
    """Return one line for each kind, summed over rounds; its round is -1."""
    sums: dict[str, dict[str, float]] = {}
    for line in lines:
        _add(sums.setdefault(line.kind, dict.fromkeys(_COSTS, 0.0)), asdict(line))
    return {kind: _line(-1, kind, costs) for kind, costs in sums.items()}


def _is_accepted(key: Mapping[str, int], event: Mapping[str, Any]) -> bool:
    target = event["decision"]["roll_back_to"]
    return bool(target["round"] == event["round"] and key["step"] <= target["step"])


def _add(sums: dict[str, float], part: Mapping[str, Any]) -> None:
    for name in _COSTS:
        sums[name] += part.get(name, 0)


def _line(round_index: int, kind: str, costs: Mapping[str, float]) -> LedgerLine:
    return LedgerLine(
        round=round_index,
        kind=kind,
        num_tokens=int(costs["num_tokens"]),
        num_examples=int(costs["num_examples"]),
        flops=costs["flops"],
        seconds=costs["seconds"],
        num_bytes=int(costs["num_bytes"]),
    )
