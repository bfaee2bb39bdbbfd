"""Writes a folder for kustomize: what Revo always stands on, and what a mesh file says.

`base`, `components` and `overlays` are copied once and are then yours. `mesh`, and what scales it, is written anew from
the mesh file each time.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from actors.actor import Actor, Agent, check_class
from actors.admission import wanted, write_wanted
from actors.meshfile import MeshFile
from bus.credentials import OPERATOR
from bus.errors import ConfigError
from bus.settings import Settings
from revo.kube.actors import POD_SECURITY, RESTRICTED, Kind, Manifest, autoscaler, of_actor, scaled_object
from revo.kube.names import ROLE, key_secret, labels

HEAD: Final = "# Written by `revo k8s render`; do not edit, write it anew.\n"
MANIFESTS: Final = Path(__file__).parent / "manifests"
"""In a checkout a link to `deploy/k8s`; installed, a copy of it."""
KEPT: Final = ("base", "components", "overlays")
"""What is copied where it is missing."""


def render(mesh: MeshFile, actors: Mapping[str, type[Actor] | None], image: str, folder: Path) -> list[Path]:
    """Write it and return the files that were written.

    Raises:
        ConfigError: the folder cannot be written; two agents disagree on a capability.
    """
    kinds = [_kind(name, mesh, actors.get(name)) for name in mesh.all_actors()]
    agents = [kind for kind in kinds if kind.is_agent]
    topology = write_wanted(wanted(actors, Settings.from_env({})))
    job = _topology_job(image, hashlib.sha256(f"{image}\n{topology}".encode()).hexdigest()[:8])
    manifests = [manifest for kind in kinds for manifest in of_actor(kind, image)]
    scaled = [scaled_object(kind) for kind in agents]
    own = [{"op": "remove", "path": "/spec/replicas"}]  # whoever scales a Deployment says how many
    targets = [{"target": {"kind": "Deployment", "name": kind.dns}, "patch": yaml.safe_dump(own)} for kind in agents]
    component = {"apiVersion": "kustomize.config.k8s.io/v1alpha1", "kind": "Component", "patches": targets}
    scaling = {**component, "resources": ["scaledobjects.yaml", "network.yaml"]}
    files = {
        "mesh/actors.yaml": _documents(manifests),
        "mesh/topology.yaml": _documents([job]),
        "mesh/topology.json": topology,
        "mesh/kustomization.yaml": _documents(
            [
                {
                    "apiVersion": "kustomize.config.k8s.io/v1beta1",
                    "kind": "Kustomization",
                    "resources": ["actors.yaml", "topology.yaml"],
                    "configMapGenerator": [{"name": "revo-topology", "files": ["topology.json"]}],
                    "generatorOptions": {"disableNameSuffixHash": True},
                }
            ]
        ),
        "components/keda/scaledobjects.yaml": _documents(scaled),
        "components/keda/kustomization.yaml": _documents([scaling]),
        "components/backup/kustomization.yaml": _documents(
            [{**component, "patches": [], "resources": ["backup.yaml"], "images": [_replacing("revo", image)]}]
        ),
        "components/hpa/autoscalers.yaml": _documents([autoscaler(kind) for kind in agents]),
        "components/hpa/kustomization.yaml": _documents([{**component, "resources": ["autoscalers.yaml"]}]),
    }
    try:
        written = _copy_kept(folder)
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            written.append(path)
    except OSError as error:
        raise ConfigError(str(folder), f"cannot be written: {(error.strerror or str(error)).lower()}") from error
    return written


def _kind(name: str, mesh: MeshFile, actor: type[Actor] | None) -> Kind:
    handlers = check_class(actor) if actor is not None else []
    capabilities = tuple(handler.name for handler in handlers if handler.kind == "task")
    is_agent = actor is not None and issubclass(actor, Agent) and bool(capabilities)
    return Kind(name, mesh.all_actors()[name], capabilities, is_agent, actor.concurrency if actor else 1)


def _topology_job(image: str, digest: str) -> Manifest:
    """Makes streams and consumers as the operator. A Job cannot be changed, so each image and topology has its own.

    What it does may be done again: it is taken away when it is done, and the next `kubectl apply` makes it anew.
    """
    name = f"revo-topology-{digest}"
    container = {
        "name": "topology",
        "image": image,
        "args": ["topology", "apply", "/etc/revo/topology.json"],
        "env": [{"name": "REVO_CREDENTIALS", "value": "/var/run/revo/credentials.nk"}],
        "envFrom": [{"configMapRef": {"name": "revo-topology-env"}}],
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"cpu": "1", "memory": "256Mi"}},
        "securityContext": RESTRICTED,
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  (the pod's own)
            {"name": "key", "mountPath": "/var/run/revo", "readOnly": True},
            {"name": "topology", "mountPath": "/etc/revo", "readOnly": True},
        ],
    }
    pod: dict[str, Any] = {
        "restartPolicy": "OnFailure",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": POD_SECURITY,
        "containers": [container],
        "volumes": [
            {"name": "tmp", "emptyDir": {"sizeLimit": "16Mi"}},
            {"name": "key", "secret": {"secretName": key_secret(OPERATOR), "defaultMode": 0o440}},
            {"name": "topology", "configMap": {"name": "revo-topology"}},
        ],
    }
    own = labels("revo-topology")
    template = {"metadata": {"labels": {**own, ROLE: "actor"}}, "spec": pod}
    spec = {"backoffLimit": 30, "ttlSecondsAfterFinished": 600, "template": template}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "labels": own}, "spec": spec}


def _replacing(name: str, image: str) -> Manifest:
    """What has kustomize write one image where another stands."""
    path, at, digest = image.partition("@")
    where, colon, tag = path.rpartition(":")
    if not colon or "/" in tag:
        where, tag = path, ""
    given = {"name": name, "newName": where, "newTag": tag, "digest": digest if at else ""}
    return {key: value for key, value in given.items() if value}


def _documents(manifests: list[Manifest]) -> str:
    return HEAD + yaml.dump_all(manifests, Dumper=_Plain, sort_keys=False, width=120)


class _Plain(yaml.SafeDumper):
    """YAML as people write it: what is said twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _copy_kept(folder: Path) -> list[Path]:
    """Copy what is missing of the kept parts; what stands is yours."""
    source, written = MANIFESTS.resolve(), []
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        name = path.relative_to(source)
        target = folder / name
        if name.parts[0] in KEPT and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            written.append(target)
    return written
