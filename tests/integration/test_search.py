"""A whole search on real parts: accelerate launch, SQLite MLflow, a Prefect server."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from transformers import AutoModelForCausalLM, AutoTokenizer

from flows.search import msft_search
from tasks.algorithm.state import CheckpointKey
from tasks.algorithm.strategy import RoundReport
from tasks.config.schema import SearchConfig
from tasks.contracts import SearchRef
from tasks.errors import BusyError, CheckpointDamagedError, CheckpointNotFoundError, DriftError
from tasks.evaluation import curves_of
from tasks.record.events import EnvironmentChanged, of_kind, rounds_of
from tasks.record.journal import read_events
from tasks.record.ownership import own_directory
from tasks.record.view import read_view
from tasks.registry.checkpoints import find_checkpoint
from tasks.rollback import find_whole
from tests.integration.conftest import HUB_TOKEN


def client_of(config: SearchConfig) -> MlflowClient:
    uri = f"sqlite:///{Path(config.output_root, 'mlflow.db').resolve()}"
    mlflow.set_tracking_uri(uri)
    return MlflowClient(uri, uri)


def directory_of(config: SearchConfig) -> Path:
    return next(Path(config.output_root).glob("smoke-*"))


def decisions(directory: Path) -> list[Any]:
    return [
        (e.decision, e.champion, [i.batch_hash for i in e.intervals], e.curves)
        for e in rounds_of(read_events(str(directory)))
    ]


def test_the_champion_is_an_ordinary_model_with_its_tokenizer(searched: Any) -> None:
    _, result = searched
    model = AutoModelForCausalLM.from_pretrained(result.directory)
    tokenizer = AutoTokenizer.from_pretrained(result.directory)
    output = model.generate(**tokenizer("max 3 1?", return_tensors="pt"), max_new_tokens=4)
    assert output.shape[1] > len("max 3 1?")


def test_the_champion_is_registered_with_its_files(searched: Any, tmp_path: Path) -> None:
    config, result = searched
    version = client_of(config).get_model_version_by_alias("msft-smoke", "champion")
    assert str(version.version) == result.model_version
    downloaded = mlflow.artifacts.download_artifacts("models:/msft-smoke@champion", dst_path=str(tmp_path))
    here, there = (AutoModelForCausalLM.from_pretrained(d).state_dict() for d in (result.directory, downloaded))
    assert all(torch.equal(here[name], there[name]) for name in here)


def test_the_champion_has_the_best_mean_in_mlflow(searched: Any) -> None:
    config, result = searched
    client = client_of(config)
    experiment = client.get_experiment_by_name("msft").experiment_id
    means = {}
    for model in client.search_logged_models([experiment]):
        losses = [m.value for m in model.metrics or [] if m.key.startswith("validation/loss/")]
        if losses:
            key = CheckpointKey(int(model.tags["msft.round"]), int(model.tags["msft.step"]))
            means[key] = -sum(losses) / len(losses)
    assert len(means) == 1 + 3 * 4
    assert result.key == max(sorted(means), key=lambda key: means[key])


def test_checkpoints_are_registered_once_and_read_rarely(counted_search: Any) -> None:
    counts = counted_search[2]
    assert counts["checkpoints registered"] == 1 + 3 * 4
    assert counts["MLflow searches"] <= 25
    assert counts["journal reads"] <= 3
    assert (counts["roll-outs from the base model"], counts["roll-outs from disk"]) == (1, 0)


def test_a_search_starts_one_trainer_and_one_worker_beside_it(counted_search: Any) -> None:
    assert counted_search[2]["worker processes started"] == 2


def test_curves_from_mlflow_give_the_same_decisions(searched: Any) -> None:
    """The search decided on the scorer's own scores."""
    config, _ = searched
    directory = directory_of(config)
    search = reference_to(config, directory)
    before: tuple[RoundReport, ...] = ()
    for decided in rounds_of(read_events(str(directory))):
        keys = [point.checkpoint for point in decided.curves[0].points]
        scores = {key: find_checkpoint(search, key).scores for key in keys}
        curves = curves_of(scores, decided.sub_datasets, by_loss=config.evaluation.selection == "loss")
        assert curves == decided.curves
        report = RoundReport(decided.round, decided.active, curves, decided.steps_per_epoch, before)
        assert config.search.strategy().observe(report) == decided.decision
        before = (*before, decided.report)


def test_every_round_is_a_child_run_with_its_decision(searched: Any) -> None:
    config, _ = searched
    client = client_of(config)
    runs = client.search_runs([client.get_experiment_by_name("msft").experiment_id])
    parent = next(run for run in runs if run.data.tags["msft.kind"] == "search")
    children = [run for run in runs if run.data.tags["msft.kind"] == "round"]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert all("decision" in "".join(run.data.tags) for run in children)
    assert all(f"train/loss/{name}" in children[0].data.metrics for name in ("max", "cmp", "roman"))


def test_the_frames_have_every_point_and_the_ledger_every_row(searched: Any) -> None:
    config, _ = searched
    report = directory_of(config) / "report"
    curves, ledger = pd.read_parquet(report / "curves.parquet"), pd.read_csv(report / "ledger.csv")
    assert len(curves) == 3 * 3 * 5
    trained = ledger[ledger.kind != "evaluation"].num_examples.sum()
    assert trained == 3 * 2 * 112
    evaluated = ledger[ledger.kind == "evaluation"].num_examples.sum()
    assert evaluated == 13 * 3 * 40


def test_the_report_stands_in_the_directory_and_in_mlflow(searched: Any) -> None:
    config, result = searched
    client = client_of(config)
    experiment = client.get_experiment_by_name("msft").experiment_id
    (run,) = client.search_runs([experiment], "tags.`msft.kind` = 'search'")
    artifacts = {file.path for file in client.list_artifacts(run.info.run_id, "report")}
    for name in ("report.html", "report.md"):
        page = (directory_of(config) / "report" / name).read_text()
        assert f"The champion is {result.key}" in page or "The champion is the base model" in page
        assert f"report/{name}" in artifacts


def test_a_finished_search_repeats_its_result_without_training(searched: Any) -> None:
    config, result = searched
    logs = sorted(directory_of(config).rglob("*.log"))
    sizes = [log.stat().st_size for log in logs]
    assert msft_search(config) == result
    assert [log.stat().st_size for log in logs] == sizes


def test_of_its_checkpoints_a_finished_search_keeps_the_champion(searched: Any) -> None:
    config, result = searched
    kept = [path.name for path in directory_of(config).glob("rounds/*/checkpoints/*")]
    assert kept == [f"step-{result.key.step:08d}"]


def test_a_search_interrupted_in_every_stage_ends_the_same(
    searched: Any, smoke: dict[str, Any], output_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stages fail once each, at their end, when their work is done but not handed on; suspect rows change nothing."""
    import flows.round as round_module

    evaluation = {**smoke["evaluation"], "suspects": True}
    config = SearchConfig.model_validate(smoke | {"output_root": str(output_root), "evaluation": evaluation})
    stages = ["build_mixture", "train_rollout", "register_checkpoints"]
    stages += ["evaluate_checkpoints", "find_suspects", "decide_pruning", "roll_back"]
    for stage in stages:
        original = getattr(round_module, stage)

        def interrupted(*args: Any, _original: Any = original, **kwargs: Any) -> Any:
            _original(*args, **kwargs)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(round_module, stage, interrupted)
            with pytest.raises(BaseException):  # noqa: B017, PT011 - Prefect wraps what ends a flow
                msft_search(config)
    result = msft_search(config)
    undisturbed_config, undisturbed = searched
    assert decisions(directory_of(config)) == decisions(directory_of(undisturbed_config))
    assert result.validation.scores == undisturbed.validation.scores
    here, there = (Path(d, "model.safetensors").read_bytes() for d in (result.directory, undisturbed.directory))
    assert here == there
    suspects = pd.read_csv(directory_of(config) / "report" / "suspects.csv")
    assert set(suspects["sub_dataset"]) == {"max", "cmp", "roman"}
    assert (suspects["label"].str.strip() != suspects["answer"].str.strip()).all()
    both = [read_view(str(directory_of(one))).totals["evaluation"].num_tokens for one in (config, undisturbed_config)]
    assert both[0] > both[1], "answering train rows is counted"


def reference_to(config: SearchConfig, directory: Path) -> SearchRef:
    """Return the search as its tasks know it, with its files in `directory`."""
    experiment = client_of(config).get_experiment_by_name("msft").experiment_id
    uri = f"sqlite:///{Path(config.output_root, 'mlflow.db').resolve()}"
    return SearchRef(
        search_id=directory_of(config).name[-8:], name="smoke", directory=str(directory), tracking_uri=uri,
        outage_s=0, experiment_id=experiment, run_id="",
    )  # fmt: skip


def test_the_rollback_asks_mlflow_and_names_the_steps_there_are(searched: Any) -> None:
    config, _ = searched
    search = reference_to(config, directory_of(config))
    assert find_checkpoint(search, CheckpointKey(0, 14)).key == CheckpointKey(0, 14)
    with pytest.raises(CheckpointNotFoundError, match="READY steps: 0, 7, 14, 21, 28"):
        find_checkpoint(search, CheckpointKey(0, 15))


def test_a_flipped_bit_is_found_before_a_rollback_builds_on_it(searched: Any, tmp_path: Path) -> None:
    config, result = searched
    directory = shutil.copytree(directory_of(config), tmp_path / "copy")
    search = reference_to(config, directory)
    checkpoint = find_checkpoint(search, result.key)
    assert find_whole(search, checkpoint, with_state=False) == checkpoint
    weights = directory / checkpoint.directory / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointDamagedError, match=r"model\.safetensors: content differs"):
        find_whole(search, checkpoint, with_state=False)


def test_a_changed_environment_is_refused_until_accepted(searched: Any, tmp_path: Path) -> None:
    """The search seems to have begun on one process less, and on another torch."""
    config = searched[0]
    shutil.copytree(config.output_root, tmp_path / "copy")
    config = config.model_copy(update={"output_root": str(tmp_path / "copy")})
    journal = directory_of(config) / "journal.jsonl"
    journal.write_text(journal.read_text().replace('"torch": "', '"torch": "1.'))
    two = config.training.model_copy(update={"num_processes": 2})
    config = config.model_copy(update={"training": two})
    with pytest.raises(DriftError) as refused:
        msft_search(config)
    assert "training.num_processes: was 1, is 2" in str(refused.value)
    assert f"torch: was '1.{torch.__version__.partition('+')[0]}" in str(refused.value)
    assert "--accept-changes" in str(refused.value)
    client = client_of(config)
    runs = client.search_runs([client.get_experiment_by_name("msft").experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}, "a refusal changes nothing"
    accepted = msft_search(config, accept_changes=True)
    assert msft_search(config) == accepted
    changes = of_kind(read_events(str(journal.parent)), EnvironmentChanged)
    assert [len(event.differences) for event in changes] == [2]


def test_a_hub_token_is_in_no_file_of_a_search(searched: Any) -> None:
    """Journal, environment.json, specs, logs, report, and MLflow's database with its params."""
    files = {path: path.read_bytes() for path in Path(searched[0].output_root).rglob("*") if path.is_file()}
    assert {"journal.jsonl", "environment.json", "report.html", "mlflow.db"} <= {path.name for path in files}
    assert [path for path, content in files.items() if HUB_TOKEN.encode() in content] == []


def test_one_directory_has_one_owner(smoke: dict[str, Any], tmp_path: Path) -> None:
    config = SearchConfig.model_validate(smoke | {"output_root": str(tmp_path)})
    with own_directory(config), pytest.raises(BusyError, match="owner process"), own_directory(config):
        pass


def test_permuting_the_test_labels_changes_no_decision(
    searched: Any, smoke: dict[str, Any], prepare_root: Callable[[Path], Path], tmp_path: Path
) -> None:
    """The same rows as files, with true and with shuffled test labels: only the test scores may differ."""
    from tasks.config.sub_datasets import SyntheticConfig
    from tasks.data.synthetic import synthetic_rows

    results = {}
    for kind in ("true", "shuffled"):
        sub_datasets = []
        for name in ("max", "roman"):
            folder = tmp_path / kind / name
            folder.mkdir(parents=True)
            for split in ("train", "validation", "test"):
                settings = SyntheticConfig(skill=name, unique_rows=24, validation_rows=20, test_rows=20)
                rows = synthetic_rows(settings, split, 3)
                if split == "test" and kind == "shuffled":
                    shifted = [row["completion"] for row in rows[1:] + rows[:1]]
                    rows = [row | {"completion": c} for row, c in zip(rows, shifted, strict=True)]
                (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            sub_datasets.append({"name": name, "path": str(folder)})
        changed = smoke | {
            "output_root": str(prepare_root(tmp_path / f"searches-{kind}")),
            "mixture": {"sub_datasets": sub_datasets},
            "search": smoke["search"] | {"max_rounds": 1},
        }
        config = SearchConfig.model_validate(changed)
        results[kind] = (msft_search(config), decisions(directory_of(config)))
    assert results["true"][1] == results["shuffled"][1]
    assert results["true"][0].key == results["shuffled"][0].key
    assert results["true"][0].test.scores[0].loss != results["shuffled"][0].test.scores[0].loss
