"""Keeps a mesh's actors alive: one for one, with backoff and a budget; starts them in order, ends them the other way.

A child that ends by itself is started again; one that crashes again and again is left for dead, with its last words,
while the others run on. Must not know NATS: actors are processes here, nothing else.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from actors.meshfile import ActorEntry, MeshFile
from actors.parent import SHED
from actors.process import ActorExitedError, ActorProcess
from bus.errors import BusError
from bus.forkserver import ForkServer

WRONG_USAGE: Final = 2
"""The exit status of an actor that cannot be started as it is configured: trying again changes nothing."""
START_TIMEOUT: Final = 30.0
STOP_MARGIN: Final = 10.0
"""Seconds beyond the drain that a child has before it is killed."""
AT_ONCE: Final = max(4, 2 * (os.cpu_count() or 1))
"""Processes that are being started at a time: more of them only make each other late."""


class State(StrEnum):
    """What a child is doing."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    RESTING = "resting"
    STOPPING = "stopping"
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
    entry: ActorEntry
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
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once nobody looks after it any more; its process is gone then."""

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
    """Starts the actors of a mesh file, keeps them alive, follows the file's changes, and ends them."""

    def __init__(
        self,
        mesh: MeshFile,
        *,
        url: str,
        folder: Path,
        drain_timeout: float,
        on_line: Callable[[str, str], None],
        on_change: Callable[[Child], None],
        credentials: Callable[[str], str] = lambda _: "",
        forks: ForkServer | None = None,
    ) -> None:
        """`credentials` says in which file those of an actor are, by its name. `on_line` gets a child's label and a
        line that it wrote; `on_change` hears of every change of state. The children come from `forks` if that is given.
        """
        self._mesh = mesh
        self.children = [
            Child(name, number, entry)
            for name, entry in mesh.all_actors().items()
            for number in range(1, entry.count + 1)
        ]
        self._url = url
        self._credentials = credentials
        self._forks = forks
        self._folder = folder
        self._drain_timeout = drain_timeout
        self._on_line = on_line
        self._on_change = on_change
        self._starts = asyncio.Semaphore(AT_ONCE)
        self._stopping = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._keepers: asyncio.TaskGroup

    async def run(self) -> None:
        """Start the children in order and keep them alive until `stop`; returns when the last has ended."""
        async with asyncio.TaskGroup() as self._keepers:
            for stage in self._mesh.stages():
                await self._start([child for child in self.children if child.name in stage])
            await self._stopping.wait()

    async def started(self) -> None:
        """Return when every child is ready.

        Raises:
            ActorFailedError: when one failed instead; names it and its last words.
        """
        for child in list(self.children):
            await child.settled.wait()
            if child.state is State.FAILED:
                raise ActorFailedError(child.label, child.reason)

    async def stop(self) -> None:
        """Drain all children, those that started last first; kill those that do not end within their time."""
        self._stopping.set()
        async with self._reloading:
            for stage in reversed(self._mesh.stages()):
                await self._end([child for child in self.children if child.name in stage])

    def kill(self) -> None:
        """End all children at once."""
        self._stopping.set()
        for child in self.children:
            child.stopping.set()
            if child.process is not None:
                child.process.kill()

    # --- when the mesh file has changed ---------------------------------------------------------------------

    async def reload(self, mesh: MeshFile) -> list[str]:
        """Make the children what another mesh file says, and touch none that it does not change; say what was done.

        What has another target, settings or labels is replaced one by one, so that its siblings go on. What had been
        left for dead has another chance. Returns when all that is new is ready or has failed.
        """
        async with self._reloading:
            if self._stopping.is_set():
                return []
            before, wanted = self._mesh.all_actors(), mesh.all_actors()
            said = [f"{name}: removed" for name in before if name not in wanted]
            await self._end([child for child in self.children if child.name not in wanted])
            for name in before.keys() & wanted.keys():
                number = wanted[name].count
                await self._end([child for child in self.children if child.name == name and child.number > number])
            self._mesh = mesh
            for stage in mesh.stages():
                for name in stage:
                    said += await self._change_to(name, before.get(name), wanted[name])
            return said

    async def _change_to(self, name: str, before: ActorEntry | None, wanted: ActorEntry) -> list[str]:
        said = [f"{name}: added"] if before is None else []
        if before is not None and before.count != wanted.count:
            said.append(f"{name}: {wanted.count} instead of {before.count}")
        changed = before is not None and _run_otherwise(before, wanted)
        if changed:
            said.append(f"{name}: restarted with its new target, settings or labels")
        standing = {child.number: child for child in self.children if child.name == name}
        fresh = []
        for number in range(1, wanted.count + 1):
            child = standing.get(number)
            if child is None:
                fresh.append(self._add(name, number, wanted))
            elif changed or child.state is State.FAILED:
                if not changed:
                    said.append(f"{child.label}: started again")
                await self._end([child])
                await self._start([self._add(name, number, wanted)])
            else:
                child.entry = wanted
        await self._start(fresh)
        return said

    def _add(self, name: str, number: int, entry: ActorEntry) -> Child:
        child = Child(name, number, entry)
        order = list(self._mesh.all_actors())
        self.children.append(child)
        self.children.sort(key=lambda one: (order.index(one.name) if one.name in order else len(order), one.number))
        return child

    # --- some of them ---------------------------------------------------------------------------------------

    async def _start(self, children: Iterable[Child]) -> None:
        """Look after them from now on; returns when each is ready or has failed, or all is to end."""
        some = list(children)
        for child in some:
            self._keepers.create_task(self._keep(child), name=child.label)
        for child in some:
            await child.settled.wait()

    async def _end(self, children: Iterable[Child]) -> None:
        """Drain them, kill those that take too long, and forget those that are gone."""
        some = list(children)
        for child in some:
            child.stopping.set()
            if child.process is not None and child.process.running:
                child.process.terminate()
                self._change(child, State.STOPPING)
        waits = [asyncio.ensure_future(child.ended.wait()) for child in some if child.settled.is_set() or child.process]
        if waits:
            _, late = await asyncio.wait(waits, timeout=self._drain_timeout + STOP_MARGIN)
            for child in some if late else ():
                if child.process is not None:
                    child.process.kill()
            if late:
                await asyncio.wait(late)
        if not self._stopping.is_set():
            self.children = [child for child in self.children if child not in some]

    # --- one of them ----------------------------------------------------------------------------------------

    async def _keep(self, child: Child) -> None:
        try:
            await self._keep_alive(child)
        finally:
            child.settled.set()
            child.ended.set()

    async def _keep_alive(self, child: Child) -> None:
        while not (child.stopping.is_set() or self._stopping.is_set()):
            status = await self._run_once(child)
            if child.stopping.is_set():
                break
            if status == WRONG_USAGE:
                return self._fail(child, child.reason)
            if status == SHED:
                await self._rest(child)
                continue
            policy, now = self._mesh.supervision, time.monotonic()
            child.crashes.append(now)
            while child.crashes and now - child.crashes[0] > policy.within:
                child.crashes.popleft()
            if len(child.crashes) > policy.max_restarts:
                times = f"{len(child.crashes)} times within {policy.within:g} s"
                return self._fail(child, f"ended {times}, the last time with {child.reason}")
            await self._pause(child)
        return self._change(child, State.STOPPED)

    async def _run_once(self, child: Child) -> int:
        """Start the child's process and wait for its end; returns its exit status."""
        entry = child.entry
        process = ActorProcess(
            child.name, entry.target, on_line=lambda line: self._on_line(child.label, line), forks=self._forks
        )
        try:
            async with self._starts:
                if child.stopping.is_set():
                    return 0
                child.process = process
                await process.start(
                    url=self._url,
                    credentials=self._credentials(child.name),
                    cwd=self._folder,
                    settings=entry.settings,
                    labels=entry.labels,
                    restarts=child.restarts,
                    timeout=START_TIMEOUT,
                )
        except ActorExitedError as error:
            status = error.status
        except TimeoutError:
            status = 1
            process.said.append(f"it was not ready within {START_TIMEOUT:g} s")
        except OSError as error:
            status = 1
            process.said.append(f"no process could be started: {error}")
        else:
            child.instance, child.pid = process.instance, process.pid
            if child.stopping.is_set():
                process.terminate()  # it was not yet there when it should end
            self._change(child, State.READY)
            child.settled.set()
            status = await process.wait()
        last = process.said[-1] if process.said else "no word"
        child.reason = f"{describe(status)}: {last}"
        return status

    async def _pause(self, child: Child) -> None:
        policy = self._mesh.supervision
        child.restarts += 1
        self._change(child, State.RESTARTING)
        ceiling = min(policy.backoff_max, policy.backoff * 2.0 ** (len(child.crashes) - 1))
        await self._wait(child, random.uniform(ceiling / 2, ceiling))  # noqa: S311

    async def _rest(self, child: Child) -> None:
        """It was idle and made room for others on this host: it has not failed, and is back after a while."""
        rest = self._mesh.supervision.rest
        child.reason = f"it made room for others, and is started again after {rest:g} s"
        self._change(child, State.RESTING)
        await self._wait(child, rest)

    async def _wait(self, child: Child, seconds: float) -> None:
        """Wait so long, unless it is to stop before."""
        try:
            async with asyncio.timeout(seconds):
                await child.stopping.wait()
        except TimeoutError:
            return

    def _fail(self, child: Child, reason: str) -> None:
        child.reason = reason
        self._change(child, State.FAILED)

    def _change(self, child: Child, state: State) -> None:
        child.state = state
        self._on_change(child)


def _run_otherwise(before: ActorEntry, wanted: ActorEntry) -> bool:
    """Whether a process that runs by the one does not do what the other says."""
    same = ("target", "settings", "labels")
    return any(getattr(before, name) != getattr(wanted, name) for name in same)


def describe(status: int) -> str:
    """An exit status in words."""
    return f"signal {-status}" if status < 0 else f"status {status}"
