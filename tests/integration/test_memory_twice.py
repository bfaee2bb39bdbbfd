"""Two coordinators have the same write at once, for the answer of the first was not waited for: it is carried out once
or, if whoever asked is told that it was refused, never.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, NamedTuple

import pytest

from actors.memory import earlier
from actors.memory.backend import Author, Write, Written
from actors.memory.errors import ConflictError, OutcomeUnknownError, StaleFenceError
from actors.memory.messages import Writes
from actors.memory.model import Fence, Namespace
from actors.memory.remote import Remote
from actors.memory.store import Store
from bus import codec, subjects
from bus.errors import BusError, RemoteError, TransportError
from bus.mesh import Mesh
from bus.rpc import Request, Service
from bus.server import Server
from revo import Memory
from tests.eventually import eventually, pause

MOST: Final = 100
"""Answers that no write waits for."""


class Slow:
    """Is busy with something else once it was sent so many messages, and sees the rest when that is done."""

    def __init__(self, mesh: Mesh, after: int) -> None:
        client = mesh.connection.client
        self._client, self._deliver = client, client.deliver
        self._left = after
        self._held: list[tuple[list[bytes], bytes, int, int]] = []
        self.stopped = asyncio.Event()
        client.deliver = self.deliver  # type: ignore[method-assign]

    def deliver(self, words: list[bytes], data: bytes, start: int, stop: int) -> None:
        if self._left:
            self._left -= 1
            self._deliver(words, data, start, stop)
        else:
            self.stopped.set()
            self._held.append((words, data, start, stop))

    def never_mind(self) -> None:
        """What it was sent meanwhile is lost."""
        self._held.clear()
        self.go_on()

    def go_on(self) -> None:
        self._client.deliver = self._deliver  # type: ignore[method-assign]
        for one in self._held:
            self._deliver(*one)


@dataclass
class Case:
    """What is asked for twice, in which world, and what happens after the second has answered."""

    strategy: str
    write: Write
    then: Callable[[Memory, str], Awaitable[object]]
    fenced: bool = False
    stands: bool = True
    between: bool = False
    """The lock is given back before the second is asked."""


async def put(memory: Memory, key: str) -> None:
    await memory.put(key, "newer")


async def clear(memory: Memory, key: str) -> None:
    await memory.delete(key)


async def nothing(_: Memory, __: str) -> None:
    pass


CASES: Final = {
    "a delete": Case("last_writer_wins", Write("k", delete=True), put),
    "a delete under a lock": Case("last_writer_wins", Write("k", delete=True), put, fenced=True),
    "a delete under a lock that is lost": Case(
        "last_writer_wins", Write("k", delete=True), nothing, fenced=True, between=True
    ),
    "a put under a lock": Case("last_writer_wins", Write("k", "ours"), put, fenced=True),
    "a put under a lock that is lost": Case("last_writer_wins", Write("k", "ours"), put, fenced=True, between=True),
    "a put": Case("last_writer_wins", Write("k", "ours"), put),
    "a put where nothing stood": Case("last_writer_wins", Write("k", "ours"), clear, stands=False),
    "a first one": Case("first_writer_wins", Write("k", "ours", 0), clear, stands=False),
    "a first one that is none": Case("first_writer_wins", Write("k", "ours", 0), clear),
    "a conflict": Case("manual", Write("k", "ours", 0), nothing),
}


async def meet(server: Server, case: Case, after: int) -> tuple[bool, list[Written] | BusError, int]:
    """One is slow after so many messages, and another is asked the same: whether it was slow, what the other said, and
    how often it was stored.
    """
    key = f"k{after}"
    write = replace(case.write, key=key)
    async with contextlib.AsyncExitStack() as stack:
        first, second, others = [await stack.enter_async_context(Mesh.connect(url=server.url)) for _ in range(3)]
        memory = Memory(others, "notes")
        await memory.configure(Namespace(strategy=case.strategy))  # type: ignore[arg-type]
        if case.stands:
            await memory.put(key, "old", 0)
        fence: Fence | None = None
        lock = memory.lock(key)
        if case.fenced:
            await lock.acquire()
            fence = lock.fence
        stores = [Store(mesh.connection, mesh.telemetry) for mesh in (first, second)]
        for store in stores:
            stack.push_async_callback(store.close)
            await store.describe("notes")
        id_ = secrets.token_hex(16)

        async def ask(store: Store, ago: float) -> list[Written] | BusError:
            try:
                return await store.write("notes", [write], Author("ours"), fence, asked_as=id_, ago=ago)
            except (ConflictError, StaleFenceError, TransportError) as error:
                return error

        slow = Slow(first, after)
        asked = asyncio.create_task(ask(stores[0], 0.0))
        stopped = asyncio.create_task(slow.stopped.wait())
        await asyncio.wait({asked, stopped}, return_when=asyncio.FIRST_COMPLETED)
        was_slow = not asked.done()
        stopped.cancel()
        if case.between:
            await lock.release()
        said = await ask(stores[1], 0.5)
        await case.then(memory, key)
        slow.go_on()
        late = await asked
        if isinstance(late, list) and isinstance(said, list):
            assert late == said, "both say the same of it"
        kept = await memory.history(key)
        if case.fenced and not case.between:
            await lock.release()
        by = [one for one in kept if one.by == "ours"] + [other for one in kept[-1:] for other in one.alternatives]
        return was_slow, said, len(by)


@pytest.mark.parametrize("name", CASES)
async def test_a_write_that_two_coordinators_have_at_once_is_carried_out_as_was_answered(
    server: Server, name: str
) -> None:
    for after in range(MOST):
        was_slow, said, count = await meet(server, CASES[name], after)
        assert not isinstance(said, TransportError), said
        done = isinstance(said, list) and said[0].outcome != "absent"
        assert count == done, f"slow after {after} messages: {said}, and it was stored {count} times"
        if not was_slow:
            return
    pytest.fail(f"{name} waits for more than {MOST} messages")


class Told(NamedTuple):
    """A world in which something is written that many others write to."""

    mesh: Mesh
    others: Mesh
    server: Server

    async def others_write(self, key: str = "k") -> None:
        for number in range(self.others.connection.settings.memory_history):
            await Memory(self.others, "notes").put(key, number)

    async def ours(self, key: str = "k") -> int:
        return [one.by for one in await Memory(self.others, "notes").history(key)].count("ours")

    async def forget(self) -> None:
        """Have the server be another, which knows the ids of what it still keeps."""
        self.server.kill()
        await self.server.wait()
        await self.server.start()
        for mesh in self.mesh, self.others:
            await mesh.connection.connected()


@pytest.fixture
async def world(server: Server) -> AsyncIterator[Told]:
    async with Mesh.connect(url=server.url) as mesh, Mesh.connect(url=server.url) as others:
        yield Told(mesh, others, server)


async def test_what_a_server_has_forgotten_is_not_stored_again(world: Told) -> None:
    mesh = world.mesh
    store = Store(mesh.connection, mesh.telemetry)

    async def ask(id_: str, ago: float) -> Written:
        (done,) = await store.write("notes", [Write("k", "ours")], Author("ours"), asked_as=id_, ago=ago)
        return done

    began = time.monotonic()
    first = await ask("a" * 32, 0.0)
    assert await ask("a" * 32, time.monotonic() - began) == first
    await world.others_write()
    await eventually(lambda: time.monotonic() - mesh.connection.since > earlier.SLACK + 0.2)
    with pytest.raises(OutcomeUnknownError):
        await ask("a" * 32, 0.1)
    assert await world.ours() == 0
    await ask("b" * 32, 0.1)
    assert await world.ours() == 1, "the server still knew that it was not carried out"
    await world.others_write()
    await world.forget()
    for id_ in "a" * 32, "b" * 32, "c" * 32:
        with pytest.raises(OutcomeUnknownError):
            await ask(id_, time.monotonic() - began)
    assert await world.ours() == 0
    await store.close()


async def test_while_a_coordinator_is_busy_time_goes_on(world: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(earlier, "SLACK", 0.2)
    mesh, id_ = world.mesh, "a" * 32
    stores = [Store(mesh.connection, mesh.telemetry) for _ in range(2)]
    began = time.monotonic()
    await stores[0].write("notes", [Write("k", "ours")], Author("ours"), asked_as=id_)
    await world.others_write()
    await world.forget()
    slow = Slow(mesh, 0)
    ago = time.monotonic() - began
    asking = asyncio.create_task(stores[1].write("notes", [Write("k", "ours")], Author("ours"), asked_as=id_, ago=ago))
    await slow.stopped.wait()
    await pause(1.0)
    slow.go_on()
    with pytest.raises(OutcomeUnknownError):
        await asking
    assert await world.ours() == 0
    for store in stores:
        await store.close()


@pytest.mark.parametrize("fenced", [False, True], ids=["", "under a lock"])
@pytest.mark.parametrize("kept", [True, False], ids=["kept", "pushed out"])
async def test_whoever_writes_himself_has_it_stored_once_whatever_the_server_has_forgotten(
    world: Told, *, fenced: bool, kept: bool
) -> None:
    mesh = world.mesh
    store = Store(mesh.connection, mesh.telemetry)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(store.close)
        await store.describe("notes")
        await eventually(lambda: store._usage.cached("notes"))
        lock = Memory(world.others, "notes").lock("k")
        if fenced:
            await stack.enter_async_context(lock)
        fence = lock.fence if fenced else None
        slow = Slow(mesh, 1 if fenced else 0)  # the first answer tells of the lock
        writing = asyncio.create_task(store.write("notes", [Write("k", "ours")], Author("ours"), fence))
        await slow.stopped.wait()
        assert await world.ours() == 1
        if not kept:
            await world.others_write()
        slow.never_mind()
        await world.forget()
        if kept:
            (done,) = await writing
            assert done.version == (await Memory(world.others, "notes").history("k"))[-1].version
        else:
            with pytest.raises(OutcomeUnknownError):
                await writing
        assert await world.ours() == kept


async def test_each_time_that_it_is_asked_again_a_coordinator_hears_since_when_it_is_asked(world: Told) -> None:
    service = Service(world.others.connection, world.others.telemetry, subjects.MEMORY, "busy-1", "1.0.0")
    heard: list[tuple[float, float]] = []

    async def write(request: Request) -> list[dict[str, Any]]:
        asked = codec.read(Writes, request.headers, request.body, subject="write")
        heard.append((time.monotonic(), asked.ago))
        if len(heard) == 1 or heard[-1][0] - heard[0][0] < 1.0:
            raise RemoteError("unavailable", "it is busy", retryable=True)
        return [asdict(Written("k", 1))]

    service.endpoint("write", write, scoped=True)
    await service.start()
    writing = asyncio.create_task(Remote(world.mesh).write("notes", [Write("k", "ours")], Author("ours")))
    await eventually(lambda: heard)
    await service.pause()
    await pause(1.0)  # nobody is there to be asked
    await service.resume()
    await writing
    began = heard[0][0]
    assert heard[0][1] == 0.0
    assert all(at - began - 0.2 < ago < at - began + 0.5 for at, ago in heard[1:]), heard
    await service.drain(1)
