"""The commands that show a mesh: ps, top, events, topology, doctor, and what a shell completes."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import BIN, Shell
from tests.e2e.test_up import echo_mesh, mesh_file, state
from tests.eventually import eventually


@pytest.fixture
def running(shell: Shell) -> Iterator[Shell]:
    shell.json("up", echo_mesh(shell, count=2), "--detach")
    yield shell
    shell.revo("down")


def on_terminal(shell: Shell, *arguments: str, keys: bytes = b"", until: bytes = b"", columns: int = 80) -> str:
    """What a person sees who types a command into a terminal of so many columns; `keys` once `until` was said."""
    import fcntl
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {**shell.env, "TERM": "xterm"}
    process = subprocess.Popen(
        [str(BIN / "revo"), *arguments], cwd=shell.folder, env=env, stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    said = b""
    try:
        while True:
            try:
                chunk = os.read(master, 65536)
            except OSError:
                break
            if not chunk:
                break
            said += chunk
            if keys and until in said:
                os.write(master, keys)
                keys = b""
        assert process.wait(timeout=10) == 0, said
    finally:
        process.kill()
        process.wait()
        os.close(master)
    return said.decode()


def plain(text: str) -> list[str]:
    """The lines of a screen, without colours and movements of the cursor."""
    import re

    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "").split("\n")


async def test_ps_shows_who_lives_and_who_should(running: Shell) -> None:
    rows = running.json("ps")
    assert [(row["kind"], row["agent"], row["state"]) for row in rows] == [
        ("system", "revo-memory", "ready"),
        ("system", "revo-registry", "ready"),
        ("system", "revo-steward", "ready"),
        ("agent", "echo", "ready"),
        ("agent", "echo", "ready"),
    ]
    assert {row["capabilities"][0] for row in running.json("ps", "--capability", "echo")} == {"echo"}
    assert all(row["uptime"] > 0 and row["pid"] > 0 and "owner" not in row for row in rows)
    assert running.json("ps", "--agent", "nobody") == []
    victim = running.json("ps", "--agent", "echo")[0]
    os.kill(victim["pid"], signal.SIGKILL)

    def is_back() -> bool:
        found = running.json("ps", "--agent", "echo")
        living = [row for row in found if row["condition"] != "dead"]
        return sum(row["restarts"] == 1 and row["state"] == "ready" for row in living) == 1 and len(living) == 2

    await eventually(is_back, timeout=20)
    (dead,) = [row for row in running.json("ps", "--agent", "echo") if row["condition"] == "dead"]
    assert dead["instance"] == victim["instance"]
    assert (dead["state"], dead["concurrency"]) == ("dead", 0)
    assert "its lease ran out" in dead["reason"]
    shown = running.revo("ps").stdout
    assert "kind" in shown.splitlines()[0]
    assert "0/1" in shown
    assert max(len(line) for line in shown.splitlines()) <= 80


async def test_ps_shows_what_is_left_for_dead(shell: Shell) -> None:
    (shell.folder / "dying.py").write_text(
        "import os, threading\nfrom pathlib import Path\nfrom revo import Actor, rpc\nclass Dying(Actor):\n"
        "    @rpc('x')\n    async def x(self) -> int:\n        return 1\n"
        "    async def on_start(self):\n        threading.Timer(3.0, os._exit, (9,)).start()\n"
    )
    more = f'[actors.dying]\ntarget = "{shell.folder / "dying.py"}:Dying"\n[supervision]\nmax_restarts = 0\n'
    shell.json("up", echo_mesh(shell, more=more), "--detach")

    def failed() -> dict[str, Any]:
        found: list[dict[str, Any]] = [row for row in shell.json("ps") if row["state"] == "failed"]
        return found[0] if found else {}

    row = await eventually(failed, timeout=20)
    assert (row["instance"], "status 9" in row["reason"]) == ("dying/1", True)
    assert "failed" in shell.revo("ps").stdout


async def test_top_is_readable_at_80_columns_and_ends_with_q(running: Shell) -> None:
    for n in range(3):
        running.revo("submit", "nobody-has-this", f"n={n}", "--priority", "low")
    screen = on_terminal(running, "top", "--interval", "0.3", keys=b"q", until=b"nobody-has-this")
    assert "\x1b[?1049h" in screen, "a screen of its own"
    assert "\x1b[?1049l" in screen, "which it gives back"
    lines = plain(screen)
    assert all(len(line.rstrip()) <= 80 for line in lines)
    text = "\n".join(lines)
    for word in ("accepted", "critical", "urgent", "high", "normal", "low", "echo", "2/2", "restarts"):
        assert word in text


def test_top_for_scripts_gives_rates_queues_and_agents(running: Shell) -> None:
    for n in range(3):
        running.revo("submit", "nobody-has-this", f"n={n}", "--priority", "high")
    done = running.revo("top", "--count", "2", "--interval", "0.2", "--output", "json")
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert first["rates"] == {}
    assert set(second["rates"]) == {"accepted", "ended", "dead"}
    assert second["queues"] == {"nobody-has-this": {"high": 3}}
    echo = next(agent for agent in second["agents"] if agent["name"] == "echo")
    assert (echo["ready"], echo["instances"], echo["slots"]) == (2, 2, 2)
    text = running.revo("top", "--count", "1").stdout
    assert "nobody-has-this" in text


async def test_events_are_shown_and_followed(running: Shell) -> None:
    told = running.json("events")
    assert {"registered", "ready"} <= {event["what"] for event in told if event["kind"] == "agent"}
    assert [event["what"] for event in told if event["kind"] == "system"] == ["up"]
    assert running.json("events", "--name", "nobody") == []
    assert all(event["kind"] == "system" for event in running.json("events", "--kind", "system"))
    victim = state(running)["actors"][-1]
    following = subprocess.Popen(
        [str(BIN / "revo"), "events", "--follow", "--since", "60", "--output", "json"],
        cwd=running.folder,
        env=running.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert following.stdout is not None
        first = json.loads(following.stdout.readline())
        assert first["what"] == "registered"
        os.kill(victim["pid"], signal.SIGKILL)
        seen = []
        for line in following.stdout:
            event = json.loads(line)
            seen.append((event["name"], event["what"]))
            if (victim["instance"], "dead") in seen and ("echo", "restarting") in seen:
                break
    finally:
        following.send_signal(signal.SIGINT)
        _, err = following.communicate(timeout=10)
    assert following.returncode == 130, err
    assert "Traceback" not in err


def test_events_refuse_a_kind_that_is_none(shell: Shell) -> None:
    done = shell.revo("events", "--kind", "weather", "--url", "nats://127.0.0.1:1")
    assert (done.returncode, "fault, breaker" in done.stderr) == (2, True)


def test_without_a_registry_the_commands_say_so(shell: Shell) -> None:
    shell.json("up", echo_mesh(shell, more="[system]\nregistries = 0\n"), "--detach")
    done = shell.revo("ps")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "no registry runs; `revo up` starts one" in done.stderr
    assert shell.revo("submit", "echo", "text=hi", "--wait").returncode == 0
    finding = next(one for one in shell.json("doctor") if one["check"] == "registry")
    assert (finding["state"], "revo run actors.registry:Registry" in finding["advice"]) == ("warn", True)


def test_topology_is_planned_applied_and_then_as_wanted(shell: Shell) -> None:
    shell.json("up", echo_mesh(shell), "--detach")
    more = shell.folder / "agents.py"
    more.write_text(
        "from revo import Agent, task\nfrom pydantic import BaseModel\nclass M(BaseModel):\n    n: int = 0\n"
        "class New(Agent):\n    @task('new-work', max_attempts=7)\n    async def new(self, message: M) -> int:\n"
        "        return 1\n"
    )
    other = mesh_file(shell, f'[actors.new]\ntarget = "{more}:New"\n')
    plan = shell.json("topology", "plan", other)
    assert {(one["action"], one["what"]) for one in plan} == {
        ("create", f"consumer {name}-{priority}")
        for name in ("new-work", "@new")
        for priority in ("critical", "urgent", "high", "normal", "low")
    }
    assert shell.revo("topology", "plan", other, "--check").returncode == 1
    assert all(one["error"] == "" for one in shell.json("topology", "apply", other))
    assert shell.revo("topology", "plan", other, "--check").returncode == 0

    more.write_text(more.read_text().replace("max_attempts=7", "max_attempts=10"))
    changed = shell.json("topology", "plan", other)
    assert [one["action"] for one in changed] == ["update"] * 5
    assert changed[0]["differs"] == ["max_attempts is 7, wanted 10"]
    shell.env["REVO_DEAD_MAX_BYTES"] = "1000000000"
    shown = shell.revo("topology", "plan", other)
    assert "~ stream DEAD" in shown.stdout
    assert "max_bytes is 536870912, wanted 1000000000" in shown.stdout
    assert shell.revo("topology", "apply", other).returncode == 0
    assert shell.revo("topology", "plan", other, "--check").returncode == 0


def test_a_topology_of_agents_that_disagree_is_refused(shell: Shell) -> None:
    (shell.folder / "two.py").write_text(
        "from revo import Agent, task\nfrom pydantic import BaseModel\nclass M(BaseModel):\n    n: int = 0\n"
        "class A(Agent):\n    @task('work', max_attempts=2)\n    async def a(self, message: M) -> int:\n"
        "        return 1\n"
        "class B(Agent):\n    @task('work', max_attempts=3)\n    async def b(self, message: M) -> int:\n"
        "        return 1\n"
    )
    path = mesh_file(shell, '[actors.a]\ntarget = "two.py:A"\n[actors.b]\ntarget = "two.py:B"\n')
    done = shell.revo("topology", "plan", path, "--url", "nats://127.0.0.1:1")
    assert done.returncode == 2
    assert "agents a and b disagree" in done.stderr


def test_doctor_explains_what_it_finds(running: Shell) -> None:
    running.revo("submit", "nobody-has-this", "n=1")
    findings = {one["check"]: one for one in running.json("doctor")}
    assert findings["registry"]["state"] == findings["steward"]["state"] == "ok"
    assert findings["queues"]["state"] == "warn"
    assert "1 task waits for nobody-has-this" in findings["queues"]["found"]
    differs = {one["check"]: one for one in running.json("doctor", REVO_AUDIT_MAX_BYTES="1000000")}
    assert "revo topology plan" in differs["streams"]["advice"]
    assert "max_bytes" in differs["streams"]["found"]


def test_doctor_finds_a_port_that_is_taken(shell: Shell) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (shell.folder / "mesh.toml").write_text(f'[server]\nport = {port}\n[actors.a]\ntarget = "x:Y"\n')
        done = shell.revo("doctor", "--output", "json")
    finding = next(one for one in json.loads(done.stdout) if one["check"] == "port")
    assert (finding["state"], str(port) in finding["found"]) == ("fail", True)
    assert "[server] port" in finding["advice"]


def test_doctor_finds_a_clock_that_differs(running: Shell) -> None:
    """A clock of the machine's own cannot be set here: the command's process gets one that is wrong."""
    (running.folder / "late").mkdir()
    (running.folder / "late" / "sitecustomize.py").write_text(
        "import time\nright = time.time\ntime.time = lambda: right() - 30\n"
    )
    findings = {one["check"]: one for one in running.json("doctor", PYTHONPATH=str(running.folder / "late"))}
    assert findings["clock"]["state"] == "warn"
    assert findings["clock"]["found"].startswith("+30.")
    assert "NTP" in findings["clock"]["advice"]


async def test_doctor_finds_a_server_that_is_too_old(shell: Shell) -> None:
    async def old_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.9.4","max_payload":1048576,"jetstream":true}\r\n')
        while line := await reader.readline():
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
        writer.close()

    listening = await asyncio.start_server(old_server, "127.0.0.1", 0)
    async with listening:
        url = f"nats://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        done = await asyncio.to_thread(shell.revo, "doctor", "--url", url, "--output", "json")
    finding = json.loads(done.stdout)[-1]
    assert (done.returncode, finding["check"], finding["state"]) == (3, "mesh", "fail")
    assert "needs nats-server 2.11" in finding["advice"]
    assert "runs 2.9" in finding["advice"]


def completed(shell: Shell, words: str) -> list[str]:
    done = shell.revo(_REVO_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(len(words.split(" ")) - 1))
    return done.stdout.split()


def test_a_shell_completes_commands_options_and_what_only_the_mesh_knows(running: Shell) -> None:
    assert completed(running, "revo to") == ["top", "topology"]
    assert "--follow" in completed(running, "revo events --")
    assert completed(running, "revo submit ec") == ["echo"]
    assert completed(running, "revo ps --agent e") == ["echo"]


def test_a_shell_that_completes_without_a_mesh_says_nothing(shell: Shell) -> None:
    assert completed(shell, "revo submit ec") == []
