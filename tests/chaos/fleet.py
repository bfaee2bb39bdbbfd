"""What the storms have in common: workers that are replaced, a client that does not give up, the count at the end."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bus import codec, jetstream, subjects
from bus.audit import Audit, audit
from bus.connection import Connection
from bus.errors import BusError
from bus.mesh import Mesh
from bus.messages import Result
from bus.reading import stored_since
from tests.eventually import eventually, pause
from tests.processes import ActorProcess, actor

AGENT = "tests.chaos.agents:Chaotic"
STEWARD = "actors.steward:Steward"


class Fleet:
    """`size` workers, each started again when it dies, as a supervisor does. Use it as a context manager."""

    def __init__(self, url: str, folder: Path, size: int, *, target: str = AGENT, **env: str) -> None:
        self._url = url
        self._target = target
        self._folder = folder
        self._size = size
        self._env = env
        self._keepers: list[asyncio.Task[None]] = []
        self._leaving = False
        self._stopped: ActorProcess | None = None
        self.alive: dict[int, ActorProcess] = {}
        self.starts = 0
        self.kills = 0

    async def _keep(self, number: int) -> None:
        while not self._leaving:
            self.starts += 1
            log = self._folder / f"{self._target.rpartition(':')[2]}-{number}-{self.starts}.log"
            try:
                async with actor(self._target, self._url, log, **self._env) as process:
                    self.alive[number] = process
                    await process.wait(10_000)
            except AssertionError:
                continue  # killed, or its server was, before it was ready
            finally:
                self.alive.pop(number, None)

    def kill_one(self) -> None:
        """SIGKILL for a worker, whichever but the one that is stopped: it is to wake up late, with its task in hand."""
        alive = [process for process in self.alive.values() if process is not self._stopped]
        if alive:
            self.kills += 1
            random.choice(alive).signal(signal.SIGKILL)  # noqa: S311  (chaos, not secrets)

    async def stop_one(self, seconds: float) -> None:
        """SIGSTOP for a worker, and SIGCONT after so many seconds."""
        alive: dict[int, ActorProcess] = await eventually(lambda: self.alive)
        victim = random.choice(list(alive.values()))  # noqa: S311
        self._stopped = victim
        victim.signal(signal.SIGSTOP)
        await pause(seconds)
        victim.signal(signal.SIGCONT)
        self._stopped = None

    async def __aenter__(self) -> Self:
        self._keepers = [asyncio.create_task(self._keep(number)) for number in range(self._size)]
        await eventually(lambda: len(self.alive) == self._size, timeout=30)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._leaving = True
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)


async def submit(mesh: Mesh, task_id: str, message: dict[str, Any], *, after: float | None = None) -> None:
    """Submit until it is stored, maybe to be done later: what was promised counts, and nothing else."""
    while True:
        try:
            await mesh.submit("chaos", message, task_id=task_id, after=after)
        except BusError as error:
            if not error.retryable:
                raise
            await pause(0.1)
        else:
            return


@dataclass
class Count:
    """What the streams say, read by a connection of its own."""

    results: Counter[str]
    statuses: dict[str, str]
    redelivered: int
    max_deliveries: int
    dead: set[str]
    audit: Audit


async def count(connection: Connection) -> Count:
    """Read everything."""
    results: Counter[str] = Counter()
    statuses: dict[str, str] = {}
    deliveries: list[int] = []
    async for message in stored_since(connection, subjects.RESULTS, 0.0):
        result = codec.read(Result, message.headers or {}, message.data)
        results[result.task_id] += 1
        statuses[result.task_id] = result.status
        deliveries.append(result.deliveries)
    dead = {subjects.parse_name(m.subject)[2] async for m in stored_since(connection, subjects.DEAD, 0.0)}
    redelivered = sum(times > 1 for times in deliveries)
    return Count(results, statuses, redelivered, max(deliveries), dead, await audit(connection))


async def at_rest(connection: Connection) -> bool:
    """Whether nothing is queued and nothing pending."""
    try:
        info = await jetstream.call(connection, "STREAM.INFO", subjects.TASKS)
        later = await jetstream.call(connection, "STREAM.INFO", subjects.LATER)
        if info["state"]["messages"] or later["state"]["messages"]:
            return False
        page = await jetstream.call(connection, "CONSUMER.LIST", subjects.TASKS)
    except BusError:
        return False
    return all(one["num_pending"] == one["num_ack_pending"] == 0 for one in page["consumers"])


def executions(journal: Path) -> Counter[int]:
    """How often each task's handler began."""
    return Counter(int(line) for line in journal.read_text().split())
