"""`revo up` looks after its actors: order, changes of the mesh file, a terminal that is closed."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bus.forking import TITLE
from bus.forkserver import usable
from tests.e2e.conftest import BIN, Shell, alive, children
from tests.e2e.test_up import ECHO, echo_mesh, free_port, mesh_file, state
from tests.eventually import eventually

forks_only = pytest.mark.skipif(not usable(), reason="forks are not safe on this platform: interpreters are started")
AGENTS = """\
from revo import Agent, task
from pydantic import BaseModel

class Text(BaseModel):
    text: str = ""

class First(Agent):
    @task("first")
    async def first(self, message: Text) -> str:
        return "first"

class Second(Agent):
    class Settings(BaseModel):
        word: str = "second"
    @task("second")
    async def second(self, message: Text) -> str:
        return self.settings.word
"""


def agents(shell: Shell) -> str:
    (shell.folder / "some_agents.py").write_text(AGENTS)
    return str(shell.folder / "some_agents.py")


def log_of(shell: Shell) -> str:
    return (shell.home / "up.log").read_text()


def order(log: str, what: str) -> list[str]:
    """The names of the actors in the order in which they said something."""
    return re.findall(rf"INFO actors\.host: ([a-z-]+)-[0-9a-f]{{8}} {what}", log)


def by_label(shell: Shell) -> dict[str, dict[str, Any]]:
    return {actor["label"]: actor for actor in state(shell)["actors"]}


def reload(shell: Shell, text: str) -> None:
    mesh_file(shell, text)
    os.kill(int(state(shell)["pid"]), signal.SIGHUP)


async def test_actors_start_in_order_and_end_the_other_way(shell: Shell) -> None:
    target = agents(shell)
    text = (
        f'[server]\nport = {free_port()}\n[actors.late]\ntarget = "{target}:First"\nafter = ["early"]\n'
        f'[actors.early]\ntarget = "{target}:Second"\n'
    )
    shell.json("up", mesh_file(shell, text), "--detach")
    assert shell.revo("down").returncode == 0
    log = log_of(shell)
    up, down = order(log, "is ready"), order(log, "drains")
    assert (up[0], up[3:]) == ("revo-registry", ["early", "late"])
    assert (down[:2], down[4]) == (["late", "early"], "revo-registry")
    assert set(up[1:3]) == set(down[2:4]) == {"revo-steward", "revo-memory"}, "side by side"


async def test_a_changed_mesh_file_is_followed_without_touching_the_rest(shell: Shell) -> None:
    target, head = agents(shell), f"[server]\nport = {free_port()}\n"
    first = f'[actors.first]\ntarget = "{target}:First"\n'
    second = f'[actors.second]\ntarget = "{target}:Second"\n'
    shell.json("up", mesh_file(shell, head + first + second), "--detach")
    before = by_label(shell)

    reload(shell, head + first + "count = 2\n" + second + '[actors.second.settings]\nword = "other"\n')
    await eventually(lambda: "mesh file read again" in log_of(shell), timeout=20)
    after = by_label(shell)
    assert after["first/1"] == before["first/1"]
    assert after["first/2"]["state"] == "ready"
    assert after["revo-registry/1"] == before["revo-registry/1"]
    assert after["second/1"]["pid"] != before["second/1"]["pid"]
    assert shell.revo("submit", "second", "text=", "--wait").stdout == "other\n"

    reload(shell, head + first + f'[actors.echo]\ntarget = "{ECHO}:Echo"\n')
    await eventually(lambda: log_of(shell).count("mesh file read again") == 2, timeout=20)
    last = by_label(shell)
    assert set(last) == {"revo-registry/1", "revo-steward/1", "revo-memory/1", "first/1", "echo/1"}
    assert last["first/1"] == before["first/1"]
    assert not alive(after["second/1"]["pid"])
    assert not alive(after["first/2"]["pid"])


async def test_a_mesh_file_that_cannot_be_used_changes_nothing(shell: Shell) -> None:
    shell.json("up", echo_mesh(shell), "--detach")
    before = by_label(shell)
    reload(shell, "[actors.echo]\ntarget = 7\n")
    await eventually(lambda: "the mesh goes on as it is" in log_of(shell))
    assert "some-mesh.toml:2: actors.echo.target" in log_of(shell)
    assert by_label(shell) == before


async def test_what_was_left_for_dead_has_another_chance_when_the_file_is_read_again(shell: Shell) -> None:
    broken = shell.folder / "broken.py"
    broken.write_text(
        "import os\nfrom pathlib import Path\nfrom some_agents import First as Base\n"
        "class First(Base):\n    async def on_start(self):\n"
        f"        if not Path({str(shell.folder / 'mended')!r}).exists(): raise OSError('no disk')\n"
    )
    agents(shell)
    text = f'[server]\nport = {free_port()}\n[actors.echo]\ntarget = "{ECHO}:Echo"\n[supervision]\nmax_restarts = 0\n'
    shell.json("up", mesh_file(shell, text), "--detach")
    more = f'[actors.first]\ntarget = "{broken}:First"\n'
    reload(shell, text + more)
    await eventually(lambda: by_label(shell).get("first/1", {}).get("state") == "failed", timeout=20)
    assert "no disk" in by_label(shell)["first/1"]["reason"]
    (shell.folder / "mended").touch()
    reload(shell, text + more)
    await eventually(lambda: by_label(shell)["first/1"]["state"] == "ready", timeout=20)
    await eventually(lambda: "first/1: started again" in log_of(shell))  # told when all of the file is done


def up_in_a_terminal(shell: Shell) -> tuple[subprocess.Popen[bytes], int]:
    """`revo up` as a person starts it, and the terminal's other end."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [str(BIN / "revo"), "up", echo_mesh(shell)],
        cwd=shell.folder,
        env={**shell.env, "TERM": "xterm", "COLUMNS": "80"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=_take_the_terminal,  # noqa: PLW1509  (one call, and no thread of ours holds a lock)
    )
    os.close(slave)
    return process, master


def _take_the_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _read_until(master: int, what: bytes) -> bytes:
    said = b""
    while what not in said:
        chunk = os.read(master, 4096)
        assert chunk, said
        said += chunk
    return said


async def test_ctrl_c_in_a_terminal_drains_all(shell: Shell) -> None:
    process, master = up_in_a_terminal(shell)
    try:
        _read_until(master, b"Ctrl-C ends it")
        family = children(process.pid)
        os.write(master, b"\x03")
        _read_until(master, b"revo-registry/1 | ")
        assert await eventually(lambda: process.poll() is not None, timeout=20)
        assert process.returncode == 0
        await eventually(lambda: not any(alive(pid) for pid in family))
    finally:
        process.kill()
        process.wait()
        os.close(master)


async def test_a_terminal_that_is_closed_ends_the_mesh_in_order(shell: Shell) -> None:
    process, master = up_in_a_terminal(shell)
    try:
        _read_until(master, b"Ctrl-C ends it")
        family = children(process.pid)
        os.close(master)
        await eventually(lambda: process.poll() is not None, timeout=20)
        assert process.returncode == 0
        await eventually(lambda: not any(alive(pid) for pid in family))
        assert not (shell.home / "mesh.json").exists()
    finally:
        process.kill()
        process.wait()


async def test_what_happened_is_told_as_events(shell: Shell) -> None:
    said = shell.json("up", echo_mesh(shell), "--detach")
    os.kill(said["actors"][-1]["pid"], signal.SIGKILL)
    await eventually(
        lambda: by_label(shell)["echo/1"]["restarts"] == 1 and by_label(shell)["echo/1"]["state"] == "ready"
    )
    told = shell.revo("events", "--since", "60", "--output", "json").stdout
    assert '"what": "up"' in told
    assert '"what": "restarting"' in told
    assert '"name": "echo"' in told


def test_actors_that_wait_for_each_other_are_refused(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    path = mesh_file(shell, '[actors.a]\ntarget = "x:Y"\nafter = ["b"]\n[actors.b]\ntarget = "x:Y"\nafter = ["a"]\n')
    done = shell.revo("up", path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "wait for each other" in done.stderr


def fork_servers(shell: Shell) -> list[int]:
    """The process that the mesh's actors are forked from, if there is one."""
    family = children(int(str(state(shell)["pid"])))
    said = subprocess.run(["ps", "-A", "-ww", "-o", "pid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=1) for line in said.splitlines()]
    return [int(pid) for pid, args in rows if int(pid) in family and args == TITLE]


@forks_only
async def test_who_restarts_runs_the_code_as_it_is_by_then_and_is_known_by_its_title(shell: Shell) -> None:
    agent = shell.folder / "changing.py"
    agent.write_text(Path(ECHO).read_text())
    text = f'[server]\nport = {free_port()}\n[actors.changing]\ntarget = "{agent}:Echo"\n'
    said = shell.json("up", mesh_file(shell, text), "--detach")
    assert shell.json("submit", "echo", "text=hi", "--wait")["value"] == {"text": "hi"}
    said_of_itself = "import sys\n        return Text(text=' '.join([sys.path[0], *sys.argv[1:]]))"
    agent.write_text(Path(ECHO).read_text().replace("return message", said_of_itself))
    before = said["actors"][-1]["pid"]
    title = subprocess.run(["ps", "-ww", "-o", "args=", "-p", str(before)], capture_output=True, text=True, check=True)
    assert title.stdout == f"revo run {agent}:Echo --name changing\n"
    os.kill(before, signal.SIGKILL)
    await eventually(lambda: by_label(shell)["changing/1"]["restarts"] == 1)
    await eventually(lambda: by_label(shell)["changing/1"]["state"] == "ready")
    (new,) = shell.json("submit", "echo", "text=hi", "--wait")["value"].values()
    assert new == f"{shell.folder} run {agent}:Echo --name changing", "all else is as in an interpreter of its own"


@forks_only
async def test_a_fork_server_that_is_killed_takes_no_actor_with_it(shell: Shell) -> None:
    said = shell.json("up", echo_mesh(shell), "--detach")
    (server,) = fork_servers(shell)
    os.kill(server, signal.SIGKILL)
    assert shell.json("submit", "echo", "text=hi", "--wait")["value"] == {"text": "hi"}
    assert all(alive(actor["pid"]) for actor in said["actors"])
    os.kill(said["actors"][-1]["pid"], signal.SIGKILL)
    await eventually(lambda: by_label(shell)["echo/1"]["restarts"] == 1)
    await eventually(lambda: by_label(shell)["echo/1"]["state"] == "ready", timeout=30)
    assert "is gone; an interpreter of its own is started" in log_of(shell)
    assert [actor["restarts"] for actor in by_label(shell).values()] == [0, 0, 0, 1]
    assert fork_servers(shell) == []
    assert shell.json("submit", "echo", "text=hi", "--wait")["value"] == {"text": "hi"}


async def test_what_an_actor_leaves_behind_does_not_keep_its_successor(shell: Shell) -> None:
    agent = shell.folder / "leaving.py"
    agent.write_text(
        "import subprocess\nfrom examples_echo import Echo\n"
        "class Leaving(Echo):\n    async def on_start(self):\n        self.other = subprocess.Popen(['sleep', '60'])\n"
    )
    (shell.folder / "examples_echo.py").write_text(Path(ECHO).read_text())
    text = f'[server]\nport = {free_port()}\n[actors.leaving]\ntarget = "{agent}:Leaving"\n'
    said = shell.json("up", mesh_file(shell, text), "--detach")
    left = children(said["actors"][-1]["pid"])
    try:
        os.kill(said["actors"][-1]["pid"], signal.SIGKILL)
        await eventually(lambda: by_label(shell)["leaving/1"]["restarts"] == 1)
        await eventually(lambda: by_label(shell)["leaving/1"]["state"] == "ready")
        left += children(by_label(shell)["leaving/1"]["pid"])
        assert shell.revo("down", timeout=20).returncode == 0
        assert len([pid for pid in left if alive(pid)]) == 2, "they have its output, and nobody waits for them"
    finally:
        for pid in left:
            os.kill(pid, signal.SIGKILL)


@forks_only
async def test_all_processes_that_are_told_to_end_at_once_end_in_order(shell: Shell) -> None:
    shell.json("up", echo_mesh(shell), "--detach")
    supervisor = int(str(state(shell)["pid"]))
    for pid in (*children(supervisor), supervisor):
        os.kill(pid, signal.SIGTERM)  # as a service manager does
    await eventually(lambda: not alive(supervisor), timeout=20)
    assert {"echo", "revo-memory", "revo-registry", "revo-steward"} <= set(order(log_of(shell), "drains"))
    assert "signal 9" not in log_of(shell)


def test_a_detached_mesh_keeps_no_file_of_who_started_it(shell: Shell) -> None:
    read, write = os.pipe()
    command = [str(BIN / "revo"), "up", echo_mesh(shell), "--detach"]
    done = subprocess.run(command, env=shell.env, cwd=shell.folder, pass_fds=(write,), capture_output=True, check=False)
    os.close(write)
    assert done.returncode == 0, done.stderr
    with os.fdopen(read, "rb") as pipe:
        assert pipe.read() == b"", "the end is seen, while the mesh runs"
    assert shell.revo("down").returncode == 0


def test_a_log_that_cannot_be_written_is_one_line(shell: Shell) -> None:
    (shell.home / "up.log").mkdir(parents=True)
    done = shell.revo("up", "--detach")
    assert (done.returncode, done.stderr) == (2, f"revo: {shell.home}/up.log: is a directory\n")


async def test_who_is_told_to_end_while_a_mesh_starts_takes_it_with_him(shell: Shell) -> None:
    agent = shell.folder / "slow.py"
    agent.write_text("import time\ntime.sleep(3)\n" + Path(ECHO).read_text())
    text = f'[server]\nport = {free_port()}\n[actors.slow]\ntarget = "{agent}:Echo"\n'
    command = [str(BIN / "revo"), "up", mesh_file(shell, text), "--detach"]
    starting = subprocess.Popen(command, env=shell.env, cwd=shell.folder, stderr=subprocess.DEVNULL)
    await eventually(lambda: (shell.home / "mesh.json").exists() and len(state(shell)["actors"]) == 4)
    supervisor = int(str(state(shell)["pid"]))
    starting.terminate()
    assert starting.wait(30) == 143
    assert not alive(supervisor)


async def test_a_mesh_whose_actors_are_not_forked_does_the_same(shell: Shell) -> None:
    said = shell.json("up", echo_mesh(shell), "--detach", REVO_FORKS="no")
    assert fork_servers(shell) == []
    os.kill(said["actors"][-1]["pid"], signal.SIGKILL)
    await eventually(lambda: by_label(shell)["echo/1"]["restarts"] == 1)
    await eventually(lambda: by_label(shell)["echo/1"]["state"] == "ready", timeout=30)
    assert shell.json("submit", "echo", "text=hi", "--wait")["value"] == {"text": "hi"}
