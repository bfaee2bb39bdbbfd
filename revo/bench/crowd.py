"""Many clients at once, in processes of their own: `python -m revo.bench.crowd KIND CLIENTS AMOUNT URL`.

Says `ready` when all are connected, begins when its input ends, and says at the end, as JSON, what was measured. KIND
is `load` or `watch`, of shared memory, or `plain-load` or `plain-watch`. AMOUNT is seconds of load, or changes to see.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Final, Self

from actors.memory.errors import ConflictError, LockTimeoutError
from bus.child import PIPE, Child
from bus.mesh import Mesh
from bus.settings import Settings
from revo import Memory
from revo.bench.echo import TEXT
from revo.bench.plainkv import PlainKv, plain_kv

NAMESPACE: Final = "bench"
"""The first writer wins there."""
WATCHED: Final = "watched"
KEYS: Final = [f"key-{number}" for number in range(100)]
PAUSE: Final = 0.05
"""Seconds, on average, between two things that a client does."""
PROCESSES: Final = 5

Act = Callable[[str], Awaitable[object]]


async def load(get: Act, put: Act, lock: Act, seconds: float) -> list[float]:
    """Do one thing after the other: 7 of 10 are gets, 1 of 20 is a lock; the seconds that each get took."""
    times: list[float] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        await asyncio.sleep(random.uniform(0, 2 * PAUSE))  # noqa: S311
        key, chance = random.choice(KEYS), random.random()  # noqa: S311
        if chance < 0.7:
            began = time.perf_counter()
            await get(key)
            times.append(time.perf_counter() - began)
        else:
            await (put if chance < 0.95 else lock)(key)
    return times


class Client:
    """One client of shared memory."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._known: dict[str, int] = {}

    async def get(self, key: str) -> None:
        """Read."""
        entry = await self._memory.get(key)
        self._known[key] = entry.version if entry else 0

    async def put(self, key: str) -> None:
        """Write, on what was read last; where others were faster, that is known then."""
        try:
            written = await self._memory.put(key, TEXT, self._known.get(key, 0))
            self._known[key] = written.version
        except ConflictError as error:
            self._known[key] = error.theirs.version if error.theirs else 0

    async def lock(self, key: str) -> None:
        """Hold a lock for a moment."""
        try:
            async with self._memory.lock(f"{key}/lock", timeout=5.0):
                pass
        except LockTimeoutError:
            return

    async def watch(self, count: int, begun: asyncio.Event) -> list[tuple[str, float]]:
        """Follow until so many changes were seen; each value, and when it was seen."""
        found: list[tuple[str, float]] = []
        async for entry in self._memory.watch(WATCHED):
            if begun.is_set():
                found.append((str(entry.value), time.monotonic()))
            begun.set()  # what stood there has been told
            if len(found) == count:
                break
        return found


async def crowd(kind: str, clients: int, amount: float, url: str) -> None:
    """Be so many clients."""
    async with AsyncExitStack() as stack:
        work: list[Awaitable[Any]] = []
        all_begun: list[asyncio.Event] = []
        for _ in range(clients):
            one: Client | PlainKv
            if kind.startswith("plain"):
                one = await stack.enter_async_context(plain_kv(url))
            else:
                settings = Settings.from_env().model_copy(update={"nats_url": url, "trace_sample": 0.0})
                mesh = await stack.enter_async_context(Mesh.connect(settings=settings, service="crowd"))
                one = Client(Memory(mesh, NAMESPACE))
            if kind.endswith("watch"):
                all_begun.append(asyncio.Event())
                work.append(asyncio.ensure_future(one.watch(int(amount), all_begun[-1])))
            else:
                await one.get(KEYS[0])
                work.append(load(one.get, one.put, one.lock if isinstance(one, Client) else _plain_lock(one), amount))
        for begun in all_begun:
            await begun.wait()
        say("ready")
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        await reader.read()
        say(json.dumps(await asyncio.gather(*work)))


def _plain_lock(one: PlainKv) -> Act:
    async def lock(_: str) -> None:
        await one.lock()

    return lock


def say(line: str) -> None:
    """One line, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class Crowd:
    """Such processes, as who measures sees them. Use it as a context manager."""

    def __init__(self, kind: str, clients: int, amount: float, url: str, credentials: str = "") -> None:
        self.processes = min(PROCESSES, clients)
        self._commands = [
            [
                sys.executable,
                "-m",
                "revo.bench.crowd",
                kind,
                str(len(range(n, clients, self.processes))),
                str(amount),
                url,
            ]
            for n in range(self.processes)
        ]
        self._credentials = credentials
        self._children: list[Child] = []

    async def __aenter__(self) -> Self:
        """All of them are connected."""
        env = {**os.environ, "REVO_CREDENTIALS": self._credentials}
        for command in self._commands:
            self._children.append(await Child.start(command, stdin=PIPE, stdout=PIPE, stderr=2, env=env))
        for child in self._children:
            await _line(child)
        return self

    async def go(self) -> None:
        """Have them begin."""
        for child in self._children:
            await child.feed(b"")

    async def result(self) -> list[Any]:
        """What each client measured."""
        return [one for child in self._children for one in json.loads(await _line(child))]

    async def __aexit__(self, *_: object) -> None:
        for child in self._children:
            await child.finish()


async def _line(child: Child) -> bytes:
    assert child.stdout is not None
    line = await child.stdout.readline()
    if not line:
        raise RuntimeError("a process of the measurement has died")  # what it died of stands above, on stderr
    return line


if __name__ == "__main__":
    import uvloop

    uvloop.run(crowd(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]))
