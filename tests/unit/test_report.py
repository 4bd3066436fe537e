"""The report tells and draws the journal; journals are written by hand."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from typer.testing import CliRunner

from flows.cli import app
from tasks.algorithm.costs import total_by_kind
from tasks.algorithm.state import CheckpointKey
from tasks.errors import JournalError
from tasks.record.events import CheckpointSize, EnvironmentChanged, rounds_of
from tasks.record.journal import append_event
from tasks.record.paths import PLAN
from tasks.record.plan import Plan, SearchCost
from tasks.record.view import SearchView, read_view
from tasks.report.charts import checkpoint_tree, mean_chart, spread, sub_dataset_chart
from tasks.report.findings import outcome_of, remarks, score_rows, standing, state_of, verdict
from tasks.report.page import flops_shares, render_html, render_markdown, write_page
from tests.unit.made_events import restart
from tests.unit.made_search import MadeSearch


@pytest.fixture
def rolled_back(tmp_path: Path) -> MadeSearch:
    """Two sub-datasets; each interval is half an epoch.

    Round 0 goes back to its first of four intervals and excludes `early`; round 1 goes back to its start and discards
    all; round 2 advances. The champion is the third checkpoint of round 0, a discarded one.
    """
    search = MadeSearch(tmp_path / "made-0badcafe", ["early", "late"])
    search.decide(
        {"early": [0.1, 0.8, 0.7, 0.7, 0.5], "late": [0.1, 0.2, 0.4, 0.6, 0.5]},
        target=1,
        exclude=["early"],
        reason="early peaked first",
    )
    search.decide({"early": [0.8, 0.6, 0.5], "late": [0.2, 0.1, 0.1]}, target=0)
    search.decide({"early": [0.8, 0.4], "late": [0.2, 0.7]}, stop_reason="enough is spent")
    return search.crown(0.625)


@pytest.fixture
def forward(tmp_path: Path) -> MadeSearch:
    """A search without rollback that selects by loss: `one` leaves, and returns when `two` leaves."""
    search = MadeSearch(tmp_path / "forward", ["one", "two", "three"], evaluation={"selection": "loss"})
    weights = {"one": 0.1, "two": 0.45, "three": 0.45}
    search.decide(
        {"one": [-2.0, -1.5, -1.6], "two": [-3.0, -2.5, -2.0], "three": [-1.0, -0.9, -0.8]},
        exclude=["one"],
        weights=weights,
    )
    search.decide(
        {"one": [-1.6, -1.8, -1.9], "two": [-2.0, -1.9, -2.2], "three": [-0.8, -0.7, -0.6]},
        exclude=["two"],
        include=["one"],
        shares=weights,
    )
    return search.decide(
        {"one": [-1.9, -1.4, -1.2], "two": [-2.2, -2.2, -2.2], "three": [-0.6, -0.5, -0.4]},
        shares={"one": 0.5, "three": 0.5},
    )


def _view(search: MadeSearch) -> SearchView:
    return read_view(str(search.directory))


def _lines(ax: Axes, *kinds: str) -> list[tuple[str, list[tuple[float, float]]]]:
    """Return the lines and marks of these kinds in the order they are drawn, each with its points."""
    return [
        (str(line.get_label()), [(float(x), float(y)) for x, y in line.get_xydata()])
        for line in ax.get_lines()
        if line.get_label() in kinds
    ]


def _kinds(view: SearchView) -> list[str]:
    return list(remarks(view))


def test_the_verdict_names_exclusions_champion_and_cost(rolled_back: MadeSearch) -> None:
    assert verdict(_view(rolled_back)) == (
        "1 of 2 sub-datasets was excluded in 3 rounds, each past its peak (validation accuracy at the peak → at the "
        "end of that roll-out): early in round 0 (0.800 → 0.500).",
        "The champion is round 0 step 30, on a stretch that a rollback discarded, with a mean validation accuracy of "
        "0.6500 over all 2 sub-datasets and a mean test accuracy of 0.6250.",
        # 4 + 2 + 1 intervals, of which 3 + 2 + 0 are discarded; evaluation: 3 of 10 GFLOPs
        "The search trained on 3.50 full-mixture epochs (7,000 tokens), of which 71% were discarded by rollbacks; of "
        "10 GFLOPs in all, evaluation took 30%.",
    )
    assert standing(_view(rolled_back)) == "Ended after 3 rounds: enough is spent"


def test_repeated_training_has_a_total_and_a_colour(rolled_back: MadeSearch) -> None:
    *before, last, crowned = rolled_back.events()
    restarted = last.model_copy(update={"restarts": (restart(flops=6e9, num_tokens=3000, seconds=1.0),)})
    rolled_back.rewrite([*before, restarted, crowned])
    view = _view(rolled_back)
    # 7 GFLOPs of training, 3 of evaluation, 6 repeated
    assert verdict(view)[2].endswith(
        "of 16 GFLOPs in all, evaluation took 19% and work repeated after interruptions 38%."
    )
    assert [share for _, share in flops_shares(view)] == [2 / 16, 5 / 16, 3 / 16, 6 / 16]
    html = render_html(view)
    for kind in view.totals:
        assert f'class="work-{kind}"' in html
        assert f".work-{kind} {{ background:" in html


def test_both_pages_show_bytes_and_plan_beside_outcome(rolled_back: MadeSearch) -> None:
    started, first, *rest = rolled_back.events()
    checkpoints = (CheckpointSize(key=CheckpointKey(0, 10), num_bytes=2_500_000),)
    rolled_back.rewrite([started, first.model_copy(update={"checkpoints": checkpoints}), *rest])
    assert "Plan and actual" not in render_html(_view(rolled_back))
    work = SearchCost.model_validate({field: 11 for field in SearchCost.model_fields} | {"bytes_written": 7_000_000})
    plan = Plan(num_sub_datasets=2, num_parameters=9, num_trained=9, least=work, expected=work, most=work)
    (rolled_back.directory / PLAN).write_text(plan.model_dump_json())
    view = _view(rolled_back)
    html, markdown = render_html(view), render_markdown(view)
    assert "| accepted | 20% | 2 GFLOPs | 2,000 | 200 | 2.5 MB | 4 s |" in markdown
    assert '<td class="number">2.5 MB</td>' in html
    assert "| rounds | 11 | 11 | 11 | 3 |" in markdown
    assert "| checkpoints written | 7.0 MB | 7.0 MB | 7.0 MB | 2.5 MB |" in markdown
    told = '<th class="name">rounds</th>' + 3 * '<td class="number">11</td>' + '<td class="number"><b>3</b></td>'
    assert told in html
    assert "| training FLOPs | 11 FLOPs | 11 FLOPs | 11 FLOPs | 7 GFLOPs |" in markdown


def test_shading_covers_only_discarded_training(rolled_back: MadeSearch) -> None:
    view = _view(rolled_back)
    for ax in (mean_chart(view), sub_dataset_chart(view, "early"), sub_dataset_chart(view, "late")):
        stretches = [patch.get_extents().transformed(ax.transData.inverted()) for patch in ax.patches]
        expected = [(0.5, 2.0), (2.0, 3.0)]  # in epochs; round 2 is accepted
        assert [pytest.approx((box.x0, box.x1)) for box in stretches] == expected
        totals = total_by_kind(line for e in rounds_of(rolled_back.events()) for line in e.ledger)
        discarded, accepted = totals["discarded"].num_examples, totals["accepted"].num_examples
        assert ax.get_xlim() == (0.0, 3.5)
        assert sum(box.width for box in stretches) / 3.5 == pytest.approx(discarded / (discarded + accepted))
    assert render_html(view).count('<g class="shade">') == 2 * 3


def test_without_discarded_training_nothing_is_shaded(forward: MadeSearch) -> None:
    view = _view(forward)
    assert len(mean_chart(view).patches) == 0
    assert '<g class="discarded">' not in render_html(view)
    assert "of which none were discarded" in verdict(view)[2]


def test_accepted_and_discarded_lines_are_separate(rolled_back: MadeSearch) -> None:
    view = _view(rolled_back)
    kinds = ("accepted", "resting", "discarded", "jump")
    late = _lines(sub_dataset_chart(view, "late"), *kinds)
    #         round 0: back to the first of 4   round 1: all discarded   round 2: accepted
    expected = [*("discarded", "jump", "accepted"), *("discarded", "jump"), "accepted"]
    assert [kind for kind, _ in late] == expected
    assert [len(points) for _, points in late] == [4, 2, 2, 3, 2, 2]
    assert late[1][1] == [(0.5, 0.2), (2.0, 0.2)]
    assert _lines(sub_dataset_chart(view, "early"), *kinds)[-1][0] == "resting"


def test_marks_stand_at_their_checkpoints(rolled_back: MadeSearch) -> None:
    view = _view(rolled_back)
    early, late = (_lines(sub_dataset_chart(view, name), "peak", "excluded", "champion") for name in view.names)
    assert early == [("peak", [(0.5, 0.8)]), ("excluded", [(0.5, 0.8)]), ("champion", [(1.5, 0.7)])]
    # The second peak is at its round's start.
    assert [points for kind, [points] in late if kind == "peak"] == [(1.5, 0.6), (2.0, 0.2), (3.5, 0.7)]
    assert [state_of(view, name) for name in view.names] == ["excluded in round 0", "active to the end"]


def test_the_tree_holds_every_checkpoint_once(rolled_back: MadeSearch) -> None:
    tree = checkpoint_tree(_view(rolled_back))
    nodes = _lines(tree, "accepted checkpoint", "discarded checkpoint")
    assert len(nodes) == 1 + 4 + 2 + 1
    accepted = [step for kind, [(step, _)] in nodes if kind == "accepted checkpoint"]
    assert accepted == [0, 10, 20]
    assert _lines(tree, "champion", "last") == [("champion", [(30, 0)]), ("last", [(20, 2)])]
    # Rounds 1 and 2 both begin at round 0's first checkpoint.
    branches = [points for _, points in _lines(tree, "accepted", "discarded")]
    assert [points[0] for points in branches if points[0][1] != points[1][1]] == [(10, 0), (10, 0)]


def test_forgetting_compares_exclusion_end_and_champion(rolled_back: MadeSearch) -> None:
    early, late = score_rows(_view(rolled_back))
    assert (early.at_exclusion, early.at_end, early.champion) == (0.8, 0.4, 0.7)
    assert early.since_exclusion == pytest.approx(-0.4)
    assert early.change == pytest.approx(-0.1)
    assert (early.note, early.rounds) == ("is on the stretch discarded then", (0,))
    assert early.test is not None
    assert early.test.accuracy == 0.625
    assert (late.at_exclusion, late.change, late.rounds) == (None, None, ())


def test_a_readmission_is_told_and_drawn(forward: MadeSearch) -> None:
    view = _view(forward)
    assert verdict(view)[0] == (
        "So far, 2 of 3 sub-datasets were excluded in 3 rounds, each past its peak (validation loss at the peak → at "
        "the end of that roll-out): one in round 0 (1.500 → 1.600) and two in round 1 (1.900 → 2.200); one came back "
        "in round 1."
    )
    chart = sub_dataset_chart(view, "one")
    assert [kind for kind, _ in _lines(chart, "excluded", "included")] == ["excluded", "included"]
    assert [kind for kind, _ in _lines(chart, "accepted", "resting")] == ["accepted", "resting", "accepted"]
    assert (state_of(view, "one"), state_of(view, "two")) == ("active again", "excluded in round 1")
    rows = score_rows(view)
    assert [row.at_exclusion for row in rows] == [None, 2.2, None]  # one is no longer excluded
    assert "− two, + one" in render_markdown(view)


def test_a_loss_is_shown_as_a_loss(forward: MadeSearch) -> None:
    page = render_html(_view(forward))
    assert "lower is better" in page
    assert not re.search(r"[−-]1\.9", re.sub(r"<path[^>]*>", "", page))


def test_the_mixture_shows_each_rounds_shares(forward: MadeSearch) -> None:
    text = render_markdown(_view(forward))
    assert "| 0 | 0.67 | 0.00 | − one, new weights |" in text
    assert "| 1 | 0.67 | 0.00 | − two, + one, new weights |" in text  # no weights in this round
    assert "| 2 | 0.67 | 0.00 | goes on |" in text
    assert "| one | 33.3 % | 10.0 % | 50.0 % |" in text
    assert "| two | 33.3 % | 45.0 % | – |" in text


@pytest.mark.parametrize("render", [render_html, render_markdown])
def test_the_page_contains_the_whole_record(render: object, rolled_back: MadeSearch) -> None:
    assert callable(render)
    page = render(_view(rolled_back))
    for text in ("early peaked first", "as told", "a/model", "data/late", "2.13.0", "0badcafe", "3.50"):
        assert text in page, text


def test_user_input_is_escaped(tmp_path: Path) -> None:
    search = MadeSearch(tmp_path / "made", ["victim", "other"])
    scores = {"victim": [0.1, 0.9, 0.2], "other": [0.1, 0.2, 0.3]}
    search.decide(scores, target=1, exclude=["victim"], reason="<b>bold</b> | `code`", stop_reason="<u>")
    journal = tmp_path / "made" / "journal.jsonl"
    evil = "</title><script>alert(1)</script>|*"
    journal.write_text(journal.read_text().replace('"victim"', f'"{evil}"'))
    view = _view(search)
    page, text = render_html(view), render_markdown(view)
    assert "<script" not in page
    assert "<b>bold" not in page
    assert "<u>" not in page
    assert "&lt;script&gt;" in page
    body = text.partition("The whole configuration")[0]  # the rest is a block of code
    assert not re.search(r"(?<!\\)<", body)
    assert "\\|" in body
    table = [line for line in body.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in table)


def test_the_page_loads_nothing_and_its_svg_is_well_formed(rolled_back: MadeSearch) -> None:
    page = render_html(_view(rolled_back))
    assert not re.search(r"https?:|<script|<link|<img|@import|src=", page)
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(set(ids)) == len(ids)
    assert set(re.findall(r'(?:url\(|href=")#([^)"]*)', page)) <= {*ids, *re.findall(r'href="#(\w+)">', page)}
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) == 1 + 2 + 1
    for drawing in drawings:
        ET.fromstring(drawing)


def test_an_unfinished_search_says_so_and_hides_test_scores(tmp_path: Path) -> None:
    search = MadeSearch(tmp_path / "made", ["early", "late"])
    search.decide({"early": [0.1, 0.8, 0.5], "late": [0.1, 0.2, 0.4]}, target=1, exclude=["early"])
    (search.directory / "rounds" / "001").mkdir(parents=True)
    view = _view(search)
    assert standing(view) == "Unfinished: 1 round decided; round 1 is under way or was interrupted"
    assert verdict(view)[0].startswith("So far, 1 of 2 ")
    assert "test splits stay closed" in verdict(view)[1]
    assert "where the next round starts" in render_html(view)
    assert "| **mean** | | | | | 0.5000 | | – | | |" in render_markdown(view)  # and none on test


def test_a_search_without_a_decision_has_a_report(tmp_path: Path) -> None:
    search = MadeSearch(tmp_path / "made", ["early", "late"])
    html, markdown = write_page(str(search.directory))
    assert "No round is decided yet" in html.read_text()
    assert "There is no champion yet" in markdown.read_text()
    assert "early" in html.read_text()


def test_a_search_without_specifications_still_has_its_curves(tmp_path: Path) -> None:
    search = MadeSearch(tmp_path / "made", ["early", "late"])
    search.decide({"early": [0.1, 0.8, 0.5], "late": [0.1, 0.2, 0.4]}, target=1, shares={})
    view = _view(search)
    assert (view.unit, view.spent) == ("training rows", 200)
    assert "The shares are not on record" in render_html(view)
    assert "trained on 200 rows" in verdict(view)[2]


def test_the_title_names_the_papers_protocol(tmp_path: Path) -> None:
    settings = {"max_epochs": 9, "protocol": "paper"}
    search = MadeSearch(tmp_path / "made", ["a", "b"], search=settings)
    search.decide({"a": [0.1, 0.8], "b": [0.1, 0.2]}, stop_reason="enough")
    page = render_html(_view(search))
    assert re.search(r"<title>[^<]*selected on test", page)
    assert re.search(r"<h1>[^<]*protocol: paper", page)
    assert _kinds(_view(search))[0] == "selected on test"
    search.crown(0.5)
    assert verdict(_view(search))[1] == (
        "The champion is round 0 step 10 with a mean test accuracy of 0.5000 over all 2 sub-datasets."
    )


@pytest.mark.parametrize(("rows", "expected"), [(199, True), (200, False)])
def test_few_validation_rows_are_a_warning(tmp_path: Path, rows: int, expected: bool) -> None:
    search = MadeSearch(tmp_path / "made", ["a", "b"], rows)
    search.decide({"a": [0.1, 0.8], "b": [0.1, 0.2]})
    assert ("few validation rows" in _kinds(_view(search))) == expected


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([0.1, 0.9, 0.8, 0.6, 0.5], ""),
        ([0.1, 0.9, 0.5, 0.9, 0.8], "fell by 0.100, yet rose by 0.400 again after its peak"),
        ([0.1, 0.5, 0.49, 0.48, 0.46], "fell by 0.040, within the ±0.071 that 400 rows leave open"),
    ],
)
def test_a_drop_within_noise_is_a_warning(tmp_path: Path, curve: list[float], expected: str) -> None:
    search = MadeSearch(tmp_path / "made", ["a", "b"])
    search.decide({"a": curve, "b": [0.1, 0.2, 0.3, 0.4, 0.5]}, target=1, exclude=["a"])
    noisy = [text for kind, text in remarks(_view(search)).items() if kind == "noisy peak"]
    assert len(noisy) == bool(expected)
    assert all(f"a in round 0 ({expected})" in text for text in noisy)


def test_forgetting_and_a_champion_off_the_path_are_warnings(rolled_back: MadeSearch) -> None:
    found = remarks(_view(rolled_back))
    assert "early (0.800 → 0.400)" in found["forgetting"]
    assert "round 0 step 30" in found["champion off the path"]


def test_a_base_model_that_nothing_beats_is_a_warning(tmp_path: Path) -> None:
    search = MadeSearch(tmp_path / "made", ["a", "b"])
    search.decide({"a": [0.9, 0.8], "b": [0.9, 0.2]}, stop_reason="enough").crown(None)
    view = _view(search)
    assert view.champion is not None
    assert view.champion.checkpoint == CheckpointKey(0, 0)
    assert "nothing gained" in _kinds(view)
    assert "The champion is the base model" in verdict(view)[1]
    assert "no sub-dataset has a test split" in verdict(view)[1]
    render_html(view)


def test_twenty_sub_datasets_keep_their_labels_apart(tmp_path: Path) -> None:
    names = [f"a-sub-dataset-with-a-long-name-{n}" for n in range(20)]
    search = MadeSearch(tmp_path / "made", names)
    for n in range(19):
        search.decide({name: [0.5, 0.6, 0.5] for name in names}, target=1, exclude=[names[n]])
    view = _view(search)
    assert "and 13 more" in verdict(view)[0]
    html = render_html(view)
    assert all(name in html for name in names)
    assert max(len(outcome_of(view, told)) for told in view.rounds) < 56  # the width that the drawing has room for


@given(st.lists(st.tuples(st.floats(0, 900), st.text("ab", min_size=1, max_size=30)), max_size=20))
def test_labels_do_not_overlap(places: list[tuple[float, str]]) -> None:
    spans: dict[int, list[tuple[float, float]]] = {}
    for x, _, text, side, line in spread([(x, "excluded", text) for x, text in places], right=944.0):
        begin = x - 7 * len(text) if side == "right" else x
        spans.setdefault(line, []).append((begin, begin + 7 * len(text)))
    for taken in spans.values():
        ordered = sorted(taken)
        assert all(a[1] <= b[0] for a, b in pairwise(ordered))


def test_drawings_take_the_colours_of_the_page(rolled_back: MadeSearch) -> None:
    html = render_html(_view(rolled_back))
    for drawing in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        assert not re.search(r"(?:fill|stroke)[:=] ?\"?#", drawing)
        assert set(re.findall(r"var\((--\w+)\)", drawing)) <= set(re.findall(r"(--\w+):", html))


def test_the_page_is_deterministic(rolled_back: MadeSearch) -> None:
    assert render_html(_view(rolled_back)) == render_html(_view(rolled_back))


def test_the_command_writes_both_pages_and_prints_their_paths(rolled_back: MadeSearch) -> None:
    root = str(rolled_back.directory.parent)
    result = CliRunner().invoke(app, ["report", "0badcafe", "--output-root", root])
    assert result.exit_code == 0, result.output
    pages = [Path(line) for line in result.output.split()]
    assert [page.name for page in pages] == ["report.html", "report.md"]
    assert all(page.parent == rolled_back.directory / "report" and page.stat().st_size for page in pages)


def test_a_journal_without_a_search_is_an_error_with_its_path(tmp_path: Path) -> None:
    append_event(str(tmp_path), EnvironmentChanged(differences=(), numerical_environment={}))
    with pytest.raises(JournalError, match="no event says that a search has started"):
        write_page(str(tmp_path))
