"""The views that a client has of those that it asks: opened when there is something to see, closed when nobody looks.

Must not know how anything is asked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from bus.connection import Connection
from bus.deadlines import TERM
from bus.errors import PermissionDeniedError
from bus.view import View

OPENING: Final = 1.5
"""Seconds that an ask which chooses waits for the view of its agent; without one the server chooses."""
KEPT: Final = 300.0
"""Seconds without an ask after which a view is closed."""
EMPTY: Final = 10.0
"""The same for one in which nobody is seen."""
MOST: Final = 256
"""So many are open at a time; each is two subscriptions, and hears every renewal of its agent's leases."""
SYSTEM_PREFIX: Final = "revo-"
"""Services whose names begin with it are Revo's own, of which a view is opened only when somebody chooses."""

Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class Views:
    """Those of one client."""

    def __init__(self, connection: Connection, spawn: Spawn) -> None:
        """`spawn` starts what is done beside the asks."""
        self._connection = connection
        self._spawn = spawn
        self.there: dict[str, View] = {}
        """Those that are open, by agent. Whoever uses one says so in its `used`."""
        self._opening: dict[str, asyncio.Task[None]] = {}
        self._denied: dict[str, float] = {}
        """Agents of whom we may see nothing, and until when that is not tried again."""
        self._timer: asyncio.TimerHandle | None = None
        connection.on_reconnect(self._back)

    def heard(self, agent: str) -> None:
        """Somebody of that name answers, so there is something to see: have its view opened, beside what is asked."""
        if agent in self._opening or agent.startswith(SYSTEM_PREFIX):
            return
        if self._denied.get(agent, 0.0) < time.monotonic():
            self._open(agent)

    async def wanted(self, agent: str) -> View | None:
        """The view of an agent; None: it is not there within `OPENING` seconds.

        Raises:
            PermissionDeniedError: we may not see it.
            TransportError: the connection is lost.
        """
        if agent not in self.there:
            opening = self._opening.get(agent) or self._open(agent)
            done, _ = await asyncio.wait((opening,), timeout=OPENING)
            if done and not opening.cancelled() and (error := opening.exception()) is not None:
                raise error
        return self.there.get(agent)

    def close(self) -> None:
        """Close no more of them: the connection is closed next."""
        self._connection.forget(self._back)
        if self._timer is not None:
            self._timer.cancel()

    def _open(self, agent: str) -> asyncio.Task[None]:
        opening = self._opening[agent] = self._spawn(self._open_view(agent))
        return opening

    async def _open_view(self, agent: str) -> None:
        TERM.set(None)  # it is for all asks to come
        view = View(self._connection, agent)
        try:
            await view.open()
        except PermissionDeniedError:
            self._denied[agent] = time.monotonic() + KEPT
            raise
        finally:
            del self._opening[agent]
        view.used = time.monotonic()
        self.there[agent] = view
        self._denied.pop(agent, None)
        if len(self.there) > MOST:
            self._close(min(self.there, key=lambda name: self.there[name].used))
        self._look()

    def _look(self) -> None:
        """Close those that nobody has used for long, and look again when the next one may have to be."""
        now = time.monotonic()
        self._denied = {agent: until for agent, until in self._denied.items() if until > now}
        for agent in [agent for agent, view in self.there.items() if _until(view) <= now]:
            self._close(agent)
        if self._timer is not None:
            self._timer.cancel()
        if self.there:
            due = min(_until(view) for view in self.there.values())
            self._timer = asyncio.get_running_loop().call_later(max(1.0, due - now), self._look)

    def _close(self, agent: str) -> None:
        self._spawn(self.there.pop(agent).close())

    async def _back(self) -> None:
        for view in self.there.values():
            view.back()


def _until(view: View) -> float:
    return view.used + (KEPT if view.known else EMPTY)
