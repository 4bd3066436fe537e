"""What a person sees while a search runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table

from tasks.algorithm.ledger import LedgerLine
from tasks.algorithm.state import CheckpointKey, SearchState
from tasks.algorithm.strategies import Decision, RoundReport
from tasks.contracts import ChampionResult, CheckpointScores, Mixture, SearchRef

console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Progress:
    """The newest line of a training worker: where it is, how fast, and how long it will take."""

    step: int
    num_steps: int
    loss: float
    tokens_per_s: float
    seconds_left: float


def note(text: str) -> None:
    """Print a remark."""
    console.print(f"[dim]{escape(text)}[/dim]")


def warn(text: str) -> None:
    """Print a warning."""
    console.print(f"[yellow]warning:[/yellow] {escape(text)}")


def fail(text: str) -> None:
    """Print an error on its own."""
    console.print(f"[bold red]error:[/bold red] {escape(text)}")


def show_search(search: SearchRef, *, is_resumed: bool, round_index: int) -> None:
    """Print which search this is."""
    verb = f"goes on with round {round_index}" if is_resumed else "starts"
    console.print(
        f"[bold]search {search.name}-{search.search_id}[/bold] {verb} in {escape(search.directory)}"
    )


def show_mixture(mixture: Mixture) -> None:
    """Print a round's mixture with the realised share of each sub-dataset."""
    console.rule(f"round {mixture.round}", align="left")
    shares = ", ".join(
        f"{part.name} {mixture.example_shares[part.name]:.1%}"
        + (
            f" ({mixture.token_shares[part.name]:.1%} of tokens)"
            if abs(mixture.token_shares[part.name] - mixture.example_shares[part.name]) >= 0.005
            else ""
        )
        for part in mixture.draws
    )
    console.print(f"mixture: {shares}")
    console.print(
        f"roll-out: {mixture.epochs:g} epochs of {mixture.epoch_rows} rows = {mixture.num_steps} steps, "
        f"{len(mixture.evaluation_offsets)} evaluations"
    )


@contextmanager
def rollout_progress(mixture: Mixture) -> Iterator[Callable[[Progress], None]]:
    """Give a function that shows the roll-out's progress: a bar on a terminal, a line a tenth elsewhere."""
    if not console.is_terminal:
        yield _line_writer(mixture)
        return
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[detail]}"))
    with Bar(*columns, console=console, transient=True) as bar:
        task_id = bar.add_task("", total=mixture.num_steps, detail="starting")
        yield lambda progress: bar.update(task_id, completed=progress.step, detail=_detail(progress))
    console.print(f"trained {mixture.num_steps} steps")


def _line_writer(mixture: Mixture) -> Callable[[Progress], None]:
    shown = [-1]

    def show(progress: Progress) -> None:
        tenth = progress.step * 10 // mixture.num_steps
        if tenth > shown[0]:
            shown[0] = tenth
            console.print(f"training: step {progress.step}/{progress.num_steps}, {_detail(progress)}")

    return show


def _detail(progress: Progress) -> str:
    minutes, seconds = divmod(round(progress.seconds_left), 60)
    return f"loss {progress.loss:.3f}, {progress.tokens_per_s:,.0f} tokens/s, {minutes}:{seconds:02d} left"


def show_scores(scores: CheckpointScores, keys: Sequence[CheckpointKey]) -> None:
    """Print one line for an evaluated checkpoint: accuracies where they are measured, else losses."""
    values = [s.accuracy if s.accuracy is not None else s.loss for s in scores.scores]
    each = " ".join(f"{s.sub_dataset} {value:.3f}" for s, value in zip(scores.scores, values, strict=True))
    accuracies = [s.accuracy for s in scores.scores if s.accuracy is not None]
    mean = f"mean accuracy {sum(accuracies) / len(accuracies):.3f}, " if accuracies else ""
    loss = sum(s.loss for s in scores.scores) / len(values)
    console.print(
        f"evaluated {keys.index(scores.key) + 1}/{len(keys)} step {scores.key.step}: "
        f"[bold]{mean}loss {loss:.3f}[/bold] {escape(each)} [dim]({scores.cost.seconds:.1f} s)[/dim]"
    )


def show_decision(decision: Decision, report: RoundReport, state: SearchState) -> None:
    """Print a round's table and its decision in words."""
    table = Table(box=None, pad_edge=False)
    table.add_column("sub-dataset")
    for heading in ("peak at step", "score at peak", "at the end", "drop"):
        table.add_column(heading, justify="right")
    table.add_column("verdict", no_wrap=True)
    for verdict in decision.verdicts:
        style = (
            "bold red"
            if verdict.word == "excluded now"
            else "dim"
            if verdict.word == "excluded before"
            else ""
        )
        drop = verdict.peak_score - verdict.end_score
        table.add_row(
            verdict.sub_dataset,
            str(verdict.peak.step),
            f"{verdict.peak_score:.3f}",
            f"{verdict.end_score:.3f}",
            f"{drop:.3f}",
            verdict.word,
            style=style,
        )
    console.print(table)
    console.print(f"[bold]decision[/bold] of round {report.round}: {escape(decision.reason)}")
    if state.champion is not None:
        console.print(
            f"champion so far: {state.champion.checkpoint}, mean validation {state.champion.score:.4f}"
        )


def show_summary(
    search: SearchRef,
    state: SearchState,
    champion: ChampionResult,
    totals: Mapping[str, LedgerLine],
    reasons: Sequence[str],
    *,
    protocol: str,
) -> None:
    """Print how the search ended; `reasons` are the decisions of its rounds in words."""
    title = " (protocol: paper, selected on the test splits)" if protocol == "paper" else ""
    console.rule(f"search {search.name}-{search.search_id}: summary{title}", align="left")
    console.print(f"ended after {state.round} rounds: {state.stop_reason}")
    console.print(f"excluded, in order: {', '.join(e.sub_dataset for e in state.excluded) or 'none'}")
    for number, reason in enumerate(reasons):
        console.print(f"  round {number}: {escape(reason)}")
    console.print(f"[bold]champion[/bold]: {champion.key}, in {escape(champion.directory)}")
    console.print(_champion_table(state, champion))
    costs = Table(box=None, pad_edge=False)
    for heading in ("work", "tokens", "examples", "FLOPs", "seconds"):
        costs.add_column(heading, justify="left" if heading == "work" else "right")
    for kind, line in totals.items():
        costs.add_row(
            kind,
            f"{line.num_tokens:,}",
            f"{line.num_examples:,}",
            f"{line.flops:.3g}",
            f"{line.seconds:,.1f}",
        )
    console.print(costs)
    _show_pages(search, champion)


def _champion_table(state: SearchState, champion: ChampionResult) -> Table:
    at_exclusion = {exclusion.sub_dataset: exclusion.score for exclusion in state.excluded}
    test = {score.sub_dataset: score for score in champion.test.scores} if champion.test is not None else {}
    table = Table(box=None, pad_edge=False)
    table.add_column("sub-dataset")
    for heading in ("validation", "at exclusion", "test", "test rows"):
        table.add_column(heading, justify="right")
    rows = []
    for score in champion.validation.scores:
        value = score.accuracy if score.accuracy is not None else -score.loss
        tested = test.get(score.sub_dataset)
        tested_value = (tested.accuracy if tested.accuracy is not None else -tested.loss) if tested else None
        rows.append((value, tested_value))
        table.add_row(
            score.sub_dataset,
            f"{value:.3f}",
            f"{at_exclusion[score.sub_dataset]:.3f}" if score.sub_dataset in at_exclusion else "never",
            f"{tested_value:.3f}" if tested_value is not None else "none",
            str(tested.num_examples) if tested else "",
        )
    tested_values = [value for _, value in rows if value is not None]
    table.add_row(
        "mean",
        f"{sum(value for value, _ in rows) / len(rows):.4f}",
        "",
        f"{sum(tested_values) / len(tested_values):.4f}" if tested_values else "none",
        "",
        style="bold",
    )
    return table


def _show_pages(search: SearchRef, champion: ChampionResult) -> None:
    console.print(
        f"frames:  {escape(search.directory)}/report/*.csv and *.parquet (curves, decisions, ledger, scores)"
    )
    console.print(f"model:   msft-{search.name} version {champion.model_version}, alias champion")
    if search.tracking_uri.startswith("sqlite:"):
        console.print(f"MLflow:  mlflow ui --backend-store-uri {search.tracking_uri}", soft_wrap=True)
    else:
        console.print(f"MLflow:  {search.tracking_uri}")
    console.print("Prefect: prefect server start, then http://127.0.0.1:4200/runs")
