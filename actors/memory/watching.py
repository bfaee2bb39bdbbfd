"""Watches a part of a namespace: every version, in order, each once, as fast as the watcher takes them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

from actors.memory import versions
from actors.memory.clock import Clock, retried
from actors.memory.errors import NoSuchVersionError
from actors.memory.model import Entry
from actors.memory.versions import STREAM, is_version
from bus import subjects
from bus.connection import Connection
from bus.errors import BusClosedError, DecodeError, InvalidKeyError
from bus.jetstream import StoredMessage
from bus.nursery import Nursery
from bus.watch import LATEST, Watch

log = logging.getLogger(__name__)

BUFFERED: Final = 1000
"""Versions, and bytes of them, that wait for a watcher who is slow. More are fetched again when he has taken these."""
BUFFERED_BYTES: Final = 8 * 1024 * 1024


async def watch(
    connection: Connection, clock: Clock, namespace: str, prefix: str, since: int | None
) -> AsyncGenerator[Entry, None]:
    """As `Backend.watch`."""
    if since is not None and since != 0 and not is_version(since):
        raise NoSuchVersionError(prefix or namespace, since, "a version is a number, 0 for all that are kept")
    subject = subjects.entry(subjects.MEMORY_BUCKET, subjects.kept_under(subjects.ENTRIES, namespace, prefix))
    start, fresh = (LATEST, True) if since is None else (_from(since + 1), False)
    while True:
        tail = _Tail(connection, subject, start)
        try:
            async with aclosing(tail.messages()) as messages:
                async for stored in messages:
                    start = _from(stored.sequence + 1)
                    entry = await entry_in(stored, clock)
                    if entry is not None and (entry.live or not fresh or stored.sequence > tail.began):
                        yield entry
        finally:
            await tail.close()
        fresh = False  # it was slow: from here on come all versions, not just the newest


def _from(sequence: int) -> dict[str, Any]:
    return {"deliver_policy": "by_start_sequence", "opt_start_seq": sequence}


async def entry_in(stored: StoredMessage, clock: Clock) -> Entry | None:
    """The version in a message; None, and a line in the log, where it is none."""
    now = await clock.now() if versions.time_to_live(stored.headers) else 0.0
    try:
        return versions.entry_of(stored, versions.key_of(stored.subject), now=now)
    except (DecodeError, InvalidKeyError) as error:
        log.warning("%s; it is left out", error)  # one that nobody can read must not stop those who watch the others
        return None


class _Tail:
    """What follows in the stream, until more waits than is kept in memory."""

    def __init__(self, connection: Connection, subject: str, start: dict[str, Any]) -> None:
        self._connection = connection
        self._nursery = Nursery("watch of shared memory")
        self._watch = Watch(connection, STREAM, subject, self._on_message, start=start, spawn=self._nursery.spawn)
        self._waiting: deque[StoredMessage] = deque()
        self._bytes = 0
        self._full = False
        self._news = asyncio.Event()

    @property
    def began(self) -> int:
        """The stream's last sequence as it was first followed."""
        return self._watch.began

    def _on_message(self, stored: StoredMessage) -> None:
        if self._full:
            return
        self._waiting.append(stored)
        self._bytes += len(stored.body)
        if len(self._waiting) >= BUFFERED or self._bytes >= BUFFERED_BYTES:
            self._full = True
            self._nursery.spawn(self._watch.close())
        self._news.set()

    def _wake(self, _: object) -> None:
        self._news.set()

    async def messages(self) -> AsyncGenerator[StoredMessage, None]:
        """All that comes; ends when more came than is kept.

        Raises:
            BusError: it cannot be followed any more.
        """
        closed, failed = self._connection.closed, self._nursery.failed
        failed.add_done_callback(self._wake)
        closed.add_done_callback(self._wake)
        try:
            self._nursery.spawn(self._open())
            while True:
                while self._waiting:
                    stored = self._waiting.popleft()
                    self._bytes -= len(stored.body)
                    yield stored
                if self._full:
                    return
                if failed.done():
                    raise failed.result()
                if closed.done():
                    raise closed.result() or BusClosedError
                self._news.clear()
                await self._news.wait()
        finally:
            closed.remove_done_callback(self._wake)

    async def _open(self) -> None:
        try:
            await retried(self._connection, self._watch.open)
        except TimeoutError:
            log.debug("not all that stood there has come yet; it still does")

    async def close(self) -> None:
        """Follow no more."""
        await self._nursery.close(())  # also what closes the watch, should it be at it
        await self._watch.close()
