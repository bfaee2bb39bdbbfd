"""`revo submit --follow` and `revo tasks follow`: a bar and the stream of what a task says."""

from __future__ import annotations

import asyncio
import base64
import sys
from collections.abc import Coroutine
from contextlib import ExitStack, aclosing
from typing import TYPE_CHECKING, Any

from bus import inspection, subjects
from bus.arrivals import Arrivals
from bus.errors import ResultTimeoutError
from bus.following import Chunk, Item, Lost, Progress
from bus.handle import Client, Handle
from bus.mesh import Mesh
from bus.messages import Result
from bus.settings import Settings
from revo.cli.common import INTERRUPTED, Output, console, print_json, quiet_logs, run_async, say_line, to_json

if TYPE_CHECKING:
    import rich.progress


def follow(task_id: str, capability: str, *, after: int, timeout: float | None, url: str | None, output: Output) -> int:
    """Show what a task says and how it ends; returns the exit status."""
    from revo.cli.submit import show

    quiet_logs()
    subjects.token(task_id, "task id")
    if capability:
        subjects.address(capability)
    follower = Follower(output)

    async def work() -> int:
        async with Mesh.connect(url, settings=Settings.from_env(), service="revo-tasks") as mesh:
            handle = mesh.handle(capability, task_id) if capability else await _of_anybody(mesh, task_id)
            return show(await follower.follow(handle, after=after, timeout=timeout), output, kind="result")

    return follower.run(work())


async def _of_anybody(mesh: Mesh, task_id: str) -> Handle:
    """The handle of a task, whoever submitted it.

    Raises:
        NotFoundError: there is none.
    """
    view = await inspection.find_task(mesh.connection, task_id)
    there = view.ended or view.running or view.queued
    assert there is not None
    client = Client(there.client, mesh.connection, mesh.telemetry, Arrivals(mesh.connection, there.client))
    return Handle(client, there.capability, task_id)


class Follower:
    """Shows what one task says."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._task_id = ""
        self._last = 0
        self._bar: rich.progress.Progress | None = None
        self._row: rich.progress.TaskID | None = None
        self._line_open = False

    def run(self, work: Coroutine[Any, Any, int]) -> int:
        """Run the work. Ctrl-C ends the following, and not the task; says how to go on."""
        try:
            return run_async(work)
        except KeyboardInterrupt:
            if self._task_id:
                say_line(f"the task goes on; revo tasks follow {self._task_id} --after {self._last} shows the rest")
            return INTERRUPTED

    async def follow(self, handle: Handle, *, after: int = 0, timeout: float | None = None) -> Result:
        """Show all that it says until it has ended; returns how.

        Raises:
            ResultTimeoutError: it has not ended within `timeout` seconds. It goes on.
        """
        self._task_id, self._last = handle.task_id, after
        if self._output is Output.JSON:
            print_json({"kind": "task", "task_id": handle.task_id, "capability": handle.capability})
        with ExitStack() as stack:
            if self._output is Output.TEXT and sys.stderr.isatty():
                self._bar = stack.enter_context(_bar())
            stack.callback(self._end_line)
            try:
                async with asyncio.timeout(timeout), aclosing(handle.follow(after)) as said:
                    async for item in said:
                        self._show(item)
                    return await handle.outcome()
            except TimeoutError:
                assert timeout is not None
                raise ResultTimeoutError(handle.task_id, timeout) from None

    def _show(self, item: Item) -> None:
        self._last = item.last if isinstance(item, Lost) else item.number
        if self._output is Output.JSON:
            print_json(as_json(item))
        elif isinstance(item, Progress):
            self._move(item)
        elif isinstance(item, Chunk):
            self._write(item.value)
        else:
            self._end_line()
            say_line(f"numbers {item.first} to {item.last} of what it said are gone")

    def _move(self, item: Progress) -> None:
        if self._bar is None:
            return
        if self._row is None:
            self._row = self._bar.add_task("", total=1.0)
        self._bar.update(self._row, completed=item.share, description=item.text)

    def _write(self, value: object) -> None:
        """Text as it is, bytes too, and everything else as a line of JSON."""
        if isinstance(value, bytes) and not sys.stdout.isatty():
            sys.stdout.flush()
            sys.stdout.buffer.write(value)
            sys.stdout.buffer.flush()
            return
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        if not isinstance(value, str):
            self._end_line()
            value = f"{to_json(value)}\n"
        sys.stdout.write(value)
        sys.stdout.flush()
        self._line_open = bool(value) and not value.endswith("\n")

    def _end_line(self) -> None:
        if self._line_open:
            sys.stdout.write("\n")
            sys.stdout.flush()
        self._line_open = False


def as_json(item: Item) -> dict[str, Any]:
    """What a task says as an object; bytes stand there as `base64`."""
    if isinstance(item, Lost):
        return {"kind": "lost", "first": item.first, "last": item.last}
    if isinstance(item, Progress):
        about = {"share": item.share, "text": item.text}
        return {"kind": "progress", "number": item.number, "run": item.run, **about, "at": item.at}
    what = {"value": item.value}
    if isinstance(item.value, bytes):
        what = {"base64": base64.b64encode(item.value).decode()}
    return {"kind": "chunk", "number": item.number, "run": item.run, **what, "at": item.at}


def _bar() -> rich.progress.Progress:
    """A bar on stderr. What is written to a terminal goes above it; what goes to a file is left alone."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    return Progress(*columns, console=console(stderr=True), redirect_stdout=sys.stdout.isatty())
