"""The manifests of deploy/k8s and what `revo k8s render` makes: built by kustomize, valid, and as our policies want."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from actors.admission import load_all
from actors.meshfile import MeshFile
from bus import subjects
from bus.errors import ConfigError
from revo.kube.render import render
from tests.policies import CRDS, Manifest, faults, name_of, pod_of, references
from tests.processes import ROOT

DEPLOY = ROOT / "deploy/k8s"
KUBERNETES = "1.33"
RICH = """
[system]
registries = 2
stewards = 3

[actors.code-analyst]
target = "actors.agents.code_analyst:CodeAnalyst"
labels = {zone = "a"}
[actors.code-analyst.settings]
root = "/code/$(HOME)"
[actors.code-analyst.pod]
image = "mine/analyst:2.1"
cpu = "1"
memory = "1Gi"
max = 3
env = {COLOUR = "blue", REVO_DRAIN_TIMEOUT = "120"}
secrets = {TOKEN_FILE = "vault/token", KEY_FILE = "vault/key", OTHER_FILE = "my.vault/key"}
startup = 300
"""


def kubectl() -> str:
    """Where it is. CI has it; elsewhere these tests say loudly that they did not run."""
    found = shutil.which("kubectl")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("kubectl is not installed, so no overlay can be built")
        pytest.skip("NOT RUN: kubectl is not installed, so no overlay can be built")
    return found


def build(folder: Path) -> list[Manifest]:
    """What `kubectl apply -k` would apply."""
    done = subprocess.run([kubectl(), "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def overlay(folder: Path, **fields: list[str]) -> list[Manifest]:
    """A kustomization of one's own, above the kept parts."""
    made = folder / "overlays" / "test"
    made.mkdir()
    kustomization = {"namespace": "revo", "resources": ["../../base", "../../mesh"], **fields}
    (made / "kustomization.yaml").write_text(json.dumps(kustomization))
    return build(made)


def rendered(text: str, folder: Path) -> Path:
    """The folder that a mesh file makes."""
    path = folder / "mesh.toml"
    path.write_text(text)
    mesh = MeshFile.load(path)
    render(mesh, load_all(mesh, folder, strict=True), "revo:9.9.9", folder / "k8s")
    return folder / "k8s"


@pytest.fixture(scope="module", params=["dev", "prod", "hpa", "rich", "example"])
def manifests(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    if request.param in ("dev", "prod"):
        return build(DEPLOY / "overlays" / request.param)
    folder = tmp_path_factory.mktemp("k8s")
    if request.param == "hpa":
        shutil.copytree(DEPLOY, folder / "k8s")
        return overlay(folder / "k8s", components=["../../components/hpa", "../../components/monitoring"])
    if request.param == "example":
        mesh = MeshFile.load(ROOT / "examples/pod/mesh.toml")
        render(mesh, load_all(mesh, ROOT / "examples/pod", strict=True), "revo:9.9.9", folder)
        return build(folder / "overlays/dev")
    return build(rendered(RICH, folder) / "overlays/prod")


def test_every_document_is_valid(manifests: list[Manifest]) -> None:
    assert len(manifests) > 20
    for manifest in manifests:
        if manifest["kind"] not in CRDS:
            kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_every_document_keeps_to_the_policies(manifests: list[Manifest]) -> None:
    assert list(faults(manifests)) == []


def test_what_pods_want_is_there_or_written_by_revo_keys(manifests: list[Manifest], tmp_path: Path) -> None:
    names = {(one["kind"], one["metadata"]["name"]) for one in manifests if one["kind"] == "ConfigMap"}
    system = ["revo-registry", "revo-steward", "revo-memory", "revo-bridge"]
    users = ["operator", *system, "code-analyst", "security-guardian", "greeter"]
    made = {("ConfigMap", "revo-nats-accounts"), *(("Secret", f"revo-key-{user}") for user in users)}
    missing = set(references(manifests)) - names - made - {("Secret", "vault"), ("Secret", "my.vault")}
    assert not missing


Break = Callable[[list[Manifest]], object]


def _deployment(manifests: list[Manifest]) -> Manifest:
    return next(one for one in manifests if name_of(one) == "Deployment code-analyst")


def _template(manifests: list[Manifest]) -> Any:
    return _deployment(manifests)["spec"]["template"]


def _spec(manifests: list[Manifest]) -> Any:
    return _template(manifests)["spec"]


def _container(manifests: list[Manifest]) -> Any:
    return _spec(manifests)["containers"][0]


BREAKS: dict[str, Break] = {
    "may run as root": lambda all_: _spec(all_)["securityContext"].pop("runAsNonRoot"),
    "no seccomp": lambda all_: _spec(all_)["securityContext"].pop("seccompProfile"),
    "is given a token": lambda all_: _spec(all_).pop("automountServiceAccountToken"),
    "host's namespaces": lambda all_: _spec(all_).update(hostNetwork=True),
    "host's disk": lambda all_: _spec(all_)["volumes"].append({"name": "x", "hostPath": {"path": "/"}}),
    "may read": lambda all_: _spec(all_)["volumes"][1]["secret"].update(defaultMode=0o444),
    "gain privileges": lambda all_: _container(all_)["securityContext"].pop("allowPrivilegeEscalation"),
    "writes to its image": lambda all_: _container(all_)["securityContext"].pop("readOnlyRootFilesystem"),
    "keeps capabilities": lambda all_: _container(all_)["securityContext"]["capabilities"].update(add=["NET_RAW"]),
    "has no limits": lambda all_: _container(all_)["resources"].pop("limits"),
    "has no requests": lambda all_: _container(all_)["resources"]["requests"].pop("memory"),
    "names no version": lambda all_: _container(all_).update(image="revo:latest"),
    "secret in the environment": lambda all_: _container(all_)["env"].append({"name": "X", "value": "SU" + "A" * 56}),
    "has no livenessProbe": lambda all_: _container(all_).pop("livenessProbe"),
    "restarted when it is not ready": lambda all_: _container(all_)["livenessProbe"]["httpGet"].update(path="/readyz"),
    "ready without being asked": lambda all_: _container(all_)["readinessProbe"]["httpGet"].update(path="/healthz"),
    "less than a drain": lambda all_: _spec(all_).update(terminationGracePeriodSeconds=20),
    "on one node": lambda all_: _spec(all_).pop("topologySpreadConstraints"),
    "before another is ready": lambda all_: _deployment(all_)["spec"].pop("strategy"),
    "no disruption budget": lambda all_: all_.remove(
        next(one for one in all_ if name_of(one) == "PodDisruptionBudget code-analyst")
    ),
    "there is no service account": lambda all_: _spec(all_).update(serviceAccountName="other"),
    "no network policy knows it": lambda all_: _template(all_)["metadata"]["labels"].pop("revo/role"),
    "takes any pod": lambda all_: next(one for one in all_ if one["kind"] == "Namespace")["metadata"]["labels"].clear(),
    "may talk to everybody": lambda all_: all_.remove(
        next(one for one in all_ if name_of(one) == "NetworkPolicy default-deny")
    ),
    "opens every port": lambda all_: next(one for one in all_ if name_of(one) == "NetworkPolicy to-nats")["spec"][
        "egress"
    ][0].pop("ports"),
    "opens to everybody": lambda all_: next(one for one in all_ if name_of(one) == "NetworkPolicy to-nats")["spec"][
        "egress"
    ][0].pop("to"),
    "stands in no repository": lambda all_: all_.append({"kind": "Secret", "metadata": {"name": "x"}}),
    "out of the cluster": lambda all_: all_.append(
        {"kind": "Service", "metadata": {"name": "x"}, "spec": {"type": "NodePort"}}
    ),
    "which nobody needs": lambda all_: all_.append({"kind": "ClusterRole", "metadata": {"name": "x"}}),
}


@pytest.fixture(scope="module")
def dev() -> list[Manifest]:
    return build(DEPLOY / "overlays/dev")


@pytest.mark.parametrize("says", list(BREAKS))
def test_a_policy_sees_what_is_broken(dev: list[Manifest], says: str) -> None:
    broken = copy.deepcopy(dev)
    BREAKS[says](broken)
    assert any(says in fault for fault in faults(broken)), list(faults(broken))


def test_production_stands_on_three_servers_that_write_before_they_answer() -> None:
    manifests = build(DEPLOY / "overlays/prod")
    (nats,) = [one for one in manifests if one["kind"] == "StatefulSet"]
    assert nats["spec"]["replicas"] == 3
    affinity = nats["spec"]["template"]["spec"]["affinity"]["podAntiAffinity"]
    assert affinity["requiredDuringSchedulingIgnoredDuringExecution"][0]["topologyKey"] == "kubernetes.io/hostname"
    data = {one["metadata"]["name"].rpartition("-")[0]: one["data"] for one in manifests if one["kind"] == "ConfigMap"}
    assert "sync_interval: always" in data["nats-config"]["nats.conf"]
    assert data["revo-env"]["REVO_REPLICAS"] == "3"
    assert "PodDisruptionBudget nats" in [name_of(one) for one in manifests]
    topology = next(one for one in manifests if name_of(one) == "ConfigMap revo-topology-env")
    assert topology["data"]["REVO_REPLICAS"] == "3"


def test_keda_looks_at_the_consumers_that_the_topology_makes() -> None:
    manifests = build(DEPLOY / "overlays/prod")
    scaled = [one for one in manifests if one["kind"] == "ScaledObject"]
    assert {one["spec"]["scaleTargetRef"]["name"] for one in scaled} == {"code-analyst", "security-guardian"}
    topology = json.loads((DEPLOY / "mesh/topology.json").read_text())
    made = {subjects.consumer(one["capability"], rank) for one in topology for rank in subjects.PRIORITIES}
    triggers = [trigger["metadata"] for one in scaled for trigger in one["spec"]["triggers"]]
    assert {trigger["consumer"] for trigger in triggers} == made
    assert {(trigger["account"], trigger["stream"]) for trigger in triggers} == {("main", "TASKS")}
    endpoints = {trigger["natsServerMonitoringEndpoint"] for trigger in triggers}
    assert endpoints == {"nats.revo.svc.cluster.local:8222"}, "it is asked from another namespace"
    for one in scaled:
        assert one["spec"]["minReplicaCount"] == 0
        assert {trigger["metadata"]["lagThreshold"] for trigger in one["spec"]["triggers"]} == {"2"}, "its slots"
        target = f"Deployment {one['spec']['scaleTargetRef']['name']}"
        deployment = next(made for made in manifests if name_of(made) == target)
        assert "replicas" not in deployment["spec"], "two would scale it"


def test_another_image_or_topology_is_another_job(tmp_path: Path) -> None:
    mesh = MeshFile.load(ROOT / "examples/pod/mesh.toml")
    actors = load_all(mesh, ROOT / "examples/pod", strict=True)
    names = []
    for image, some in (("revo:1", actors), ("revo:2", actors), ("revo:1", {}), ("revo:1", actors)):
        render(mesh, some, image, tmp_path)
        job = yaml.safe_load((tmp_path / "mesh/topology.yaml").read_text())
        assert job["spec"]["ttlSecondsAfterFinished"]
        names.append(job["metadata"]["name"])
    assert len(set(names)) == 3, "a Job cannot be changed"
    assert names[0] == names[3]


def test_what_is_rendered_is_what_stands_in_the_repository(tmp_path: Path) -> None:
    mesh = MeshFile.load(DEPLOY / "mesh.toml")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    written = render(mesh, load_all(mesh, DEPLOY, strict=True), f"revo:{version}", tmp_path)
    for path in written:
        stands = DEPLOY / path.relative_to(tmp_path)
        assert stands.read_text() == path.read_text(), f"{stands}: `revo k8s render` writes it otherwise"


def test_an_entry_says_how_its_pod_is(tmp_path: Path) -> None:
    folder = rendered(RICH, tmp_path)
    found = {name_of(one): one for one in yaml.safe_load_all((folder / "mesh/actors.yaml").read_text())}
    deployment = found["Deployment code-analyst"]
    pod = pod_of(deployment)
    assert pod is not None
    (container,) = pod["spec"]["containers"]
    env = {one["name"]: one.get("value") for one in container["env"]}
    assert (container["image"], deployment["spec"]["replicas"]) == ("mine/analyst:2.1", 1)
    assert container["resources"] == {
        "requests": {"cpu": "1", "memory": "1Gi"},
        "limits": {"cpu": "8", "memory": "2Gi"},
    }
    assert (env["COLOUR"], env["REVO_LABELS"]) == ("blue", "zone=a")
    assert env["REVO_ACTOR_SETTINGS"] == '{"root": "/code/$$(HOME)"}', "which Kubernetes reads as it was written"
    assert env["TOKEN_FILE"] == "/var/run/secrets/vault/token"
    assert env["KEY_FILE"] == "/var/run/secrets/vault/key"
    paths = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert len(paths) == len(set(paths)) == 4
    assert container["startupProbe"]["failureThreshold"] == 300
    assert pod["spec"]["terminationGracePeriodSeconds"] >= 130
    assert {"name": "secret-vault", "secret": {"secretName": "vault", "defaultMode": 0o440}} in pod["spec"]["volumes"]
    assert found["Deployment revo-steward"]["spec"]["replicas"] == 3
    assert found["Deployment revo-registry"]["spec"]["template"]["spec"]["containers"][0]["image"] == "revo:9.9.9"
    for manifest in build(folder / "overlays/prod"):
        if manifest["kind"] == "CronJob":
            assert '"image": "revo:9.9.9"' in json.dumps(manifest)
    scaled = yaml.safe_load((folder / "components/keda/scaledobjects.yaml").read_text())
    assert scaled["spec"]["maxReplicaCount"] == 3


def test_what_stands_is_yours_and_the_mesh_is_written_anew(tmp_path: Path) -> None:
    folder = rendered(RICH, tmp_path)
    (folder / "base/nats.conf").write_text("mine")
    (folder / "mesh/topology.json").write_text("old")
    rendered(RICH, tmp_path)
    assert (folder / "base/nats.conf").read_text() == "mine"
    assert json.loads((folder / "mesh/topology.json").read_text())


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('cpu = "much"', "no number of cores"),
        ('cpu = "256Mi"', "no number of cores"),
        ('memory = "250m"', "no amount of memory"),
        ('memory = "256K"', "no amount of memory"),
        ("startup = 0", "greater than or equal to 1"),
        ('secrets = {X = "no-key"}', "secret-name/key"),
        ("replicas = 3", "unknown key"),
        ("max = 0", "greater than or equal to 1"),
    ],
)
def test_a_pod_that_makes_no_sense_is_refused(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "mesh.toml"
    path.write_text(f'[actors.a]\ntarget = "x:Y"\n[actors.a.pod]\n{line}\n')
    with pytest.raises(ConfigError, match=says):
        MeshFile.load(path)
