"""Locks for those who may touch no stream: a coordinator takes them, and they hang on a session of theirs."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from actors.memory.asking import TRY, ask, message
from actors.memory.backend import Author, Session
from actors.memory.messages import MAX_WAIT, Given, Kept, Opening, Wanted
from actors.memory.model import Fence, LockState, Mode
from bus import subjects
from bus.errors import BusError, ConfigError, TransportError
from bus.mesh import Mesh

log = logging.getLogger(__name__)

LATE: Final = 1.0
"""Seconds by which a coordinator may be late to end what nobody waits for any more."""


class RemoteLocks:
    """A `LockBackend` that asks the coordinators of shared memory."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._unanswered: dict[str, float] = {}
        """Locks by id: until when a coordinator may still be about to take one, for all that we know."""
        self._again: set[asyncio.Task[None]] = set()
        mesh.at_close(self.close)

    async def close(self) -> None:
        """Give up nothing more: what is still held ends with its session."""
        for task in self._again:
            task.cancel()
        await asyncio.gather(*self._again, return_exceptions=True)

    async def open_session(self, author: Author) -> Session:
        """As `LockBackend.open_session`."""
        found: Session = await ask(
            self._mesh, "", "open_session", message(Opening, by=author.by, task=author.task), Session
        )
        return found

    async def renew(self, session: Session) -> Session:
        """As `LockBackend.renew`, tried for a third of the lease."""
        patience = session.lease / 3
        found: Session = await ask(
            self._mesh, "", "renew_session", message(Kept, session=session), Session, patience=patience
        )
        return found

    async def close_session(self, session: Session) -> None:
        """As `LockBackend.close_session`."""
        await ask(self._mesh, "", "close_session", message(Kept, session=session), None)

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
        """As `LockBackend.lock`, but it waits no longer than a coordinator does."""
        subjects.lock_table(namespace, key)
        wait = max(0.0, min(wait, MAX_WAIT))
        asked = message(
            Wanted, key=key, mode=mode, id=id, owner=owner, session=session, by=author.by, task=author.task, wait=wait
        )
        now = asyncio.get_running_loop().time
        self._unanswered[id] = now() + self._mesh.connection.settings.publish_timeout
        try:
            found: Fence | None = await ask(self._mesh, namespace, "lock", asked, Fence | None, wait=wait)
        except asyncio.CancelledError:
            self._unanswered[id] = now() + TRY + wait + LATE
            raise
        except TransportError:
            self._unanswered[id] = now() + LATE
            raise
        except BusError:
            del self._unanswered[id]
            raise
        del self._unanswered[id]
        return found

    async def unlock(self, namespace: str, key: str, id: str) -> bool:  # noqa: A002
        """As `LockBackend.unlock`. Where a coordinator may still be about to take it, it is given up again later."""
        until = self._unanswered.pop(id, 0.0)
        if until:
            task = asyncio.get_running_loop().create_task(self._unlock_later(namespace, key, id, until))
            self._again.add(task)
            task.add_done_callback(self._again.discard)
        return await self._unlock(namespace, key, id)

    async def _unlock(self, namespace: str, key: str, lock: str) -> bool:
        subjects.lock_table(namespace, key)
        return bool(await ask(self._mesh, namespace, "unlock", message(Given, key=key, id=lock), bool))

    async def _unlock_later(self, namespace: str, key: str, lock: str, until: float) -> None:
        await asyncio.sleep(until - asyncio.get_running_loop().time())
        try:
            await self._unlock(namespace, key, lock)
        except BusError as error:
            log.warning("the lock on %s/%s may be held until our session ends: %s", namespace, key, error)

    async def locks(self, namespace: str = "") -> list[LockState]:
        """As `LockBackend.locks`, of one namespace. Ids and sessions of others are not told.

        Raises:
            ConfigError: none is named; nobody but an operator sees all.
        """
        if not namespace:
            raise ConfigError("locks", "name a namespace; nobody but an operator sees the locks of all")
        found: list[LockState] = await ask(self._mesh, namespace, "locks", None, list[LockState])
        return found
