"""Whose sessions they are, and so whose locks: a coordinator uses them for those that they are of, and nobody else."""

from __future__ import annotations

import dataclasses

from actors.memory import tree
from actors.memory.errors import NotYourSessionError
from actors.memory.model import LockState, agent_of
from actors.memory.sessions import by_of
from bus import subjects
from bus.connection import Connection


def check(session: str, caller: str) -> None:
    """See that a session is the caller's: whose it is, its id says, and who made it was held to his name.

    Raises:
        NotYourSessionError: it is somebody else's.
    """
    if caller not in ("", agent_of(by_of(session))):  # without a name it is somebody who may ask anything
        raise NotYourSessionError(session, caller)


async def check_lock(connection: Connection, namespace: str, key: str, lock: str, caller: str) -> None:
    """See that a lock that is held, or waited for, is the caller's.

    Raises:
        NotYourSessionError: it is somebody else's.
    """
    if not caller:
        return
    table = (await tree.read(connection, subjects.lock_table(namespace, key))).table
    for claim in (table.holder(lock), table.waiter(lock), table.refusal(lock)):
        if claim is not None:
            check(claim.session, caller)


def shown(lock: LockState, caller: str) -> LockState:
    """A lock as the caller may see it: of those of others he is not told what proves that one has them."""
    if caller in ("", agent_of(lock.by)):
        return lock
    return dataclasses.replace(lock, id="", session="")
