"""Watches of shared memory: in order, without a gap, and each version once."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from actors.memory import watching
from bus import jetstream, subjects
from bus.connection import Connection
from bus.errors import BusClosedError
from bus.mesh import Mesh
from bus.nursery import Nursery
from bus.server import Server
from bus.settings import Settings
from bus.watch import Watch
from revo import Memory
from tests.eventually import eventually
from tests.proxy import proxied

STREAM = subjects.bucket(subjects.MEMORY_BUCKET)


async def consumers(mesh: Mesh) -> int:
    info = await jetstream.call(mesh.connection, "STREAM.INFO", STREAM)
    return int(info["state"]["consumer_count"])


async def test_a_watcher_sees_every_version_in_order_also_when_it_is_slow(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(mesh, "news")
    for number in range(3):
        await memory.put("a/old", number)
    await memory.put("a/gone", 1)
    last = await memory.delete("a/gone")
    await memory.put("b", 1)
    callbacks, standing = len(mesh.connection._on_reconnect), await consumers(mesh)
    monkeypatch.setattr(watching, "BUFFERED", 4)
    async with aclosing(memory.watch("a")) as watcher:
        entry = await anext(watcher)
        assert (entry.key, entry.value) == ("a/old", 2), "what stands there, once, and not what is gone"
        written = [(await memory.put(f"a/{n % 5}", n)).version for n in range(30)]
        await memory.delete("a/0")
        assert [(await anext(watcher)).version for _ in written] == written
        assert (await anext(watcher)).deleted
        await memory.put("b", 2)
        after = await memory.put("a", "itself")
        assert (await anext(watcher)).version == after.version
    async with aclosing(memory.watch("a", since=last.version - 1)) as watcher:
        entries = [await anext(watcher) for _ in range(4)]
        assert [entry.version for entry in entries] == [last.version, *written[:3]]
        assert entries[0].deleted, "all versions were asked for"
    assert await consumers(mesh) == standing
    assert len(mesh.connection._on_reconnect) == callbacks, "nothing is left behind"


async def test_a_watcher_misses_nothing_while_its_wire_is_cut_or_the_server_is_away(
    server: Server, settings: Settings
) -> None:
    async with proxied(server.url) as proxy, Mesh.connect(settings=settings) as mesh:
        theirs = Memory(mesh, "news")
        async with Mesh.connect(url=proxy.url) as far:
            memory = Memory(far, "news")
            seen: list[Any] = []

            async def follow() -> None:
                async for entry in memory.watch():
                    seen.append(entry.value)  # noqa: PERF401

            following = asyncio.create_task(follow())
            await theirs.put("k", 0)
            await eventually(lambda: seen == [0])
            await proxy.cut()
            for number in range(1, 6):
                await theirs.put("k", number)
            reading = asyncio.create_task(memory.get("k"))
            writing = asyncio.create_task(memory.put("ours", 6))
            proxy.mend()
            entry = await reading
            assert entry is not None
            assert entry.value == 5, "a read waits for the wire"
            await writing
            await eventually(lambda: seen == [0, 1, 2, 3, 4, 5, 6])

            server.kill()
            await server.wait()
            writing = asyncio.create_task(theirs.put("k", 7))
            await server.start()
            await writing
            await eventually(lambda: seen == [0, 1, 2, 3, 4, 5, 6, 7])
        with pytest.raises(BusClosedError):
            await following


async def test_what_comes_while_a_watch_asks_where_the_stream_stands_comes_once(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, seen, ask, asked = "$KV.MEMORY.guard.x", list[int](), jetstream.call, list[str]()
    await jetstream.store(mesh.connection, subject, b"")
    nursery = Nursery("test")
    on_message = lambda stored: seen.append(stored.sequence)  # noqa: E731
    watch = Watch(mesh.connection, STREAM, subject, on_message, spawn=nursery.spawn)
    await watch.open()

    async def call(connection: Connection, operation: str, *names: str, **more: Any) -> dict[str, Any]:
        answer = await ask(connection, operation, *names, **more)
        if operation == "STREAM.INFO" and not asked:
            asked.append(operation)
            await jetstream.store(mesh.connection, subject, b"")
            await eventually(lambda: seen == [1, 2])
        return answer

    monkeypatch.setattr(jetstream, "call", call)
    for callback in list(mesh.connection._on_reconnect):
        await callback()
    await eventually(lambda: asked)
    await eventually(watch.current.is_set)
    await jetstream.store(mesh.connection, subject, b"")
    await eventually(lambda: seen[-1] == 3)
    assert seen == [1, 2, 3]
    await watch.close()
    await nursery.close(())


async def test_a_watch_of_what_is_quiet_is_current_soon_where_the_rest_of_the_stream_is_busy(mesh: Mesh) -> None:
    memory, nursery, done = Memory(mesh, "news"), Nursery("test"), asyncio.Event()

    async def busy() -> None:
        while not done.is_set():
            await memory.put("k", 1)

    writing = asyncio.create_task(busy())
    on_message = list[Any]().append
    watch = Watch(mesh.connection, STREAM, "$KV.MEMORY.lock.>", on_message, spawn=nursery.spawn)
    async with asyncio.timeout(10):  # a heartbeat and a look; it was never
        await watch.open()
    done.set()
    await writing
    await watch.close()
    await nursery.close(())
