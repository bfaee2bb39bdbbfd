"""Locks on the streams themselves, for who may touch them: `LockBackend` by compare and swap."""

from __future__ import annotations

from actors.memory.backend import Author, Session
from actors.memory.model import Fence, LockState, Mode
from bus.connection import Connection


class Locks:
    """The locks of all namespaces, as one client, or one coordinator, takes them."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def close(self) -> None:
        """Follow nothing more. What is held stays held, until its session ends."""
        raise NotImplementedError

    async def open_session(self, author: Author) -> Session:
        """See `LockBackend`."""
        raise NotImplementedError

    async def renew(self, session: Session) -> Session:
        """See `LockBackend`."""
        raise NotImplementedError

    async def close_session(self, session: Session) -> None:
        """See `LockBackend`."""
        raise NotImplementedError

    async def lock(
        self,
        namespace: str,
        key: str,
        mode: Mode,
        *,
        id: str,  # noqa: A002
        owner: str,
        session: Session,
        author: Author,
        wait: float,
    ) -> Fence | None:
        """See `LockBackend`."""
        raise NotImplementedError

    async def unlock(self, namespace: str, key: str, id: str) -> bool:  # noqa: A002
        """See `LockBackend`."""
        raise NotImplementedError

    async def locks(self, namespace: str = "") -> list[LockState]:
        """See `LockBackend`."""
        raise NotImplementedError
