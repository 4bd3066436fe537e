"""What deployments/prefect.yaml promises, checked without a server."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.schemas.schedules import CronSchedule
from prefect.flows import load_flow_from_entrypoint
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.config_file import load_config
from tasks.deployment import DEFAULT, deploy
from tasks.errors import DeploymentError
from tasks.ownership import own_directory

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "deployments" / "prefect.yaml"
TEXT = FILE.read_text()
YAML = yaml.safe_load(TEXT)
DEPLOYMENTS: dict[str, dict[str, Any]] = {entry["name"]: entry for entry in YAML["deployments"]}
each_deployment = pytest.mark.parametrize("entry", DEPLOYMENTS.values(), ids=DEPLOYMENTS)


@each_deployment
def test_the_flow_accepts_the_parameters(entry: dict[str, Any]) -> None:
    flow = load_flow_from_entrypoint(entry["entrypoint"])
    accepted = flow.validate_parameters(entry["parameters"])
    load_config(str(ROOT / accepted["config"]), accepted["overrides"])


@each_deployment
def test_schedules_are_valid(entry: dict[str, Any]) -> None:
    for schedule in entry.get("schedules", []):
        CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])


@each_deployment
def test_one_search_at_a_time_and_a_heartbeat_that_the_automation_can_wait_for(entry: dict[str, Any]) -> None:
    assert entry["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
    assert entry["work_pool"]["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"


def test_sigterm_reschedules_where_the_pool_runs_the_command_that_reads_it() -> None:
    behaviour = {
        YAML["definitions"]["work_pools"][entry["work_pool"]["name"]]["type"]: entry["work_pool"][
            "job_variables"
        ]["env"].get("PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR")
        for entry in DEPLOYMENTS.values()
    }
    assert behaviour == {"process": None, "docker": "reschedule", "kubernetes": "reschedule"}


def test_a_kubernetes_job_gets_a_gpu_and_time_to_save() -> None:
    template = yaml.safe_load((FILE.parent / "kubernetes.yaml").read_text())
    pod = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    given = DEPLOYMENTS["search-kubernetes"]["work_pool"]["job_variables"]
    known = template["variables"]["properties"]
    used = set(re.findall(r"{{ (\w+) }}", str(template["job_configuration"])))
    assert set(given) <= set(known)
    assert used <= set(known)
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "{{ gpus }}"
    assert pod["terminationGracePeriodSeconds"] == "{{ grace_period_seconds }}"
    assert (given["gpus"], given["backoff_limit"]) == (1, 0)
    assert given["grace_period_seconds"] > 30  # after which Prefect itself ends the run


def test_no_path_of_a_machine_and_no_registry_is_named() -> None:
    images = [entry["work_pool"]["job_variables"].get("image") for entry in DEPLOYMENTS.values()]
    assert set(images) == {None, "{{ $MSFT_IMAGE }}"}
    assert DEPLOYMENTS[DEFAULT]["work_pool"]["job_variables"]["working_dir"] == "{{ $MSFT_HOME }}"
    assert not re.search(r"/(home|root|work|tmp|mnt)\b", TEXT)


@pytest.mark.parametrize(
    ("names", "file", "message"),
    [
        (["search-proces"], None, "one of search-process, search-docker, search-kubernetes"),
        (["search-docker"], None, "no value for MSFT_IMAGE"),
        ([], "nowhere/prefect.yaml", "no such file"),
    ],
)
def test_what_cannot_be_deployed_is_named_before_a_server_is_asked(
    names: list[str], file: str | None, message: str
) -> None:
    with pytest.raises(DeploymentError, match=re.escape(message)):
        list(deploy(names, file, {"MSFT_HOME": str(ROOT), "MSFT_IMAGE": None}, 90))


def test_a_server_that_is_not_named_or_does_not_answer_is_asked_for() -> None:
    places = {"MSFT_HOME": str(ROOT), "MSFT_IMAGE": None}
    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(DeploymentError, match="PREFECT_API_URL is not set"),
    ):
        list(deploy([], None, places, 90))
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),  # the port that nobody serves
        pytest.raises(DeploymentError, match=r"127\.0\.0\.1:9(.|\n)*prefect server start"),
    ):
        list(deploy([], None, places, 90))


def test_a_rescheduled_run_waits_for_the_one_that_still_saves(tmp_path: Path) -> None:
    config = load_config(str(ROOT / "deployments/configs/smoke.yaml"), [f"output_root={tmp_path}"])
    has_it = threading.Event()

    def take() -> None:
        with own_directory(config, wait_s=60):
            has_it.set()

    successor = threading.Thread(target=take)
    with own_directory(config):
        successor.start()
        assert not has_it.wait(0.5)
    successor.join(60)
    assert has_it.is_set()
