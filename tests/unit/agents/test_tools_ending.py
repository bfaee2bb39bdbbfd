"""However a tool ends, whenever its task is cancelled, nothing stays: no process, no zombie, no descriptor."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from actors.agents.tools import ToolTimeoutError, run_tool
from tests.eventually import eventually

ROOT = Path(__file__).parents[3]
Run = Callable[[Coroutine[Any, Any, Any]], Any]
LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


def descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def running(argument: str) -> bool:
    said = subprocess.run(["ps", "-A", "-o", "stat=,args="], capture_output=True, text=True, check=True).stdout
    return any(argument in line and not line.startswith("Z") for line in said.splitlines())


@LOOPS
def test_a_stray_that_holds_the_output_open_does_not_delay_the_end(run: Run) -> None:
    finished = run(run_tool("stray", ["/bin/sh", "-c", "/bin/sleep 1000 & echo hi"], timeout=30))
    assert (finished.status, finished.stdout) == (0, b"hi\n")


@LOOPS
@pytest.mark.parametrize("times", [1, 3])
def test_a_cancellation_at_any_moment_leaves_no_process_and_no_descriptor(run: Run, times: int) -> None:
    argument = f"1{os.getpid():07d}{times}{run.__module__ == uvloop.__name__:d}"

    async def cancel_after(turns: int) -> None:
        task = asyncio.create_task(run_tool("sleep", ["/bin/sleep", argument], timeout=60))
        for _ in range(turns):
            await turn()
        for _ in range(times):
            task.cancel()
            await turn()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def turn() -> None:
        """One turn of the loop."""
        passed = asyncio.Event()
        asyncio.get_running_loop().call_soon(passed.set)
        await passed.wait()

    async def scenario() -> None:
        await run_tool("true", ["/bin/sh", "-c", ":"], timeout=10)  # what the loop opens once is open now
        before = descriptors()
        for turns in range(12):
            await cancel_after(turns)
        await eventually(lambda: not running(argument))
        await eventually(lambda: descriptors() <= before)

    run(scenario())


@LOOPS
def test_a_tool_out_of_time_that_never_read_its_input_leaves_no_descriptor(run: Run) -> None:
    async def scenario() -> None:
        await run_tool("true", ["/bin/sh", "-c", ":"], timeout=10)
        before = descriptors()
        with pytest.raises(ToolTimeoutError):
            await run_tool("sleep", ["/bin/sleep", "1000"], stdin=b"x" * 1_000_000, timeout=0.1)
        await eventually(lambda: descriptors() <= before)

    run(scenario())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process be what process 1 is")
@pytest.mark.parametrize("script", ["exit 0", "/bin/sleep 1000 & /bin/sleep 1000 & exit 0"])
def test_as_the_first_process_of_a_container_we_leave_no_zombies(script: str) -> None:
    code = f"""
        import asyncio, ctypes, os
        from actors.agents.tools import run_tool
        PR_SET_CHILD_SUBREAPER = 36  # orphans below us become our children, as they become those of process 1
        assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
        for _ in range(3):
            asyncio.run(run_tool("sh", ["/bin/sh", "-c", {script!r}], timeout=30))
        try:
            print("left", os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG))
        except ChildProcessError:
            print("none left")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "none left\n"


@pytest.mark.parametrize(("signal", "crash"), [("ABRT", "SIGABRT"), ("SEGV", "SIGSEGV"), ("KILL", ""), ("TERM", "")])
async def test_only_signals_of_a_fault_of_its_own_are_a_crash(signal: str, crash: str) -> None:
    finished = await run_tool("sh", ["/bin/sh", "-c", f"kill -{signal} $$"], timeout=10)
    assert finished.crash == crash
    assert finished.status < 0


async def test_a_tool_that_fails_has_not_crashed() -> None:
    assert (await run_tool("sh", ["/bin/sh", "-c", "exit 6"], timeout=10)).crash == ""
