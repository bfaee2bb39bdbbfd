"""`revo bench memory`: shared memory against a plain nats-py bucket of the same depth and storage, in one run."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Final

from actors.meshfile import MEMORY
from bus import subjects, topology
from bus.grants import Wish
from bus.mesh import Mesh
from revo import Memory, Namespace
from revo.bench.compare import Once, repeat
from revo.bench.crowd import KEYS, NAMESPACE, PROCESSES, WATCHED, Crowd
from revo.bench.echo import IN_FLIGHT, TEXT
from revo.bench.memoryrows import COORDINATOR, LABELS, PLAIN, PLAIN_DIRECT, STREAMS, rows_at, rows_of, show
from revo.bench.plainkv import PlainKv, plain_kv
from revo.bench.rig import machine, rig
from revo.cli.common import DONE, Output, console, print_json

APART: Final = 0.02
"""Seconds between two changes that watchers see."""

Step = Callable[[str], None]
Tell = Callable[[str], Awaitable[None]]


def memory(count: int, rounds: int, clients: int, seconds: float, *, output: Output) -> int:
    """Measure and print; returns the exit status."""
    import uvloop
    from rich.progress import Progress

    terminal = console(stderr=True)
    with Progress(console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        bar = progress.add_task("starting", total=len(LABELS) + 1)

        def step(doing: str) -> None:
            progress.update(bar, advance=1, description=doing)

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            figures = runner.run(_measure(count, rounds, clients, seconds, step))
    if output is Output.JSON:
        print_json(figures)
    else:
        show(figures)
    return DONE


async def _measure(count: int, rounds: int, clients: int, seconds: float, step: Step) -> dict[str, Any]:
    async with rig() as here, AsyncExitStack() as stack:
        url = await here.unguarded()
        plain = await stack.enter_async_context(plain_kv(url))
        mesh = await here.mesh(operator=True)
        await topology.apply(mesh.connection)
        await here.start(subjects.MEMORY, MEMORY)
        guest = await here.credentials_for("guest", Wish(memory=(NAMESPACE,)))
        settings = here.settings.model_copy(update={"credentials": guest, "trace_sample": 0.0})
        asking = await stack.enter_async_context(Mesh.connect(settings=settings, service="bench"))
        doors = {STREAMS: Memory(mesh, NAMESPACE), COORDINATOR: Memory(asking, NAMESPACE)}
        await doors[STREAMS].configure(Namespace(strategy="first_writer_wins"))
        for key in KEYS:
            await doors[STREAMS].put(key, TEXT)
        await plain.fill([*KEYS, WATCHED])
        ways = _Ways(plain, doors)
        rows = []
        step("get")
        rows += rows_of("get", await ways.rates(ways.gets(), count, rounds, IN_FLIGHT))
        step("put")
        rows += rows_of("put", await ways.rates(ways.puts(), count, rounds, IN_FLIGHT))
        step("lock and unlock")
        rows += rows_of("lock", await ways.rates(ways.locks(), max(100, count // 10), rounds, 1))
        crowds = {
            PLAIN: ("plain-", url, ""),
            STREAMS: ("", here.server.url, here.settings.credentials or ""),
            COORDINATOR: ("", here.server.url, guest),
        }
        step("mixed load")
        found = {
            way: await _load(Crowd(f"{kind}load", clients, seconds, *where)) for way, (kind, *where) in crowds.items()
        }
        rows += rows_at("load", found, 95)
        step("watchers")
        changes, seen = int(seconds / APART), {}
        for way, (kind, *where) in crowds.items():
            tell = plain.tell if way == PLAIN else _teller(doors[way], await _stands(doors[way]))
            seen[way] = await _watch(Crowd(f"{kind}watch", clients, changes, *where), changes, tell)
        rows += rows_at("watch", seen, 99)
    said = {
        "clients": clients,
        "processes": min(PROCESSES, clients),
        "bytes": len(TEXT),
        "in_flight": IN_FLIGHT,
        "rounds": rounds,
    }
    return {**said, "rows": rows, **machine()}


# --- one after the other, in turns --------------------------------------------------------------------------------


class _Ways:
    """The same in plain nats-py and through both doors."""

    def __init__(self, plain: PlainKv, doors: dict[str, Memory]) -> None:
        self._plain = plain
        self._doors = doors

    def gets(self) -> dict[str, Once]:
        """A read of one entry of 100."""
        plain = self._plain
        found: dict[str, Once] = {
            PLAIN: lambda: plain.get(random.choice(KEYS)),  # noqa: S311
            PLAIN_DIRECT: lambda: plain.get_direct(random.choice(KEYS)),  # noqa: S311
        }
        for door, one in self._doors.items():
            found[door] = lambda one=one: one.get(random.choice(KEYS))  # type: ignore[misc]  # noqa: S311
        return found

    def puts(self) -> dict[str, Once]:
        """A write of one entry, ours on the version that was written last: another's in between would be a conflict."""
        plain = self._plain
        found: dict[str, Once] = {PLAIN: lambda: plain.put(random.choice(KEYS))}  # noqa: S311
        for door, one in self._doors.items():
            found[door] = _putter(one, door)
        return found

    def locks(self) -> dict[str, Once]:
        """An exclusive lock that nobody else wants, and its end."""
        found: dict[str, Once] = {PLAIN: self._plain.lock}
        for door, one in self._doors.items():
            found[door] = _locker(one, door)
        return found

    @staticmethod
    async def rates(ways: dict[str, Once], count: int, rounds: int, in_flight: int) -> dict[str, list[float]]:
        """How many a second, of each way in each round."""
        found: dict[str, list[float]] = {name: [] for name in ways}
        for one in ways.values():
            await repeat(one, max(in_flight * 2, count // 5), in_flight)  # nobody's first ones count
        for _ in range(rounds):
            for name, one in ways.items():
                began = time.perf_counter()
                await repeat(one, count, in_flight)
                found[name].append(count / (time.perf_counter() - began))
        return found


def _putter(memory: Memory, door: str) -> Once:
    known = deque((f"{door}-{number}", 0) for number in range(IN_FLIGHT))

    async def one() -> None:
        key, version = known.popleft()
        written = await memory.put(key, TEXT, version)
        known.append((key, written.version))

    return one


def _locker(memory: Memory, door: str) -> Once:
    async def one() -> None:
        async with memory.lock(f"locked/{door}"):
            pass

    return one


# --- many at once ---------------------------------------------------------------------------------------------


async def _load(clients: Crowd) -> list[float]:
    async with clients as crowd:
        await crowd.go()
        return list(itertools.chain(*await crowd.result()))


async def _watch(clients: Crowd, changes: int, tell: Tell) -> list[float]:
    """How long each change took until the last watcher had seen it, in seconds."""
    async with clients as crowd:
        await crowd.go()
        began: dict[str, float] = {}
        for number in range(changes):
            value = f"change {number}"
            began[value] = time.monotonic()
            await tell(value)
            await asyncio.sleep(APART)
        last: dict[str, float] = {}
        for seen in await crowd.result():
            for value, at in seen:
                last[value] = max(last.get(value, 0.0), at)
        return [last[value] - at for value, at in began.items()]


async def _stands(memory: Memory) -> int:
    """The version of what is watched; it is made where there is none."""
    entry = await memory.get(WATCHED)
    return entry.version if entry else (await memory.put(WATCHED, "")).version


def _teller(memory: Memory, version: int) -> Tell:
    async def tell(value: str) -> None:
        nonlocal version
        version = (await memory.put(WATCHED, value, version)).version

    return tell
