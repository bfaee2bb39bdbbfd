"""Shared memory where answers are lost, time runs out, watchers are slow, and the server goes away."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, aclosing
from typing import Any

import pytest

from actors.memory import fencing
from actors.memory.errors import OutcomeUnknownError
from actors.memory.holding import Lock
from actors.memory.model import Namespace
from actors.memory.sweeper import Sweeper
from bus import jetstream, subjects
from bus.mesh import Mesh
from bus.nursery import Nursery
from bus.server import Server
from bus.settings import Settings
from bus.topology import server_time
from revo import Memory, StaleFenceError
from tests.eventually import eventually

STREAM = subjects.bucket(subjects.MEMORY_BUCKET)


class Deaf:
    """Loses the next answers of the stream to one client: what was sent is stored, and he does not hear it."""

    def __init__(self, mesh: Mesh) -> None:
        client = mesh.connection.client
        self._deliver = client.deliver
        self._left = 0
        self._lost = asyncio.Event()
        client.deliver = self.deliver  # type: ignore[method-assign]

    def deliver(self, words: list[bytes], data: bytes, start: int, stop: int) -> None:
        if self._left and data.startswith(b'{"stream":"%s"' % STREAM.encode(), start):
            self._left -= 1
            self._lost.set()
        else:
            self._deliver(words, data, start, stop)

    def lose(self, answers: int = 1) -> asyncio.Event:
        """Lose so many; the event is set when the first is lost."""
        self._left, self._lost = answers, asyncio.Event()
        return self._lost


async def newest(mesh: Mesh) -> int:
    """The sequence of the last message that was stored for shared memory."""
    return int((await jetstream.call(mesh.connection, "STREAM.INFO", STREAM))["state"]["last_seq"])


async def test_a_write_whose_answer_is_lost_is_carried_out_once(server: Server) -> None:
    settings = Settings(nats_url=server.url, request_timeout=0.3, publish_timeout=30.0)
    async with Mesh.connect(settings=settings) as mesh, Mesh.connect(url=server.url) as others:
        deaf, memory, theirs = Deaf(mesh), Memory(mesh, "plans"), Memory(others, "plans")
        await memory.put("k", 0)
        deaf.lose()
        blind = await memory.put("k", 1)
        deaf.lose()
        based = await memory.put("k", 2, blind.version)
        deaf.lose(2)
        gone = await memory.delete("k", based.version)
        deaf.lose()
        made = await memory.put_all({"a": 1, "k": 3, "b": 2}, {"k": gone.version})
        assert [one.value for one in await memory.history("k")] == [0, 1, 2, None, 3]
        assert [one.version for one in made] == [gone.version + number for number in (1, 2, 3)]

        async def overtaken(value: Any, by: int) -> Any:
            base = await memory.get("k")
            lost = deaf.lose()
            writing = asyncio.create_task(memory.put("k", value, base))
            await lost.wait()
            for number in range(by):
                await theirs.put("k", f"{value}: theirs {number}")
            return await writing

        done = await overtaken("first", by=3)
        assert done.outcome == "written", "it was, before the others came"
        history = [one.value for one in await memory.history("k")]
        assert history[-4:] == ["first", *(f"first: theirs {number}" for number in range(3))]
        assert history.count("first") == 1
        with pytest.raises(OutcomeUnknownError):
            await overtaken("second", by=16)
        assert "second" not in [one.value for one in await memory.history("k")], "nor is it stored again"

        await theirs.configure(Namespace(strategy="manual"))
        await eventually(lambda: _is(memory, "manual"))
        await memory.put("c", "stands")
        deaf.lose(0)
        lost = deaf.lose()
        writing = asyncio.create_task(memory.put("c", "ours"))
        await lost.wait()
        assert (await writing).outcome == "conflict"
        entry = await memory.get("c")
        assert entry is not None
        assert [one.value for one in entry.alternatives] == ["ours"]


async def _is(memory: Memory, strategy: str) -> bool:
    return (await memory.describe()).strategy == strategy


async def test_who_holds_no_lock_any_more_writes_nothing(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(mesh, "plans")
    async with memory.lock("app") as lock:
        first = await memory.put("app/x", 1, fence=lock)
        await memory.put("app/x", 2, first.version, fence=lock)
        await memory.put_all({"app/y": 1, "app/z": 1}, delete=["app/x"], fence=lock)
        fence = lock.fence
        async with memory.lock("app/other"):  # the table changes, the lock stays
            await memory.put("app/x", 3, fence=lock)
    before = await newest(mesh)
    for write in (
        memory.put("app/x", 4, fence=fence),
        memory.put("app/x", 4, 1, fence=fence),
        memory.put_all({"app/y": 1, "app/z": 1}, fence=fence),
        memory.delete("app/x", fence=fence),
    ):
        with pytest.raises(StaleFenceError):
            await write
    assert await newest(mesh) == before

    ask = fencing.check
    for base in (None, first.version):
        lock = await memory.lock("app").acquire()

        async def check(*asked: Any, lock: Lock = lock) -> int:
            revision = await ask(*asked)
            await lock.release()  # just then
            return revision

        monkeypatch.setattr(fencing, "check", check)
        with pytest.raises(StaleFenceError):
            await memory.put("app/x", "late", base, fence=lock)
    entry = await memory.get("app/x")
    assert entry is not None
    assert entry.value == 3


async def test_entries_end_when_their_time_is_over_and_are_dropped_long_after(server: Server) -> None:
    settings = Settings(nats_url=server.url, memory_deleted=1.5)
    async with AsyncExitStack() as stack:
        mesh = await stack.enter_async_context(Mesh.connect(settings=settings))
        memory = Memory(mesh, "leases")
        await memory.configure(Namespace(strategy="first_writer_wins"))
        await memory.put("before", 1, ttl=0.01)
        nursery = Nursery("test")
        sweepers = [Sweeper(mesh.connection, f"keeper-{number}", spawn=nursery.spawn) for number in range(2)]
        for sweeper in sweepers:
            await sweeper.open()
        watcher = await stack.enter_async_context(aclosing(memory.watch("k")))
        await memory.put("k", 0)
        assert (await anext(watcher)).value == 0
        kept = await memory.put("k/kept", 1, ttl=0.3)
        await memory.put("k/kept", 2, kept.version)
        await memory.put("k/short", 1, ttl=0.3)
        first = [await anext(watcher) for _ in range(3)]
        assert [(one.key, one.ttl, one.live) for one in first] == [
            ("k/kept", 0.3, True),
            ("k/kept", 0.0, True),
            ("k/short", 0.3, True),
        ]
        ended = await anext(watcher)
        assert (ended.key, ended.deleted, ended.expired, ended.base) == ("k/short", True, True, first[2].version)
        assert ended.by.startswith("keeper-")
        assert ended.at >= first[2].at + 0.3, "not before its time"
        assert [one.key for one in (await memory.list("k")).entries] == ["k", "k/kept"]
        assert [(one.value, one.deleted) for one in await memory.history("k/short")] == [(1, False), (None, True)]
        await memory.undelete("k/short")
        await memory.delete("k/kept", first[1].version)

        async def dropped() -> bool:
            return not await memory.history("k/kept") and not await memory.history("before")

        await eventually(dropped)
        assert sum(one.ended for one in sweepers) == 2, "each once"
        assert await memory.get("k/short") is not None
        for sweeper in sweepers:
            await sweeper.close()
        assert not nursery.failed.done()

        await memory.put("unswept", 1, ttl=0.2)  # nobody ends it, and it is gone all the same
        entry = await memory.get("unswept")
        assert entry is not None
        await eventually(lambda: _gone(memory, "unswept"))
        assert await server_time(mesh.connection) >= entry.at + 0.2
        assert (await memory.list("unswept")).entries == ()
        (past,) = await memory.history("unswept")
        assert past.expired
        await memory.put("unswept", 2)
        assert await memory.get("unswept") is not None, "a write to what has expired is a first one"
        await nursery.close(())


async def _gone(memory: Memory, key: str) -> bool:
    return await memory.get(key) is None
