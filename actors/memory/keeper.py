"""Takes the locks of the dead away, and ends waits that would never end. Every coordinator has one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from bus.connection import Connection

Tell = Callable[..., Awaitable[None]]
"""Is told what happened, as `events.tell` without its first two: `tell(name, what, once=..., **details)`."""


class Keeper:
    """Follows all tables of locks, and the sessions of those that stand in them."""

    def __init__(
        self, connection: Connection, *, tell: Tell, spawn: Callable[[Coroutine[Any, Any, None]], object]
    ) -> None:
        self._connection = connection
        self._tell = tell
        self._spawn = spawn
        self.held = 0
        """Locks that are held."""
        self.waiting = 0
        """Locks that are waited for."""

    async def open(self) -> None:
        """Keep them from now on."""
        raise NotImplementedError

    async def close(self) -> None:
        """Keep them no more."""
        raise NotImplementedError
