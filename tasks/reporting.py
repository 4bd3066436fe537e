"""Put a search's record into frames, files and MLflow; the only place where values become pandas frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pandas as pd

from tasks.contracts import SearchRef
from tasks.record.headroom import headroom_of
from tasks.record.journal import History
from tasks.record.paths import JOURNAL, REPORT
from tasks.record.view import Score, SearchView, view_of
from tasks.registry.checkpoints import accept_path
from tasks.registry.runs import close_round_run, close_search_run, describe_run, log_files, log_points, tag_run
from tasks.report import messages, prefect_artifacts
from tasks.report.findings import headroom_text
from tasks.report.markdown import tell_round, tell_search
from tasks.report.messages import tell_table
from tasks.report.page import write_page
from tasks.report.soup import lineage_of, trials_of
from tasks.report.tables import plan_table
from tasks.runtime.files import publish_file
from tasks.stage import stage


@stage("write round report", run_name="report up to round {history.state.round}")
def report_round(search: SearchRef, history: History) -> None:
    """Put the last decision where a reviewer looks: the round's MLflow run and the search's journal.

    A resumed search does it again, since a kill may have come between the decision and its report.
    """
    view = view_of(history, search.directory)
    describe_run(search, search.run_id, tell_search(view))
    if not history.rounds:
        return
    newest, state = history.rounds[-1], history.state
    decision = newest.decision
    run_id = accept_path(search, newest.round, decision.roll_back_to, newest.intervals)
    describe_run(search, run_id, tell_round(view, newest))
    tags = {
        "msft.excluded": ", ".join(decision.exclude) or "none",
        "msft.decision": decision.reason,
        "msft.roll_back_to": str(decision.roll_back_to),
        "msft.champion_so_far": str(state.champion.checkpoint) if state.champion else "none",
    }
    close_round_run(search, run_id, tags)
    excluded = ", ".join(exclusion.sub_dataset for exclusion in state.excluded)
    tags = {"msft.excluded": excluded or "none", "msft.num_rounds": str(state.round)}
    if (headroom := view.headroom) is not None:
        tags["msft.headroom"] = headroom_text(headroom)
        points = {f"headroom/{name}": getattr(headroom, name) for name in ("estimate", "error", "low", "high")}
        log_points(search, search.run_id, points, int(1000 * pd.Timestamp(newest.at).timestamp()), newest.round)
    tag_run(search, search.run_id, tags)
    log_files(search, [Path(search.directory, JOURNAL)])
    prefect_artifacts.show_round(search, view)


@stage("write report")
def write_report(search: SearchRef, history: History) -> None:
    """Write frames and page, record them and the end of the search in MLflow, and tell how it ended."""
    view = view_of(history, search.directory)
    frames = frames_of(view)
    _write_files(search, view, frames)
    _log_end(search, view, frames["scores"])
    prefect_artifacts.show_end(search, view)
    close_search_run(search, "FINISHED")
    messages.show_summary(view)
    messages.show_pages(search, history.champion, prefect_artifacts.page_of_this_run())
    tell_table(plan_table(view.plan))


def frames_of(view: SearchView) -> dict[str, pd.DataFrame]:
    """Return all frames of a finished search by name."""
    frames = {
        "curves": curves_frame(view),
        "decisions": decisions_frame(view),
        "ledger": ledger_frame(view),
        "scores": scores_frame(view),
        "plan": pd.DataFrame([comparison.model_dump() for comparison in view.plan]),
    }
    if view.history.soup is not None:
        frames["soup"] = pd.DataFrame(trials_of(view.history.soup))
    optional = {"headroom": headroom_frame(view), "suspects": suspects_frame(view)}
    return frames | {name: frame for name, frame in optional.items() if not frame.empty}


def _write_files(search: SearchRef, view: SearchView, frames: Mapping[str, pd.DataFrame]) -> None:
    directory = Path(search.directory, REPORT)
    for name, frame in frames.items():
        publish_file(directory / f"{name}.csv", partial(frame.to_csv, index=False))
        publish_file(directory / f"{name}.parquet", partial(frame.to_parquet, index=False))
    write_page(search.directory, view)
    log_files(search, [*sorted(directory.iterdir())], "report")
    log_files(search, [Path(search.directory, JOURNAL)])


def _log_end(search: SearchRef, view: SearchView, scores: pd.DataFrame) -> None:
    crowned = view.history.crowned
    assert crowned is not None
    # Tags, since a metric of one point becomes a chart of one bar; the ledger and the single scores are in report/.
    means = {
        f"msft.mean_{split}": f"{Score(mean, view.metric).shown:.4f}"
        for split, mean in scores.groupby("split")["score"].mean().items()
    }
    tags = {"msft.champion": str(crowned.champion.key), "msft.stop_reason": view.state.stop_reason, **means}
    tags |= lineage_of(crowned.soup)
    tag_run(search, search.run_id, tags)
    describe_run(search, search.run_id, tell_search(view))


def curves_frame(view: SearchView) -> pd.DataFrame:
    """Return one row a round, sub-dataset and checkpoint."""
    rows = [
        {
            "round": decided.round,
            "sub_dataset": curve.sub_dataset,
            "is_active": curve.sub_dataset in decided.active,
            "checkpoint_round": point.checkpoint.round,
            "step": point.checkpoint.step,
            "score": point.score,
            "loss": point.loss,
            "num_examples": point.num_examples,
        }
        for decided in view.history.rounds
        for curve in decided.curves
        for point in curve.points
    ]
    return pd.DataFrame(rows)


def decisions_frame(view: SearchView) -> pd.DataFrame:
    """Return one row a round: what was decided, and why."""
    rows = [
        {
            "round": decided.round,
            "active": " ".join(decided.active),
            "excluded": " ".join(decided.decision.exclude),
            "rolled_back_to_round": decided.decision.roll_back_to.round,
            "rolled_back_to_step": decided.decision.roll_back_to.step,
            "champion_round": decided.champion.checkpoint.round,
            "champion_step": decided.champion.checkpoint.step,
            "champion_score": decided.champion.score,
            "reason": decided.decision.reason,
        }
        for decided in view.history.rounds
    ]
    return pd.DataFrame(rows)


def headroom_frame(view: SearchView) -> pd.DataFrame:
    """Return one row a round and sub-dataset, and one for their mean: the headroom after that round, in accuracy.

    The error and the interval are those of the mean. Empty where the journal does not tell.
    """
    rows = []
    for last in range(1, len(view.rounds) + 1):
        found = headroom_of([told.decided.curves for told in view.rounds[:last]])
        if found is not None:
            at = {"round": view.rounds[last - 1].index, "num_checkpoints": found.num_checkpoints}
            own = [{"sub_dataset": name, "headroom": value} for name, value in found.by_sub_dataset.items()]
            bounds = {name: getattr(found, name) for name in ("error", "low", "high", "naive")}
            rows += [at | row for row in [*own, {"sub_dataset": "mean", "headroom": found.estimate} | bounds]]
    return pd.DataFrame(rows)


def suspects_frame(view: SearchView) -> pd.DataFrame:
    """Return one row a suspect train row, in the mixture's order, those of the largest loss first."""
    rows = [
        {"sub_dataset": name, **row.model_dump(), "peak_round": one.key.round, "peak_step": one.key.step}
        for name, one in view.suspects.items()
        for row in one.rows
    ]
    return pd.DataFrame(rows)


def ledger_frame(view: SearchView) -> pd.DataFrame:
    """Return one row a round and kind of work: accepted, discarded, evaluation, restart."""
    return pd.DataFrame([asdict(line) for line in view.history.ledger])


def scores_frame(view: SearchView) -> pd.DataFrame:
    """Return one row a split and sub-dataset: the champion's score, and the one it had when it was excluded.

    A score is what the search selects by, higher is better: the accuracy, or the negated loss.
    """
    assert view.crowned is not None
    at_exclusion = {exclusion.sub_dataset: exclusion.score for exclusion in view.state.excluded}
    by_loss = view.metric == "loss"
    rows = [
        {
            "split": split,
            "sub_dataset": score.sub_dataset,
            "score": -score.loss if by_loss or score.accuracy is None else score.accuracy,
            "accuracy": score.accuracy,
            "loss": score.loss,
            "num_examples": score.num_examples,
            "score_at_exclusion": at_exclusion.get(score.sub_dataset),
        }
        for split, scores in (("validation", view.crowned.validation), ("test", view.crowned.test))
        if scores is not None
        for score in scores.scores
    ]
    return pd.DataFrame(rows)
