"""Locks for those who may touch no stream: a coordinator takes them, and they hang on a session of theirs."""

from __future__ import annotations

import itertools
from typing import Final

from actors.memory.asking import TRY, ask, message
from actors.memory.backend import Author, Session
from actors.memory.messages import MAX_WAIT, Given, Kept, Opening, Wanted
from actors.memory.model import Fence, LockState, Mode
from bus import subjects
from bus.errors import ConfigError
from bus.mesh import Mesh

_REMEMBERED: Final = 4096
"""Locks of which it is known that nothing is in doubt."""


class RemoteLocks:
    """A `LockBackend` that asks the coordinators of shared memory."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._answered: dict[str, bool] = {}
        """By id of a lock, whether every request for it was answered at the first try."""

    async def open_session(self, author: Author) -> Session:
        """As `LockBackend.open_session`."""
        found: Session = await ask(
            self._mesh, "", "open_session", message(Opening, by=author.by, task=author.task), Session
        )
        return found

    async def renew(self, session: Session) -> Session:
        """As `LockBackend.renew`. One that has died must not cost the lease: another is asked in good time."""
        lease = session.lease
        found: Session = await ask(
            self._mesh,
            "",
            "renew_session",
            message(Kept, session=session),
            Session,
            timeout=min(TRY, lease / 6),
            patience=lease / 3,
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
        tries = itertools.count()
        sure = self._answered.pop(id, True)
        while len(self._answered) >= _REMEMBERED:
            del self._answered[next(iter(self._answered))]  # is in doubt then, which is always right
        self._answered[id] = False
        found: Fence | None = await ask(
            self._mesh, namespace, "lock", asked, Fence | None, wait=wait, before_again=lambda: next(tries)
        )
        self._answered[id] = sure and next(tries) == 0
        return found

    async def unlock(self, namespace: str, key: str, id: str) -> bool:  # noqa: A002
        """As `LockBackend.unlock`."""
        subjects.lock_table(namespace, key)
        tries = itertools.count()
        asked = message(Given, key=key, id=id, answered=self._answered.pop(id, False))
        given = bool(await ask(self._mesh, namespace, "unlock", asked, bool, before_again=lambda: next(tries)))
        return given or next(tries) > 0  # where an answer was lost it may have been given up by then

    async def locks(self, namespace: str = "") -> list[LockState]:
        """As `LockBackend.locks`, of one namespace. Ids and sessions of others are not told.

        Raises:
            ConfigError: none is named; nobody but an operator sees all.
        """
        if not namespace:
            raise ConfigError("locks", "name a namespace; nobody but an operator sees the locks of all")
        found: list[LockState] = await ask(self._mesh, namespace, "locks", None, list[LockState])
        return found
