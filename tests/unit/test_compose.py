"""docker-compose.yml keeps to what an exposed machine wants; that it works is shown by `make compose-test`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from actors.meshfile import MeshFile

ROOT = Path(__file__).parents[2]
FILES = ("docker-compose.yml", "deploy/compose/test.yml")


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return found


def services(*names: str) -> dict[str, dict[str, Any]]:
    """All services of the files, each as compose merges it."""
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        for service, fields in read(name)["services"].items():
            found[service] = {**found.get(service, {}), **fields}
    return found


@pytest.mark.parametrize("name", list(services(*FILES)))
def test_a_service_is_hardened_and_limited(name: str) -> None:
    service = services(*FILES)[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["mem_limit"]
    assert service["cpus"]
    assert service["pids_limit"]
    assert not service.get("privileged")
    assert not {"network_mode", "pid", "ipc", "cap_add", "devices"} & set(service)
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:"), f"{port} is published to everybody"
    image = re.sub(r"\$\{\w+:-(.*)\}", r"\1", service["image"])
    assert re.fullmatch(r"[\w./-]+:v?\d[\w.-]*", image), f"{image} names no version"
    for volume in service.get("volumes", ()):
        assert "docker.sock" not in volume


@pytest.mark.parametrize("name", list(services("docker-compose.yml")))
def test_a_service_of_ours_is_one_that_comes_back_and_says_how_it_is(name: str) -> None:
    service = services("docker-compose.yml")[name]
    assert service["restart"] in {"unless-stopped", "on-failure"}
    if service["image"].startswith("${REVO_IMAGE") and name != "topology":
        assert "readyz" in service["healthcheck"]["test"][-1]
        assert int(service["stop_grace_period"].removesuffix("s")) > 30, "longer than a drain"
        assert {"source": name, "target": "key"} in service["secrets"], "its own key and no other"
        assert len(service["secrets"]) == 1
        assert service["environment"]["REVO_CREDENTIALS"] == "/run/secrets/key"
        assert service["user"] == "${REVO_UID:-1000}:${REVO_GID:-1000}"
        assert service["depends_on"]["topology"] == {"condition": "service_completed_successfully"}


def test_whoever_has_a_way_to_say_how_it_is_says_so() -> None:
    silent = {name for name, service in services(*FILES).items() if "healthcheck" not in service}
    assert silent == {"jaeger", "nats-exporter", "topology"}, "two images of one binary, and what ends by itself"


def test_every_actor_of_the_mesh_file_is_a_service_with_its_target_and_count() -> None:
    mesh = MeshFile.load(ROOT / "deploy/compose/mesh.toml")
    there = services("docker-compose.yml")
    for name, entry in mesh.all_actors().items():
        assert there[name]["command"][:2] == ["run", entry.target]
        assert there[name].get("scale", 1) == entry.count


def test_secrets_are_files() -> None:
    for name in FILES:
        for secret in read(name)["secrets"].values():
            assert set(secret) == {"file"}
            assert secret["file"].startswith("${REVO_KEYS:-.revo/compose/keys}/main/")


def test_no_key_is_known_to_newer_versions_only() -> None:
    """docker-compose 1.29 refuses what it does not know; these are the newer ones that people reach for."""
    newer = {"name", "develop", "attach", "provider", "models", "include", "annotations", "post_start", "pre_stop"}
    for file in FILES:
        found = read(file)
        assert not newer & set(found)
        assert not any(newer & set(service) for service in found["services"].values())


def test_jaeger_is_set_up_alike_everywhere() -> None:
    ours = (ROOT / "deploy/compose/jaeger.yaml").read_text()
    assert (ROOT / "deploy/k8s/components/jaeger/jaeger-config.yaml").read_text() == ours
