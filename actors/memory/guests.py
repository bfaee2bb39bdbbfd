"""Whose sessions they are, and so whose locks: a coordinator uses them for those that they are of, and nobody else."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from typing import Final

from actors.memory import sessions, tree
from actors.memory.errors import NotYourSessionError
from actors.memory.model import LockState, agent_of
from bus import subjects
from bus.connection import Connection

KNOWN: Final = 10_000
"""Sessions whose user is kept in mind; the record of each says it, too."""


class Guests:
    """The users whom a coordinator acts for. A session is of one user for as long as it lives."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._users: OrderedDict[str, str] = OrderedDict()

    def came(self, session: str, user: str) -> None:
        """A session was opened for a user."""
        self._users[session] = user
        if len(self._users) > KNOWN:
            self._users.popitem(last=False)

    async def check(self, session: str, caller: str) -> None:
        """See that a session is the caller's. One that has ended is nobody's: whoever needs it says so.

        Raises:
            NotYourSessionError: it is somebody else's.
        """
        if not caller:
            return  # who may ask anything
        user = self._users.get(session)
        if user is None:
            record = await sessions.read(self._connection, session)
            if record is None:
                return
            user = agent_of(record.by)
            self.came(session, user)
        if user != caller:
            raise NotYourSessionError(session, caller)

    async def check_lock(self, namespace: str, key: str, lock: str, caller: str) -> None:
        """See that a lock that is held, or waited for, is the caller's.

        Raises:
            NotYourSessionError: it is somebody else's.
        """
        if not caller:
            return
        table = (await tree.read(self._connection, subjects.lock_table(namespace, key))).table
        for claim in (table.holder(lock), table.waiter(lock), table.refusal(lock)):
            if claim is not None:
                await self.check(claim.session, caller)

    def shown(self, lock: LockState, caller: str) -> LockState:
        """A lock as the caller may see it: of those of others it is not told what proves that one has them."""
        if not caller or agent_of(lock.by) == caller:
            return lock
        return dataclasses.replace(lock, id="", session="")
