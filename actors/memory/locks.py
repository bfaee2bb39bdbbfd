"""Locks on the streams themselves, for who may touch them: `LockBackend` by compare and swap (ADR 18)."""

from __future__ import annotations

import time

from actors.memory import locktable, sessions
from actors.memory.backend import Author, Session
from actors.memory.errors import DeadlockError, LockLostError, TooManyLocksError
from actors.memory.locktable import CODES, MODES, Claim, Table
from actors.memory.model import Fence, LockState, Mode
from actors.memory.sessions import Sessions, by_of
from actors.memory.trees import Trees
from bus import reading, subjects
from bus.connection import Connection
from bus.errors import ConfigError


class Locks:
    """The locks of all namespaces, as one client, or one coordinator, takes them."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sessions = Sessions(connection)
        self._trees = Trees(connection)

    async def close(self) -> None:
        """Follow nothing more. What is held stays held, until its session ends."""
        await self._trees.close()

    # --- sessions ---------------------------------------------------------------------------------------------

    async def open_session(self, author: Author) -> Session:
        """A new session; see `LockBackend`. Its id begins with whose it is."""
        return await self._sessions.open(author)

    async def renew(self, session: Session) -> Session:
        """The same session for another lease; see `LockBackend`."""
        return await self._sessions.renew(session)

    async def close_session(self, session: Session) -> None:
        """End a session; see `LockBackend`. A keeper takes away what it still holds."""
        await self._sessions.close(session)

    # --- locks ------------------------------------------------------------------------------------------------

    async def lock(
        self,
        namespace: str,
        key: str,
        mode: Mode,
        *,
        id: str,  # noqa: A002
        owner: str,
        session: Session,
        author: Author,  # noqa: ARG002  (its session says whose it is)
        wait: float,
    ) -> Fence | None:
        """Take a lock, or wait for it in its place; see `LockBackend`. With `wait` 0 no place is taken.

        Cancelled, or without an answer, whether it is held or waited for is not known: `unlock` gives it up.
        """
        sessions.checked(session.id)
        of, _, name = owner.rpartition(".")
        if owner != session.id and (of != session.id or not subjects.is_token(name)):
            raise ConfigError(f"owner {owner}", f"is neither its session, {session.id}, nor that, a dot and a name")
        table = self._trees.get(subjects.lock_table(namespace, key))
        subjects.token(id, "id of a lock")
        claim = Claim(id, session.id, owner, key, CODES[mode], time.time())
        change = await table.change(lambda before: locktable.request(before, claim, queue=wait > 0), gives=False)
        standing = change.after
        if wait > 0 and standing.table.waiter(id) is not None:
            standing = await table.wait(id, wait)
        held, refusal = standing.table.holder(id), standing.table.refusal(id)
        if held is not None:
            return Fence(namespace, key, id, held.number)
        if refusal is not None:
            await table.change(lambda before: locktable.release(before, id, time.time()))
            raise DeadlockError(key, str(mode), refusal.circle)
        if standing.table.marked(id) or (change.after is not change.before and standing.table.waiter(id) is None):
            raise LockLostError(key, f"session {session.id} has ended, or the lock was given up elsewhere")
        if standing.table.waiter(id) is None and locktable.full(standing.table, claim):
            raise TooManyLocksError(f"locks on {key} and beside it", locktable.MOST)
        return None

    async def unlock(self, namespace: str, key: str, id: str, *, mark: bool = False) -> bool:  # noqa: A002
        """Give up a lock, or the place in the queue for it; see `LockBackend`.

        What is still on its way from here to the server under this id takes nothing after that. With `mark` nor does
        what others do, who may have been asked for the same.
        """
        seen = False
        table = self._trees.get(subjects.lock_table(namespace, key))

        def release(before: Table) -> Table:
            nonlocal seen
            seen = seen or before.knows(id) or before.marked(id)
            return locktable.release(before, id, time.time(), mark=mark)

        change = await table.change(release, surely=True)
        was = change.before.table
        return was.knows(id) or was.marked(id) or (seen and change.doubtful)

    async def locks(self, namespace: str = "") -> list[LockState]:
        """All locks, each tree's as they stand at one moment; see `LockBackend`."""
        scope = f"{subjects.token(namespace, 'namespace')}.*" if namespace else "*.*"
        stream, prefix = subjects.bucket(subjects.MEMORY_BUCKET), subjects.entry(subjects.MEMORY_BUCKET, "")
        there = await reading.subjects_in(self._connection, stream, f"{prefix}{subjects.LOCKS}.{scope}")
        found: dict[str, list[LockState]] = {}
        async for stored in reading.latest(self._connection, stream, there):
            key = stored.subject.removeprefix(prefix)
            table = locktable.decode(stored.body, stored.sequence, subject=stored.subject)
            found[key] = _states(key.split(".")[1], table)
        return [one for key in sorted(found) for one in found[key]]


def _states(namespace: str, table: Table) -> list[LockState]:
    """Holders by key, then the waiters in their order."""
    claims = [*sorted(table.holders, key=lambda one: (one.key, one.number)), *table.waiters]
    held = len(table.holders)
    return [
        LockState(
            namespace=namespace,
            key=one.key,
            mode=MODES[one.code],
            id=one.id,
            session=one.session,
            by=by_of(one.session),
            since=one.since,
            token=one.number if place < held else 0,
        )
        for place, one in enumerate(claims)
    ]
