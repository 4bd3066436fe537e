"""The data order is a pure function, and every row is seen equally often whatever was rolled back."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tasks.config.identity import ONE_PASS_TOKENS
from tasks.contracts import Mixture, SplitRef, SubDatasetDraws
from tasks.workers.training.batches import Draw, PassLimit, chain_hash, micro_batches, plan_steps

NAMES = ("a", "b", "c")


def _mixture(rows: list[int], epochs: float, *, round_index: int = 0, cursors: dict[str, int] | None = None) -> Mixture:
    """Return a mixture by size of sub-datasets with `rows` train rows each."""
    draws = tuple(
        SubDatasetDraws(
            name=name,
            train=SplitRef(directory="none", num_rows=count, num_tokens=5 * count, sha256=""),
            rows_per_epoch=count,
            cursor=(cursors or {}).get(name, 0),
        )
        for name, count in zip(NAMES, rows, strict=False)
    )
    return Mixture(
        round=round_index,
        draws=draws,
        epoch_rows=sum(rows),
        full_epoch_rows=sum(rows),
        epochs=epochs,
        num_rows=round(epochs * sum(rows)),
        num_steps=0,
        evaluation_offsets=(),
        example_shares={},
        token_shares={},
    )


def _flat(steps: list[list[Draw]]) -> list[Draw]:
    return [draw for step in steps for draw in step]


def _every_row(rows: list[int], times: int) -> Counter[Draw]:
    return Counter({Draw(part, row): times for part, count in enumerate(rows) for row in range(count)})


row_counts = st.lists(st.integers(1, 30), min_size=1, max_size=3)


@given(rows=row_counts, epochs=st.integers(1, 3), seed=st.integers(0, 9), batch_size=st.integers(1, 9))
def test_an_epoch_by_size_draws_each_row_exactly_once(rows: list[int], epochs: int, seed: int, batch_size: int) -> None:
    drawn = _flat(plan_steps(_mixture(rows, epochs), seed, batch_size))
    for epoch in range(epochs):
        of_epoch = drawn[epoch * sum(rows) : (epoch + 1) * sum(rows)]
        assert Counter(of_epoch) == _every_row(rows, 1)


@given(rows=row_counts, seed=st.integers(0, 9), batch_size=st.integers(1, 9))
def test_the_same_arguments_give_the_same_steps(rows: list[int], seed: int, batch_size: int) -> None:
    mixture = _mixture(rows, 1.5)
    assert plan_steps(mixture, seed, batch_size) == plan_steps(mixture, seed, batch_size)


@given(rows=row_counts, quarters=st.integers(1, 9), batch_size=st.integers(1, 9))
def test_steps_are_full_but_for_the_last(rows: list[int], quarters: int, batch_size: int) -> None:
    steps = plan_steps(_mixture(rows, quarters / 4), 0, batch_size)
    assert sum(len(step) for step in steps) == round(quarters / 4 * sum(rows))
    assert all(len(step) == batch_size for step in steps[:-1])


def test_seed_and_round_and_epoch_each_change_the_order() -> None:
    rows = [30, 20]
    plain = _flat(plan_steps(_mixture(rows, 2), 0, 8))
    other_seed = _flat(plan_steps(_mixture(rows, 2), 1, 8))
    other_round = _flat(plan_steps(_mixture(rows, 2, round_index=1), 0, 8))
    assert len({tuple(plain[:50]), tuple(plain[50:]), tuple(other_seed[:50]), tuple(other_round[:50])}) == 4


@given(
    rows=row_counts,
    rollouts=st.lists(st.tuples(st.integers(1, 12), st.floats(0, 1)), min_size=1, max_size=5),
    batch_size=st.integers(1, 9),
)
def test_on_the_accepted_path_every_row_is_seen_equally_often(
    rows: list[int], rollouts: list[tuple[int, float]], batch_size: int
) -> None:
    cursors = dict.fromkeys(NAMES[: len(rows)], 0)
    seen = _every_row(rows, 0)
    for number, (quarters, kept_share) in enumerate(rollouts):
        mixture = _mixture(rows, quarters / 4, round_index=number, cursors=cursors)
        steps = plan_steps(mixture, 7, batch_size)
        kept = _flat(steps[: round(kept_share * len(steps))])  # the rest is rolled back
        seen.update(kept)
        for draw in kept:
            cursors[NAMES[draw.sub_dataset]] += 1
    for part, name in enumerate(NAMES[: len(rows)]):
        times = {count for draw, count in seen.items() if draw.sub_dataset == part}
        assert max(times) - min(times) <= 1
        assert sum(count for draw, count in seen.items() if draw.sub_dataset == part) == cursors[name]


@given(
    lengths=st.lists(st.integers(1, 99), min_size=1, max_size=20),
    world=st.integers(1, 5),
    size=st.one_of(st.none(), st.integers(1, 7)),
    by_length=st.booleans(),
    packed=st.booleans(),
)
def test_micro_batches_share_a_step_s_rows_among_the_ranks(
    lengths: list[int], world: int, size: int | None, by_length: bool, packed: bool
) -> None:
    rows = [Draw(0, index) for index in range(len(lengths))]
    limit = PassLimit(size, 2048, packed)
    ranks = [micro_batches(rows, lengths, limit, rank=rank, world=world, by_length=by_length) for rank in range(world)]
    assert len({len(batches) for batches in ranks}) == 1  # ranks meet at every backward pass
    dealt = [row for batches in ranks for batch in batches for row in batch]
    assert Counter(dealt) == Counter(rows)
    assert max(len(_flat(b)) for b in ranks) - min(len(_flat(b)) for b in ranks) <= 1
    for batch in (batch for batches in ranks for batch in batches):
        tokens = [lengths[row.row] for row in batch]
        if size is not None:
            assert len(batch) <= size
        elif len(batch) > 1:
            assert (sum(tokens) if packed else len(tokens) * max(tokens)) <= 2048


def test_by_length_puts_rows_of_like_length_together() -> None:
    rows, lengths = [Draw(0, index) for index in range(4)], [9, 1, 8, 2]
    grouped = micro_batches(rows, lengths, PassLimit(2), rank=0, world=1, by_length=True)
    in_order = micro_batches(rows, lengths, PassLimit(2), rank=0, world=1, by_length=False)
    assert [[draw.row for draw in batch] for batch in grouped] == [[1, 3], [2, 0]]
    assert [[draw.row for draw in batch] for batch in in_order] == [[0, 1], [2, 3]]


def test_a_step_is_not_padded_to_its_longest_row() -> None:
    lengths = [30] * 63 + [600]
    parts = micro_batches(lengths, lengths, PassLimit(None), rank=0, world=1, by_length=True)
    assert [(len(part), max(part)) for part in parts] == [(63, 30), (1, 600)]


@given(lengths=st.lists(st.integers(1, 128), min_size=1, max_size=16), packed=st.booleans())
def test_a_small_step_is_one_pass_as_it_always_was(lengths: list[int], packed: bool) -> None:
    """The id of the engine relies on it: 16 rows of at most 128 tokens."""
    limit = PassLimit(None, ONE_PASS_TOKENS, packed)
    assert len(micro_batches(lengths, lengths, limit, rank=0, world=1, by_length=True)) == 1


def test_the_batch_hash_depends_on_every_row_and_their_order() -> None:
    first, second = [Draw(0, 1), Draw(1, 2)], [Draw(1, 2), Draw(0, 1)]
    hashes = {chain_hash("", first), chain_hash("", second), chain_hash("", first[:1]), chain_hash("x", first)}
    assert len(hashes) == 4
    assert chain_hash("", first) == chain_hash("", first)
