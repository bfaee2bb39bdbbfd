"""A tool is bounded, sees nothing of ours, and never outlives its task or us."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from actors.agents.confine import without_network
from actors.agents.tools import ToolFailedError, ToolOutputError, ToolTimeoutError, run_tool
from tests.eventually import eventually

ROOT = Path(__file__).parents[3]
FAMILY = "/bin/sleep 1000 & /bin/sleep 1000 & echo $! ; wait"


def sleepers(group: int) -> bool:
    said = subprocess.run(["ps", "-A", "-o", "pgid=,stat="], capture_output=True, text=True, check=True).stdout
    return any(line.split()[0] == str(group) and "Z" not in line for line in said.splitlines())


async def test_a_tool_reads_its_input_and_answers() -> None:
    finished = await run_tool("cat", ["/bin/cat"], stdin=b"x" * 300_000, timeout=5)
    assert (finished.status, finished.stdout) == (0, b"x" * 300_000)


async def test_a_tool_sees_nothing_of_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVO_NATS_URL", "nats://me:secret-word@host")
    finished = await run_tool("env", ["/usr/bin/env"], timeout=5)
    assert b"secret-word" not in finished.stdout
    names = {line.partition(b"=")[0] for line in finished.stdout.splitlines()}
    assert names - {b"PWD", b"_", b"SHLVL", b"OLDPWD"} == {b"PATH", b"LANG", b"HOME", b"TMPDIR"}


async def test_a_tool_out_of_time_dies_with_its_children(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    with pytest.raises(ToolTimeoutError, match=r"took longer than 0\.3 s"):
        await run_tool("family", ["/bin/sh", "-c", f"echo $$ > {pid}; {FAMILY}"], timeout=0.3)
    await eventually(lambda: not sleepers(int(pid.read_text())))


async def test_a_cancelled_task_takes_its_tool_with_it(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    running = asyncio.create_task(run_tool("family", ["/bin/sh", "-c", f"echo $$ > {pid}; {FAMILY}"], timeout=60))
    await eventually(lambda: pid.exists() and pid.read_text())
    assert sleepers(int(pid.read_text()))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await eventually(lambda: not sleepers(int(pid.read_text())))


async def test_a_task_cancelled_while_its_tool_starts_leaves_nothing(tmp_path: Path) -> None:
    for turns in range(6):
        marker = tmp_path / str(turns)
        script = f"echo $$ > {marker}; exec /bin/sleep 1000"
        running = asyncio.create_task(run_tool("sleep", ["/bin/sh", "-c", script], timeout=60))
        for _ in range(turns):
            await asyncio.sleep(0)  # noqa: TID251  (a turn of the loop, no time)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        said = subprocess.run(
            ["ps", "-A", "-o", "ppid=,stat=,args="], capture_output=True, text=True, check=True
        ).stdout
        ours = [line for line in said.splitlines() if line.split()[0] == str(os.getpid()) and "sleep 1000" in line]
        assert not [line for line in ours if "Z" not in line.split()[1]]


async def test_strays_of_a_tool_that_ended_die_too(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = f"echo $$ > {pid}; /bin/sleep 1000 >/dev/null 2>&1 </dev/null & exit 0"
    assert (await run_tool("stray", ["/bin/sh", "-c", script], timeout=5)).status == 0
    await eventually(lambda: not sleepers(int(pid.read_text())))


async def test_when_we_are_killed_the_tool_dies_with_its_children(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    code = (
        "import asyncio; from actors.agents.tools import run_tool; "
        f"asyncio.run(run_tool('family', ['/bin/sh', '-c', 'echo $$ > {pid}; {FAMILY}'], timeout=60))"
    )
    owner = await asyncio.create_subprocess_exec(sys.executable, "-c", code, cwd=ROOT)
    await eventually(lambda: pid.exists() and pid.read_text())
    assert sleepers(int(pid.read_text()))
    os.kill(owner.pid, signal.SIGKILL)
    await owner.wait()
    await eventually(lambda: not sleepers(int(pid.read_text())))


async def test_a_tool_that_says_too_much_is_stopped() -> None:
    with pytest.raises(ToolOutputError, match="more than 1000 bytes"):
        await run_tool("yes", ["/usr/bin/yes"], timeout=10, max_output=1000)


async def test_a_tool_that_does_not_read_its_input_is_no_error() -> None:
    finished = await run_tool("true", ["/bin/sh", "-c", "exit 3"], stdin=b"x" * 1_000_000, timeout=5)
    assert finished.status == 3


async def test_a_tool_that_is_not_there_is_a_typed_error() -> None:
    finished = await run_tool("none", ["/no/such/tool"], timeout=5)
    assert finished.status == 127  # the guard's shell says so, as every shell does


async def test_many_tools_run_side_by_side() -> None:
    finished = await asyncio.gather(
        *(run_tool("cat", ["/bin/cat"], stdin=str(n).encode(), timeout=20) for n in range(40))
    )
    assert [int(one.stdout) for one in finished] == list(range(40))


def test_tools_run_under_uvloop_too() -> None:
    code = (
        "import uvloop; from actors.agents.tools import run_tool; "
        "print(uvloop.run(run_tool('cat', ['/bin/cat'], stdin=b'hi', timeout=5)).stdout)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "b'hi'\n"


def test_a_crash_may_be_retried_and_a_time_out_may_not() -> None:
    assert ToolFailedError("x", "crashed").retryable
    assert not ToolTimeoutError("x", "took long").retryable


async def test_a_tool_writes_into_a_folder_of_its_own_that_goes_with_it() -> None:
    finished = await run_tool("sh", ["/bin/sh", "-c", "echo x > $TMPDIR/file; echo $TMPDIR $HOME"], timeout=5)
    folder, home = finished.stdout.decode().split()
    assert folder == home
    assert "revo-tool-" in folder
    assert not Path(folder).exists()


async def test_a_tool_is_limited_in_what_it_writes_opens_and_computes() -> None:
    script = "ulimit -c; ulimit -n; ulimit -t; head -c 200000000 /dev/zero > $TMPDIR/large; wc -c < $TMPDIR/large"
    finished = await run_tool("sh", ["/bin/sh", "-c", script], timeout=5)
    core, files, seconds, *size = finished.stdout.split()
    assert (core, files, seconds) == (b"0", b"256", b"6")
    assert not size or int(size[0]) < 150_000_000
    memory = "import resource; print(resource.getrlimit(resource.RLIMIT_AS)[0])"
    finished = await run_tool("python", [sys.executable, "-c", memory], timeout=10)
    if sys.platform == "linux":
        assert int(finished.stdout) == 4 << 30


async def test_a_tool_has_no_network_where_the_system_can_say_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        script = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2); print('connected')"
        finished = await run_tool("python", [sys.executable, "-c", script], timeout=10)
    confined = bool(await without_network())
    assert (b"connected" in finished.stdout) is not confined
    if sys.platform == "linux" and os.environ.get("CI"):
        assert confined or not Path("/usr/bin/unshare").exists() or not user_namespaces()


def user_namespaces() -> bool:
    """Whether this machine lets an ordinary user make a namespace at all."""
    argv = ["unshare", "--user", "--map-current-user", "--net", "true"]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0
