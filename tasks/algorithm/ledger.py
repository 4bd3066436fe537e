"""What work costs: FLOPs by formula, and the accepted, discarded and evaluation parts of a search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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

    def forward_flops(self, num_tokens: int, num_pairs: int, num_head_positions: int) -> float:
        """Return the FLOPs of a forward pass: 2 a weight and token, and attention's 4 a width and pair.

        Args:
            num_tokens: tokens without padding.
            num_pairs: sum over rows of the squared row length, the pairs that attention's products form.
            num_head_positions: positions at which logits are computed.
        """
        products = 2.0 * (self.body_parameters * num_tokens + self.head_parameters * num_head_positions)
        return products + 4.0 * self.attention_width * num_pairs

    def training_flops(self, num_tokens: int, num_pairs: int, num_head_positions: int) -> float:
        """Return the FLOPs of forward and backward: the latter forms two products for each of the former's.

        Frozen weights need the product for the activations' gradient, not the one for their own.
        """
        forward = self.forward_flops(num_tokens, num_pairs, num_head_positions)
        attention = 4.0 * self.attention_width * num_pairs
        return forward * 2 + (forward - attention) * self.trainable_share + attention


@dataclass(frozen=True)
class LedgerLine:
    """The cost of one kind of work in one round; `kind` is accepted, discarded or evaluation."""

    round: int
    kind: str
    num_tokens: int
    num_examples: int
    flops: float
    seconds: float


def ledger_lines(event: Mapping[str, Any]) -> list[LedgerLine]:
    """Return the three lines of a `round_decided` event.

    Training up to the checkpoint that is rolled back to is accepted; what came after it is discarded.
    """
    target = event["decision"]["roll_back_to"]
    sums: dict[str, list[float]] = {"accepted": [0, 0, 0.0, 0.0], "discarded": [0, 0, 0.0, 0.0]}
    for interval in event["intervals"]:
        is_accepted = target["round"] == event["round"] and interval["key"]["step"] <= target["step"]
        row = sums["accepted" if is_accepted else "discarded"]
        for column, name in enumerate(("num_tokens", "num_examples", "flops", "seconds")):
            row[column] += interval[name]
    cost = event["evaluation"]
    sums["evaluation"] = [cost["num_tokens"], cost["num_examples"], cost["flops"], cost["seconds"]]
    return [
        LedgerLine(event["round"], kind, int(row[0]), int(row[1]), row[2], row[3])
        for kind, row in sums.items()
    ]


def total_by_kind(lines: Iterable[LedgerLine]) -> dict[str, LedgerLine]:
    """Return one line for each kind, summed over rounds; its round is -1."""
    totals: dict[str, LedgerLine] = {}
    for line in lines:
        before = totals.get(line.kind, LedgerLine(-1, line.kind, 0, 0, 0.0, 0.0))
        totals[line.kind] = LedgerLine(
            -1,
            line.kind,
            before.num_tokens + line.num_tokens,
            before.num_examples + line.num_examples,
            before.flops + line.flops,
            before.seconds + line.seconds,
        )
    return totals
