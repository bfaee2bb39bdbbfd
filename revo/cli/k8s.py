"""`revo k8s`: the mesh of a mesh file for a cluster."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from actors.admission import load_all
from actors.meshfile import DEFAULT_NAME, MeshFile
from bus.errors import ConfigError
from revo.cli.common import DONE, Output, console, print_json
from revo.kube.render import render as write


def render(mesh_file: Path | None, folder: Path, image: str, *, output: Output) -> int:
    """Write the manifests of a mesh file; returns the exit status."""
    path = mesh_file if mesh_file is not None else Path(DEFAULT_NAME)
    mesh = MeshFile.load(path)
    for name, entry in mesh.actors.items():
        where = entry.target.rpartition(":")[0]
        if where.endswith(".py") and not (entry.pod.image or image):
            reason = (
                f"{where} is in no image of Revo; name its own in [actors.{name}.pod] image, or one for all by --image"
            )
            raise ConfigError(f"{path}: actors.{name}.target", reason)
        if where.endswith(".py") and "/" in where:
            reason = f"{entry.target} is a path of this machine; name a module of its image, as my_agents:Agent"
            raise ConfigError(f"{path}: actors.{name}.target", reason)
    actors = load_all(mesh, path.absolute().parent, strict=True)
    written = write(mesh, actors, image or f"revo:{version('revo-mesh')}", folder)
    if output is Output.JSON:
        print_json([str(one) for one in written])
        return DONE
    terminal = console()
    terminal.print(f"{len(written)} files written below {folder}", soft_wrap=True)
    for line in (
        f"next: revo keys init --mesh {path} && revo keys show --kubernetes .revo/manifests",
        f"      kubectl apply -f {folder}/base/namespace.yaml && kubectl apply -n revo -f .revo/manifests",
        f"      kubectl apply -k {folder}/overlays/dev",
    ):
        terminal.print(line, soft_wrap=True, markup=False)
    return DONE
