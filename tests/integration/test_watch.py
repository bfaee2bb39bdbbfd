"""A watch is current when all of its own part of the stream has come, however much else is written there."""

from __future__ import annotations

import asyncio
import contextlib
import time

from bus import jetstream, subjects, topology
from bus.connection import Connection
from bus.nursery import Nursery
from bus.watch import Watch
from tests.eventually import eventually


def _entry(key: str) -> str:
    return subjects.entry(subjects.MEMORY_BUCKET, key)


async def test_a_watch_is_current_at_once_where_others_write_without_a_pause(connection: Connection) -> None:
    await topology.apply(connection)
    stream = subjects.bucket(subjects.MEMORY_BUCKET)
    nursery = Nursery("test")
    for number in range(100):
        await jetstream.store(connection, _entry(f"lock.ns.{number}"), b"", {})
    written = 0

    async def write() -> None:
        nonlocal written
        then = time.monotonic()
        while True:
            await jetstream.store(connection, _entry(f"entry.ns.{written % 7}._"), b"x", {})
            written += 1
            if time.monotonic() > then:  # too often for a sign of life, too seldom to keep up with the others
                then += 0.4
                await jetstream.store(connection, _entry("lock.ns.0"), b"", {})

    writing = asyncio.create_task(write())
    seen: dict[str, int] = {}
    watch = Watch(
        connection, stream, _entry("lock.>"), lambda one: seen.update({one.subject: one.sequence}), spawn=nursery.spawn
    )
    try:
        await eventually(lambda: written > 50)
        began = time.monotonic()
        await watch.open()
        assert len(seen) == 100
        assert time.monotonic() - began < 1, "by what is its own, not by how far the stream has got"
    finally:
        writing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await writing
        await watch.close()
        await nursery.close(())
