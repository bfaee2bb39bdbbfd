"""Takes the locks of the dead away, and has waits ended that would never end. Every coordinator has one.

All do the same, by compare and swap on what stands there, so what one has done the next finds done. Work is done for
tables that have changed, and for those that ways lead to from them. What goes wrong with one table, or one session,
is no matter to the others, and is tried again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final

from actors.memory import locktable, sessions
from actors.memory.circles import Circles, namespace_of
from actors.memory.locktable import EMPTY
from actors.memory.overview import Overview
from actors.memory.sessions import by_of
from actors.memory.trees import Trees
from actors.memory.unused import Unused
from bus import jetstream, store, subjects
from bus.connection import Connection
from bus.errors import BusError, DecodeError
from bus.watch import Watch

log = logging.getLogger(__name__)

EVICTED: Final = "evicted"
DEADLOCK: Final = "deadlock"
_GATHER: Final = 0.05
"""Seconds from a change to the look at it: a table that many want changes a thousand times a second."""
_AGAIN: Final = (0.5, 8.0)
"""Seconds to the next try of what went wrong, and the longest."""
_AT_ONCE: Final = 16
"""Sessions, or tables, that are seen to side by side: thousands may die at once."""
_STREAM: Final = subjects.bucket(subjects.MEMORY_BUCKET)
_PREFIX: Final = subjects.entry(subjects.MEMORY_BUCKET, "")

Tell = Callable[..., Awaitable[None]]
"""Is told what happened in a namespace: `tell(namespace, what, once=..., **details)`."""


class Keeper:
    """Follows all tables of locks, and the sessions of those that stand in them."""

    def __init__(
        self, connection: Connection, *, tell: Tell, spawn: Callable[[Coroutine[Any, Any, None]], object]
    ) -> None:
        """`tell` hears of `EVICTED` and `DEADLOCK`; `spawn` runs a coroutine."""
        self._connection = connection
        self._tell = tell
        self._spawn = spawn
        self._lease = connection.settings.memory_lease
        self._trees = Trees(connection)
        self._unused = Unused(connection, spawn)
        everything = subjects.entry(subjects.MEMORY_BUCKET, f"{subjects.LOCKS}.>")
        self._watch = Watch(connection, _STREAM, everything, self._on_table, on_reset=self._forget, spawn=spawn)
        leases = subjects.entry(subjects.SESSIONS_BUCKET, ">")
        stream = subjects.bucket(subjects.SESSIONS_BUCKET)
        self._leases = Watch(connection, stream, leases, self._on_session, on_reset=self._alive_clear, spawn=spawn)
        self._overview = Overview()
        self._circles = Circles(connection, self._trees, self._overview, self._on_circle)
        self._alive: dict[str, float] = {}
        """When a session was last seen to be opened or renewed, by the loop's clock."""
        self._changed: dict[str, jetstream.StoredMessage] = {}
        self._ended: set[str] = set()
        self._again: set[str] = set()
        """Tables in which something went wrong."""
        self._pause = _AGAIN[0]
        self._timer: asyncio.TimerHandle | None = None
        self._patrol: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._busy = False
        self._closed = False

    @property
    def held(self) -> int:
        """Locks that are held."""
        return self._overview.held

    @property
    def waiting(self) -> int:
        """Locks that are waited for."""
        return self._overview.waiting

    async def open(self) -> None:
        """Keep them from now on.

        Raises:
            NotFoundError, ServerError: a stream is not there, or refuses us.
            TransportError: no answer.
        """
        await self._leases.open()
        await self._watch.open()
        self._on_patrol()

    async def close(self) -> None:
        """Keep them no more."""
        self._closed = True
        for timer in (self._timer, self._patrol):
            if timer is not None:
                timer.cancel()
        self._unused.close()
        await self._watch.close()
        await self._leases.close()
        await self._trees.close()

    # --- what is seen -----------------------------------------------------------------------------------------

    def _on_table(self, stored: jetstream.StoredMessage) -> None:
        self._changed[stored.subject.removeprefix(_PREFIX)] = stored
        self._soon(_GATHER)

    def _on_session(self, stored: jetstream.StoredMessage) -> None:
        entry = store.entry_of(subjects.SESSIONS_BUCKET, stored)
        if entry.live:
            self._alive[entry.key] = asyncio.get_running_loop().time()
            return
        self._alive.pop(entry.key, None)
        if entry.key in self._overview.of_session:  # of others a table may be about to come: its look finds them dead
            self._ended.add(entry.key)
            self._soon(0.0)

    def _forget(self) -> None:
        self._overview.forget()
        self._changed.clear()

    def _alive_clear(self) -> None:
        self._alive.clear()

    def _on_patrol(self) -> None:
        """Doubt those that were not heard of for longer than a lease: their end may have been told while we were away,
        and no table tells of it.
        """
        loop = asyncio.get_running_loop()
        for session, seen in list(self._alive.items()):
            if loop.time() > seen + 1.5 * self._lease:
                del self._alive[session]
        of_session = self._overview.of_session
        doubted = {key for one in of_session.keys() - self._alive.keys() for key in of_session[one]}
        if doubted:
            self._again |= doubted
            self._soon(0.0)
        self._patrol = loop.call_later(self._lease, self._on_patrol)

    def _soon(self, seconds: float) -> None:
        if self._busy or self._closed:
            return
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        if self._timer is not None:
            if self._due <= due:
                return
            self._timer.cancel()
        self._timer, self._due = loop.call_later(seconds, self._begin), due  # a handle of uvloop may not say when

    def _begin(self) -> None:
        self._timer = None
        self._busy = True
        self._spawn(self._look())

    async def _look(self) -> None:
        """Take what has changed, and do what is to be done about it."""
        changed, self._changed = self._changed, {}
        ended, self._ended = self._ended, set()
        tables, self._again = self._again | changed.keys(), set()
        try:
            for key, stored in changed.items():
                self._read(key, stored)
            dead = ended | await self._strangers(tables)
            self._again |= await self._circles.end(tables, dead)
            await self._bury(dead)
        finally:
            self._busy = False
            failed = bool(self._again)
            if self._changed or self._ended:
                self._soon(_GATHER)
            elif failed:
                self._soon(self._pause)
            self._pause = min(_AGAIN[1], self._pause * 2) if failed else _AGAIN[0]

    def _read(self, key: str, stored: jetstream.StoredMessage) -> None:
        try:
            table = locktable.decode(stored.body, stored.sequence, subject=stored.subject)
        except DecodeError as error:
            log.warning("%s", error)
            self._overview.take(key, EMPTY)  # who waits there waits until somebody repairs it, and nobody else does
            return
        self._overview.take(key, table)
        if table.empty:
            self._unused.add(key, stored.sequence)
        else:
            self._unused.drop(key)

    # --- the dead ---------------------------------------------------------------------------------------------

    async def _strangers(self, changed: Iterable[str]) -> set[str]:
        """Those in some tables whose session has ended: its mark may have come before the table."""
        found: set[str] = set()

        async def look(session: str) -> None:
            try:
                if await sessions.read(self._connection, session) is None:
                    found.add(session)
            except BusError as error:
                log.warning("whether session %s lives is looked at again: %s", session, error)
                self._again |= self._overview.of_session.get(session, set())

        tables = self._overview.tables
        standing = {one for key in changed if key in tables for one in tables[key].sessions}
        await _each(look, standing - self._alive.keys())
        return found

    async def _bury(self, dead: set[str]) -> None:
        """Take away what sessions have that have ended."""

        async def evict(key: str) -> None:
            try:
                await self._evict(key, dead)
            except BusError as error:
                log.warning("the locks of the dead in %s are taken away later: %s", key, error)
                self._again.add(key)

        await _each(evict, {key for one in dead for key in self._overview.of_session.get(one, ())})

    async def _evict(self, key: str, dead: set[str]) -> None:
        change = await self._trees.get(key).change(lambda table: locktable.evict(table, dead, time.time()))
        if change.after is change.before:
            if key not in self._changed:  # what was purged nobody tells
                self._overview.take(key, change.after.table)
            return
        for one in change.before.table.holders:
            if one.session in dead:
                by = by_of(one.session)
                log.warning("the lock of %s on %s is taken away: its session has ended", by, one.key)
                told = self._tell(namespace_of(key), EVICTED, once=f"memory.{EVICTED}.{one.id}", key=one.key, of=by)
                self._spawn(_awaited(told))

    def _on_circle(self, table: str, id_: str, words: str) -> None:
        told = self._tell(namespace_of(table), DEADLOCK, once=f"memory.{DEADLOCK}.{id_}", circle=words)
        self._spawn(_awaited(told))


async def _each(work: Callable[[str], Coroutine[Any, Any, None]], names: Iterable[str]) -> None:
    """Do it for all, a few of them side by side."""
    left = iter(sorted(names))

    async def do() -> None:
        for name in left:
            await work(name)

    await asyncio.gather(*(do() for _ in range(_AT_ONCE)))


async def _awaited(work: Awaitable[None]) -> None:
    await work
