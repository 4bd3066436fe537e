"""How many rows each sub-dataset gives to one epoch of the active mixture."""

from __future__ import annotations

from collections.abc import Mapping


def shares_of(sizes: Mapping[str, float], proportions: str | Mapping[str, float]) -> dict[str, float]:
    """Return each sub-dataset's share of an epoch; the shares sum to 1.

    Args:
        sizes: size of each active sub-dataset, in the unit the shares are meant in (examples or tokens).
        proportions: "by_size" (each row once an epoch), "equal", or a weight for each sub-dataset; weights of
            sub-datasets that are not in `sizes` are left out and the rest are scaled up.
    """
    if proportions == "by_size":
        weights = dict(sizes)
    elif proportions == "equal":
        weights = dict.fromkeys(sizes, 1.0)
    else:
        assert not isinstance(proportions, str)
        weights = {name: proportions[name] for name in sizes}
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def draws_per_epoch(
    num_rows: Mapping[str, int],
    num_tokens: Mapping[str, int],
    proportions: str | Mapping[str, float],
    share_unit: str,
) -> dict[str, int]:
    """Return how many rows of each sub-dataset one epoch draws; the total is the mixture's row count.

    With `share_unit="tokens"` a share counts tokens, so a sub-dataset of long rows gives fewer of them; the
    epoch then has about the mixture's tokens rather than its rows. Rounded by largest remainder, at least one
    row for each.
    """
    if share_unit == "examples":
        shares = shares_of(num_rows, proportions)
        wanted = {name: share * sum(num_rows.values()) for name, share in shares.items()}
    else:
        shares = shares_of(num_tokens, proportions)
        budget = sum(num_tokens.values())
        wanted = {name: shares[name] * budget * num_rows[name] / num_tokens[name] for name in num_rows}
    draws = {name: int(value) for name, value in wanted.items()}
    missing = round(sum(wanted.values())) - sum(draws.values())
    by_remainder = sorted(wanted, key=lambda name: draws[name] - wanted[name])
    for name in by_remainder[:missing]:
        draws[name] += 1
    return {name: max(1, count) for name, count in draws.items()}
