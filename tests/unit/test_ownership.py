"""One search of a name at a time, one owner of a directory, one owner of a GPU."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from tasks.config import SearchConfig
from tasks.config_file import dump_config, explain_config, search_id_of
from tasks.contracts import SearchRef
from tasks.errors import BusyError, OtherSearchError
from tasks.journal import append_event
from tasks.ownership import own_directory, own_gpus
from tasks.world import differences, world_of

MINIMAL: dict[str, Any] = {
    "name": "tiny",
    "model": {"source": "somewhere"},
    "mixture": {"sub_datasets": [{"name": "max", "synthetic": {"skill": "max"}}]},
    "search": {"max_epochs": 4},
}


def config_of(root: Path, **changes: Any) -> SearchConfig:
    return SearchConfig.model_validate(MINIMAL | {"output_root": str(root)} | changes)


def begin(config: SearchConfig) -> None:
    """Leave what a search leaves that was killed in its first round."""
    with own_directory(config) as directory:
        Path(directory, "config.yaml").write_text(dump_config(config))


@pytest.mark.parametrize(
    ("changes", "is_same"),
    [
        ({"training": {"num_processes": 8}}, True),
        ({"training": {"micro_batch_size": 2, "threads": 1, "device": "cpu"}}, True),
        ({"evaluation": {"batch_tokens": 64}}, True),
        ({"tracking": {"uri": "http://elsewhere"}}, True),
        ({"output_root": "elsewhere"}, True),
        ({"training": {"learning_rate": 2e-5}}, False),
        ({"evaluation": {"selection": "loss"}}, False),
        ({"seed": 1}, False),
    ],
)
def test_a_search_is_the_same_wherever_and_on_however_many_processes_it_runs(
    tmp_path: Path, changes: dict[str, Any], is_same: bool
) -> None:
    assert (search_id_of(config_of(tmp_path)) == search_id_of(config_of(tmp_path, **changes))) == is_same


def test_another_attempt_of_the_same_flow_run_is_waited_for_and_that_of_another_run_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path)
    has_it = threading.Event()

    def take() -> None:
        with own_directory(config):
            has_it.set()

    successor = threading.Thread(target=take)
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", "the-run")
    with own_directory(config):
        successor.start()
        assert not has_it.wait(0.5)
        assert successor.is_alive()
        monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", "another-run")
        with pytest.raises(BusyError, match="flow run the-run"), own_directory(config):
            pass
    successor.join(60)
    assert has_it.is_set()


def test_an_unfinished_search_of_the_same_name_is_not_left_by_accident(tmp_path: Path) -> None:
    begin(config_of(tmp_path))
    changed = config_of(tmp_path, training={"learning_rate": 2e-5}, search={"max_epochs": 8})
    with pytest.raises(OtherSearchError) as refused, own_directory(changed):
        pass
    assert "training.learning_rate: was 1e-05, is 2e-05" in str(refused.value)
    assert "search.max_epochs: was 4.0, is 8.0" in str(refused.value)
    assert "--set name=" in str(refused.value)
    assert "num_processes" not in str(refused.value)


@pytest.mark.parametrize("content", ["", "{", "name: tiny\nna", "- tiny", b"\xff"])
def test_a_configuration_that_cannot_be_read_stops_no_other_search(
    tmp_path: Path, content: str | bytes
) -> None:
    """It is of a search that was killed before it began, or of another whose name begins so, with a broken journal."""
    raw = content if isinstance(content, bytes) else content.encode()
    for name in ("tiny-00000000", "tiny-2-00000000"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_bytes(raw)
    (tmp_path / "tiny-2-00000000" / "journal.jsonl").write_text("broken\n")
    with own_directory(config_of(tmp_path)):
        pass


@pytest.mark.parametrize("content", ["", "name: tiny\nseed: 0\n"])
def test_a_search_that_has_begun_is_not_left_even_if_its_configuration_is_lost(
    tmp_path: Path, content: str
) -> None:
    first, second = config_of(tmp_path), config_of(tmp_path, training={"learning_rate": 2e-5})
    with own_directory(first) as directory:
        append_event(directory, {"event": "search_started", "config": first.model_dump(mode="json")})
        Path(directory, "config.yaml").write_text(content)
    with pytest.raises(OtherSearchError, match=r"training\.learning_rate"), own_directory(second):
        pass


def test_another_seed_or_name_is_another_search(tmp_path: Path) -> None:
    begin(config_of(tmp_path))
    for changes in ({"seed": 1}, {"name": "tiny-2"}):
        with own_directory(config_of(tmp_path, training={"learning_rate": 2e-5}, **changes)):
            pass


def test_a_finished_or_running_search_does_not_stand_in_the_way(tmp_path: Path) -> None:
    first, second = config_of(tmp_path), config_of(tmp_path, training={"learning_rate": 2e-5})
    begin(first)
    with own_directory(first) as directory, own_directory(second):
        append_event(directory, {"event": "champion_crowned"})
    with own_directory(second):
        pass


def test_a_search_goes_on_under_another_number_of_processes(tmp_path: Path) -> None:
    begin(config_of(tmp_path))
    with own_directory(config_of(tmp_path, training={"num_processes": 2})) as directory:
        assert Path(directory, "config.yaml").exists()


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine's device files, four GPUs among them."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    devices = tmp_path / "dev"
    devices.mkdir()
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidia10", "nvidiactl", "nvidia-uvm"):
        (devices / name).touch()
    return devices


def test_a_gpu_has_one_owner_and_the_second_is_told_its_name(tmp_path: Path, gpus: Path) -> None:
    one, two = config_of(tmp_path), config_of(tmp_path, training={"num_processes": 2})
    with own_gpus(one, 0, gpus, tmp_path) as owned:
        assert owned == ("0",)
        told = r"GPU 0 is in use\n  got:    owner process \d+"
        with pytest.raises(BusyError, match=told), own_gpus(two, 0, gpus, tmp_path):
            pass
    with own_gpus(two, 0, gpus, tmp_path) as owned:
        assert owned == ("0", "1")


def test_the_gpus_that_are_owned_are_those_that_the_worker_sees(
    tmp_path: Path, gpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with own_gpus(config_of(tmp_path, training={"accelerate_config": "x.yaml"}), 0, gpus, tmp_path) as owned:
        assert owned == ("0", "1", "2", "10")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 1")
    with own_gpus(config_of(tmp_path), 0, gpus, tmp_path) as owned:
        assert owned == ("2",)
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        with own_gpus(config_of(tmp_path), 0, gpus, tmp_path) as owned:
            assert owned == ()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with own_gpus(config_of(tmp_path, training={"device": "cpu"}), 0, gpus, tmp_path) as owned:
        assert owned == ()


def test_the_world_holds_an_accelerate_configs_text(tmp_path: Path) -> None:
    file = tmp_path / "two.yaml"
    file.write_text("num_processes: 2")
    config = config_of(tmp_path, training={"accelerate_config": str(file)})
    before = world_of(config)
    file.write_text("num_processes: 4")
    changed = "training.accelerate_config: was 'num_processes: 2', is 'num_processes: 4'"
    assert differences(before, world_of(config)) == [changed]


def test_differences_name_what_came_and_what_went() -> None:
    before = {"a": {"b": 1, "c": []}, "list": [{"name": "x", "value": 1}, {"name": "y"}]}
    now = {"a": {"b": 1, "d": None}, "list": [{"name": "x", "value": 2}, {"name": "y"}]}
    assert differences(before, now) == [
        "a.c: was [], is absent",
        "list.x.value: was 1, is 2",
        "a.d: was absent, is None",
    ]


def test_a_password_is_kept_out_of_everything_that_is_written(tmp_path: Path) -> None:
    uri = "postgresql+psycopg://msft:s3cret@db.example/mlflow"
    config = config_of(tmp_path, tracking={"uri": uri})
    assert config.tracking.uri == uri
    search = SearchRef(
        search_id="", name="", directory="", tracking_uri=uri, outage_s=0, experiment_id="", run_id=""
    )
    written = [
        dump_config(config),
        explain_config(config),
        config.model_dump_json(),
        search.model_dump_json(),
    ]
    assert all("msft:***@db.example" in text for text in written)
    assert not any("s3cret" in text for text in written)
