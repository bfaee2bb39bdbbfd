"""Ends entries whose time has run out, and drops what was deleted long ago. Every coordinator does it; who comes second
changes nothing.

Readers need none of it: to them an entry is gone when its time is over, by the server's clock.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple

from actors.memory import versions
from actors.memory.backend import Author
from actors.memory.clock import Clock
from actors.memory.orders import DELETE
from actors.memory.versions import STREAM
from bus import jetstream, subjects
from bus.connection import Connection
from bus.errors import QueueFullError, TransportError, WrongSequenceError
from bus.jetstream import StoredMessage
from bus.messages import EXPECTED_SUBJECT_SEQUENCE
from bus.tasks import new_task_id
from bus.watch import Watch

log = logging.getLogger(__name__)

_SPREAD: Final = 0.05
"""Seconds by which coordinators differ, so that mostly one does what all would."""
_LONGEST: Final = 3600.0
"""Seconds after which the clocks are compared again."""
_AT_ONCE: Final = 64
_AGAIN: Final = 2.0
"""Seconds until what could not be done is tried again."""


class _Due(NamedTuple):
    """What is to be done about a version."""

    at: float
    """Unix seconds, by the server's clock."""
    version: int
    subject: str
    drop: bool
    """It is a delete: drop it and all before it. Otherwise it is to be ended."""


class Sweeper:
    """Knows when which entry ends, from the stream alone, and sees to it."""

    def __init__(
        self, connection: Connection, instance: str, *, spawn: Callable[[Coroutine[Any, Any, None]], object]
    ) -> None:
        """`instance` is who ends an entry, as its last version says. `spawn` runs a coroutine; should it raise, the
        stream is gone, or refuses us.
        """
        self._connection = connection
        self._instance = instance
        self._spawn = spawn
        self._clock = Clock(connection)
        self._due: dict[str, _Due] = {}
        self._heap: list[_Due] = []
        self._timer: asyncio.TimerHandle | None = None
        self._wakes = float("inf")
        self._sweeping = False
        self._closed = False
        self._watch = Watch(
            connection,
            STREAM,
            subjects.entry(subjects.MEMORY_BUCKET, f"{subjects.ENTRIES}.>"),
            self._on_message,
            on_reset=self._forget,
            bodies=False,
            spawn=spawn,
        )
        self.ended = 0
        """How many entries it has ended."""
        self.dropped = 0
        """How many it has dropped."""

    async def open(self) -> None:
        """Know all that ends, and see to it from now on.

        Raises:
            NotFoundError, ServerError: the stream is not there, or refuses us.
            TransportError, TimeoutError: no answer.
        """
        await self._watch.open()

    async def close(self) -> None:
        """End and drop nothing more. May be repeated."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        await self._watch.close()

    # --- what is known ----------------------------------------------------------------------------------------

    def _forget(self) -> None:
        self._due.clear()
        self._heap.clear()

    def _on_message(self, stored: StoredMessage) -> None:
        headers, subject = stored.headers, stored.subject
        ttl = versions.time_to_live(headers)
        if versions.conflicts_of(headers):
            self._due.pop(subject, None)  # it waits for somebody to choose
        elif versions.OPERATION in headers:
            at = stored.stored_at + self._connection.settings.memory_deleted
            self._know(_Due(at, stored.sequence, subject, drop=True))
        elif ttl:
            self._know(_Due(stored.stored_at + ttl, stored.sequence, subject, drop=False))
        else:
            self._due.pop(subject, None)

    def _know(self, due: _Due) -> None:
        self._due[due.subject] = due
        heapq.heappush(self._heap, due)
        if len(self._heap) > 2 * len(self._due) + 1000:  # most are of entries that have been written again since
            self._heap = list(self._due.values())
            heapq.heapify(self._heap)
        if due.at < self._wakes and not self._sweeping:
            self._sweep_soon()

    # --- what is done -----------------------------------------------------------------------------------------

    def _sweep_soon(self) -> None:
        """Look now what is due, and when the next is."""
        if not self._sweeping and not self._closed:
            self._sweeping = True
            self._spawn(self._sweep())

    async def _sweep(self) -> None:
        pause = 0.0
        try:
            self._wakes = float("inf")
            now = await self._clock.now()
            while self._heap and self._heap[0].at <= now and not pause:
                some: list[_Due] = []
                while self._heap and self._heap[0].at <= now and len(some) < _AT_ONCE:
                    due = heapq.heappop(self._heap)
                    if self._due.get(due.subject) is due:
                        some.append(due)
                done = await asyncio.gather(*(self._see_to(due) for due in some))
                pause = 0.0 if all(done) else _AGAIN
            if self._heap:
                self._wakes = self._heap[0].at
                pause = max(pause, min(self._wakes - now, _LONGEST))
        except TransportError as error:
            log.debug("the server's clock is not known: %s", error)
            pause = _AGAIN
        finally:
            self._sweeping = False
        if (self._heap or pause) and not self._closed:
            if self._timer is not None:
                self._timer.cancel()
            delay = pause + random.uniform(0, _SPREAD)  # noqa: S311
            self._timer = asyncio.get_running_loop().call_later(delay, self._sweep_soon)

    async def _see_to(self, due: _Due) -> bool:
        """Whether it needs to be seen to no more."""
        try:
            await (self._drop(due) if due.drop else self._end(due))
        except WrongSequenceError:
            return True  # it was written again, or another was faster; that we are told, too
        except TransportError as error:
            level = logging.WARNING if isinstance(error, QueueFullError) else logging.DEBUG
            log.log(level, "what stands on %s until it is ended or dropped: %s", due.subject, error)
            heapq.heappush(self._heap, due)
            return False
        return True

    async def _end(self, due: _Due) -> None:
        headers = versions.headers_of(Author(self._instance), new_task_id(), {})
        headers |= {versions.OPERATION: DELETE, versions.EXPIRED: "1", versions.BASE: f"{due.version}"}
        headers[EXPECTED_SUBJECT_SEQUENCE] = f"{due.version}"
        try:
            await jetstream.store(self._connection, due.subject, b"", headers, patience=_AGAIN)
        except QueueFullError:
            # Its time is over, the bucket is full: it is dropped now, not after the setting `memory_deleted`.
            log.warning("the bucket is full: %s is dropped, as its time is over, and cannot be had back", due.subject)
            await self._drop(due)
        else:
            self.ended += 1

    async def _drop(self, due: _Due) -> None:
        """Drop a version and all before it; what was written since stays."""
        index = versions.index_of(due.subject)
        for subject in (index, due.subject):
            body = {"filter": subject, "seq": due.version + 1}
            await jetstream.call(self._connection, "STREAM.PURGE", STREAM, body=body)
        if self._due.get(due.subject) is due:
            del self._due[due.subject]
        self.dropped += 1
