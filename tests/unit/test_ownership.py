"""One search of a name at a time, one owner of a directory, one owner of a GPU."""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import stat
import tempfile
import threading
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import pynvml
import pytest

from tasks.config.identity import Change, differences, dump_config, explain_config, search_id_of
from tasks.config.schema import SearchConfig
from tasks.contracts import SearchRef
from tasks.errors import BusyError, LockError, OtherSearchError
from tasks.record import ownership
from tasks.record.journal import append_event
from tasks.record.ownership import own_cache, own_directory, own_gpus
from tasks.runtime import machine
from tasks.runtime.machine import Gpu, device_of, gpu_named, installed_gpus, numerical_environment, other_changes
from tests.unit.made_events import crowned, started

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
        ({"training": {"machines": 2, "silence_s": 30, "join_minutes": 5}}, True),
        ({"training": {"micro_batch_size": 2, "threads": 1, "device": "cpu"}}, True),
        ({"evaluation": {"batch_tokens": 64}}, True),
        ({"tracking": {"uri": "http://elsewhere"}}, True),
        ({"output_root": "elsewhere"}, True),
        ({"training": {"learning_rate": 2e-5}}, False),
        ({"evaluation": {"selection": "loss"}}, False),
        ({"seed": 1}, False),
    ],
)
def test_place_and_processes_are_no_part_of_the_identity(
    tmp_path: Path, changes: dict[str, Any], is_same: bool
) -> None:
    assert (search_id_of(config_of(tmp_path)) == search_id_of(config_of(tmp_path, **changes))) == is_same


def test_only_an_attempt_of_the_same_flow_run_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_an_unfinished_search_of_the_same_name_is_refused(tmp_path: Path) -> None:
    begin(config_of(tmp_path))
    changed = config_of(tmp_path, training={"learning_rate": 2e-5}, search={"max_epochs": 8})
    with pytest.raises(OtherSearchError) as refused, own_directory(changed):
        pass
    assert "training.learning_rate: was 1e-05, is 2e-05" in str(refused.value)
    assert "search.max_epochs: was 4.0, is 8.0" in str(refused.value)
    assert "--set name=" in str(refused.value)
    assert "num_processes" not in str(refused.value)


@pytest.mark.parametrize("content", ["", "{", "name: tiny\nna", "- tiny", b"\xff"])
def test_an_unreadable_configuration_stops_no_other_search(tmp_path: Path, content: str | bytes) -> None:
    """It is of a search that was killed before it began, or of another whose name begins so, with a broken journal."""
    raw = content if isinstance(content, bytes) else content.encode()
    for name in ("tiny-00000000", "tiny-2-00000000"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_bytes(raw)
    (tmp_path / "tiny-2-00000000" / "journal.jsonl").write_text("broken\n")
    with own_directory(config_of(tmp_path)):
        pass


@pytest.mark.parametrize("content", ["", "name: tiny\nseed: 0\n"])
def test_a_begun_search_is_known_without_its_configuration_file(tmp_path: Path, content: str) -> None:
    first, second = config_of(tmp_path), config_of(tmp_path, training={"learning_rate": 2e-5})
    with own_directory(first) as directory:
        append_event(directory, started(config=first.model_dump(mode="json")))
        Path(directory, "config.yaml").write_text(content)
    with pytest.raises(OtherSearchError, match=r"training\.learning_rate"), own_directory(second):
        pass


def test_the_wait_for_the_cache_is_told_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ownership, "CACHE_WAIT_S", 0.5)
    config = config_of(tmp_path)
    with (
        caplog.at_level("INFO"),
        own_cache(config),
        pytest.raises(BusyError, match=rf"cache \S+ is in use(.|\n)*process {os.getpid()}"),
        own_cache(config),
    ):
        pass
    told = [record.getMessage() for record in caplog.records]
    assert [f"is in use by process {os.getpid()}" in line for line in told] == [True]
    with own_cache(config):
        pass


def test_another_seed_or_name_is_another_search(tmp_path: Path) -> None:
    begin(config_of(tmp_path))
    for changes in ({"seed": 1}, {"name": "tiny-2"}):
        with own_directory(config_of(tmp_path, training={"learning_rate": 2e-5}, **changes)):
            pass


def test_a_finished_or_running_search_is_not_in_the_way(tmp_path: Path) -> None:
    first, second = config_of(tmp_path), config_of(tmp_path, training={"learning_rate": 2e-5})
    begin(first)
    with own_directory(first) as directory, own_directory(second):
        append_event(directory, crowned())
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
    monkeypatch.setattr(ownership, "installed_gpus", tuple)
    devices = tmp_path / "dev"
    devices.mkdir()
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidia10", "nvidiactl", "nvidia-uvm"):
        (devices / name).touch()
    return devices


def test_a_gpu_has_one_owner_and_the_second_is_told_its_name(tmp_path: Path, gpus: Path) -> None:
    one, two = config_of(tmp_path), config_of(tmp_path, training={"num_processes": 2})
    with own_gpus(one, 0, gpus, tmp_path) as owned:
        assert owned == ("0",)
        told = r"GPU 0 is in use\n  got:      owner process \d+"
        with pytest.raises(BusyError, match=told), own_gpus(two, 0, gpus, tmp_path):
            pass
    with own_gpus(two, 0, gpus, tmp_path) as owned:
        assert owned == ("0", "1")


def test_the_wait_for_another_search_of_a_comparison_ends(
    tmp_path: Path, gpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", "the-comparison")  # the root of both searches' runs
    monkeypatch.setattr(ownership, "CACHE_WAIT_S", 0.0)
    one, two = config_of(tmp_path), config_of(tmp_path, seed=1)
    with own_gpus(one, 0, gpus, tmp_path), pytest.raises(BusyError), own_gpus(two, 0, gpus, tmp_path):
        pass
    with own_cache(one), pytest.raises(BusyError), own_cache(two):
        pass


def test_a_shared_gpu_is_shared_with_sharing_searches_only(tmp_path: Path, gpus: Path) -> None:
    def own(is_shared: bool) -> AbstractContextManager[tuple[str, ...]]:
        return own_gpus(config_of(tmp_path), 0, gpus, tmp_path, is_shared=is_shared)

    with own(True), own(True) as shared:
        assert shared == ("0",)
        with pytest.raises(BusyError, match="GPU 0 is in use"):
            own(False).__enter__()
    with own(False), pytest.raises(BusyError, match="GPU 0 is in use"):
        own(True).__enter__()


def test_the_gpus_that_are_owned_are_those_that_the_worker_sees(
    tmp_path: Path, gpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with own_gpus(config_of(tmp_path, training={"accelerate_config": "x.yaml"}), 0, gpus, tmp_path) as owned:
        assert owned == ("0", "1", "2", "3")  # CUDA counts what is there
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
    before = numerical_environment(config)
    file.write_text("num_processes: 4")
    changed = "training.accelerate_config: was 'num_processes: 2', is 'num_processes: 4'"
    assert differences(before, numerical_environment(config)) == [changed]


def test_the_world_holds_several_machines_and_not_one(tmp_path: Path) -> None:
    one = numerical_environment(config_of(tmp_path))
    more = config_of(tmp_path, training={"machines": 2, "silence_s": 30, "join_minutes": 5})
    assert differences(one, numerical_environment(more)) == ["training.machines: was absent, is 2"]


def test_other_cores_are_a_change_where_threads_are_automatic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    auto, fixed = ({"device": "cpu"}, {"device": "cpu", "threads": 2})
    configs = [config_of(tmp_path, training=training) for training in (auto, fixed)]
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    before = [numerical_environment(config) for config in configs]
    assert before[0]["training.threads"] == 4
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    now = [numerical_environment(config) for config in configs]
    changed = [differences(*pair) for pair in zip(before, now, strict=True)]
    assert changed == [["training.threads: was 4, is 64"], []]


def test_a_move_to_another_device_is_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(tmp_path, training={"threads": 1})
    worlds = []
    for device in ("cpu", "NVIDIA A100", "NVIDIA H100"):
        monkeypatch.setattr(machine, "device_of", lambda training, device=device: device)
        worlds.append(numerical_environment(config))
    assert differences(*worlds[:2]) == ["training.device: was 'cpu', is 'NVIDIA A100'"]
    assert differences(*worlds[1:]) == ["training.device: was 'NVIDIA A100', is 'NVIDIA H100'"]


def test_the_device_is_the_model_of_the_gpus_that_are_used(
    tmp_path: Path, gpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = ("NVIDIA H100", "NVIDIA H100", "NVIDIA A100", "NVIDIA A100")
    known = tuple(Gpu(number, f"GPU-{number}{number}-aa", model) for number, model in enumerate(models))
    monkeypatch.setattr(machine, "installed_gpus", lambda: known)

    def found(visible: str | None, **training: Any) -> str:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        return device_of(config_of(tmp_path, training=training).training, gpus)

    assert found(None) == "NVIDIA H100"
    assert found(None, num_processes=2) == "NVIDIA H100"
    assert found(None, num_processes=3) == "NVIDIA H100, NVIDIA A100"
    assert found("2") == "NVIDIA A100"
    assert found("GPU-33") == "NVIDIA A100"
    assert found("MIG-0") == "GPU of an unknown model"
    assert found("") == "cpu"
    assert found(None, device="cpu") == "cpu"
    assert device_of(config_of(tmp_path).training, tmp_path / "nothing") == "cpu"


def test_other_changes_leave_out_what_is_refused() -> None:
    before = {"cpu": "A", "num_cores": 4, "gpus": ["H100"], "versions": {"torch": "2", "pandas": "3"}}
    now = {"cpu": "B", "num_cores": 8, "gpus": [], "versions": {"torch": "3", "pandas": "4"}}
    assert other_changes(before, now, [Change("training.threads", 4, 8)]) == [
        "cpu: was 'A', is 'B', which may change last digits",
        "gpus: was ['H100'], is [], which changes no result",
        "versions.pandas: was '3', is '4', which changes no result",
    ]


def test_a_gpu_has_one_lock_by_its_number_and_by_its_id(
    tmp_path: Path, gpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = tuple(Gpu(number, f"GPU-{number}d0b3-11f2", "NVIDIA H100") for number in range(4))
    monkeypatch.setattr(ownership, "installed_gpus", lambda: known)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    with own_gpus(config_of(tmp_path), 0, gpus, tmp_path):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-2d0b3")  # a beginning is enough for CUDA
        refused = own_gpus(config_of(tmp_path), 0, gpus, tmp_path)
        with pytest.raises(BusyError, match="GPU GPU-2d0b3 is in use"), refused:
            pass
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-GPU-2d0b3/1/0")
        with own_gpus(config_of(tmp_path), 0, gpus, tmp_path) as owned:
            assert owned == ("MIG-GPU-2d0b3/1/0",)


def test_a_lock_can_be_opened_by_every_user_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with own_directory(config_of(tmp_path)) as directory:
            assert stat.S_IMODE(Path(directory, "lock").stat().st_mode) == 0o666
    finally:
        os.umask(before)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_another_user_takes_a_gpu_that_the_first_has_left() -> None:
    """In a directory like /tmp, where Linux lets nobody create a file anew that is another user's."""
    locks = Path(tempfile.mkdtemp(prefix="msft-locks-"))
    locks.chmod(0o1777)
    try:
        with ownership._open_for_all(locks / "lock"):
            pass
        child = os.fork()
        if child == 0:
            with suppress(BaseException):  # nothing of this test may go on in the child
                os.setuid(pwd.getpwnam("nobody").pw_uid)
                with ownership._open_for_all(locks / "lock") as lock:
                    lock.write("mine")
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        assert (locks / "lock").read_text() == "mine"
    finally:
        shutil.rmtree(locks)


def test_no_driver_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", fails)
    assert installed_gpus() == ()


def test_a_name_that_fits_several_gpus_is_none_of_them() -> None:
    known = tuple(Gpu(number, f"GPU-{number}-11f2", "NVIDIA H100") for number in range(12))
    assert gpu_named("1", known) == known[1]
    assert gpu_named("GPU-2", known) == known[2]
    assert gpu_named("GPU-1", known) is None


def test_a_lock_that_may_not_be_opened_is_an_error_with_a_fix(
    tmp_path: Path, gpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "msft-gpu-0.lock"
    lock.symlink_to(tmp_path / "elsewhere")  # root may open what others may not, but not this
    with pytest.raises(LockError, match=f"chmod 666 {lock}"), own_gpus(config_of(tmp_path), 0, gpus, tmp_path):
        pass
    assert not (tmp_path / "elsewhere").exists()

    def is_denied(*arguments: Any) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    lock.unlink()
    monkeypatch.setattr(os, "open", is_denied)
    with pytest.raises(LockError, match="Permission denied"), own_gpus(config_of(tmp_path), 0, gpus, tmp_path):
        pass


def test_differences_name_what_came_and_what_went() -> None:
    before = {"a": {"b": 1, "c": []}, "list": [{"name": "x", "value": 1}, {"name": "y"}]}
    now = {"a": {"b": 1, "d": None}, "list": [{"name": "x", "value": 2}, {"name": "y"}]}
    assert differences(before, now) == [
        "a.c: was [], is absent",
        "list.x.value: was 1, is 2",
        "a.d: was absent, is None",
    ]


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql+psycopg://msft:s3cret@db.example/mlflow", "msft:***@db.example"),
        ("postgresql+psycopg:///mlflow?user=msft&password=s3cret&host=db", "user=msft&password=***&host=db"),
    ],
)
def test_a_password_is_kept_out_of_everything_that_is_written(tmp_path: Path, uri: str, shown: str) -> None:
    config = config_of(tmp_path, tracking={"uri": uri})
    assert config.tracking.uri == uri
    search = SearchRef(search_id="", name="", directory="", tracking_uri=uri, outage_s=0, experiment_id="", run_id="")
    written = [dump_config(config), explain_config(config), config.model_dump_json(), search.model_dump_json()]
    assert all(shown in text for text in written)
    assert not any("s3cret" in text for text in written)
