"""The algorithm against a reference from the paper's pseudo-code, on random inputs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tasks.algorithm.curves import Curve, ExclusionRule, MetricPoint, choose_champion, mean_scores
from tasks.algorithm.mixture import draws_per_epoch, shares_of
from tasks.algorithm.msft import Msft
from tasks.algorithm.state import Champion, CheckpointKey
from tasks.algorithm.strategy import RoundReport

VALIDATION_ROWS = 200
Counts = dict[str, list[int]]  # correct validation rows of each sub-dataset at each checkpoint


@st.composite
def _correct_rows(draw: st.DrawFn) -> Counts:
    """Draw a roll-out's curves with few values, so that ties are common."""
    num_points = draw(st.integers(1, 6))
    values = st.one_of(st.sampled_from([80, 90, 100]), st.integers(0, VALIDATION_ROWS))
    curve = st.lists(values, min_size=num_points, max_size=num_points)
    names = draw(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=6, unique=True))
    return {name: draw(curve) for name in names}


def _curves(counts: Counts) -> tuple[Curve, ...]:
    return tuple(
        Curve(name, tuple(MetricPoint(_key(i), n / VALIDATION_ROWS, 1.0, 200) for i, n in enumerate(points)))
        for name, points in counts.items()
    )


def _key(index: int) -> CheckpointKey:
    return CheckpointKey(0, 40) if index == 0 else CheckpointKey(1, 40 + 7 * index)


def _reference_decision(
    counts: Counts, active: set[str], min_delta: int | None, exclude_per_round: int
) -> tuple[list[str], int]:
    """Return the exclusions and the index of the checkpoint to continue from; `min_delta` in rows, None: paper.

    Only integers and loops, as in the pseudo-code.
    """
    candidates = []
    for order, (name, points) in enumerate(counts.items()):
        if name not in active:
            continue
        peak = 0
        for index, value in enumerate(points):
            if value > points[peak]:
                peak = index
        lost = points[peak] - points[-1]
        if peak != len(points) - 1 and (min_delta is None or lost > min_delta):
            candidates.append((peak, -lost, order, name))
    if not candidates:
        return [], len(next(iter(counts.values()))) - 1
    candidates.sort()
    return [name for *_, name in candidates[:exclude_per_round]], candidates[0][0]


@given(
    counts=_correct_rows(),
    min_delta=st.one_of(st.none(), st.integers(0, 40)),
    exclude_per_round=st.integers(1, 3),
    data=st.data(),
)
def test_decisions_equal_the_pseudo_code(
    counts: Counts, min_delta: int | None, exclude_per_round: int, data: st.DataObject
) -> None:
    active = data.draw(st.sets(st.sampled_from(list(counts)), min_size=1))
    rule = ExclusionRule(min_delta is None, (min_delta or 0) / VALIDATION_ROWS)
    in_order = tuple(name for name in counts if name in active)
    report = RoundReport(round=1, active=in_order, curves=_curves(counts), steps_per_epoch=20.0)
    decision = Msft(rule, exclude_per_round, "restore").observe(report)
    excluded, target = _reference_decision(counts, active, min_delta, exclude_per_round)
    assert list(decision.exclude) == excluded
    assert decision.roll_back_to == _key(target)
    assert {v.sub_dataset for v in decision.verdicts if v.word == "excluded now"} == set(excluded)


@given(
    rollouts=st.lists(
        st.lists(st.tuples(*[st.integers(0, VALIDATION_ROWS)] * 3), min_size=1, max_size=4), min_size=1, max_size=5
    ),
    min_delta=st.integers(0, 40),
)
def test_path_window_equals_a_plain_walk_over_the_path(rollouts: list[list[tuple[int, ...]]], min_delta: int) -> None:
    """The walk keeps the accepted points in one list, which a rollback cuts."""
    search = Msft(ExclusionRule(literal=False, min_delta=min_delta / VALIDATION_ROWS), 1, "restore", peak_window="path")
    path: list[tuple[CheckpointKey, tuple[int, ...]]] = [(CheckpointKey(0, 0), (0, 0, 0))]
    active, previous = ["a", "b", "c"], ()
    for number, points in enumerate(rollouts):
        trained = [(CheckpointKey(number, path[-1][0].step + 1 + i), scores) for i, scores in enumerate(points)]
        rollout = [path[-1], *trained]
        report = RoundReport(number, tuple(active), _curves_of(rollout), 1.0, previous)
        decision = search.observe(report)
        gone, target = _remembering_reference(path, rollout, active, min_delta)
        assert (list(decision.exclude), decision.roll_back_to) == (gone, target)
        path = [point for point in [*path, *trained] if point[0] <= target]
        active = [name for name in active if name not in gone]
        previous = (*previous, report)
        if not active:
            break


def _curves_of(rollout: list[tuple[CheckpointKey, tuple[int, ...]]]) -> tuple[Curve, ...]:
    return tuple(
        Curve(name, tuple(MetricPoint(key, scores[i] / VALIDATION_ROWS, 1.0, 200) for key, scores in rollout))
        for i, name in enumerate("abc")
    )


def _remembering_reference(
    path: list[tuple[CheckpointKey, tuple[int, ...]]],
    rollout: list[tuple[CheckpointKey, tuple[int, ...]]],
    active: list[str],
    min_delta: int,
) -> tuple[list[str], CheckpointKey]:
    candidates = []
    for order, name in enumerate("abc"):
        scores = [one[order] for _, one in [*path, *rollout[1:]]]
        peak = scores.index(max(scores))
        lost = scores[peak] - scores[-1]
        if name in active and peak < len(scores) - 1 and lost > min_delta:
            candidates.append((peak, -lost, order, name))
    if not candidates:
        return [], rollout[-1][0]
    *_, order, name = min(candidates)
    own = [one[order] for _, one in rollout]
    return [name], rollout[own.index(max(own))][0]


@given(rounds=st.lists(_correct_rows(), min_size=1, max_size=4))
def test_the_champion_is_the_earliest_of_the_best_means(rounds: list[Counts]) -> None:
    champion: Champion | None = None
    published: list[tuple[float, CheckpointKey]] = []
    for number, counts in enumerate(rounds):
        means = {CheckpointKey(number, key.step): mean for key, mean in mean_scores(_curves(counts)).items()}
        published += [(mean, key) for key, mean in means.items()]
        champion = choose_champion(champion, means)
    best = max(mean for mean, _ in published)
    first = next(key for mean, key in published if mean == best)
    assert champion == Champion(first, best)


@given(counts=_correct_rows())
def test_mean_scores_are_plain_means(counts: Counts) -> None:
    for index, mean in enumerate(mean_scores(_curves(counts)).values()):
        total = sum(points[index] for points in counts.values())
        assert abs(mean - total / VALIDATION_ROWS / len(counts)) < 1e-9


sizes = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 50_000), min_size=1)


@given(num_rows=sizes)
def test_by_size_draws_each_row_exactly_once_an_epoch(num_rows: dict[str, int]) -> None:
    num_tokens = {name: 7 * rows + 3 for name, rows in num_rows.items()}
    for unit in ("examples", "tokens"):
        assert draws_per_epoch(num_rows, num_tokens, "by_size", unit) == num_rows


@given(num_rows=sizes, data=st.data())
def test_shares_of_examples_hold_within_one_row(num_rows: dict[str, int], data: st.DataObject) -> None:
    weight = st.floats(0.01, 100)
    proportions = data.draw(st.one_of(st.just("equal"), st.fixed_dictionaries(dict.fromkeys(num_rows, weight))))
    weights = dict.fromkeys(num_rows, 1.0) if isinstance(proportions, str) else proportions
    draws = draws_per_epoch(num_rows, num_rows, proportions, "examples")
    assert min(draws.values()) >= 1
    total = sum(num_rows.values())
    for name, weight_of_name in weights.items():
        wanted = max(1.0, weight_of_name / sum(weights.values()) * total)
        assert abs(draws[name] - wanted) < 1 + 1e-6
    if total * min(weights.values()) / sum(weights.values()) >= 1:  # no share was raised to one row
        assert sum(draws.values()) == total


@given(num_rows=sizes, data=st.data())
def test_shares_of_tokens_hold_within_one_row(num_rows: dict[str, int], data: st.DataObject) -> None:
    length = st.fixed_dictionaries(dict.fromkeys(num_rows, st.integers(1, 500)))
    lengths = data.draw(length)
    num_tokens = {name: rows * lengths[name] for name, rows in num_rows.items()}
    draws = draws_per_epoch(num_rows, num_tokens, "equal", "tokens")
    wanted = sum(num_tokens.values()) / len(num_rows)
    for name, count in draws.items():
        assert abs(count - max(1.0, wanted / lengths[name])) < 1 + 1e-6


@given(num_rows=sizes, data=st.data())
def test_weights_of_excluded_ones_go_to_the_rest(num_rows: dict[str, int], data: st.DataObject) -> None:
    weights = data.draw(st.fixed_dictionaries(dict.fromkeys("abcdefgh", st.floats(0.01, 100))))
    shares = shares_of(num_rows, weights)
    assert list(shares) == list(num_rows)
    assert abs(sum(shares.values()) - 1) < 1e-9
    first = next(iter(num_rows))
    for name in num_rows:
        assert abs(shares[name] * weights[first] - shares[first] * weights[name]) < 1e-6


def test_each_sub_dataset_gives_at_least_one_row() -> None:
    rows = {"a": 100, "b": 100, "c": 100}
    weights = {"a": 1.0, "b": 1.0, "c": 0.0001}
    assert draws_per_epoch(rows, rows, weights, "examples") == {"a": 150, "b": 150, "c": 1}
