"""The last changes of all entries, for those that may follow no stream and ask for changes instead.

Whichever replica is asked, what it answers has no gap: what it no longer has at hand it reads from the stream.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple

from bus import jetstream, subjects
from bus.connection import Connection
from bus.errors import RequestTimeoutError
from bus.watch import Watch

log = logging.getLogger(__name__)

KEPT: Final = 4096
"""Changes at hand, at the least once there were so many; twice as many at the most."""
KEPT_BYTES: Final = 32 * 1024 * 1024
"""Of them, likewise."""
AT_ONCE: Final = 512 * 1024
"""Bytes of one answer, but for one change that is larger."""
IDLE: Final = 60.0
"""Seconds after which the stream is followed no more when nobody has asked."""
_STREAM: Final = subjects.bucket(subjects.MEMORY_BUCKET)
_PREFIX: Final = subjects.entry(subjects.MEMORY_BUCKET, "")


class Found(NamedTuple):
    """Changes in order. All up to `position` that were asked for are among them, or came before."""

    changes: list[jetstream.StoredMessage]
    position: int
    anew: bool = False


class Recent:
    """Follows all entries while somebody asks, and answers what changed."""

    def __init__(
        self, connection: Connection, *, spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
    ) -> None:
        self._connection = connection
        self._spawn = spawn
        self._opening = asyncio.Lock()
        self._watch: Watch | None = None
        self._stale = False
        self._asked_at = 0.0
        self._sequences: list[int] = []
        self._changes: list[jetstream.StoredMessage] = []
        self._bytes = 0
        self._floor = 0
        """All changes after this one are at hand."""
        self._head = 0
        """Up to which all is known."""
        self._waiters: dict[asyncio.Future[None], str] = {}
        """By what the subject of a change that they wait for begins with."""

    async def position(self) -> int:
        """How far the stream has got, as its leader says."""
        info = await jetstream.call(self._connection, "STREAM.INFO", _STREAM)
        return int(info["state"]["last_seq"])

    async def after(self, namespace: str, prefix: str, since: int, *, wait: float, limit: int) -> Found:
        """What was written after `since` at and under a key; if there is nothing, wait up to `wait` seconds for it."""
        loop = asyncio.get_running_loop()
        until = loop.time() + wait
        begins = subjects.entry(subjects.MEMORY_BUCKET, subjects.kept_under(subjects.ENTRIES, namespace, prefix)[:-1])
        await self._open()
        if since < self._floor:
            return await self._read(begins, since, limit)
        if since > self._head and since > (last := await self.position()):
            return Found([], last, anew=True)
        while not self._stale and since >= self._floor:
            found = self._at_hand(begins, since, limit)
            if found.changes or loop.time() >= until:
                return found
            await self._wait(begins, until)
        return Found([], since)

    async def close(self) -> None:
        """Follow nothing any more, until somebody asks."""
        watch, self._watch = self._watch, None
        if watch is not None:
            await watch.close()
        self._sequences, self._changes, self._bytes, self._stale = [], [], 0, False

    # --- what is at hand --------------------------------------------------------------------------------------

    def _at_hand(self, begins: str, since: int, limit: int) -> Found:
        some: list[jetstream.StoredMessage] = []
        size = 0
        for change in self._changes[bisect_right(self._sequences, since) :]:
            if not change.subject.startswith(begins):
                continue
            size += len(change.body)
            if some and (size > AT_ONCE or len(some) >= limit):
                return Found(some, some[-1].sequence)
            some.append(change)
        return Found(some, max(since, self._head))

    async def _wait(self, begins: str, until: float) -> None:
        loop = asyncio.get_running_loop()
        told: asyncio.Future[None] = loop.create_future()
        self._waiters[told] = begins
        try:
            async with asyncio.timeout_at(until):
                await told
        except TimeoutError:
            pass  # it is looked once more, and said how far all is known
        finally:
            del self._waiters[told]

    async def _read(self, begins: str, since: int, limit: int) -> Found:
        """From the stream, as its leader has it."""
        head, some, size = self._head, list[jetstream.StoredMessage](), 0
        while len(some) < limit and size < AT_ONCE:
            found = await jetstream.after(self._connection, _STREAM, since + 1, f"{begins}>")
            if found is None:
                return Found(some, max(since, head))
            if some and size + len(found.body) > AT_ONCE:
                break
            some.append(found)
            size, since = size + len(found.body), found.sequence
        return Found(some, since)

    # --- following --------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        self._asked_at = asyncio.get_running_loop().time()
        if self._watch is not None and not self._stale:
            return
        async with self._opening:
            if self._watch is not None and not self._stale:
                return
            await self.close()
            self._floor = self._head = await self.position()
            start = {"deliver_policy": "by_start_sequence", "opt_start_seq": self._head + 1}
            watch = Watch(
                self._connection,
                _STREAM,
                f"{_PREFIX}{subjects.ENTRIES}.>",
                self._receive,
                start=start,
                on_reset=self._on_reset,
                spawn=self._spawn,
            )
            try:
                await watch.open()
            except TimeoutError:
                await watch.close()
                raise RequestTimeoutError(_STREAM, self._connection.settings.publish_timeout) from None
            except BaseException:
                await watch.close()
                raise
            self._watch = watch
            self._spawn(self._close_when_idle(watch))

    def _receive(self, change: jetstream.StoredMessage) -> None:
        self._head = change.sequence
        self._sequences.append(change.sequence)
        self._changes.append(change)
        self._bytes += len(change.body)
        if len(self._changes) > 2 * KEPT or self._bytes > 2 * KEPT_BYTES:
            self._forget()
        for told, begins in self._waiters.items():
            if not told.done() and change.subject.startswith(begins):
                told.set_result(None)

    def _forget(self) -> None:
        """The older half of what is at hand."""
        some = max(1, len(self._changes) // 2)
        self._floor = self._sequences[some - 1]
        self._bytes -= sum(len(change.body) for change in self._changes[:some])
        del self._sequences[:some], self._changes[:some]

    def _on_reset(self) -> None:
        """The stream is another one: what is at hand is of none that there is."""
        log.warning("the stream of shared memory was made anew")
        self._stale = True
        for told in self._waiters:
            if not told.done():
                told.set_result(None)

    async def _close_when_idle(self, watch: Watch) -> None:
        loop = asyncio.get_running_loop()
        while (left := self._asked_at + IDLE - loop.time()) > 0:  # noqa: ASYNC110  (nobody tells that he will not ask)
            await asyncio.sleep(left)
        async with self._opening:
            if self._watch is watch:
                await self.close()
