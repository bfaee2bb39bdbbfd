"""Keeps a mesh's actors alive: one for one, with backoff and a budget.

A child that ends by itself is started again; one that crashes again and again is left for dead, with its last words,
while the others run on. Must not know NATS: actors are processes here, nothing else.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from actors.meshfile import MeshFile, Supervision
from actors.process import ActorExitedError, ActorProcess
from bus.errors import BusError

WRONG_USAGE: Final = 2
"""The exit status of an actor that cannot be started as it is configured: trying again changes nothing."""
START_TIMEOUT: Final = 30.0
STOP_MARGIN: Final = 10.0
"""Seconds beyond the drain that a child has before it is killed."""


class State(StrEnum):
    """What a child is doing."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    FAILED = "failed"
    STOPPED = "stopped"


class ActorFailedError(BusError):
    """An actor is left for dead: it cannot be started, or its restart budget is used up."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name} failed: {self.reason}"


@dataclass(slots=True, eq=False)
class Child:
    """One actor of the mesh and the process that runs it at the moment."""

    name: str
    number: int
    target: str
    settings: dict[str, Any]
    state: State = State.STARTING
    restarts: int = 0
    instance: str = ""
    pid: int = 0
    reason: str = ""
    """Why it failed or was restarted."""
    process: ActorProcess | None = None
    crashes: deque[float] = field(default_factory=deque)
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once it was ready or failed."""

    @property
    def label(self) -> str:
        """How people tell it from its siblings."""
        return f"{self.name}/{self.number}"

    def public(self) -> dict[str, Any]:
        """What `mesh.json` says of it."""
        return {
            "name": self.name,
            "label": self.label,
            "instance": self.instance,
            "pid": self.pid,
            "state": str(self.state),
            "restarts": self.restarts,
            "reason": self.reason,
        }


class Supervisor:
    """Starts the actors of a mesh file, keeps them alive, and ends them."""

    def __init__(
        self,
        mesh: MeshFile,
        *,
        url: str,
        folder: Path,
        drain_timeout: float,
        on_line: Callable[[str, str], None],
        on_change: Callable[[Child], None],
    ) -> None:
        """`on_line` gets a child's label and a line that it wrote; `on_change` hears of every change of state."""
        self.children = [
            Child(name, number, entry.target, entry.settings)
            for name, entry in mesh.all_actors().items()
            for number in range(1, entry.count + 1)
        ]
        self._policy: Supervision = mesh.supervision
        self._url = url
        self._folder = folder
        self._drain_timeout = drain_timeout
        self._on_line = on_line
        self._on_change = on_change
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Keep the children alive until `stop`; returns when the last has ended."""
        async with asyncio.TaskGroup() as group:
            for child in self.children:
                group.create_task(self._keep(child), name=child.label)

    async def started(self) -> None:
        """Return when every child is ready.

        Raises:
            ActorFailedError: when one failed instead; names it and its last words.
        """
        for child in self.children:
            await child.settled.wait()
            if child.state is State.FAILED:
                raise ActorFailedError(child.label, child.reason)

    async def stop(self) -> None:
        """Drain all children; kill those that do not end within the drain's time and a margin."""
        self._stopping.set()
        running = [child.process for child in self.children if child.process is not None and child.process.running]
        for process in running:
            process.terminate()
        if running:
            waits = [asyncio.ensure_future(process.wait()) for process in running]
            _, late = await asyncio.wait(waits, timeout=self._drain_timeout + STOP_MARGIN)
            if late:
                self.kill()
                await asyncio.wait(late)

    def kill(self) -> None:
        """End all children at once."""
        self._stopping.set()
        for child in self.children:
            if child.process is not None:
                child.process.kill()

    async def _keep(self, child: Child) -> None:
        while not self._stopping.is_set():
            status = await self._run_once(child)
            if self._stopping.is_set():
                break
            if status == WRONG_USAGE:
                return self._fail(child, child.reason)
            now = time.monotonic()
            child.crashes.append(now)
            while child.crashes and now - child.crashes[0] > self._policy.within:
                child.crashes.popleft()
            if len(child.crashes) > self._policy.max_restarts:
                times = f"{len(child.crashes)} times within {self._policy.within:g} s"
                return self._fail(child, f"ended {times}, the last time with {child.reason}")
            await self._pause(child)
        return self._change(child, State.STOPPED)

    async def _run_once(self, child: Child) -> int:
        """Start the child's process and wait for its end; returns its exit status."""
        process = ActorProcess(child.name, child.target, on_line=lambda line: self._on_line(child.label, line))
        child.process = process
        try:
            await process.start(url=self._url, cwd=self._folder, settings=child.settings, timeout=START_TIMEOUT)
        except ActorExitedError as error:
            status = error.status
        except TimeoutError:
            status = 1
            process.said.append(f"it was not ready within {START_TIMEOUT:g} s")
        else:
            child.instance, child.pid = process.instance, process.pid
            if self._stopping.is_set():
                process.terminate()  # it was not yet there when `stop` looked
            self._change(child, State.READY)
            child.settled.set()
            status = await process.wait()
        last = process.said[-1] if process.said else "no word"
        child.reason = f"{describe(status)}: {last}"
        return status

    async def _pause(self, child: Child) -> None:
        child.restarts += 1
        self._change(child, State.RESTARTING)
        ceiling = min(self._policy.backoff_max, self._policy.backoff * 2.0 ** (len(child.crashes) - 1))
        try:
            async with asyncio.timeout(random.uniform(ceiling / 2, ceiling)):  # noqa: S311
                await self._stopping.wait()
        except TimeoutError:
            return

    def _fail(self, child: Child, reason: str) -> None:
        child.reason = reason
        self._change(child, State.FAILED)
        child.settled.set()

    def _change(self, child: Child, state: State) -> None:
        child.state = state
        self._on_change(child)


def describe(status: int) -> str:
    """An exit status in words."""
    return f"signal {-status}" if status < 0 else f"status {status}"
