"""What every manifest must keep to, as functions that yield what is wrong. Tested by breaking good manifests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from bus.settings import Settings

Manifest = dict[str, Any]

CRDS = {"ScaledObject"}


def name_of(manifest: Manifest) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


def pod_of(manifest: Manifest) -> Manifest | None:
    """The pod template of a workload."""
    spec = manifest["spec"]["jobTemplate"]["spec"] if manifest["kind"] == "CronJob" else manifest.get("spec", {})
    if manifest["kind"] in ("Deployment", "StatefulSet", "Job", "DaemonSet", "CronJob"):
        template: Manifest = spec["template"]
        return template
    return None


def faults(manifests: list[Manifest]) -> Iterator[str]:
    """Everything that is wrong."""
    for manifest in manifests:
        template = pod_of(manifest)
        if template is not None:
            for fault in [*_pod(manifest, template["spec"]), *_template(manifest, template, manifests)]:
                yield f"{name_of(manifest)}: {fault}"
        if manifest["kind"] == "Secret":
            yield f"{name_of(manifest)}: a secret stands in no repository"
        if manifest["kind"] == "Service" and manifest["spec"].get("type", "ClusterIP") != "ClusterIP":
            yield f"{name_of(manifest)}: reaches out of the cluster"
        if manifest["kind"] in ("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"):
            yield f"{name_of(manifest)}: a right in the cluster, which nobody needs"
        if manifest["metadata"].get("namespace", "revo") != "revo":
            yield f"{name_of(manifest)}: in another namespace"
    yield from _namespace(manifests)
    yield from _accounts(manifests)


def _pod(manifest: Manifest, pod: Manifest) -> Iterator[str]:
    security = pod.get("securityContext", {})
    if not security.get("runAsNonRoot") or not security.get("runAsUser"):
        yield "may run as root"
    if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "no seccomp profile"
    if pod.get("automountServiceAccountToken") is not False:
        yield "is given a token of the API server"
    if any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
        yield "shares the host's namespaces"
    if any("hostPath" in volume for volume in pod.get("volumes", ())):
        yield "reads the host's disk"
    for container in [*pod["containers"], *pod.get("initContainers", ())]:
        yield from _container(manifest, container)
    secret = [volume for volume in pod.get("volumes", ()) if "secret" in volume]
    if any(volume["secret"].get("defaultMode", 0o644) & 0o007 for volume in secret):
        yield "a secret that every user of the pod may read"


def _container(manifest: Manifest, container: Manifest) -> Iterator[str]:
    security = container.get("securityContext", {})
    if security.get("allowPrivilegeEscalation") is not False:
        yield "may gain privileges"
    if security.get("readOnlyRootFilesystem") is not True:
        yield "writes to its image"
    if security.get("capabilities", {}).get("drop") != ["ALL"] or security["capabilities"].get("add"):
        yield "keeps capabilities"
    resources = container.get("resources", {})
    full = {"cpu", "memory"}
    yield from (f"has no {kind}" for kind in ("requests", "limits") if not full <= set(resources.get(kind, {})))
    if not re.fullmatch(r"[\w./-]+:[\w.-]+", container["image"]) or container["image"].endswith(":latest"):
        yield f"image {container['image']} names no version"
    values = " ".join(str(one.get("value", "")) for one in container.get("env", ()))
    if re.search(r"SU[A-Z2-7]{50}|password", values, re.IGNORECASE):
        yield "a secret in the environment"
    probes = ("startupProbe", "readinessProbe", "livenessProbe") if manifest["kind"] not in ("Job", "CronJob") else ()
    yield from (f"has no {probe}" for probe in probes if probe not in container)


def _template(manifest: Manifest, template: Manifest, manifests: list[Manifest]) -> Iterator[str]:
    labels, pod = template["metadata"]["labels"], template["spec"]
    if "revo/role" not in labels:
        yield "no network policy knows it"
    if labels.get("revo/role") == "actor" and manifest["kind"] == "Deployment":
        grace = pod.get("terminationGracePeriodSeconds", 30)
        env = {one["name"]: one["value"] for one in pod["containers"][0]["env"] if "value" in one}
        if grace < Settings.from_env(env).drain_timeout + 10:
            yield f"has {grace} s to end, less than a drain may take"
        (container,) = pod["containers"]
        if container.get("readinessProbe", {}).get("httpGet", {}).get("path") != "/readyz":
            yield "is ready without being asked"
        if container.get("livenessProbe", {}).get("httpGet", {}).get("path") != "/healthz":
            yield "is restarted when it is not ready"
        if not pod.get("topologySpreadConstraints"):
            yield "may stand on one node with all its replicas"
        strategy = manifest["spec"].get("strategy", {}).get("rollingUpdate", {})
        if strategy.get("maxUnavailable") != 0:
            yield "a roll takes one away before another is ready"
        budgets = [one for one in manifests if one["kind"] == "PodDisruptionBudget"]
        if not any(one["spec"]["selector"]["matchLabels"].items() <= labels.items() for one in budgets):
            yield "has no disruption budget"
    selector = manifest["spec"].get("selector", {}).get("matchLabels", {})
    if not selector.items() <= labels.items():
        yield "does not select its own pods"


def _namespace(manifests: list[Manifest]) -> Iterator[str]:
    (namespace,) = [one for one in manifests if one["kind"] == "Namespace"]
    if namespace["metadata"]["labels"].get("pod-security.kubernetes.io/enforce") != "restricted":
        yield "the namespace takes any pod"
    policies = [one["spec"] for one in manifests if one["kind"] == "NetworkPolicy"]
    everything = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    if everything not in policies:
        yield "what no policy names may talk to everybody"
    for spec in policies:
        for way in ("ingress", "egress"):
            for rule in spec.get(way, ()):
                if not rule.get("ports"):
                    yield f"a network policy opens every port: {spec['podSelector']}"
                if not rule.get("to" if way == "egress" else "from"):
                    yield f"a network policy opens to everybody: {spec['podSelector']}"


def _accounts(manifests: list[Manifest]) -> Iterator[str]:
    there = {one["metadata"]["name"]: one for one in manifests if one["kind"] == "ServiceAccount"}
    for account in there.values():
        if account.get("automountServiceAccountToken") is not False:
            yield f"{name_of(account)}: gives its token to every pod"
    for manifest in manifests:
        template = pod_of(manifest)
        wanted = template["spec"].get("serviceAccountName") if template else None
        if wanted is not None and wanted not in there:
            yield f"{name_of(manifest)}: there is no service account {wanted}"


def references(manifests: list[Manifest]) -> Iterator[tuple[str, str]]:
    """Every ConfigMap and Secret that a pod wants, as kind and name."""
    for manifest in manifests:
        template = pod_of(manifest)
        if template is None:
            continue
        for volume in template["spec"].get("volumes", ()):
            if "configMap" in volume:
                yield "ConfigMap", volume["configMap"]["name"]
            if "secret" in volume:
                yield "Secret", volume["secret"]["secretName"]
        for container in template["spec"]["containers"]:
            for one in container.get("envFrom", ()):
                yield "ConfigMap", one["configMapRef"]["name"]
