"""The manifests of one kind of actor: a Deployment with its probes and limits, and what protects and scales it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Final

from actors.meshfile import ActorEntry
from bus import subjects
from bus.settings import Settings
from revo.kube.names import ROLE, dns_name, key_secret, labels

Manifest = dict[str, Any]

HTTP: Final = 9464
USER: Final = 10001
"""Whom the image runs as."""
GRACE: Final = 15
"""Seconds beyond the drain: what a drain that was late may take, and saying good-bye."""
MONITOR: Final = "nats.revo.svc.cluster.local:8222"
"""Whole, for it is KEDA's operator that asks, from a namespace of its own."""
RESTRICTED: Final = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
POD_SECURITY: Final = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}


@dataclass(frozen=True)
class Kind:
    """One actor of a mesh file, and what its class says that it does."""

    name: str
    entry: ActorEntry
    capabilities: tuple[str, ...]
    is_agent: bool
    concurrency: int = 1
    """Tasks that one instance does at a time."""

    @property
    def dns(self) -> str:
        """The name of everything that is made of it."""
        return dns_name(self.name)


def of_actor(kind: Kind, image: str) -> list[Manifest]:
    """Its service account, its Deployment, and how many of it may be away at a time."""
    account = _manifest("v1", "ServiceAccount", kind, {"automountServiceAccountToken": False})
    budget = {"maxUnavailable": 1, "selector": {"matchLabels": labels(kind.name)}}
    return [
        account,
        _manifest("apps/v1", "Deployment", kind, {"spec": _deployment(kind, image)}),
        _manifest("policy/v1", "PodDisruptionBudget", kind, {"spec": budget}),
    ]


def scaled_object(kind: Kind) -> Manifest:
    """KEDA's: as many instances as there is work for, from none to `max`, by the lag of its consumers.

    One for each Deployment, for no two may scale the same one; of an agent with several capabilities, and for what is
    sent to it by name, the longest queue decides.
    """
    addresses = [*kind.capabilities, subjects.agent_address(kind.name)]
    triggers = [
        {
            "type": "nats-jetstream",
            "metadata": {
                "natsServerMonitoringEndpoint": MONITOR,
                "account": "main",
                "stream": subjects.TASKS,
                "consumer": subjects.consumer(address, priority),
                "lagThreshold": str(kind.concurrency),  # waiting and running, for each instance
                "activationLagThreshold": "0",
            },
        }
        for address in addresses
        for priority in subjects.PRIORITIES
    ]
    most = max(kind.entry.pod.max, kind.entry.count)
    policy = {"type": "Pods", "value": most, "periodSeconds": 15}
    scale_up = {"stabilizationWindowSeconds": 0, "policies": [policy]}
    spec = {
        "scaleTargetRef": {"name": kind.dns},
        "pollingInterval": 5,
        "cooldownPeriod": 120,
        "minReplicaCount": 0,
        "maxReplicaCount": most,
        # Up at once; down by Kubernetes' own rule, to what was needed at most within five minutes.
        "advanced": {"horizontalPodAutoscalerConfig": {"behavior": {"scaleUp": scale_up}}},
        "triggers": triggers,
    }
    return _manifest("keda.sh/v1alpha1", "ScaledObject", kind, {"spec": spec})


def autoscaler(kind: Kind) -> Manifest:
    """Kubernetes' own: as many instances as keep their CPU at 70 % of what they ask for."""
    cpu = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}}
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": kind.dns},
        "minReplicas": kind.entry.count,
        "maxReplicas": max(kind.entry.pod.max, kind.entry.count),
        "metrics": [cpu],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 300}},
    }
    return _manifest("autoscaling/v2", "HorizontalPodAutoscaler", kind, {"spec": spec})


def _manifest(version: str, what: str, kind: Kind, rest: Manifest) -> Manifest:
    return {"apiVersion": version, "kind": what, "metadata": {"name": kind.dns, "labels": labels(kind.name)}, **rest}


def _deployment(kind: Kind, image: str) -> Manifest:
    own = labels(kind.name)
    spread = [
        {
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": own},
        }
        for key in ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
    ]
    pod = {
        "serviceAccountName": kind.dns,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": math.ceil(_drain(kind)) + GRACE,
        "securityContext": POD_SECURITY,
        "topologySpreadConstraints": spread,
        "containers": [_container(kind, image)],
        "volumes": _volumes(kind),
    }
    return {
        "replicas": kind.entry.count,
        "revisionHistoryLimit": 5,
        # A new one is ready, which is connected and registered, before an old one drains.
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "selector": {"matchLabels": own},
        "template": {"metadata": {"labels": {**own, ROLE: "actor"}}, "spec": pod},
    }


def _container(kind: Kind, image: str) -> Manifest:
    pod = kind.entry.pod
    return {
        "name": "actor",
        "image": pod.image or image,
        "args": ["run", kind.entry.target, "--name", kind.name, "--output", "json"],
        "env": _environment(kind),
        "envFrom": [{"configMapRef": {"name": "revo-env"}}],
        "ports": [{"name": "http", "containerPort": HTTP}],
        "startupProbe": _probe("/healthz", period=1, failures=pod.startup),
        "readinessProbe": _probe("/readyz", period=5, failures=2),
        # A handler that blocks the loop for a minute has its pod restarted; its task runs elsewhere.
        "livenessProbe": _probe("/healthz", period=10, failures=6),
        "resources": {
            "requests": {"cpu": pod.cpu, "memory": pod.memory},
            "limits": {"cpu": times(pod.cpu, 8), "memory": times(pod.memory, 2)},
        },
        "securityContext": RESTRICTED,
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  (the pod's own)
            {"name": "key", "mountPath": "/var/run/revo", "readOnly": True},
            *({"name": _volume(one), "mountPath": _folder(one), "readOnly": True} for one in _secrets(kind)),
        ],
    }


def _drain(kind: Kind) -> float:
    """Seconds that a drain of this actor may take."""
    given = {name: value for name, value in kind.entry.pod.env.items() if name == "REVO_DRAIN_TIMEOUT"}
    return Settings.from_env(given).drain_timeout


def _environment(kind: Kind) -> list[Manifest]:
    fields = {"POD_NAME": "metadata.name", "POD_NAMESPACE": "metadata.namespace", "NODE_NAME": "spec.nodeName"}
    resource = {
        "service.namespace": "revo",
        "k8s.namespace.name": "$(POD_NAMESPACE)",
        "k8s.deployment.name": kind.dns,
        "k8s.pod.name": "$(POD_NAME)",
        "k8s.node.name": "$(NODE_NAME)",
    }
    plain = {
        "REVO_HTTP": f"0.0.0.0:{HTTP}",
        "REVO_CREDENTIALS": "/var/run/revo/credentials.nk",
        "OTEL_RESOURCE_ATTRIBUTES": ",".join(f"{key}={value}" for key, value in resource.items()),
    }
    if kind.entry.labels:
        plain["REVO_LABELS"] = ",".join(f"{key}={value}" for key, value in kind.entry.labels.items())
    if kind.entry.settings:
        plain["REVO_ACTOR_SETTINGS"] = json.dumps(kind.entry.settings).replace("$", "$$")  # else $(X) is a variable
    for variable, path in kind.entry.pod.secrets.items():
        secret, _, key = path.partition("/")
        plain[variable] = f"{_folder(secret)}/{key}"
    plain |= kind.entry.pod.env
    made = [{"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()]
    return [*made, *({"name": name, "value": value} for name, value in plain.items())]


def _volumes(kind: Kind) -> list[Manifest]:
    def secret(name: str, volume: str) -> Manifest:
        return {"name": volume, "secret": {"secretName": name, "defaultMode": 0o440}}

    return [
        {"name": "tmp", "emptyDir": {"sizeLimit": "256Mi"}},
        secret(key_secret(kind.name), "key"),
        *(secret(one, _volume(one)) for one in _secrets(kind)),
    ]


def _secrets(kind: Kind) -> list[str]:
    """The secrets that it wants keys of, each once."""
    return sorted({path.partition("/")[0] for path in kind.entry.pod.secrets.values()})


def _volume(secret: str) -> str:
    return f"secret-{dns_name(secret)}"


def _folder(secret: str) -> str:
    return f"/var/run/secrets/{secret}"


def _probe(path: str, *, period: int, failures: int) -> Manifest:
    get = {"path": path, "port": "http"}
    return {"httpGet": get, "periodSeconds": period, "timeoutSeconds": min(5, period + 2), "failureThreshold": failures}


def times(quantity: str, factor: int) -> str:
    """A quantity of Kubernetes so many times over."""
    number = quantity.rstrip("kKMGTim")
    unit = quantity[len(number) :]
    made = float(number) * factor
    return f"{int(made) if made == int(made) else made}{unit}"
