from __future__ import annotations

from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, PREFECT_UI_URL, temporary_settings

from tasks.algorithm.curves import Verdict
from tasks.algorithm.state import Champion, CheckpointKey
from tasks.contracts import EvaluationCost, SearchRef
from tasks.record.events import RoundDecided, SearchStarted
from tasks.record.journal import History
from tasks.record.paths import mlflow_address, mlflow_command, mlflow_runs_address, round_title
from tasks.record.view import SearchView, view_of
from tasks.report.markdown import round_rows, spaced, tell_round, tell_search
from tasks.report.prefect_artifacts import LOCAL_PAGES, page_of_this_run
from tasks.report.tables import Table, names, numbers
from tests.unit import made_events


def reference(uri: str) -> SearchRef:
    return SearchRef(
        search_id="0a1b2c3d", name="mix", directory="/searches/mix-0a1b2c3d", tracking_uri=uri, outage_s=0,
        experiment_id="7", run_id="beef",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("active", "title"),
    [
        (["gsm8k", "boolq"], "mix-0a1b2c3d / round-3 [gsm8k, boolq]"),
        (["a", "b", "c", "d"], "mix-0a1b2c3d / round-3 [a, b, c, d]"),
        (["a", "b", "c", "d", "e"], "mix-0a1b2c3d / round-3 5 of [a, b, c, …]"),
    ],
)
def test_a_round_title_lists_its_active_sub_datasets(active: list[str], title: str) -> None:
    assert round_title(reference(""), 3, active) == title


def test_a_local_store_has_a_command_a_server_its_own_address() -> None:
    local = reference("sqlite:////searches/mlflow.db")
    assert mlflow_command(local) == "mlflow ui --backend-store-uri sqlite:////searches/mlflow.db"
    assert mlflow_address(local).startswith("http://127.0.0.1:5000/#/experiments/7/runs/beef")
    server = reference("https://me:secret@mlflow.example:8443/team/")
    assert mlflow_command(server) == ""
    assert mlflow_address(server).startswith("https://mlflow.example:8443/team/#/experiments/7/runs/beef")


def test_addresses_open_mlflow_in_the_layout_for_training() -> None:
    for address in (mlflow_address(reference("")), mlflow_runs_address(reference(""))):
        assert "?workflowType=machine_learning" in address
    assert "/experiments/7/runs?" in mlflow_runs_address(reference(""))


def test_a_table_with_wider_cells_is_still_a_table() -> None:
    table = Table((*names("sub-dataset"), *numbers("score")), [["boolq", "0.5"]])
    drawn = MarkdownIt().enable("table").render(spaced(table.markdown()))
    assert "<td>boolq\u2003</td>" in drawn
    assert '<td style="text-align:right">0.5</td>' in drawn


NAMES = ("gsm8k", "boolq")


def decided(number: int, reason: str, exclude: tuple[str, ...], target: tuple[int, int]) -> RoundDecided:
    key = CheckpointKey(*target)
    costs = {"num_tokens": 1000, "num_examples": 10, "flops": 2e9, "seconds": 1.5}
    return made_events.decided(
        number,
        target,
        NAMES,
        reason=reason,
        exclude=exclude,
        verdicts=(Verdict("boolq", key, 0.8, 0.7, "excluded now"),),
        scores_at_target={"gsm8k": 0.3, "boolq": 0.8},
        champion=Champion(key, 0.55),
        examples=10,
        intervals=(made_events.interval(key, **costs),),
        evaluation=EvaluationCost(num_tokens=5, num_examples=2, flops=1e6, seconds=0.1),
    )


def started() -> SearchStarted:
    return made_events.started(NAMES)


def view(*rounds: RoundDecided) -> SearchView:
    return view_of(History.of([started(), *rounds]), "/searches/none")


def test_the_search_note_has_exclusions_reasons_and_cost() -> None:
    told = tell_search(view(decided(0, "boolq peaked first: exclude", ("boolq",), (0, 300))))
    assert "**Under way:** round 1 on gsm8k." in told
    assert "**Excluded, in order:** boolq (round 0, the search went on from round 0 step 300, accuracy 0.800)." in told
    assert "| 0 | gsm8k, boolq | boolq peaked first: exclude |" in told
    assert "| accepted | 1,000 | 10 | 2 GFLOPs | 1.5 | – |" in told


def test_a_long_search_note_fits_a_tag_and_names_the_cut() -> None:
    rounds = [decided(number, f"reason {number} " + "x" * 300, (), (number, 9)) for number in range(60)]
    told = tell_search(view(*rounds))
    assert len(told) < 8000
    assert "reason 59 " in told
    assert "rounds before these are in `journal.jsonl`" in told
    assert "**Cost:**" in told


def test_the_round_note_has_the_scores_behind_the_decision() -> None:
    event = decided(0, "boolq peaked first: exclude", ("boolq",), (0, 300))
    told = tell_round(view(event), event)
    assert told.startswith("**Decision of round 0:** boolq peaked first: exclude.")
    assert "| boolq | 300 | 0.800 | 0.700 | 0.100 | excluded now |" in told
    row = round_rows(view(event))[0]
    assert (row["excluded"], row["rolled back to"], row["accepted tokens"]) == ("boolq", "round 0 step 300", 1000)


@pytest.mark.parametrize(
    ("api", "pages", "told"),
    [
        (
            "http://127.0.0.1:54321/api",
            LOCAL_PAGES,
            "PREFECT_HOME=/h prefect server start, then http://127.0.0.1:4200/runs/",
        ),
        ("http://prefect.team:4200/api", None, "http://prefect.team:4200/runs/"),
    ],
    ids=["a server of our own", "the team's server"],
)
def test_the_summary_links_the_server_in_use(
    api: str, pages: str | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "fee2a778-aa38-422b-9cb8-248db26f2298")
    settings = {PREFECT_API_URL: api, PREFECT_HOME: Path("/h")} | ({PREFECT_UI_URL: pages} if pages is not None else {})
    with temporary_settings(settings):
        assert page_of_this_run() == f"{told}flow-run/fee2a778-aa38-422b-9cb8-248db26f2298"
