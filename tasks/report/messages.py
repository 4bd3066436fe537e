"""Log records that tell a person of a search as it runs.

Each is plain text, which Prefect's pages and log files show, with markup or a table for a terminal.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.rule import Rule
from rich.text import Text

from tasks.algorithm.state import CheckpointKey, SearchState
from tasks.contracts import ChampionResult, CheckpointScores, Mixture, SearchRef
from tasks.planning.pricing import Price, Speed
from tasks.record.paths import mlflow_address, mlflow_command, mlflow_runs_address, search_title
from tasks.record.plan import Plan
from tasks.record.view import SearchView
from tasks.report import comparison_page, tables, words
from tasks.report.findings import headroom_text
from tasks.report.soup import champion_name, soup_table

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bar:
    """The progress of a stage: `done` of `total`, and a detail."""

    title: str
    done: int
    total: int
    detail: str


@dataclass(frozen=True)
class Progress:
    """The newest line of a training worker."""

    step: int
    num_steps: int
    loss: float
    tokens_per_s: float
    seconds_left: float
    device: str


def tell(*parts: str | tuple[str, str]) -> None:
    """Log a line of texts, some with a style of Rich's."""
    text = Text.assemble(*parts)
    logger.info("%s", text.plain, extra={"rich": text})


def tell_heading(text: str) -> None:
    """Log the heading of what follows; a terminal shows it in a rule."""
    logger.info("%s", text, extra={"rich": Rule(Text(text), align="left")})


def tell_table(table: tables.Table) -> None:
    """Log a table; nothing without rows."""
    if table.rows:
        logger.info("%s", table.text(), extra={"rich": table.rich()})


@contextmanager
def stage_progress(title: str, total: int) -> Iterator[Callable[..., None]]:
    """Give a function that counts parts of a stage as done, by default one more; a bar on a terminal alone.

    With a detail, each tenth is a line in logs and pages too. The function takes another total where that is known
    late.
    """
    done, tenth, parts = 0, -1, total

    def show(now: int | None = None, detail: str = "", total: int | None = None) -> None:
        nonlocal done, tenth, parts
        done, parts = done + 1 if now is None else now, total or parts
        is_line = bool(detail) and done * 10 // parts > tenth
        tenth = done * 10 // parts if is_line else tenth
        extra: dict[str, Any] = {"bar": Bar(title, done, parts, detail), "send_to_api": is_line}
        level = logging.INFO if is_line else logging.DEBUG
        logger.log(level, "%s: step %d/%d, %s", title, done, parts, detail, extra=extra)

    try:
        yield show
    finally:
        logger.debug("%s: over", title, extra={"bar": None, "send_to_api": False})


@contextmanager
def rollout_progress(mixture: Mixture) -> Iterator[Callable[[Progress], None]]:
    """Give a function that shows the progress of a roll-out, and tell at its end which devices it ran on."""
    devices: set[str] = set()
    with stage_progress("training", mixture.num_steps) as show_bar:

        def show(progress: Progress) -> None:
            devices.add(progress.device)
            minutes, seconds = divmod(round(progress.seconds_left), 60)
            speed = f"{progress.tokens_per_s:,.0f} tokens/s, {minutes}:{seconds:02d} left"
            show_bar(progress.step, f"loss {progress.loss:.3f}, {speed}, on {progress.device}")

        yield show
    tell(f"trained {mixture.num_steps} steps on {' and '.join(sorted(devices)) or 'no device'}")


def show_search(search: SearchRef, state: SearchState, *, is_resumed: bool) -> None:
    """Tell which search this is, and where it stands."""
    going_on = "has had its last round" if state.is_finished else f"goes on with round {state.round}"
    verb = going_on if is_resumed else "starts"
    tell((f"search {search_title(search.name, search.search_id)}", "bold"), f" {verb} in {search.directory}")


def show_mixture(mixture: Mixture) -> None:
    """Tell a round's mixture with the realized share of each sub-dataset."""
    tell_heading(f"round {mixture.round}")
    shares = []
    for name, of_rows in mixture.example_shares.items():
        of_tokens = mixture.token_shares[name]
        tokens = f" ({of_tokens:.1%} of tokens)" if abs(of_tokens - of_rows) >= 0.005 else ""
        shares.append(f"{name} {of_rows:.1%}{tokens}")
    tell(f"mixture: {', '.join(shares)}")
    tell(
        f"roll-out: {mixture.epochs:g} epochs of {mixture.epoch_rows} rows = {mixture.num_steps} steps, "
        f"{len(mixture.evaluation_offsets)} evaluations"
    )


def show_scores(scores: CheckpointScores, keys: Sequence[CheckpointKey]) -> None:
    """Tell the scores of a checkpoint in one line: accuracies where they are measured, else losses."""
    each = " ".join(f"{s.sub_dataset} {s.accuracy if s.accuracy is not None else s.loss:.3f}" for s in scores.scores)
    accuracy, loss = tables.mean_of(scores.scores, "accuracy"), tables.mean_of(scores.scores, "loss")
    mean = f"mean accuracy {accuracy:.3f}, " if accuracy is not None else ""
    tell(
        f"evaluated {keys.index(scores.key) + 1}/{len(keys)} step {scores.key.step}: ",
        (f"{mean}loss {loss:.3f}", "bold"),
        f" {each} ",
        (f"({scores.cost.seconds:.1f} s)", "dim"),
    )


def show_decision(view: SearchView) -> None:
    """Tell the decision of the newest round, with the table that it rests on."""
    newest = view.history.rounds[-1]
    tell_table(tables.decision_table(newest.decision.verdicts, view.metric))
    tell(("decision", "bold"), f" of round {newest.round}: {newest.decision.reason}")
    if view.champion is not None:
        score = words.score(view.score(view.champion.score).shown, 4)
        tell(f"champion so far: {view.champion.checkpoint}, mean validation {view.metric} {score}")
    if found := headroom_text(view.headroom):
        tell(f"headroom so far: {found}")


def show_summary(view: SearchView) -> None:
    """Tell how a search ended: its decisions, the champion's scores and the cost."""
    state, champion = view.state, view.crowned
    assert champion is not None
    title = " (protocol: paper, selected on the test splits)" if view.is_paper_protocol else ""
    tell_heading(f"search {view.title}: summary{title}")
    tell(f"ended after {state.round} rounds: {state.stop_reason}")
    tell(f"excluded, in order: {', '.join(e.sub_dataset for e in state.excluded) or 'none'}")
    for told in view.rounds:
        tell(f"  round {told.index}: {told.decided.decision.reason}")
    what = champion.key if view.soup is None else champion_name(champion.key, view.soup)
    tell(("champion", "bold"), f": {what}, in {champion.directory}")
    if view.history.soup is not None:
        tell_table(soup_table(view, view.history.soup))
    tell_table(tables.champion_table(view, champion.validation, champion.test))
    tell_table(tables.cost_table(view.totals.values()))


def show_pages(search: SearchRef, champion: ChampionResult, prefect_page: str) -> None:
    """Tell where the search's files and pages are; `prefect_page` is where Prefect shows this run."""
    report = f"{search.directory}/report"
    command = mlflow_command(search)
    first = f"{command}, then " if command else ""
    tell(f"report:  {report}/report.html, and report.md")
    tell(f"frames:  {report}/*.csv and *.parquet (curves, decisions, ledger, scores, headroom)")
    tell(f"model:   msft-{search.name} version {champion.model_version}, alias champion")
    tell(f"MLflow:  {first}{mlflow_address(search)}")
    tell(f"runs:    {mlflow_runs_address(search)}")
    tell(f"Prefect: {prefect_page}")


def show_plan(plan: Plan, speed: Speed | None, prices: Mapping[str, Price]) -> None:
    """Tell a plan; `prices` are by course, and empty where no speed is known."""
    trained = f", of which {plan.num_trained:,} are trained" if plan.num_trained < plan.num_parameters else ""
    tell(f"model: {plan.num_parameters:,} parameters{trained}; {plan.num_sub_datasets} sub-datasets")
    if plan.hidden_states_bytes:
        size = words.size(plan.hidden_states_bytes)
        limit = "above training.hidden_cache_gb: not kept, and computed in every pass"
        kept = "kept in the cache" if plan.keeps_hidden_states else limit
        tell(f"outputs of the frozen layers: {size}, {kept}")
    tell_table(tables.facts_table(plan.facts))
    tell_table(tables.estimate_table(plan, prices))
    if speed is None:
        tell("hours: not known; state --flops-per-s (of one device), or run a search of this model here")
        return
    tell(
        f"hours at {speed.training_flops_per_s:.3g} FLOP/s in training and {speed.evaluation_flops_per_s:.3g} in "
        f"scoring, {speed.source}; without start-up and data preparation"
    )


def show_comparison(heading: str, frames: comparison_page.Frames, axes: Sequence[str], control: str) -> None:
    """Tell what `parts_of` gives, and the warnings; clear differences are bold."""
    tell_heading(heading)
    for part in comparison_page.parts_of(frames, axes, control):
        if isinstance(part, tables.Table):
            tell_table(part)
        else:
            logger.info(part)
    for text in comparison_page.warnings_of(frames["summary"], axes, control):
        logger.warning(text)
