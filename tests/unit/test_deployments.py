"""Tests of deployments/prefect.yaml, automation.yaml and `msft deploy` without a server."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any
from uuid import uuid4

import kubernetes_validate
import pytest
import yaml
from prefect.automations import Automation
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun, State, StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.events import EventTrigger, Posture
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate
from prefect.utilities.templating import apply_values

from flows import compare, search
from flows.compare import compare_file
from flows.search import search_file
from tasks.commands.deploy import AUTOMATION, DEFAULT, deploy, fill_in_run_number
from tasks.commands.doctor import FLOWS
from tasks.config.loading import load_config, load_shown_config
from tasks.errors import ConfigError, DeploymentError
from tasks.record.ownership import own_directory

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "deployments" / "prefect.yaml"
TEXT = FILE.read_text()
YAML = yaml.safe_load(TEXT)
DEPLOYMENTS: dict[str, dict[str, Any]] = {entry["name"]: entry for entry in YAML["deployments"]}
RUN_ID = "0698fb76-ea9a-7be7-8000-75f2a5a8d2b3"
each_deployment = pytest.mark.parametrize("entry", DEPLOYMENTS.values(), ids=DEPLOYMENTS)


@each_deployment
def test_flow_and_server_accept_the_parameters(entry: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(entry["entrypoint"].rpartition(".")[0])
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", RUN_ID)
    flow = load_flow_from_entrypoint(entry["entrypoint"])
    accepted = flow.validate_parameters(entry["parameters"])
    load_config(accepted["config"], fill_in_run_number(accepted["overrides"]))
    form = parameter_schema(flow).model_dump_for_openapi()  # what the server stores, and checks each run against
    validate(entry["parameters"], form, raise_on_error=True)
    assert set(entry["parameters"]) <= set(form["properties"])


def test_run_number_is_derived_from_the_flow_run_id(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = []
    for run_id in (RUN_ID, RUN_ID, "0698fb76-ea9a-7be7-8000-75f2a5a8d2b4"):
        monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", run_id)
        seed, kept = fill_in_run_number(["seed={run}", "search.max_rounds=2"])
        numbers.append(int(seed.removeprefix("seed=")))
        assert kept == "search.max_rounds=2"
    assert numbers[0] == numbers[1] != numbers[2]
    assert all(0 <= number < 2**31 for number in numbers)


@each_deployment
def test_schedules_are_valid_and_off_by_default(entry: dict[str, Any]) -> None:
    for schedule in entry.get("schedules", []):
        CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
        assert schedule["active"] is False
        assert schedule["slug"]  # `msft deploy` finds it by its slug


def test_doctor_asks_for_the_runs_of_every_flow() -> None:
    values = [value for module in (search, compare) for value in vars(module).values()]
    assert {value.name for value in values if isinstance(value, Flow)} - {"search-round"} == set(FLOWS)


@each_deployment
def test_every_end_emits_an_event_that_the_automation_expects(
    entry: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    flow = load_flow_from_entrypoint(entry["entrypoint"])
    emitted: list[str] = []
    monkeypatch.setattr("tasks.commands.deploy.emit_event", lambda event, **_: emitted.append(event))
    run = FlowRun(flow_id=uuid4(), deployment_id=uuid4())
    for hooks in (flow.on_completion_hooks, flow.on_failure_hooks, flow.on_cancellation_hooks, flow.on_crashed_hooks):
        (hook,) = hooks
        hook(flow, run, State(type=StateType.FAILED))
    expected = yaml.safe_load(AUTOMATION.read_text())["trigger"]["expect"]
    assert emitted == ["msft.flow-run.ended"] * 4
    assert set(emitted) <= set(expected)


@each_deployment
def test_one_run_at_a_time_with_heartbeats_and_our_log_lines(entry: dict[str, Any]) -> None:
    overlap = "CANCEL_NEW" if "schedules" in entry else "ENQUEUE"
    limit = {"limit": 1, "collision_strategy": overlap}
    assert entry["concurrency_limit"] == (None if entry["name"] == "search-arm" else limit)  # a comparison places many
    environment = entry["work_pool"]["job_variables"]["env"]
    assert environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"
    assert environment["PYTHONSAFEPATH"] == "1"
    assert environment["PREFECT_LOGGING_EXTRA_LOGGERS"] == "tasks,flows"


def test_the_automation_is_valid_for_prefect() -> None:
    values = {"deployment": "flow/name", "deployment_id": RUN_ID, "lost_after_s": 75}
    automation = Automation.model_validate(apply_values(yaml.safe_load(AUTOMATION.read_text()), values))
    trigger = automation.trigger
    assert isinstance(trigger, EventTrigger)
    assert (trigger.posture, trigger.within.total_seconds()) == (Posture.Proactive, 75)
    assert trigger.match_related.root["prefect.resource.id"] == f"prefect.deployment.{RUN_ID}"
    # Every state in which a run has ended or already waits to start again.
    ended = {f"prefect.flow-run.{state.value.capitalize()}" for state in TERMINAL_STATES}
    assert ended | {"prefect.flow-run.AwaitingRetry"} <= trigger.expect
    assert trigger.after <= trigger.expect


def test_sigterm_reschedules_in_container_pools() -> None:
    behavior = {
        YAML["definitions"]["work_pools"][entry["work_pool"]["name"]]["type"]: entry["work_pool"]["job_variables"][
            "env"
        ].get("PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR")
        for entry in DEPLOYMENTS.values()
    }
    assert behavior == {"process": None, "docker": "reschedule", "kubernetes": "reschedule"}


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
    assert given["grace_period_seconds"] > 30  # Prefect ends the run after 30 s


def test_the_rendered_kubernetes_job_is_strictly_valid() -> None:
    template = yaml.safe_load((FILE.parent / "kubernetes.yaml").read_text())
    known = template["variables"]["properties"]
    given = DEPLOYMENTS["search-kubernetes"]["work_pool"]["job_variables"]
    defaults = {name: variable["default"] for name, variable in known.items() if "default" in variable}
    # A worker adds the run's name and command, and its environment in Kubernetes' form.
    own = {"name": "search", "command": ["prefect", "flow-run", "execute"], "image": "msft:1"}
    own["env"] = [{"name": name, "value": value} for name, value in given["env"].items()]
    manifest = template["job_configuration"]["job_manifest"]
    job = apply_values(manifest, defaults | given | own, remove_notset=True)
    assert "{{" not in str(job)
    kubernetes_validate.validate(job, "1.37", strict=True)
    assert (job["spec"]["parallelism"], job["spec"]["completions"]) == (1, 1)


def test_no_machine_path_and_no_image_registry_is_named() -> None:
    images = [entry["work_pool"]["job_variables"].get("image") for entry in DEPLOYMENTS.values()]
    assert set(images) == {None, "{{ $MSFT_IMAGE }}"}
    assert DEPLOYMENTS[DEFAULT]["work_pool"]["job_variables"]["working_dir"] == "{{ $MSFT_HOME }}"
    assert not re.search(r"/(home|root|work|tmp|mnt)\b", TEXT)


@pytest.mark.parametrize(
    ("names", "file", "message"),
    [
        (["search-proces"], None, "one of search-process, search-arm, search-nightly, compare-process, search-docker"),
        (["search-docker"], None, "no value for MSFT_IMAGE"),
        ([], "nowhere/prefect.yaml", "no such file"),
    ],
)
def test_invalid_deployments_are_refused_without_a_server(names: list[str], file: str | None, message: str) -> None:
    with pytest.raises(DeploymentError, match=re.escape(message)):
        list(deploy(names, file, {"MSFT_HOME": str(ROOT), "MSFT_IMAGE": None}, 90))


SECRET_URIS = (
    "tracking.uri=postgresql://msft:s3cret@db.example/mlflow",
    "tracking.uri=http://msft:s3cret@mlflow.example:5000",
    "tracking={uri: 'postgresql:///mlflow?user=msft&password=s3cret'}",
)


@pytest.mark.parametrize("override", SECRET_URIS)
@pytest.mark.parametrize("flow", [search_file, compare_file])
def test_a_password_in_a_runs_parameters_is_refused_unshown(flow: Any, override: str) -> None:
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_PASSWORD") as refused:
        flow.fn(str(ROOT / "tests/faults/chaos.yaml"), overrides=("seed=1", override))
    assert "s3cret" not in str(refused.value)
    assert "***" in str(refused.value)
    assert "seed" not in str(refused.value)


@pytest.mark.parametrize("override", SECRET_URIS)
def test_a_password_in_a_deployments_parameters_is_refused(override: str, tmp_path: Path) -> None:
    definition = yaml.safe_load(TEXT)
    for entry in definition["deployments"]:
        entry["parameters"]["overrides"] = [override]
    file = tmp_path / "prefect.yaml"
    file.write_text(yaml.safe_dump(definition))
    with pytest.raises(DeploymentError, match="a password among its parameters") as refused:
        list(deploy([], str(file), {"MSFT_HOME": str(ROOT)}, 90))
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("uri", ["http://127.0.0.1:5000", "sqlite:////data/a@b.db", "http://user@host:5000/x"])
def test_an_address_without_a_password_is_accepted(uri: str) -> None:
    config = str(ROOT / "tests/faults/chaos.yaml")
    assert load_shown_config(config, [f"tracking.uri={uri}"]).tracking.uri == uri


def test_schedule_of_a_deployment_without_one_is_an_error() -> None:
    with pytest.raises(DeploymentError, match=r"search-process of .*: no schedule(.|\n)*search-nightly"):
        list(deploy([], None, {"MSFT_HOME": str(ROOT)}, 90, "skip"))


def test_a_missing_or_unreachable_server_is_an_error() -> None:
    places = {"MSFT_HOME": str(ROOT), "MSFT_IMAGE": None}
    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(DeploymentError, match="PREFECT_API_URL is not set"),
    ):
        list(deploy([], None, places, 90))
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),  # no server listens on this port
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
