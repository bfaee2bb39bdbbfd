"""`revo keys`, and a mesh that asks who you are, as a user meets them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import BIN, Shell
from tests.e2e.test_up import echo_mesh


def names(shell: Shell) -> set[str]:
    return {row["user"] for row in shell.json("keys", "show")}


def test_a_mesh_knows_its_actors_and_commands_run_as_its_operator(shell: Shell) -> None:
    shell.json("up", echo_mesh(shell), "--detach")
    assert names(shell) == {"operator", "revo-registry", "revo-steward", "revo-memory", "revo-bridge", "echo"}
    one = shell.json("keys", "show", "echo")
    assert (one["role"], one["account"], one["does"]) == ("agent", "shared", ["echo"])
    assert "revo.result.*.echo.*" in one["publish"]
    assert not any(subject in (">", "$JS.API.>", "revo.>") for subject in one["publish"] + one["subscribe"])
    told = shell.revo("keys", "show")
    assert (told.returncode, "SU" in told.stdout.replace("SUBMIT", "")) == (0, False)


def test_a_user_that_is_added_while_the_mesh_runs_may_do_what_it_was_granted(shell: Shell) -> None:
    shell.json("up", echo_mesh(shell), "--detach")
    added = shell.json("keys", "add", "shop", "--role", "submitter", "--submits", "echo")
    assert added["credentials"] == str(shell.home / "keys" / "main" / "shop.nk")
    done = shell.revo("submit", "echo", "text=hi", "--wait", REVO_CREDENTIALS="shop")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"text": "hi"}), done.stderr
    for argument in ("submit", "other", "text=hi"), ("tasks", "ls"), ("dead", "ls"), ("verify",):
        refused = shell.revo(*argument, REVO_CREDENTIALS="shop")
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1), refused.stderr
        assert "may not publish to" in refused.stderr
    shell.json("keys", "rotate", "shop")
    assert shell.revo("submit", "echo", "text=hi", "--wait", REVO_CREDENTIALS="shop").returncode == 0
    shell.json("keys", "rotate", "shop", "--finish")
    assert shell.revo("submit", "echo", "text=hi", "--wait", REVO_CREDENTIALS="shop").returncode == 0
    (shell.folder / "copy.nk").write_bytes((shell.home / "keys" / "main" / "shop.nk").read_bytes())
    (shell.folder / "copy.nk").chmod(0o600)
    shell.json("keys", "remove", "shop")
    refused = shell.revo("submit", "echo", "text=hi", REVO_CREDENTIALS="copy.nk")
    assert (refused.returncode, "refused our credentials" in refused.stderr) == (3, True)


def test_agents_with_accounts_of_their_own_work_from_a_mesh_file(shell: Shell) -> None:
    path = Path(shell.folder, echo_mesh(shell, count=2))
    path.write_text(path.read_text().replace("[server]", "[server]\nisolated = true\nencrypted = true"))
    shell.json("up", str(path), "--detach")
    assert shell.json("keys", "show", "echo")["account"] == "own"
    done = shell.revo("submit", "echo", "text=hi", "--wait")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"text": "hi"}), done.stderr
    states = {row["agent"]: row["state"] for row in shell.json("ps")}
    assert states == {"revo-registry": "ready", "revo-steward": "ready", "revo-memory": "ready", "echo": "ready"}
    assert shell.revo("down").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("add", "eve", "--role", "king"), "there are submitter, agent"),
        (("add", "eve", "--role", "submitter"), "may do nothing"),
        (("add", "e.ve", "--role", "observer"), "a user name is"),
        (("add", "eve", "--role", "agent", "--target", "nowhere:None"), "nowhere"),
        (("add", "eve", "--role", "submitter", "--target", "x:Y"), "is for agents"),
        (("add", "revo-steward", "--role", "submitter", "--submits", "x"), "is of role steward in every tenant"),
        (("rotate", "eve"), "has no user eve"),
        (("remove", "eve"), "has no user eve"),
        (("show", "eve"), "there are no keys yet"),
        (("init", "--tenant", "a/b"), "a tenant is"),
    ],
)
def test_wrong_usage_is_one_line_that_says_what_to_do(shell: Shell, arguments: tuple[str, ...], says: str) -> None:
    done = shell.revo("keys", *arguments)
    assert done.returncode in (1, 2)
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("server", "says"),
    [
        ('host = "0.0.0.0"', "set tls_cert and tls_key"),
        ('tls_cert = "cert.pem"', "tls_cert and tls_key go together"),
    ],
)
def test_a_server_that_can_be_reached_from_outside_wants_tls(shell: Shell, server: str, says: str) -> None:
    path = Path(shell.folder, echo_mesh(shell))
    path.write_text(path.read_text().replace("[server]", f"[server]\n{server}"))
    done = shell.revo("up", str(path))
    assert (done.returncode, says in done.stderr) == (2, True), done.stderr


def test_what_kubernetes_needs_is_written_for_its_owner_alone(shell: Shell) -> None:
    shell.json("keys", "init")
    shell.json("keys", "add", "shop", "--role", "submitter", "--submits", "*")
    written = [Path(path) for path in shell.json("keys", "show", "--kubernetes", "manifests")]
    kinds = {}
    for path in written:
        full = shell.folder / path
        manifest = json.loads(full.read_text())
        kinds[manifest["metadata"]["name"]] = manifest["kind"]
        assert full.stat().st_mode & 0o777 == 0o600
    assert kinds["revo-nats-accounts"] == "ConfigMap"
    assert kinds["revo-key-shop"] == "Secret"
    config = shell.revo("keys", "show", "--config").stdout
    assert config == (shell.home / "keys" / "nats-accounts.conf").read_text() + "\n"
    server = shell.folder / "nats.conf"
    server.write_text(f'jetstream {{ store_dir: "{shell.folder}/js" }}\n{config}')
    checked = subprocess.run([BIN / "nats-server", "-t", "-c", server], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
