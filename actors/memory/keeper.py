"""Takes the locks of the dead away, and ends waits that would never end. Every coordinator has one.

All do the same, by compare and swap on what stands there, so what one has done the next finds done. Work is done for
tables that have changed, and for those that ways lead to from them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final

from actors.memory import deadlock, locktable, sessions, tree
from actors.memory.deadlock import Wait
from actors.memory.locktable import EMPTY, MODES, Claim, Table
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
_AGAIN: Final = 0.5
"""Seconds to the next try of what the server did not answer."""
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
        self._trees = Trees(connection)
        self._unused = Unused(connection, spawn)
        everything = subjects.entry(subjects.MEMORY_BUCKET, f"{subjects.LOCKS}.>")
        self._watch = Watch(connection, _STREAM, everything, self._on_table, on_reset=self._forget, spawn=spawn)
        leases = subjects.entry(subjects.SESSIONS_BUCKET, ">")
        stream = subjects.bucket(subjects.SESSIONS_BUCKET)
        self._leases = Watch(connection, stream, leases, self._on_session, on_reset=self._alive_clear, spawn=spawn)
        self._tables: dict[str, Table] = {}
        self._alive: set[str] = set()
        self._of_session: defaultdict[str, set[str]] = defaultdict(set)
        self._holding: defaultdict[str, set[str]] = defaultdict(set)
        self._waiting: defaultdict[str, set[str]] = defaultdict(set)
        """Tables, by owner."""
        self._changed: dict[str, jetstream.StoredMessage] = {}
        self._ended: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._busy = False
        self._closed = False
        self.held = 0
        """Locks that are held."""
        self.waiting = 0
        """Locks that are waited for."""

    async def open(self) -> None:
        """Keep them from now on.

        Raises:
            NotFoundError, ServerError: a stream is not there, or refuses us.
            TransportError: no answer.
        """
        await self._leases.open()
        await self._watch.open()

    async def close(self) -> None:
        """Keep them no more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
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
            self._alive.add(entry.key)
            return
        self._alive.discard(entry.key)
        if entry.key in self._of_session:  # of others a table may be about to come: its look finds them dead
            self._ended.add(entry.key)
            self._soon(0.0)

    def _forget(self) -> None:
        for key in [*self._tables]:
            self._take(key, EMPTY)
        self._changed.clear()

    def _alive_clear(self) -> None:
        self._alive.clear()

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
        try:
            for key, stored in changed.items():
                self._read(key, stored)
            await self._bury({key: self._of_session.get(key, set()) for key in ended})
            await self._bury(await self._strangers(changed))
            await self._break_circles(changed)
        except BusError as error:
            log.warning("locks are kept late: %s", error)
            self._changed = {**changed, **self._changed}
            self._ended |= ended
            await asyncio.sleep(_AGAIN)
        finally:
            self._busy = False
            if self._changed or self._ended:
                self._soon(_GATHER)

    def _read(self, key: str, stored: jetstream.StoredMessage) -> None:
        try:
            table = locktable.decode(stored.body, stored.sequence, subject=stored.subject)
        except DecodeError as error:
            log.warning("%s", error)
            return
        self._take(key, table)
        if table.empty:
            self._unused.add(key, stored.sequence)
        else:
            self._unused.drop(key)

    def _take(self, key: str, table: Table) -> None:
        before = self._tables.pop(key, EMPTY)
        if not table.empty:
            self._tables[key] = table
        self.held += len(table.holders) - len(before.holders)
        self.waiting += len(table.waiters) - len(before.waiters)
        for index, old, new in (
            (self._of_session, before.sessions, table.sessions),
            (self._holding, _owners(before.holders), _owners(table.holders)),
            (self._waiting, _owners(before.waiters), _owners(table.waiters)),
        ):
            for one in old - new:
                index[one].discard(key)
                if not index[one]:
                    del index[one]
            for one in new - old:
                index[one].add(key)

    # --- the dead ---------------------------------------------------------------------------------------------

    async def _strangers(self, changed: Iterable[str]) -> dict[str, set[str]]:
        """Those in some tables whose session has ended, and their tables: its mark may have come before the table."""
        unknown = {one for key in changed if key in self._tables for one in self._tables[key].sessions} - self._alive
        found = await asyncio.gather(*(sessions.read(self._connection, one) for one in unknown))
        return {
            one: self._of_session.get(one, set()) for one, record in zip(unknown, found, strict=True) if record is None
        }

    async def _bury(self, dead: dict[str, set[str]]) -> None:
        """Take away what sessions have that have ended, in these tables."""
        gone = set(dead)
        for key in {key for keys in dead.values() for key in keys}:
            change = await self._trees.get(key).change(lambda table: locktable.evict(table, gone, time.time()))
            if change.after is change.before:
                continue
            for one in change.before.table.holders:
                if one.session in gone:
                    log.warning(
                        "the lock of %s on %s is taken away: its session has ended", by_of(one.session), one.key
                    )
                    await self._tell(
                        _namespace(key), EVICTED, once=f"memory.{EVICTED}.{one.id}", key=one.key, of=by_of(one.session)
                    )

    # --- circles ----------------------------------------------------------------------------------------------

    async def _break_circles(self, changed: Iterable[str]) -> None:
        """End the waits that would never end. In every circle somebody holds a lock and waits for another."""
        owners: set[str] = set()
        for key in changed:
            table = self._tables.get(key, EMPTY)
            owners |= _owners(table.holders) | _owners(table.waiters)
        left: set[str] = set()
        """The ids of those that have left a circle."""
        known: dict[str, list[Wait]] = {}

        def waits(owner: str) -> list[Wait]:
            if owner not in known:
                known[owner] = [*self._waits(owner)]
            return [one for one in known[owner] if one.id not in left]

        for owner in sorted(owners):
            if owner not in self._holding or owner not in self._waiting:
                continue
            while circle := deadlock.circle(owner, waits):
                victim = deadlock.youngest(circle)
                left.add(victim.id)
                if await self._stands(circle):
                    await self._refuse(victim, circle)

    def _waits(self, owner: str) -> Iterable[Wait]:
        for key in self._waiting.get(owner, ()):
            table = self._tables[key]
            for one in table.waiters:
                if one.owner == owner:
                    yield Wait(owner, key, one.id, one.number, frozenset(_owners(locktable.blockers(table, one))))

    async def _stands(self, circle: list[Wait]) -> bool:
        """Whether a circle is one also by what stands in the tables now: we may have heard of that late."""
        keys = list({one.table for one in circle})
        found = await asyncio.gather(*(tree.read(self._connection, key) for key in keys))
        tables = {key: standing.table for key, standing in zip(keys, found, strict=True)}
        for one, following in zip(circle, [*circle[1:], circle[0]], strict=True):
            waiter = tables[one.table].waiter(one.id)
            if waiter is None or following.owner not in _owners(locktable.blockers(tables[one.table], waiter)):
                return False
        return True

    async def _refuse(self, victim: Wait, circle: list[Wait]) -> None:
        words = "; ".join(self._words(one) for one in circle)
        change = await self._trees.get(victim.table).change(
            lambda table: locktable.refuse(table, victim.id, words, time.time())
        )
        if change.after is not change.before:
            log.warning("deadlock: %s", words)
            name, once = _namespace(victim.table), f"memory.{DEADLOCK}.{victim.id}"
            await self._tell(name, DEADLOCK, once=once, circle=words)

    def _words(self, wait: Wait) -> str:
        claim = self._tables[wait.table].waiter(wait.id)
        what = f"{claim.key} ({MODES[claim.code]})" if claim is not None else wait.table
        return f"{by_of(wait.owner.rpartition('.')[0])} waits for {what}"


def _owners(claims: Iterable[Claim]) -> set[str]:
    return {one.owner for one in claims}


def _namespace(table: str) -> str:
    return table.split(".")[1]
