"""Runs a command-line tool for an agent: bounded, without our environment, and never outliving its task.

A tool runs in a session of its own. Its whole process group is killed when it ends, when its time is up, when it says
too much, when its task is cancelled and, by its lifeline, when our own process dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from actors.agents.confine import finish_group, limited, own_folder, without_network
from bus.child import PIPE, Child, uninterrupted
from bus.telemetry import Span, span

MAX_OUTPUT: Final = 32 * 1024 * 1024
"""Bytes that a tool may write before it is stopped."""

_FAULTS: Final = (signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV)
"""Signals of a fault in the tool itself. SIGKILL is none of them: that is somebody else, or want of memory."""

_UNREAD: Final = 1.0
"""Seconds that a killed tool's input may take to be given up."""

_ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}


class ToolError(Exception):
    """A tool could not do its work."""

    retryable: ClassVar[bool] = False
    code: ClassVar[str] = "tool"

    def __init__(self, tool: str, reason: str) -> None:
        super().__init__(tool, reason)
        self.tool = tool
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.tool} {self.reason}"


class ToolTimeoutError(ToolError):
    """The tool took too long; on the same input it will again."""

    code = "tool_timeout"


class ToolOutputError(ToolError):
    """The tool wrote more than is read."""

    code = "tool_output"


class ToolCrashedError(ToolError):
    """The tool ran into its own fault, such as a stack overflow; on the same input it will again."""

    code = "tool_crashed"


class ToolFailedError(ToolError):
    """The tool was killed, refused to run or is not there; a retry may help."""

    retryable = True
    code = "tool_failed"


@dataclass(frozen=True, slots=True)
class Finished:
    """How a tool ended: its exit status (negative for a signal) and what it wrote."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def crash(self) -> str:
        """The signal that the tool brought upon itself, such as `SIGABRT`; empty when it ended any other way."""
        return signal.Signals(-self.status).name if -self.status in _FAULTS else ""


def find_tool(name: str) -> str:
    """The path of a tool: beside this Python, where it was installed with us, or on PATH.

    Raises:
        ToolFailedError: there is none.
    """
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise ToolFailedError(name, "is not installed; install revo-mesh anew, with its dependencies")
    return found


async def run_tool(
    name: str, argv: Sequence[str], *, stdin: bytes = b"", timeout: float, max_output: int = MAX_OUTPUT
) -> Finished:
    """Run a tool in `/` and return how it ended. `timeout` is seconds, `max_output` bytes on each of its two streams.

    It has a folder of its own for temporary files, limits (`actors.agents.confine`) and, where the system can say so,
    no network.

    When this returns or raises, its process has been reaped and its whole group killed, also when we are cancelled
    while it starts, or again while it ends. Out of reach is only a child that made a session of its own.

    Raises:
        ToolTimeoutError: it took longer than `timeout`.
        ToolOutputError: it wrote more than `max_output`.
        ToolFailedError: it could not be started.
    """
    with span(name) as seen:
        async with own_folder() as folder:
            command = [*await without_network(), *limited(argv, timeout)]
            return await _run(name, command, folder, stdin, timeout, max_output, seen)


async def _run(  # noqa: PLR0917  (what `run_tool` has put together)
    name: str, argv: Sequence[str], folder: Path, stdin: bytes, timeout: float, max_output: int, seen: Span
) -> Finished:
    process = await _start(name, argv, folder)
    # Not cancelled while it writes: it would leave its pipe open. Once the tool is killed it ends by itself.
    feeding = asyncio.create_task(process.feed(stdin))
    try:
        finished = await _communicate(name, process, timeout, max_output)
    finally:
        unfed = await uninterrupted(_finish(process, feeding))
    if unfed is not None:
        raise ToolFailedError(name, f"could not be given its input: {unfed}") from unfed
    seen.set("tool.exit_status", finished.status)
    return finished


async def _start(name: str, argv: Sequence[str], folder: Path) -> Child:
    try:
        return await Child.start(
            argv,
            group=True,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            cwd=Path("/"),
            scratch=folder,
            env={**_ENVIRONMENT, "HOME": str(folder), "TMPDIR": str(folder)},
        )
    except OSError as error:
        raise ToolFailedError(name, f"does not start: {error.strerror}") from error


async def _finish(process: Child, feeding: asyncio.Task[None]) -> BaseException | None:
    """Kill and reap a tool; returns why it was not given all of its input, if that was not its own choice."""
    await finish_group(process)
    await asyncio.wait((feeding,), timeout=_UNREAD)
    if feeding.cancel():  # a child that made a session of its own lives and does not read
        await asyncio.wait((feeding,))
    return None if feeding.cancelled() else feeding.exception()


async def _communicate(name: str, process: Child, timeout: float, max_output: int) -> Finished:
    assert process.stdout is not None
    assert process.stderr is not None
    limit = asyncio.timeout(timeout)
    try:
        async with limit, asyncio.TaskGroup() as group:
            out = group.create_task(_read(name, process.stdout, max_output))
            err = group.create_task(_read(name, process.stderr, max_output))
            status = await process.wait()
            # Strays may hold the streams open: without this their end would never be seen. The guard's watcher is in
            # the group until `finish`, so the group is still this tool's.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
    except TimeoutError:
        raise ToolTimeoutError(name, f"took longer than {timeout:g} s") from None
    except BaseExceptionGroup as errors:
        raise first_error(errors) from None
    return Finished(status, out.result(), err.result())


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that brought a task group down: its caller wants a typed error, not a group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _read(name: str, stream: asyncio.StreamReader, limit: int) -> bytes:
    chunks, size = [], 0
    while chunk := await stream.read(65536):
        size += len(chunk)
        if size > limit:
            raise ToolOutputError(name, f"wrote more than {limit} bytes")
        chunks.append(chunk)
    return b"".join(chunks)
