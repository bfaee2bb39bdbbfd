"""`revo k8s render`, `revo topology export|apply` and `revo keys` for a mesh whose agents run elsewhere."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import kubernetes_validate

from actors.keyring import Keyring
from bus.server import Server
from revo.kube.actors import times
from revo.kube.names import dns_name
from revo.kube.render import _replacing
from tests.integration.test_manifests import KUBERNETES
from tests.processes import ROOT


def revo(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    """The command line as a user has it."""
    env = {**os.environ, "REVO_HOME": str(home)}
    command = [sys.executable, "-m", "revo", *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_wrong_input_is_one_line_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "mesh.toml"
    path.write_text('[actors.mine]\ntarget = "agents/mine.py:Mine"\n[actors.mine.pod]\nimage = "mine:1"\n')
    (tmp_path / "file").write_text("")
    wrong = {
        "agents/mine.py:Mine is a path of this machine": ["--mesh", str(path), "--out", str(tmp_path / "out")],
        "echo_agent.py is in no image of Revo": ["--mesh", "examples/mesh.toml", "--out", str(tmp_path / "out")],
        "no such file": ["--mesh", str(tmp_path / "none.toml"), "--out", str(tmp_path / "out")],
        "cannot be written: not a directory": ["--mesh", "examples/pod/mesh.toml", "--out", str(tmp_path / "file")],
    }
    for says, arguments in wrong.items():
        done = revo("k8s", "render", *arguments, home=tmp_path)
        assert done.returncode == 2
        assert says in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


async def test_what_a_mesh_file_wants_is_made_where_its_agents_are_not_installed(
    server: Server, tmp_path: Path
) -> None:
    exported = revo("topology", "export", str(ROOT / "examples/pod/mesh.toml"), home=tmp_path)
    path = tmp_path / "topology.json"
    path.write_text(exported.stdout)
    applied = await asyncio.to_thread(
        revo, "topology", "apply", str(path), "--url", server.url, "--output", "json", home=tmp_path
    )
    made = {one["what"] for one in json.loads(applied.stdout)}
    assert {"stream TASKS", "consumer greet-normal", "consumer @greeter-critical"} <= made
    again = await asyncio.to_thread(revo, "topology", "plan", str(path), "--url", server.url, "--check", home=tmp_path)
    assert again.returncode == 0, again.stdout
    for wrong, says in (('[{"agent": "x"}]', "capability"), ("nonsense", "JSON"), ('[{"capability": "a.b"}]', "")):
        path.write_text(wrong)
        refused = revo("topology", "plan", str(path), "--url", server.url, home=tmp_path)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert says in refused.stderr


def test_keys_are_made_for_the_agents_of_a_mesh_file(tmp_path: Path) -> None:
    mesh = str(ROOT / "examples/pod/mesh.toml")
    assert revo("keys", "init", "--mesh", mesh, home=tmp_path).returncode == 0
    users = Keyring(tmp_path / "keys").read().tenants["main"]
    assert users["greeter"].does == ["greet"]
    assert users["greeter"].isolated
    refused = revo("keys", "init", "--mesh", mesh, "--tenant", "acme", home=tmp_path)
    assert "is for the tenant main" in refused.stderr


def test_secrets_are_named_as_pods_want_them(tmp_path: Path) -> None:
    keyring = Keyring(tmp_path / "keys")
    keyring.init()
    assert revo("keys", "show", "--kubernetes", str(tmp_path / "out"), home=tmp_path).returncode == 0
    written = [json.loads(path.read_text()) for path in (tmp_path / "out").iterdir()]
    found = {(one["kind"], one["metadata"]["name"]) for one in written}
    assert {("ConfigMap", "revo-nats-accounts"), ("Secret", "revo-key-revo-steward")} <= found
    for one in written:
        kubernetes_validate.validate(one, KUBERNETES, strict=True)


def test_images_are_named_in_every_way() -> None:
    assert _replacing("revo", "host:5000/a/revo:1.0") == {
        "name": "revo",
        "newName": "host:5000/a/revo",
        "newTag": "1.0",
    }
    assert _replacing("revo", "host:5000/a/revo") == {"name": "revo", "newName": "host:5000/a/revo"}
    by_digest = _replacing("revo", "a/revo@sha256:abc")
    assert by_digest == {"name": "revo", "newName": "a/revo", "digest": "sha256:abc"}


def test_quantities_and_names() -> None:
    assert [times("250m", 8), times("0.5", 2), times("1.5", 1), times("256Mi", 2)] == ["2000m", "1", "1.5", "512Mi"]
    assert dns_name("code-analyst") == "code-analyst"
    assert dns_name("Code_Analyst") != dns_name("code_analyst") != "code-analyst"
