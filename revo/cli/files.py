"""`revo submit --each` and `--jsonl`: many tasks from plain files, their results as JSON lines.

Each piece of work has an id that its place and its content determine, so that work which was cut short, however that
happened, is taken up by the same command again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bus import subjects
from bus.errors import BusError, CodecError, ConfigError, PayloadTooLargeError, QueueFullError, TransportError
from bus.handle import Handle
from bus.mesh import Mesh
from bus.messages import Result
from bus.settings import Settings
from revo.cli import ends
from revo.cli.common import (
    DONE,
    FAILED,
    INTERRUPTED,
    TIMED_OUT,
    Output,
    console,
    print_json,
    quiet_logs,
    run_async,
    say_error,
    say_line,
)
from revo.cli.reader import Before, Reader
from revo.cli.source import Item, Source
from revo.cli.submit import Request
from revo.cli.work import Work

if TYPE_CHECKING:
    from rich.progress import Progress

NAMED: Final = 20
"""So many wrong pieces are named one by one; the rest are only counted."""
AGAIN: Final = (0.1, 0.5)
"""Seconds until a result is looked for again after the connection was lost: JetStream comes up after the server."""
PAUSES: Final = (0.5, 5.0)
"""Seconds between two looks at a queue that is full, from the first to the longest."""


def work_off(
    request: Request,
    work: Work,
    *,
    timeout: float | None,
    url: str | None,
    output: Output,
    follow: bool = False,
    wait: bool = False,
) -> int:
    """Submit all of it and write each result as it comes; returns the exit status: 0 when all have succeeded."""
    quiet_logs()
    _check(request, follow=follow, wait=wait)
    source = work.source(request.fields, f"{request.capability}\0{request.agent or ''}")
    with ends.opened(work.results) as results:
        run = Run(request, work, source, results)
        try:
            status = run_async(run.all(url, timeout))
        except KeyboardInterrupt:
            status = INTERRUPTED
        except BusError as error:
            status = say_error(error)
    if run.begun:
        run.report(work.results, output)
    return status


def _check(request: Request, *, follow: bool, wait: bool) -> None:
    """See that it is a request for many tasks.

    Raises:
        ConfigError: it says what only one task can have.
    """
    names = {"--json": request.json_text, "--id": request.task_id, "--key": request.key}
    times = {
        "--schedule" if name == "schedule_id" else f"--{name}": said for name, said in asdict(request.timing).items()
    }
    refused: dict[str, dict[str, object]] = {
        "names one task": {**names, "--by-content": request.by_content or None},
        "shows what one task says": {"--follow": follow or None},
        "waits for one task, and all of many are waited for": {"--wait": wait or None},
        "is of tasks that are done later, and these are done now": times,
    }
    for why, options in refused.items():
        for name, given in options.items():
            if given is not None:
                raise ConfigError(name, f"{why}; leave it out with --each and --jsonl")
    subjects.address(request.capability)
    subjects.priority(request.priority)


@dataclass
class Run:
    """One run of the command."""

    request: Request
    work: Work
    source: Source
    results: ends.Ends
    begun: bool = False
    """Whether anything was submitted, or there was nothing to submit."""
    ended: bool = False
    """Whether there is nothing left to do."""
    succeeded: int = 0
    failed: int = 0
    wrong: int = 0
    """Pieces that are no message."""
    before: Before = field(default_factory=Before)
    _bar: Callable[..., None] = field(default=lambda **_: None)
    _full: asyncio.Lock = field(default_factory=asyncio.Lock)
    _said_full: bool = False

    async def all(self, url: str | None, timeout: float | None) -> int:
        """Work it off; returns the exit status.

        Raises:
            BusError: the mesh is gone, or does not take what is submitted for a reason that all of it shares.
        """
        async with Mesh.connect(url, settings=Settings.from_env(), service="revo-submit") as mesh:
            reader = Reader(self.source, self.results, self.before, self.work, mesh.connection.secret)
            try:
                with _progress() as progress:
                    self._draw(progress)
                    async with asyncio.timeout(timeout):
                        await self._work(mesh, reader)
            except TimeoutError:
                say_line(f"not all of it has ended within {timeout:g} s")
                return TIMED_OUT
            except ExceptionGroup as group:
                raise _first(group) from None
            finally:
                reader.stop()
        self.begun = self.ended = True
        return FAILED if self.failed or self.wrong or self.before.failed else DONE

    def _draw(self, progress: Progress) -> None:
        """Show how far it is, if there is a terminal."""
        if progress.disable:
            return
        bar = progress.add_task("", total=None, failed=0)
        self._bar = lambda **how: progress.update(bar, **how)

        def count() -> None:
            with contextlib.suppress(ConfigError, OSError):  # whoever reads it for good says so
                progress.update(bar, total=self.source.count())

        threading.Thread(target=count, daemon=True).start()

    async def _work(self, mesh: Mesh, reader: Reader) -> None:
        reader.start()
        async with asyncio.TaskGroup() as group:
            while (item := await reader.next()) is not None:
                group.create_task(self._one(mesh, item, reader.slots))

    async def _one(self, mesh: Mesh, item: Item, slots: threading.Semaphore) -> None:
        """One piece, from the submit to its written result."""
        try:
            if item.message is None:
                self._is_wrong(item, item.fault)
                return
            handle = await self._submit(mesh, item)
            self.begun = True
            item.message = None  # it may be large, and is in the queue now
            self._write(item, await _end_of(mesh, handle))
        except (CodecError, PayloadTooLargeError) as error:
            self._is_wrong(item, str(error))
        finally:
            slots.release()

    async def _submit(self, mesh: Mesh, item: Item) -> Handle:
        """Submit it; while the queue is full, wait. One at a time looks whether it still is."""
        try:
            return await self._send(mesh, item)
        except QueueFullError as error:
            self._say_full(error)
        pause, longest = PAUSES
        async with self._full:
            while True:
                try:
                    return await self._send(mesh, item)
                except QueueFullError as error:
                    wait = min(longest, error.come_back or pause)  # what is told is an estimate: room may come sooner
                    await asyncio.sleep(wait * random.uniform(0.8, 1.2))  # noqa: S311
                    pause = min(longest, 2 * pause)

    async def _send(self, mesh: Mesh, item: Item) -> Handle:
        request = self.request
        assert item.message is not None
        return await mesh.submit(
            request.capability,
            item.message,
            agent=request.agent,
            priority=request.priority,
            task_id=item.task_id,
            deadline=request.deadline,
        )

    def _say_full(self, error: QueueFullError) -> None:
        if not self._said_full:
            self._said_full = True
            say_line(f"the queue is full; waiting, and going on as it drains ({error.reason})")

    def _write(self, item: Item, result: Result) -> None:
        end: dict[str, Any] = {**item.name, "task_id": result.task_id, "status": result.status}
        if result.status == "succeeded":
            end["value"] = result.value
            self.succeeded += 1
        else:
            end["error"] = result.error.model_dump(exclude={"traceback"}) if result.error else None
            self.failed += 1
        self.results.write(end)
        self.show()

    def _is_wrong(self, item: Item, why: str) -> None:
        self.wrong += 1
        if self.wrong <= NAMED:
            say_line(f"{item.where}: {why}")
        elif self.wrong == NAMED + 1:
            say_line("more are wrong, and are only counted")
        self.show()

    def show(self) -> None:
        """Have the bar say how far it is."""
        failed = self.failed + self.before.failed + self.wrong
        self._bar(completed=self.succeeded + self.before.succeeded + failed, failed=failed)

    def report(self, path: Path | None, output: Output) -> None:
        """Say what became of it, and how to go on if that is not all."""
        before = self.before.succeeded + self.before.failed
        counts = {
            "succeeded": self.succeeded + self.before.succeeded,
            "failed": self.failed + self.before.failed,
            "wrong": self.wrong,
        }
        if path is not None and output is Output.JSON:
            print_json({**counts, "before": before, "ended": self.ended, "results": str(path)})
        parts = [f"{count:,} {what}" for what, count in counts.items() if count or what != "wrong"]
        parts += [f"{before:,} of them before"] if before else []
        say_line(f"{sum(counts.values()):,} done: {', '.join(parts)}")
        if not self.ended:
            known = "what has ended is not done again"
            if path is None:
                known += " for as long as its result is kept; name --results FILE to keep them"
            say_line(f"to go on, run the same command again: {known}; what is submitted goes on meanwhile")


async def _end_of(mesh: Mesh, handle: Handle) -> Result:
    """The result of a task. A server that is away for a while costs no more than that: the task is stored."""
    while True:
        try:
            return await handle.outcome()
        except TransportError:
            await asyncio.sleep(random.uniform(*AGAIN))  # noqa: S311
            await mesh.connection.connected()


def _progress() -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    failed = TextColumn("[red]{task.fields[failed]} failed")
    speed = TaskProgressColumn(text_format="", show_speed=True)
    terminal = console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), failed, speed, Remaining())
    shown, shared = sys.stderr.isatty(), sys.stdout.isatty()  # results that go to a file must not go through the bar
    return Progress(*columns, console=terminal, transient=True, disable=not shown, redirect_stdout=shared)


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    error: Exception | BaseExceptionGroup[Exception] = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
