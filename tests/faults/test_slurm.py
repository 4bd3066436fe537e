"""A search over two nodes of a real Slurm, by the script that is shipped, ends as that of one process."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults.chaos import CONFIG, Undisturbed
from tests.faults.comparison import batch_hashes, record_of
from tests.faults.processes import MARK, events_of, members_of
from tests.faults.slurm import Cluster, missing, running_cluster
from tests.prefect_home import prepare_home

SCRIPT = Path(__file__).resolve().parents[2] / "deployments" / "machines" / "slurm.sh"
PATIENCE_S = 300.0
pytestmark = pytest.mark.skipif(missing() != "", reason=missing())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("slurm") / "c") as cluster:
        yield cluster


class Job:
    """A search on both nodes; every process of it carries the mark."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.root, self.mark = cluster, folder / "searches", uuid.uuid4().hex
        self.log = folder / "job.log"
        prepare_home(folder / "prefect")
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{cluster.environment['PATH']}",
            "PREFECT_HOME": str(folder / "prefect"),
            "HF_DATASETS_CACHE": str(folder / "datasets"),
            "MSFT_ADDRESS": "127.0.0.1",
            MARK: self.mark,
        }
        options = [f"--set={value}" for value in (f"output_root={self.root}", "training.join_minutes=3")]
        slurm = ["--parsable", "--nodes=2", f"--output={self.log}"]
        self.number = cluster.run("sbatch", *slurm, str(SCRIPT), str(CONFIG), *options, **environment)

    def wait(self, claim: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not claim():
            assert time.monotonic() < deadline, f"{self.text()}\n{self.cluster.account()}"
            time.sleep(0.1)

    def wait_for_end(self) -> None:
        self.wait(lambda: self.cluster.state(self.number) not in ("PENDING", "RUNNING", "COMPLETING", "REQUEUED"))
        assert self.cluster.state(self.number) == "COMPLETED", self.text()

    def wait_for_training(self) -> None:
        """Wait until a roll-out has begun on both nodes, and has published its start."""
        self.wait(lambda: list(self.root.glob("*/rounds/*/progress.json")))

    def start_again(self) -> None:
        """Let the requeued job begin, which Slurm holds back for two minutes."""
        self.wait(lambda: self.cluster.state(self.number) == "PENDING")
        self.cluster.run("scontrol", "update", f"JobId={self.number}", "StartTime=now")

    def text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def processes(self) -> list[psutil.Process]:
        return [member.process for member in members_of(self.mark)]


@pytest.fixture
def job(cluster: Cluster, tmp_path: Path) -> Iterator[Job]:
    job = Job(cluster, tmp_path)
    yield job
    for process in job.processes():
        process.kill()


def assert_as_one_process(undisturbed: Undisturbed, job: Job) -> None:
    expected, got = undisturbed.record, record_of(job.root)
    assert batch_hashes(got) == batch_hashes(expected)
    chosen = [[one["decision"]["exclude"], one["decision"]["roll_back_to"]] for one in expected["decisions"]]
    assert [[one["decision"]["exclude"], one["decision"]["roll_back_to"]] for one in got["decisions"]] == chosen
    assert numbers_in(got["champion"]) == pytest.approx(numbers_in(expected["champion"]), abs=2e-5)


def numbers_in(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for key in sorted(value) for number in numbers_in(value[key])]
    if isinstance(value, list):
        return [number for one in value for number in numbers_in(one)]
    return [float(value)] if isinstance(value, int | float) else []


def test_a_requeued_search_goes_on_over_both_nodes(job: Job, undisturbed: Undisturbed) -> None:
    job.wait_for_training()
    job.cluster.run("scontrol", "requeue", job.number)
    job.start_again()
    job.wait_for_end()
    assert "following" in job.text()
    assert [event.kind for event in events_of(job.root)].count("search_started") == 1
    assert_as_one_process(undisturbed, job)
    job.wait(lambda: not job.processes())


@pytest.mark.nightly
def test_a_node_that_is_taken_down_is_waited_for(job: Job, undisturbed: Undisturbed) -> None:
    job.wait_for_training()
    job.cluster.run("scontrol", "update", "NodeName=n1", "State=DOWN", "Reason=test")
    job.start_again()
    time.sleep(3)
    assert job.cluster.state(job.number) == "PENDING"
    job.cluster.run("scontrol", "update", "NodeName=n1", "State=RESUME")
    job.wait_for_end()
    assert_as_one_process(undisturbed, job)
