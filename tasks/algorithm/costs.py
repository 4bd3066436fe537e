"""Costs: FLOPs by formula, and the accepted, discarded, evaluation and restart parts of a search."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from operator import add
from typing import Protocol


@dataclass(frozen=True)
class ModelShape:
    """Model sizes that the FLOPs depend on.

    Attributes:
        body_parameters: weights of the matrix products below the head; an embedding look-up is free.
        head_parameters: weights of the output projection, tied or not; applied only where a token has a label.
        trainable_share: share of the weights whose gradients are computed; 1 for full fine-tuning. With frozen layers,
            of the body above them.
        attention_width: layers × heads × head dimension.
        frozen_parameters, frozen_width: the part of body and attention in the frozen layers below the trained ones,
            through which no gradient flows; 0 where all layers are trained.
    """

    body_parameters: int
    head_parameters: int
    trainable_share: float
    attention_width: int
    frozen_parameters: int = 0
    frozen_width: int = 0

    @property
    def above(self) -> ModelShape:
        """Return the shape of what computes from the outputs of the frozen layers."""
        body, width = self.body_parameters - self.frozen_parameters, self.attention_width - self.frozen_width
        return ModelShape(body, self.head_parameters, self.trainable_share, width)

    @property
    def frozen(self) -> ModelShape:
        """Return the shape of the frozen layers alone."""
        return ModelShape(self.frozen_parameters, 0, 0.0, self.frozen_width)


@dataclass(frozen=True)
class RowCost:
    """Sums over rows; floats, because a plan contains fractions of rows.

    Attributes:
        num_tokens: tokens without padding.
        num_pairs: sum of the squared row lengths, the query-key pairs of attention.
        num_head_positions: positions at which logits are computed.
    """

    num_tokens: float
    num_pairs: float
    num_head_positions: float

    @classmethod
    def of(cls, lengths: Sequence[int], num_labels: Sequence[int]) -> RowCost:
        """Return the sums over rows of these lengths and numbers of labels."""
        return cls(sum(lengths), sum(length * length for length in lengths), sum(num_labels))

    def __add__(self, other: RowCost) -> RowCost:
        return RowCost(*map(add, astuple(self), astuple(other)))

    def __mul__(self, factor: float) -> RowCost:
        return RowCost(*(value * factor for value in astuple(self)))

    def forward_flops(self, shape: ModelShape) -> float:
        """Return the FLOPs of a forward pass: 2 per weight and token, plus attention's 4 per width and pair."""
        products = 2.0 * (shape.body_parameters * self.num_tokens + shape.head_parameters * self.num_head_positions)
        return products + 4.0 * shape.attention_width * self.num_pairs

    def training_flops(self, shape: ModelShape, *, from_cache: bool = False) -> float:
        """Return the FLOPs of forward and backward; backward has two products for each one of forward.

        Frozen weights need the gradient of their activations, not their own; frozen layers below all trained ones need
        neither.

        Args:
            from_cache: the outputs of the frozen layers are read, not computed.
        """
        if shape.frozen_parameters:
            above, weights = shape.above, 2.0 * shape.above.body_parameters * self.num_tokens
            attention = 4.0 * above.attention_width * self.num_pairs
            backward = self.forward_flops(above) + attention + weights * shape.trainable_share
            return self.forward_flops(above if from_cache else shape) + backward
        forward, attention = self.forward_flops(shape), 4.0 * shape.attention_width * self.num_pairs
        return forward * 2 + (forward - attention) * shape.trainable_share + attention


class Work(Protocol):
    """Costs of training, evaluation or lost training."""

    @property
    def num_tokens(self) -> int: ...
    @property
    def num_examples(self) -> int: ...
    @property
    def flops(self) -> float: ...
    @property
    def seconds(self) -> float: ...


@dataclass(frozen=True)
class LedgerLine:
    """The cost of one kind of work in one round: accepted, discarded, evaluation or restart.

    `num_bytes` are those of the checkpoints that the work wrote.
    """

    round: int
    kind: str
    num_tokens: int
    num_examples: int
    flops: float
    seconds: float
    num_bytes: int

    @classmethod
    def sum_of(cls, round_index: int, kind: str, parts: Sequence[Work], num_bytes: int) -> LedgerLine:
        """Return the sum of several parts of one kind of work."""
        return cls(
            round=round_index,
            kind=kind,
            num_tokens=sum(part.num_tokens for part in parts),
            num_examples=sum(part.num_examples for part in parts),
            flops=sum((part.flops for part in parts), 0.0),
            seconds=sum((part.seconds for part in parts), 0.0),
            num_bytes=num_bytes,
        )


def total_by_kind(lines: Iterable[LedgerLine]) -> dict[str, LedgerLine]:
    """Return one line for each kind, summed over rounds; its round is -1."""
    groups: dict[str, list[LedgerLine]] = {}
    for line in lines:
        groups.setdefault(line.kind, []).append(line)
    return {
        kind: LedgerLine.sum_of(-1, kind, group, sum(line.num_bytes for line in group))
        for kind, group in groups.items()
    }
