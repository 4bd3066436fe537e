"""What a person sees while a search runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table

from tasks.algorithm.costs import LedgerLine
from tasks.algorithm.state import CheckpointKey, SearchState
from tasks.algorithm.strategy import Decision, RoundReport
from tasks.config.schema import SearchConfig
from tasks.contracts import ChampionResult, CheckpointScores, Mixture, SearchRef, SubDatasetScore
from tasks.record.names import mlflow_address, mlflow_command
from tasks.report.console import console, output, problems


@dataclass(frozen=True)
class Progress:
    """The newest line of a training worker: where it is, how fast, how long it will take, and on what device."""

    step: int
    num_steps: int
    loss: float
    tokens_per_s: float
    seconds_left: float
    device: str


def say(text: str) -> None:
    """Print a plain line."""
    console.print(escape(text))


class TerminalHandler(logging.Handler):
    """Print log records: remarks dimmed, warnings and errors with their level; with --quiet the last two on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        text = escape(record.getMessage())
        place = problems if console.quiet else console
        if record.levelno >= logging.ERROR:
            place.print(f"[bold red]error:[/bold red] {text}")
        elif record.levelno >= logging.WARNING:
            place.print(f"[yellow]warning:[/yellow] {text}")
        else:
            console.print(f"[dim]{text}[/dim]")


def log_to_terminal() -> None:
    """Send the log records of `flows` and `tasks` to the terminal, and to it alone."""
    for name in ("flows", "tasks"):
        logger = logging.getLogger(name)
        logger.handlers = [TerminalHandler()]
        logger.setLevel(logging.INFO)
        logger.propagate = False


def fail(text: str) -> None:
    """Print an error on its own."""
    output.give({"error": text})
    place = problems if console.quiet else console
    place.print(f"[bold red]error:[/bold red] {escape(text)}")


def show_search(search: SearchRef, state: SearchState, *, is_resumed: bool) -> None:
    """Print which search this is, and where it stands."""
    going_on = "has had its last round" if state.is_finished else f"goes on with round {state.round}"
    verb = going_on if is_resumed else "starts"
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
        devices: set[str] = set()

        def show(progress: Progress) -> None:
            devices.add(progress.device)
            bar.update(task_id, completed=progress.step, detail=_detail(progress))

        yield show
    console.print(f"trained {mixture.num_steps} steps on {' and '.join(sorted(devices)) or 'no device'}")


@contextmanager
def stage_progress(what: str, count: int) -> Iterator[Callable[[], None]]:
    """Give a function that counts one part of a stage as done: a bar on a terminal, nothing elsewhere."""
    if not console.is_terminal:
        yield lambda: None
        return
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn())
    with Bar(*columns, console=console, transient=True) as bar:
        task_id = bar.add_task("", total=count)
        yield lambda: bar.advance(task_id)


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
    left = f"{minutes}:{seconds:02d} left"
    return f"loss {progress.loss:.3f}, {progress.tokens_per_s:,.0f} tokens/s, {left}, on {progress.device}"


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
    config: SearchConfig,
    search: SearchRef,
    state: SearchState,
    champion: ChampionResult,
    totals: Mapping[str, LedgerLine],
    reasons: Sequence[str],
) -> None:
    """Print how the search ended; `reasons` are the decisions of its rounds in words."""
    title = " (protocol: paper, selected on the test splits)" if config.search.protocol == "paper" else ""
    console.rule(f"search {search.name}-{search.search_id}: summary{title}", align="left")
    console.print(f"ended after {state.round} rounds: {state.stop_reason}")
    console.print(f"excluded, in order: {', '.join(e.sub_dataset for e in state.excluded) or 'none'}")
    for number, reason in enumerate(reasons):
        console.print(f"  round {number}: {escape(reason)}")
    console.print(f"[bold]champion[/bold]: {champion.key}, in {escape(champion.directory)}")
    console.print(_champion_table(config, state, champion))
    costs = Table(box=None, pad_edge=False)
    for heading in ("work", "tokens", "examples", "FLOPs", "seconds", "written"):
        costs.add_column(heading, justify="left" if heading == "work" else "right")
    for kind, line in totals.items():
        costs.add_row(
            kind,
            f"{line.num_tokens:,}",
            f"{line.num_examples:,}",
            f"{line.flops:.3g}",
            f"{line.seconds:,.1f}",
            f"{line.num_bytes / 1e6:,.1f} MB",
        )
    console.print(costs)


def _champion_table(config: SearchConfig, state: SearchState, champion: ChampionResult) -> Table:
    """Return the champion's scores, in the unit that the search selected by; accuracies beside losses."""
    by_loss = config.evaluation.selection == "loss"
    at_exclusion = {exclusion.sub_dataset: exclusion.score for exclusion in state.excluded}
    test = {score.sub_dataset: score for score in champion.test.scores} if champion.test is not None else {}
    unit = "loss" if by_loss else "accuracy"
    table = Table(box=None, pad_edge=False)
    table.add_column("sub-dataset")
    headings = [f"validation {unit}", "at exclusion", f"test {unit}", *(["test accuracy"] if by_loss else [])]
    for heading in (*headings, "test rows"):
        table.add_column(heading, justify="right")
    for score in champion.validation.scores:
        name, tested = score.sub_dataset, test.get(score.sub_dataset)
        table.add_row(
            name,
            _number(score.loss if by_loss else score.accuracy),
            _number(abs(at_exclusion[name])) if name in at_exclusion else "never",
            _number((tested.loss if by_loss else tested.accuracy) if tested else None),
            *([_number(tested.accuracy if tested else None)] if by_loss else []),
            str(tested.num_examples) if tested else "none",
        )
    validated = _mean(champion.validation.scores, by_loss=by_loss)
    tested_mean = _mean(tuple(test.values()), by_loss=by_loss)
    accuracy = [_number(_mean(tuple(test.values()), by_loss=False), 4)] if by_loss else []
    table.add_row("mean", _number(validated, 4), "", _number(tested_mean, 4), *accuracy, "", style="bold")
    return table


def _mean(scores: Sequence[SubDatasetScore], *, by_loss: bool) -> float | None:
    values = [score.loss if by_loss else score.accuracy for score in scores]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _number(value: float | None, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if value is not None else "none"


def show_pages(search: SearchRef, champion: ChampionResult, prefect_page: str) -> None:
    """Print where the search's files and pages are; `prefect_page` is where Prefect shows this run."""
    report = f"{escape(search.directory)}/report"
    console.print(f"report:  {report}/report.html, and report.md")
    console.print(f"frames:  {report}/*.csv and *.parquet (curves, decisions, ledger, scores)")
    console.print(f"model:   msft-{search.name} version {champion.model_version}, alias champion")
    command = mlflow_command(search)
    first = f"{command}, then " if command else ""
    console.print(f"MLflow:  {escape(first + mlflow_address(search))}", soft_wrap=True)
    console.print(f"Prefect: {escape(prefect_page)}", soft_wrap=True)
