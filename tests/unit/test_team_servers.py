"""The compose file, the Kubernetes manifests and the Dockerfiles of the team's servers."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

DEPLOYMENTS = Path(__file__).resolve().parents[2] / "deployments"
COMPOSE = yaml.safe_load((DEPLOYMENTS / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
MANIFESTS: dict[str, dict[str, Any]] = {
    f"{manifest['kind']}/{manifest['metadata']['name']}": manifest
    for path in sorted((DEPLOYMENTS / "kubernetes").glob("*.yaml"))
    for manifest in yaml.safe_load_all(path.read_text())
}
PODS = {
    name: manifest["spec"]["template"]["spec"]
    for name, manifest in MANIFESTS.items()
    if name.startswith(("Deployment/", "StatefulSet/"))
}
SECRETS = re.findall(r"^(\w+)=(.*)$", (DEPLOYMENTS / ".env.example").read_text(), re.MULTILINE)
DOCKERFILES = {path.stem: path.read_text() for path in (DEPLOYMENTS / "docker").glob("*.Dockerfile")}
each_service = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
each_pod = pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
each_dockerfile = pytest.mark.parametrize("text", DOCKERFILES.values(), ids=DOCKERFILES)


def test_the_compose_file_is_valid() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, str(DEPLOYMENTS / "compose.yaml")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("manifest", MANIFESTS.values(), ids=MANIFESTS)
def test_the_manifests_are_strictly_valid(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, "1.37", strict=True)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kustomize_renders_all_manifests_in_one_namespace() -> None:
    done = subprocess.run(["kubectl", "kustomize", str(DEPLOYMENTS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rendered = list(yaml.safe_load_all(done.stdout))
    assert len(rendered) == len(MANIFESTS) + 1  # the ConfigMap of databases.sql
    assert {manifest["metadata"]["namespace"] for manifest in rendered} == {"msft"}
    jobs = yaml.safe_load((DEPLOYMENTS / "prefect.yaml").read_text())["deployments"]
    job = next(entry for entry in jobs if entry["name"] == "search-kubernetes")
    assert job["work_pool"]["job_variables"]["namespace"] == "msft"


def _environments() -> Iterator[tuple[str, Any]]:
    """Yield the name and value of each container's variables; a manifest's value is its whole entry."""
    for service in SERVICES.values():
        yield from service.get("environment", {}).items()
    for pod in PODS.values():
        yield from ((entry["name"], entry) for entry in pod["containers"][0].get("env", []))


def test_secrets_have_no_values_and_no_defaults() -> None:
    names = {name for name, _ in SECRETS}
    assert [value for _, value in SECRETS if value] == []
    used = set(re.findall(r"\$\{(\w+):\?", (DEPLOYMENTS / "compose.yaml").read_text()))
    assert used == names
    for name, value in _environments():
        if isinstance(value, str) and re.search("PASSWORD|SECRET|ACCESS_KEY", name):
            assert re.fullmatch(r"\$\{\w+:\?.*\}|\$\{MLFLOW_TRACKING_PASSWORD:-\}", value), name
    references = {
        entry["valueFrom"]["secretKeyRef"]["key"]
        for _, entry in _environments()
        if isinstance(entry, dict) and "secretKeyRef" in entry.get("valueFrom", {})
    }
    assert references <= names
    for name, entry in _environments():
        if isinstance(entry, dict) and re.search("PASSWORD|SECRET|ACCESS_KEY", name):
            assert "value" not in entry, name


def test_no_database_address_contains_a_password() -> None:
    ini = configparser.ConfigParser()
    ini.read(DEPLOYMENTS / "servers" / "mlflow_auth.ini")
    addresses = re.findall(
        r"postgresql\+\w+://[^\s\"']*", "".join(str(part) for part in [COMPOSE, *MANIFESTS.values()])
    )
    addresses.append(ini["mlflow"]["database_uri"])
    assert set(addresses) == {
        "postgresql+asyncpg:///prefect",
        "postgresql+psycopg:///mlflow",
        "postgresql+psycopg:///mlflow_auth",
    }
    assert "admin_password" not in ini["mlflow"]


@each_service
def test_services_restart_stay_local_and_wait_for_health(service: dict[str, Any]) -> None:
    assert service["restart"] == "unless-stopped"
    assert [port for port in service.get("ports", []) if not port.startswith("127.0.0.1:")] == []
    assert "healthcheck" in service or service["profiles"] == ["worker"]
    assert {wait["condition"] for wait in service.get("depends_on", {}).values()} <= {"service_healthy"}
    assert "--limit" not in service.get("command", [])  # such a worker dies of a rescheduled run
    for volume in service.get("volumes", []):
        name = volume.partition(":")[0]
        assert name in COMPOSE["volumes"] or (DEPLOYMENTS / name).is_file()


def test_compose_and_kubernetes_start_the_same_commands() -> None:
    for name in ("prefect", "mlflow"):
        (container,) = PODS[f"Deployment/{name}"]["containers"]
        assert container["args"] == SERVICES[name]["command"]


@each_pod
def test_pods_have_probes_and_do_not_run_as_root(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert "livenessProbe" in container
    assert "readinessProbe" in container or pod.get("serviceAccountName") == "msft-worker"
    assert {"requests", "limits"} <= container["resources"].keys()


@each_dockerfile
def test_images_use_constraints_tini_and_no_root(text: str) -> None:
    installs = re.findall(r"pip install [^\n]*", text)
    assert installs
    assert all("--constraint constraints.txt" in install for install in installs)
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["1000:1000"]
    assert 'ENTRYPOINT ["tini", "-s", "--"]' in text


def test_images_install_torch_for_their_device() -> None:
    assert "ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu\n" in DOCKERFILES["cpu"]
    assert "torch.version.cuda is None" in DOCKERFILES["cpu"]
    assert "ARG TORCH_INDEX=\n" in DOCKERFILES["gpu"]
    assert "torch.version.cuda is not None" in DOCKERFILES["gpu"]
