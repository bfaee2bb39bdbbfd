"""`revo up` and `revo down`: a mesh that comes up whole, stays up, and goes without a trace."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import IO, Any

import pytest

from bus.connection import Connection
from bus.errors import AuthenticationError
from bus.settings import Settings
from tests.e2e.conftest import BIN, ROOT, Shell, alive, children
from tests.eventually import eventually, in_time

ECHO = str(ROOT / "examples" / "echo_agent.py")


def mesh_file(shell: Shell, text: str) -> str:
    path = shell.folder / "some-mesh.toml"
    path.write_text(text)
    return str(path)


def echo_mesh(shell: Shell, count: int = 1, more: str = "") -> str:
    text = f'[server]\nport = {free_port()}\n[actors.echo]\ntarget = "{ECHO}:Echo"\ncount = {count}\n{more}'
    return mesh_file(shell, text)


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def state(shell: Shell) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((shell.home / "mesh.json").read_text())
    return found


async def test_up_detached_says_one_line_the_others_find_the_mesh_and_down_ends_it(shell: Shell) -> None:
    said = shell.json("up", echo_mesh(shell, count=2), "--detach")
    assert set(said) == {"url", "actors"}
    assert [(one["name"], one["state"]) for one in said["actors"]] == [
        ("revo-registry", "ready"),
        ("revo-steward", "ready"),
        ("revo-memory", "ready"),
        *[("echo", "ready")] * 2,
    ]
    supervisor = int(str(state(shell)["pid"]))
    pids = [supervisor, *children(supervisor)]
    assert len(pids) >= 7, "supervisor, server, three of the system's, two actors"
    assert oct((shell.home / "mesh.json").stat().st_mode & 0o777) == "0o600"

    done = shell.revo("submit", "echo", "text=hi", "--wait")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"text": "hi"})
    with pytest.raises(AuthenticationError):  # nobody comes in without credentials
        await Connection.open(said["url"], settings=Settings(nats_url=said["url"]))

    assert shell.revo("down").returncode == 0
    assert not (shell.home / "mesh.json").exists()
    await eventually(lambda: not any(alive(pid) for pid in pids))
    assert shell.revo("down").returncode == 3


async def test_a_supervisor_that_is_killed_leaves_no_orphans_and_its_home_can_be_used_again(shell: Shell) -> None:
    path = echo_mesh(shell, count=2)
    shell.json("up", path, "--detach")
    supervisor = int(str(state(shell)["pid"]))
    family = children(supervisor)
    assert len(family) >= 3
    os.kill(supervisor, signal.SIGKILL)
    await eventually(lambda: not any(alive(pid) for pid in family), timeout=20)
    assert shell.json("up", path, "--detach")["actors"][0]["state"] == "ready"


async def test_an_actor_that_dies_is_started_again(shell: Shell) -> None:
    said = shell.json("up", echo_mesh(shell), "--detach")
    victim = said["actors"][-1]
    os.kill(victim["pid"], signal.SIGKILL)

    def is_back() -> bool:
        actor = state(shell)["actors"][-1]
        return bool(actor["restarts"] == 1 and actor["state"] == "ready" and actor["pid"] != victim["pid"])

    await eventually(is_back)
    assert shell.revo("submit", "echo", "text=again", "--wait").returncode == 0


async def test_the_server_is_started_again_and_nothing_queued_is_lost(shell: Shell) -> None:
    said = shell.json("up", echo_mesh(shell), "--detach")
    waiting = shell.json("submit", "nobody", "a=1")["task_id"]
    supervisor = int(str(state(shell)["pid"]))
    commands = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,comm="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in commands.splitlines()]
    (server,) = [int(row[0]) for row in rows if row[1] == str(supervisor) and "nats-server" in row[2]]
    os.kill(server, signal.SIGKILL)

    def answers() -> bool:
        return shell.revo("submit", "echo", "text=hi", "--wait", "--timeout", "10").returncode == 0

    await eventually(answers, timeout=30)
    again = shell.json("submit", "nobody", "a=1", "--id", waiting)
    assert said["url"] == state(shell)["url"]
    assert again["task_id"] == waiting


async def test_a_crash_loop_ends_in_a_clear_state_and_the_others_run_on(shell: Shell) -> None:
    crashing = shell.folder / "crashing.py"
    crashing.write_text(
        "import os, threading\nfrom examples_echo import Echo\n"
        "class Crashing(Echo):\n    async def on_start(self):\n        threading.Timer(0.2, os._exit, (7,)).start()\n"
    )
    (shell.folder / "examples_echo.py").write_text(Path(ECHO).read_text())
    more = (
        f'[actors.crashing]\ntarget = "{crashing}:Crashing"\n'
        "[supervision]\nmax_restarts = 2\nbackoff = 0.05\nbackoff_max = 0.1\n"
    )
    shell.json("up", echo_mesh(shell, more=more), "--detach")

    def failed() -> bool:
        actors = {actor["name"]: actor for actor in state(shell)["actors"]}
        crashed = actors["crashing"]
        return bool(
            crashed["state"] == "failed" and "ended 3 times" in crashed["reason"] and "status 7" in crashed["reason"]
        )

    await eventually(failed, timeout=20)
    assert shell.revo("submit", "echo", "text=hi", "--wait", "--timeout", "10").returncode == 0


def test_an_actor_that_cannot_start_stops_everything_with_one_line(shell: Shell) -> None:
    path = mesh_file(shell, '[actors.ghost]\ntarget = "no.such.module:Ghost"\n')
    done = shell.revo("up", path, "--detach", "--output", "json")
    assert done.returncode == 1
    assert "ghost/1 failed" in done.stderr
    assert "no module named" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (shell.home / "mesh.json").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[actors.a]\ntarget = 'x:Y'\ncount = 0\n", "some-mesh.toml:3: actors.a.count"),
        ("[actors.a\n", "some-mesh.toml:1"),
        ("", "actors: is missing"),
    ],
)
def test_a_bad_mesh_file_is_one_line_with_file_line_and_key(shell: Shell, text: str, says: str) -> None:
    done = shell.revo("up", mesh_file(shell, text), "--detach")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert says in done.stderr
    assert not shell.home.exists()


def test_a_second_up_in_the_same_home_names_the_first(shell: Shell) -> None:
    path = echo_mesh(shell)
    shell.json("up", path, "--detach")
    done = shell.revo("up", path, "--detach")
    assert done.returncode == 1
    assert f"process {state(shell)['pid']}" in done.stderr


async def test_ctrl_c_in_the_foreground_drains_all(shell: Shell) -> None:
    process = subprocess.Popen(
        [str(BIN / "revo"), "up", echo_mesh(shell)],
        cwd=shell.folder,
        env=shell.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stdout is not None
        await in_time(asyncio.to_thread(_read_to, process.stdout, "Ctrl-C ends it"), 20)
        family = children(process.pid)
        os.killpg(process.pid, signal.SIGINT)  # as the terminal does
        _, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert "drains" in err
    await eventually(lambda: not any(alive(pid) for pid in family))


def _read_to(stream: IO[str], what: str) -> None:
    for line in stream:
        if what in line:
            return
    raise AssertionError(f"ended before it said {what!r}")


def test_up_can_use_a_server_that_runs_already(shell: Shell) -> None:
    said = shell.json("up", echo_mesh(shell), "--detach")
    other = Shell(shell.folder / "other")
    other.folder.mkdir()
    refused = other.revo("up", echo_mesh(other), "--detach", "--url", said["url"])
    assert (refused.returncode, "REVO_CREDENTIALS" in refused.stderr) == (3, True)
    operator = str(shell.home / "keys" / "main" / "operator.nk")
    beside = other.json("up", echo_mesh(other), "--detach", "--url", said["url"], REVO_CREDENTIALS=operator)
    assert beside["url"] == said["url"]
    assert not (other.home / "nats").exists()
    assert other.revo("down").returncode == 0
    assert shell.revo("submit", "echo", "text=hi", "--wait").returncode == 0
