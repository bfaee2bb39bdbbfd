"""Runs a command-line tool for an agent: bounded, without our environment, and never outliving its task.

A tool runs in a session of its own. Its whole process group is killed when it ends, when its time is up, when it says
too much, when its task is cancelled and, by its lifeline, when our own process dies.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from bus.child import PIPE, Child
from bus.telemetry import span

MAX_OUTPUT: Final = 32 * 1024 * 1024
"""Bytes that a tool may write before it is stopped."""

_ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent"}


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


class ToolFailedError(ToolError):
    """The tool crashed or refused to run; a retry may help."""

    retryable = True
    code = "tool_failed"


@dataclass(frozen=True, slots=True)
class Finished:
    """How a tool ended: its exit status (negative for a signal) and what it wrote."""

    status: int
    stdout: bytes
    stderr: bytes


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

    Nothing of it is left when this returns or raises: no process of its group, no file.

    Raises:
        ToolTimeoutError: it took longer than `timeout`.
        ToolOutputError: it wrote more than `max_output`.
        ToolFailedError: it could not be started.
    """
    with span(name) as seen:
        try:
            process = await Child.start(
                argv, group=True, stdin=PIPE, stdout=PIPE, stderr=PIPE, cwd=Path("/"), env=_ENVIRONMENT
            )
        except OSError as error:
            raise ToolFailedError(name, f"does not start: {error.strerror}") from error
        try:
            finished = await _communicate(name, process, stdin, timeout, max_output)
        finally:
            await process.finish()
        seen.set("tool.exit_status", finished.status)
        return finished


async def _communicate(name: str, process: Child, stdin: bytes, timeout: float, max_output: int) -> Finished:
    assert process.stdout is not None
    assert process.stderr is not None
    limit = asyncio.timeout(timeout)
    try:
        async with limit, asyncio.TaskGroup() as group:
            group.create_task(process.feed(stdin))
            out = group.create_task(_read(name, process.stdout, max_output))
            err = group.create_task(_read(name, process.stderr, max_output))
            status = await process.wait()
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
