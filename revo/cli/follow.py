"""`revo submit --follow` and `revo tasks follow`: a bar and the stream of what a task says."""

from __future__ import annotations

import asyncio
import base64
import functools
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack, aclosing
from typing import TYPE_CHECKING, Any

from bus import inspection, subjects
from bus.arrivals import Arrivals
from bus.errors import ConfigError, ResultTimeoutError, TransportError
from bus.following import Chunk, Item, Lost, Progress
from bus.handle import Client, Handle
from bus.mesh import Mesh
from bus.messages import Result
from bus.settings import Settings
from revo.cli.common import INTERRUPTED, PATIENCE, Output, console, print_json, quiet_logs, run_async, say_line, to_json

if TYPE_CHECKING:
    import rich.progress

Look = Callable[[], Awaitable[None]]


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
            restricted = mesh.connection.restricted
            if restricted and not capability:
                reason = f"say --capability, too: as user {mesh.client} only your own tasks can be followed"
                raise ConfigError(f"task {task_id}", reason)
            look = functools.partial(_look, mesh, capability, task_id) if capability and not restricted else None
            handle = mesh.handle(capability, task_id) if capability else await _of_anybody(mesh, task_id)
            follower.own = bool(capability)
            return show(await follower.follow(handle, after=after, timeout=timeout, look=look), output, kind="result")

    return follower.run(work())


async def _whose(mesh: Mesh, task_id: str) -> tuple[str, str]:
    """The client and the capability of a task, or `@<agent>`, as in its subject.

    Raises:
        NotFoundError: there is none.
    """
    view = await inspection.find_task(mesh.connection, task_id)
    there = view.ended or view.running or view.queued or view.later
    assert there is not None
    return there.client, there.capability


async def _of_anybody(mesh: Mesh, task_id: str) -> Handle:
    """The handle of a task, whoever submitted it.

    Raises:
        NotFoundError: there is none.
    """
    name, capability = await _whose(mesh, task_id)
    client = Client(name, mesh.connection, mesh.telemetry, Arrivals(mesh.connection, name))
    return Handle(client, capability, task_id)


async def _look(mesh: Mesh, capability: str, task_id: str) -> None:
    """See that there is a task of which nothing was heard.

    Raises:
        NotFoundError: there is none of this id.
    """
    try:
        client, there = await _whose(mesh, task_id)
    except TransportError:
        return  # it was only to help
    if (client, there) != (mesh.client, capability):
        say_line(f"task {task_id} is one of {there}, and of client {client}; nothing heard of one of {capability} yet")


class Follower:
    """Shows what one task says."""

    def __init__(self, output: Output) -> None:
        self.own = True
        """Whether the task is of the client that we are: then its capability is all that is to be known of it."""
        self._output = output
        self._again = ""
        self._last = 0
        self._heard = asyncio.Event()
        self._bar = _Bar() if output is Output.TEXT and sys.stderr.isatty() else None
        self._line_open = False

    def run(self, work: Coroutine[Any, Any, int]) -> int:
        """Run the work. Ctrl-C ends the following, and not the task; says how to go on."""
        try:
            return run_async(work)
        except KeyboardInterrupt:
            if self._again:
                say_line(f"the task goes on; {self._again} --after {self._last} shows the rest")
            return INTERRUPTED

    async def follow(
        self, handle: Handle, *, after: int = 0, timeout: float | None = None, look: Look | None = None
    ) -> Result:
        """Show all that it says until it has ended; returns how. `look` is called when nothing is heard for a second.

        Raises:
            ResultTimeoutError: it has not ended within `timeout` seconds. It goes on.
        """
        self._last, self._again = after, f"revo tasks follow {handle.task_id}"
        if self.own:
            self._again += f" --capability {handle.capability}"
        if self._output is Output.JSON:
            print_json({"kind": "task", "task_id": handle.task_id, "capability": handle.capability})
        with ExitStack() as stack:
            if self._bar is not None:
                stack.callback(self._bar.close)
            stack.callback(self._end_line)
            try:
                async with asyncio.timeout(timeout), asyncio.TaskGroup() as group:
                    silence = group.create_task(self._in_silence(handle.task_id, look))
                    async with aclosing(handle.follow(after)) as said:
                        async for item in said:
                            self._show(item)
                    result = await handle.outcome()
                    silence.cancel()
            except TimeoutError:
                assert timeout is not None
                if self._output is Output.JSON:
                    print_json({"kind": "result", "task_id": handle.task_id, "status": "waiting"})
                raise ResultTimeoutError(handle.task_id, timeout) from None
        return result

    async def _in_silence(self, task_id: str, look: Look | None) -> None:
        """After a second without a word look whether there is such a task, and on a terminal say that nothing came."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self._heard.wait()
        except TimeoutError:
            if look is not None:
                await look()
            if sys.stderr.isatty() and not self._heard.is_set():
                say_line(f"nothing heard of task {task_id} yet")

    def _show(self, item: Item) -> None:
        self._heard.set()
        self._last = item.last if isinstance(item, Lost) else item.number
        if self._output is Output.JSON:
            print_json(as_json(item))
        elif isinstance(item, Progress):
            if self._bar is not None:
                self._bar.move(item, hidden=self._line_open)
        elif isinstance(item, Chunk):
            self._write(item.value)
        else:
            self._end_line()
            say_line(f"numbers {item.first} to {item.last} of what it said are gone")

    def _write(self, value: object) -> None:
        """Text as it is, bytes too, and everything else as a line of JSON. A bar on the same terminal goes away."""
        if self._bar is not None and sys.stdout.isatty():
            self._bar.hide()
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


class _Bar:
    """A line at the bottom of the terminal, on stderr, from the first word of how far it is on. What is written
    meanwhile has the terminal to itself: a bar below text whose line has no end yet would tear it apart.
    """

    def __init__(self) -> None:
        self._drawn: rich.progress.Progress | None = None
        self._row: rich.progress.TaskID | None = None

    def move(self, item: Progress, *, hidden: bool) -> None:
        """Show how far it is, unless it is `hidden` now."""
        if self._drawn is None or self._row is None:
            self._drawn = _drawn()
            self._row = self._drawn.add_task("", total=1.0)
        self._drawn.update(self._row, completed=item.share, description=" ".join(item.text.split()))
        if not hidden:
            self._drawn.start()

    def hide(self) -> None:
        """Take it away until it moves again."""
        if self._drawn is not None:
            self._drawn.live.transient = True
            self._drawn.stop()
            self._drawn.live.transient = False

    def close(self) -> None:
        """Leave it as it is."""
        if self._drawn is not None:
            self._drawn.stop()


def _drawn() -> rich.progress.Progress:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    return Progress(*columns, console=console(stderr=True), redirect_stdout=False)
