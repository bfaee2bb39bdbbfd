"""Sessions: the leases that locks hang on. The server ends one that is not renewed, and its mark says so to keepers."""

from __future__ import annotations

import secrets
from typing import Final, NamedTuple

from actors.memory.backend import Author, Session
from actors.memory.errors import LockLostError
from bus import codec, subjects
from bus.connection import Connection
from bus.errors import WrongSequenceError
from bus.messages import CONTENT_TYPE, MSGPACK
from bus.store import Bucket
from bus.streams import SESSION_MARKER_TTL

_HEADERS: Final = {CONTENT_TYPE: MSGPACK}
_NOBODY: Final = "anon"


class Record(NamedTuple):
    """A session as it stands in the bucket."""

    by: str
    """Whose it is."""
    revision: int


def by_of(session: str) -> str:
    """Whose a session is, by its id."""
    return session.rpartition("-")[0]


async def read(connection: Connection, session: str) -> Record | None:
    """A session as the leader has it; None: it has ended, or never was.

    Raises:
        TransportError: no answer.
    """
    if not may_be(session):
        return None  # it stands in a table that somebody else wrote, and nobody could ever open it
    return await _read(Bucket(connection, subjects.SESSIONS_BUCKET), session)


async def _read(bucket: Bucket, session: str) -> Record | None:
    entry = await bucket.get(checked(session))
    if entry is None or not entry.live:
        return None
    return Record(by_of(session), entry.revision)


def may_be(session: str) -> bool:
    """Whether a session can have this id, which others may have made up."""
    by, _, rest = session.rpartition("-")
    return subjects.is_token(by) and subjects.is_token(rest)


def checked(session: str) -> str:
    """The id, as a key of the bucket.

    Raises:
        InvalidSubjectError: no session can have it.
    """
    by, _, rest = session.rpartition("-")
    return f"{subjects.token(by, 'session')}-{subjects.token(rest, 'session')}"


class Sessions:
    """The sessions in the bucket SESSIONS."""

    def __init__(self, connection: Connection) -> None:
        self._bucket = Bucket(connection, subjects.SESSIONS_BUCKET)
        self._lease = float(int(connection.settings.memory_lease))  # the server counts whole seconds

    async def open(self, author: Author) -> Session:
        """A new one. Its id begins with whose it is.

        Raises:
            TransportError: whether it was made is not known; it ends by itself.
        """
        by = author.by if subjects.is_token(author.by) else _NOBODY
        session = f"{by}-{secrets.token_hex(8)}"
        try:
            return Session(session, await self._put(session, 0, None), self._lease)
        except WrongSequenceError:  # the answer to the first try was lost
            return await self._standing(session)

    async def renew(self, session: Session) -> Session:
        """The same for another lease. One try.

        Raises:
            LockLostError: it has ended.
            InvalidSubjectError: it never was one.
            TransportError: no answer.
        """
        try:
            revision = await self._put(session.id, session.revision, 0.0)
        except WrongSequenceError:  # it has ended, or the answer to an earlier try was lost
            standing = await self._standing(session.id)
            revision = await self._put(session.id, standing.revision, 0.0)
        return Session(session.id, revision, self._lease)

    async def _put(self, session: str, expect: int, patience: float | None) -> int:
        key, body = checked(session), codec.encode({})
        return await self._bucket.put(key, body, _HEADERS, expect=expect, ttl=self._lease, patience=patience)

    async def close(self, session: Session) -> None:
        """End it; one that has ended is no error.

        Raises:
            InvalidSubjectError: it never was one.
            TransportError: no answer.
        """
        if await _read(self._bucket, session.id) is not None:
            await self._bucket.remove(session.id, ttl=SESSION_MARKER_TTL)

    async def _standing(self, session: str) -> Session:
        found = await _read(self._bucket, session)
        if found is None:
            raise LockLostError("all that it held", f"session {session} was not renewed in {self._lease:g} s")
        return Session(session, found.revision, self._lease)
