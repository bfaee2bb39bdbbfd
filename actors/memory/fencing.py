"""Whether who writes still holds the lock that he says he holds.

The answer is a revision of the table of locks, on which the write is to be made conditional: the store itself then
refuses it, should the lock be gone by the time it gets there.
"""

from __future__ import annotations

from actors.memory import locktable, tree
from actors.memory.errors import StaleFenceError, WrongFenceError
from actors.memory.model import Fence, Mode
from bus import subjects
from bus.connection import Connection


async def check(connection: Connection, fence: Fence, namespace: str, *keys: str) -> int:
    """The revision of the table in which the lock is held; writes to `keys` that are conditional on it are protected.

    The table changes also when others come and go. A write that is refused for that asks here once more, and is made
    again with what it is told.

    Raises:
        WrongFenceError: the lock is not exclusive, or covers not all of the keys, nor what is above them.
        StaleFenceError: it is held no more.
        InvalidKeyError, InvalidSubjectError: there can be no such lock.
        TransportError: no answer.
    """
    lock = f"{fence.namespace}/{fence.key}"
    for key in keys:
        if fence.namespace != namespace or not locktable.covers(fence.key, key):
            raise WrongFenceError(f"the lock on {lock}", f"does not protect {namespace}/{key}")
    standing = await tree.read(connection, subjects.lock_table(fence.namespace, fence.key))
    held = standing.table.holder(fence.id)
    if held is None or held.number != fence.token or held.key != fence.key:
        raise StaleFenceError(keys[0], fence.key, fence.token)
    if held.code != locktable.CODES[Mode.EXCLUSIVE]:
        mode = locktable.MODES[held.code]
        raise WrongFenceError(f"the lock on {lock}", f"is {mode}, and only an exclusive one protects a write")
    return standing.revision


def subject(fence: Fence) -> str:
    """The subject of the table whose revision `check` tells."""
    return subjects.entry(subjects.MEMORY_BUCKET, subjects.lock_table(fence.namespace, fence.key))
