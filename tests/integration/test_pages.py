"""Contents of the pages of MLflow and Prefect after a search, read from their stores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, FlowRunFilter, FlowRunFilterName

from tasks.config.schema import SearchConfig
from tasks.errors import EmptyCurveError
from tasks.evaluation import curves_of
from tasks.record.events import rounds_of, start_of
from tasks.record.journal import read_events
from tasks.record.paths import RUNS_VIEW
from tasks.report.markdown import spaced


class Store:
    """MLflow's record of the search, and the search's journal."""

    def __init__(self, config: SearchConfig) -> None:
        self.directory = next(Path(config.output_root).glob("smoke-*"))
        self.search_id = self.directory.name[-8:]
        uri = f"sqlite:///{Path(config.output_root, 'mlflow.db').resolve()}"
        self.client = MlflowClient(uri, uri)
        self.experiment = self.client.get_experiment_by_name("msft")
        runs = self.client.search_runs([self.experiment.experiment_id])
        self.parent: Run = next(run for run in runs if run.data.tags["msft.kind"] == "search")
        self.rounds: list[Run] = [run for run in runs if run.data.tags["msft.kind"] == "round"]
        self.decisions = rounds_of(read_events(str(self.directory)))

    def checkpoints(self) -> list[Any]:
        found = self.client.search_logged_models([self.experiment.experiment_id])
        return [model for model in found if model.model_type == "msft-checkpoint"]


@pytest.fixture(scope="module")
def store(searched: Any) -> Store:
    return Store(searched[0])


def test_the_description_has_decisions_cost_and_champion(store: Store, searched: Any) -> None:
    told = store.parent.data.tags["mlflow.note.content"]
    assert told.startswith("**Ended** after 3 rounds: ")
    assert f"**Champion:** {searched[1].key}, mean validation loss" in told
    assert "**Excluded, in order:**" in told
    assert all(decision.decision.reason in told for decision in store.decisions)
    assert "| discarded" in told
    for run in store.rounds:
        assert run.data.tags["msft.decision"] in run.data.tags["mlflow.note.content"]
        assert f"/ round-{run.data.tags['msft.round']} [max, cmp, roman]" in run.info.run_name


def test_the_mean_of_a_search_by_loss_is_a_loss(store: Store, searched: Any) -> None:
    scores = searched[1].validation.scores
    mean = sum(score.loss for score in scores) / len(scores)
    assert float(store.parent.data.tags["msft.mean_validation"]) == pytest.approx(mean, abs=1e-4)


def test_the_curves_of_the_search_are_those_of_its_accepted_path(store: Store) -> None:
    expected = {}
    for event in store.decisions:
        for point in event.curves[0].points:
            if event.is_accepted(point.checkpoint):
                expected[point.checkpoint.step] = point.loss
    history = store.client.get_metric_history(store.parent.info.run_id, "validation/loss/max")
    assert {point.step: point.value for point in history} == expected
    assert len(history) == len(expected)
    trained = store.client.get_metric_history(store.parent.info.run_id, "train/loss/max")
    assert {point.step for point in trained} == set(expected) - {0}


def test_checkpoints_sort_by_their_mean_and_link_their_rows(store: Store) -> None:
    # Without the tag, MLflow lays the experiment out for agents, and calls checkpoints their versions.
    assert store.experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    logged = {(i.dataset.name, i.dataset.digest) for i in store.parent.inputs.dataset_inputs}
    for model in store.checkpoints():
        metrics = {metric.key: metric for metric in model.metrics}
        losses = [metrics[f"validation/loss/{name}"] for name in ("max", "cmp", "roman")]
        mean = sum(metric.value for metric in losses) / len(losses)
        assert metrics["validation/mean_loss"].value == pytest.approx(mean)
        assert {(m.dataset_name, m.dataset_digest) for m in losses} <= logged
        assert model.tags["msft.path"] in ("accepted", "discarded")
        assert int(model.params["step"]) == int(model.name[-8:])


def test_the_champion_sorts_among_its_checkpoints(store: Store, searched: Any) -> None:
    (champion,) = store.client.search_logged_models([store.experiment.experiment_id], filter_string="name = 'champion'")
    key = searched[1].key
    (own,) = [
        m for m in store.checkpoints() if (m.tags["msft.round"], m.tags["msft.step"]) == (str(key.round), str(key.step))
    ]
    means = [{m.key: m.value for m in model.metrics}["validation/mean_loss"] for model in (champion, own)]
    assert means[0] == pytest.approx(means[1], rel=1e-12)


def test_the_charts_of_the_search_are_all_curves(store: Store) -> None:
    run_id, keys = store.parent.info.run_id, store.parent.data.metrics
    assert {key.split("/")[0] for key in keys} == {"train", "validation"}
    assert all(len(store.client.get_metric_history(run_id, key)) > 1 for key in keys)


def test_the_list_of_runs_has_a_view_with_filled_columns(store: Store) -> None:
    view = json.loads(store.experiment.tags[f"mlflow.sharedViewState.{RUNS_VIEW}"])
    columns = {column.removeprefix("tags.`").removesuffix("`") for column in view["selectedColumns"]}
    held = {key for run in (store.parent, *store.rounds) for key in run.data.tags}
    assert columns
    assert columns <= held


def test_the_champions_test_scores_link_their_rows(store: Store) -> None:
    logged = {
        i.dataset.name: (i.dataset.digest, [tag.value for tag in i.tags]) for i in store.parent.inputs.dataset_inputs
    }
    started = start_of(read_events(str(store.directory)))
    (champion,) = store.client.search_logged_models([store.experiment.experiment_id], filter_string="name = 'champion'")
    metrics = {metric.key: metric for metric in champion.metrics}
    for name in ("max", "cmp", "roman"):
        digest = started.content[f"{name}/test"][:16]
        assert logged[f"{name}/test"] == (digest, ["test"])
        score = metrics[f"test/loss/{name}"]
        assert (score.dataset_name, score.dataset_digest) == (f"{name}/test", digest)


def test_a_score_that_mlflow_does_not_hold_is_no_zero(store: Store, searched: Any) -> None:
    validation = searched[1].validation
    scores = {validation.key: validation}
    assert curves_of(scores, ["max"], by_loss=True)[0].points[0].loss > 0
    with pytest.raises(EmptyCurveError, match="nowhere at round"):
        curves_of(scores, ["max", "nowhere"], by_loss=True)


def test_each_round_shows_the_machine_it_ran_on(store: Store) -> None:
    assert all("system/cpu_utilization_percentage" in run.data.metrics for run in store.rounds)


def test_the_champion_carries_its_lineage_and_a_card(store: Store, searched: Any) -> None:
    result = searched[1]
    version = store.client.get_model_version_by_alias("msft-smoke", "champion")
    assert (version.tags["msft.round"], version.tags["msft.step"]) == (str(result.key.round), str(result.key.step))
    started = start_of(read_events(str(store.directory)))
    digests = {what: sha256[:16] for what, sha256 in started.content.items()}
    assert json.loads(version.tags["msft.content_sha256"]) == digests
    _, front, body = Path(result.directory, "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(front)
    assert card["library_name"] == "transformers"
    assert card["msft"]["mixture"] == ["max", "cmp", "roman"]
    assert card["msft"]["scores"]["test"]["max"]["loss"] == round(result.test.scores[0].loss, 4)
    assert version.description == spaced(body.strip())
    assert f'from_pretrained("{result.directory}")' in version.description
    champion = store.client.get_logged_model(version.source.removeprefix("models:/"))
    tested = {metric.key: metric.value for metric in champion.metrics}
    assert tested["test/loss/max"] == result.test.scores[0].loss


def test_prefect_names_the_rounds_and_shows_their_decisions(store: Store) -> None:
    title = store.directory.name
    names = [title, *(f"{title} / round-{number} [max, cmp, roman]" for number in range(3))]
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=names)))
    assert {run.name for run in runs} == set(names)
    keys = ArtifactFilter(key=ArtifactFilterKey(like_=f"msft-{store.search_id}-%"))
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=keys)
    artifacts = {artifact.key.removeprefix(f"msft-{store.search_id}-"): artifact for artifact in found}
    rounds = {f"round-{number}" for number in range(3)}
    assert set(artifacts) == {"mlflow", "decision", "rounds", "summary", *rounds}
    assert {float(artifacts[name].data) for name in rounds} == {100.0}
    assert all(artifact.description for artifact in found)  # Prefect's list shows it below the key
    # Another test may have run the same search in another folder.
    linked = [str(artifact.data) for artifact in found if artifact.key == f"msft-{store.search_id}-mlflow"]
    assert any(store.parent.info.run_id in link for link in linked)
