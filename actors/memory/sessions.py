"""Sessions: the leases that locks hang on. The server ends one that is not renewed, and its mark says so to keepers."""

from __future__ import annotations

import secrets
from typing import Final

from actors.memory.backend import Author, Session
from actors.memory.errors import LockLostError
from bus import codec, subjects
from bus.connection import Connection
from bus.errors import WrongSequenceError
from bus.messages import CONTENT_TYPE, MSGPACK
from bus.store import Bucket

_HEADERS: Final = {CONTENT_TYPE: MSGPACK}
_NOBODY: Final = "anon"


def by_of(session: str) -> str:
    """Whose a session is, by its id."""
    return session.rpartition("-")[0]


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
            revision = await self._bucket.put(session, self._body(), _HEADERS, expect=0, ttl=self._lease)
        except WrongSequenceError:  # the answer to the first try was lost
            revision = (await self._standing(session)).revision
        return Session(session, revision, self._lease)

    async def renew(self, session: Session) -> Session:
        """The same for another lease.

        Raises:
            LockLostError: it has ended.
            TransportError: no answer.
        """
        while True:
            try:
                revision = await self._bucket.put(
                    session.id, self._body(), _HEADERS, expect=session.revision, ttl=self._lease, patience=0.0
                )
            except WrongSequenceError:  # it has ended, or the answer to an earlier try was lost
                standing = await self._standing(session.id)
                if standing.revision == session.revision:
                    raise
                session = standing
            else:
                return Session(session.id, revision, self._lease)

    async def close(self, session: Session) -> None:
        """End it; one that has ended is no error.

        Raises:
            TransportError: no answer.
        """
        if await self.lives(session.id):
            await self._bucket.remove(session.id)

    async def lives(self, session: str) -> bool:
        """Whether there is such a session, as the leader has it."""
        entry = await self._bucket.get(session)
        return entry is not None and entry.live

    async def _standing(self, session: str) -> Session:
        entry = await self._bucket.get(session)
        if entry is None or not entry.live:
            raise LockLostError("all that it held", f"session {session} was not renewed in {self._lease:g} s")
        return Session(session, entry.revision, self._lease)

    @staticmethod
    def _body() -> bytes:
        return codec.encode({})
