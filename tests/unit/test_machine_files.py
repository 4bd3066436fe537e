"""The files that start a search on several machines: Slurm's script, Kubernetes' JobSet and SkyPilot's task."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

FOLDER = Path(__file__).resolve().parents[2] / "deployments" / "machines"
JOBSET: dict[str, Any] = yaml.safe_load((FOLDER / "jobset.yaml").read_text())
TASK: dict[str, Any] = yaml.safe_load((FOLDER / "skypilot.yaml").read_text())
(REPLICATED,) = JOBSET["spec"]["replicatedJobs"]
JOB = REPLICATED["template"]["spec"]
(CONTAINER,) = JOB["template"]["spec"]["containers"]
SHELLS = {
    "JobSet": (CONTAINER["args"][0], {"JOB_COMPLETION_INDEX": "{rank}"}),
    "SkyPilot": (
        TASK["run"].replace("cd /msft", ""),
        {"SKYPILOT_NODE_RANK": "{rank}", "SKYPILOT_NUM_NODES": "4", "SKYPILOT_NUM_GPUS_PER_NODE": "8"},
    ),
}


def test_the_jobs_of_the_jobset_are_strictly_valid() -> None:
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": REPLICATED["name"]}, "spec": JOB}
    kubernetes_validate.validate(job, "1.37", strict=True)
    assert (JOBSET["apiVersion"], JOBSET["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert set(JOBSET["spec"]) <= {"network", "failurePolicy", "replicatedJobs"}
    assert JOB["completions"] == JOB["parallelism"] == TASK["num_nodes"] == 4
    assert JOB["completionMode"] == "Indexed"  # which JOB_COMPLETION_INDEX comes from
    assert JOB["template"]["spec"]["terminationGracePeriodSeconds"] > 60  # the worker's grace


@pytest.fixture
def told(tmp_path: Path) -> Path:
    """A folder with commands that tell their arguments."""
    for name in ("msft", "srun"):
        (tmp_path / name).write_text(f'#!/bin/bash\necho "{name} $@"\n')
        (tmp_path / name).chmod(0o755)
    return tmp_path


def run(told: Path, *command: str, **environment: str) -> tuple[int, str]:
    env = {**environment, "PATH": f"{told}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", *command], env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


@pytest.mark.parametrize("name", SHELLS)
@pytest.mark.parametrize(("rank", "part"), [(0, "search"), (3, "follow")])
def test_each_machine_starts_its_part_of_one_search(told: Path, name: str, rank: int, part: str) -> None:
    shell, names = SHELLS[name]
    environment = {key: value.format(rank=rank) for key, value in names.items()}
    options = "my.yaml --set training.machines=4 --set training.num_processes=8"
    assert run(told, "-c", shell, **environment) == (0, f"msft {part} {options}\n")


@pytest.mark.parametrize(("node", "part"), [("0", "search"), ("1", "follow")])
def test_each_node_of_a_slurm_job_starts_its_part(told: Path, node: str, part: str) -> None:
    (told / "srun").write_text('#!/bin/bash\nshift\nexec "$@"\n')  # as one node does
    slurm = {"SLURM_NODEID": node, "SLURM_JOB_NUM_NODES": "2"}
    code, output = run(told, str(FOLDER / "slurm.sh"), "a b.yaml", "--set", "seed=1", **slurm)
    assert (code, output) == (0, f"msft {part} a b.yaml --set seed=1 --set training.machines=2\n")


@pytest.mark.parametrize("code", [143, 1, 0])
def test_a_slurm_job_ends_with_the_code_of_its_nodes(told: Path, code: int) -> None:
    (told / "srun").write_text(f"#!/bin/bash\nexit {code}\n")
    assert run(told, str(FOLDER / "slurm.sh"), "a.yaml", SLURM_JOB_NUM_NODES="2") == (code, "")
