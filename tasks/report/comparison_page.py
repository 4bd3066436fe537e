"""The tables and words of a comparison or sweep, for the terminal and as a page in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tasks.report import words
from tasks.report.tables import Table, in_markdown, names, numbers

Record = Mapping[Any, Any]  # a row of a frame
Frames = Mapping[str, Sequence[Record]]
FEW_SEEDS = 5
_SAME_FLOPS = 0.02  # a smaller difference is no reason to doubt a comparison
_LEVEL = 0.05


def parts_of(frames: Frames, axes: Sequence[str], control: str) -> Iterator[Table | str]:
    """Give the tables of a comparison and what to know of each: scores, seeds, costs, sub-datasets.

    `axes` are the columns of `summary` that a sweep varies, `control` is the title of the method that the others are
    measured against. Accuracies lie in [0, 1]; a missing number is None.
    """
    summary = frames["summary"]
    yield comparison_table(summary, axes, control)
    num_compared = sum(row["difference"] is not None for row in summary)
    yield (
        "test accuracy: mean over sub-datasets ± standard deviation over seeds. Intervals: each holds the difference "
        "in 95 % of cases, by t over the seeds' paired differences and the noise of test rows"
    )
    if num_compared:
        yield f"p: of the difference, corrected by Holm for {words.counted(num_compared, 'comparison')}"
    if differences := frames.get("differences"):
        yield seeds_table(differences, summary, axes)
    yield comparison_cost_table(summary, axes)
    yield "tokens, FLOPs and seconds of one search, mean over seeds; training, discarded work and evaluation"
    if "sub_datasets" in frames:
        yield sub_datasets_table(frames["sub_datasets"], {row["method"]: row["title"] for row in summary})


def warnings_of(summary: Sequence[Record], axes: Sequence[str], control: str) -> list[str]:
    """Return why differences are to be read with care: few seeds, or other FLOPs than the control's."""
    compared = [row for row in summary if row["difference"] is not None]
    told = []
    fewest = min((row["num_pairs"] for row in compared), default=FEW_SEEDS)
    if fewest < FEW_SEEDS:
        alone = ": its interval is of test rows alone, and tells nothing of other seeds" if fewest == 1 else ""
        told.append(f"{words.counted(fewest, 'seed')}{alone}; a claim needs {FEW_SEEDS} or more that chose nothing")
    other = [
        f"{' '.join([*(str(row[axis]) for axis in axes), row['title']])} {row['flops_ratio']:.2f}"
        for row in compared
        if abs(row["flops_ratio"] - 1) > _SAME_FLOPS
    ]
    if other:
        told.append(f"FLOPs differ from those of {control}, times: {words.listed(other, 12)}")
    return told


def page_of(heading: str, frames: Frames, axes: Sequence[str], control: str) -> str:
    """Return the page of a comparison in Markdown."""
    warnings = [f"> {in_markdown(text)}" for text in warnings_of(frames["summary"], axes, control)]
    parts = [p.markdown() if isinstance(p, Table) else in_markdown(p) for p in parts_of(frames, axes, control)]
    return "\n\n".join([f"## {in_markdown(heading)}", *warnings, *parts]) + "\n"


def comparison_table(summary: Sequence[Record], axes: Sequence[str], control: str) -> Table:
    """Return a row for each point and method: its test accuracy in points, and the difference to the control's.

    A difference whose corrected p-value is below 0.05 is clear.
    """
    rows = []
    styles: dict[int, str] = {}
    for index, row in enumerate(summary):
        difference = p_value = "–"
        if row["difference"] is not None:
            mean, low, high = (100 * row[name] for name in ("difference", "low", "high"))
            difference = f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
            p_value = f"{row['p_holm']:.3f}" if row["p_holm"] >= 0.001 else "< 0.001"
            styles[index] = "clear" if row["p_holm"] < _LEVEL else ""
        rows.append((*_point(row, axes), row["title"], str(row["num_seeds"]), _accuracy(row), difference, p_value))
    headings = numbers("seeds", "test accuracy", f"difference to {control} [95 %]", "p (Holm)")
    return Table((*names(*axes, "method"), *headings), rows, styles)


def seeds_table(differences: Sequence[Record], summary: Sequence[Record], axes: Sequence[str]) -> Table:
    """Return a row for each point and method that is compared: its difference to the control, seed by seed."""
    seeds = list(dict.fromkeys(row["seed"] for row in differences))
    found = {(*_point(row, axes), row["method"], row["seed"]): row["difference"] for row in differences}
    rows = [
        (*point, row["title"], *(f"{100 * d:+.1f}" if d is not None else "–" for d in by_seed))
        for row in summary
        for point in [_point(row, axes)]
        for by_seed in [[found.get((*point, row["method"], seed)) for seed in seeds]]
        if any(d is not None for d in by_seed)
    ]
    return Table((*names(*axes, "difference by seed"), *numbers(*map(str, seeds))), rows)


def comparison_cost_table(summary: Sequence[Record], axes: Sequence[str]) -> Table:
    """Return a row for each point and method: tokens, FLOPs and seconds of one search."""
    tokens = ("train_tokens", "discarded_tokens", "evaluation_tokens")
    formats = dict.fromkeys(tokens, ",.0f") | {"flops": ".3g", "seconds": ",.0f"}
    rows = [
        (*_point(row, axes), row["title"], *(format(row[name], form) for name, form in formats.items()), _ratio(row))
        for row in summary
    ]
    headings = numbers("train tokens", "discarded", "evaluation", "FLOPs", "seconds", "FLOPs / control's")
    return Table((*names(*axes, "method"), *headings), rows)


def sub_datasets_table(scores: Sequence[Record], titles: Mapping[str, str]) -> Table:
    """Return a row for each sub-dataset, with the test accuracy of each method."""
    cells = {(row["sub_dataset"], row["method"]): _accuracy(row) for row in scores}
    rows = [
        (name, *(cells.get((name, method), "none") for method in titles)) for name in dict.fromkeys(n for n, _ in cells)
    ]
    return Table((*names("sub-dataset"), *numbers(*titles.values())), rows)


def _point(row: Record, axes: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(row[axis]) for axis in axes)


def _ratio(row: Record) -> str:
    return f"{row['flops_ratio']:.2f}" if row["flops_ratio"] is not None else "–"


def _accuracy(row: Record) -> str:
    """Return the accuracy in points, ± its standard deviation over seeds if there is one."""
    spread = f" ± {100 * row['std']:.1f}" if row["std"] is not None else ""
    return f"{100 * row['mean']:.1f}{spread}"
