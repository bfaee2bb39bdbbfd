"""The lease that a client's locks hang on: renewed while there are any, over when that was not done in time."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from actors.memory.backend import LockBackend, Session
from actors.memory.errors import LockLostError
from bus.errors import BusError, TransportError

log = logging.getLogger(__name__)

_SHARE: Final = 1 / 3
"""Of a lease, after which it is renewed: two tries may fail."""
_PAUSE: Final = (0.05, 0.5)
"""Seconds, on average half of them, before a second try, and the longest."""

Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


Place = tuple[str, str, str]
"""Of a lock: namespace, key and id."""


@dataclass(slots=True)
class _Hold:
    place: Place
    owner: str
    on_lost: Callable[[str], None] | None = None


class Lease:
    """One session. Whoever has a lock, or waits for one, is told when it is over."""

    def __init__(self, backend: LockBackend, session: Session, began: float, spawn: Spawn) -> None:
        """`began` is when it was asked for, by the loop's clock: it may have begun then. `spawn` runs its renewals."""
        self._backend = backend
        self._spawn = spawn
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._renewing = False
        self._holds: dict[str, _Hold] = {}
        self._leftovers: dict[str, Place] = {}
        self.session = session
        self.renewed = began
        self.over = ""
        """Why it is over; empty while it is not."""

    @property
    def until(self) -> float:
        """When it is over, by the loop's clock, if it is not renewed; for others it lasts a little longer."""
        return self.renewed + self.session.lease

    @property
    def lives(self) -> bool:
        """Whether it is not over, by our clock."""
        return not self.over and self._loop.time() < self.until

    @property
    def ready(self) -> bool:
        """Whether a lock may be asked for without renewing it first."""
        kept = self._timer is not None or self._renewing
        return self.lives and (kept or self._loop.time() < self.renewed + _SHARE * self.session.lease)

    # --- what hangs on it -------------------------------------------------------------------------------------

    def hold(self, place: Place, owner: str) -> None:
        """Have it renewed for a lock that is held or waited for."""
        self._holds[place[2]] = _Hold(place, owner)
        self._arm()

    def tell(self, id_: str, on_lost: Callable[[str], None]) -> None:
        """Have `on_lost` called with the reason when it is over before `drop`."""
        if self.over:
            on_lost(self.over)
        else:
            self._holds[id_].on_lost = on_lost

    def drop(self, id_: str) -> None:
        """The lock no longer matters."""
        self._holds.pop(id_, None)

    def of(self, owner: str) -> dict[str, str]:
        """The keys of the locks of one owner, by id."""
        return {id_: hold.place[1] for id_, hold in self._holds.items() if hold.owner == owner}

    @property
    def places(self) -> list[Place]:
        """All that hangs on it."""
        return [hold.place for hold in self._holds.values()] + list(self._leftovers.values())

    def leave(self, place: Place) -> None:
        """Nobody knows whether a lock, or a place in the queue for it, was given up: have that done by and by, while
        the lease lasts.
        """
        if not self.over:
            self._leftovers[place[2]] = place
            self._arm()

    def lose(self, reason: str) -> None:
        """It is over."""
        if self.over:
            return
        self.over = reason
        self.stop()
        self._leftovers.clear()
        holds, self._holds = self._holds, {}
        for hold in holds.values():
            if hold.on_lost is not None:
                hold.on_lost(reason)

    def stop(self) -> None:
        """Renew it no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- to renew it ------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        if self._timer is None and not self._renewing and not self.over:
            self._timer = self._loop.call_at(self.renewed + _SHARE * self.session.lease, self._due)

    def _due(self) -> None:
        self._timer = None
        if self._holds or self._leftovers:
            self._renewing = True
            self._spawn(self._keep())

    async def _keep(self) -> None:
        try:
            await self.renew()
            await self._tidy()
        except BusError as error:
            log.warning("locks are lost: %s", self.over or error)
        finally:
            self._renewing = False
            if self._holds or self._leftovers:
                self._arm()

    async def renew(self) -> None:
        """Have it last longer.

        Raises:
            LockLostError: it is over.
        """
        late = f"session {self.session.id} could not be renewed in {self.session.lease:g} s"
        async with self._turn:
            try:
                async with asyncio.timeout_at(self.until):
                    await self._renew()
            except TimeoutError:
                self.lose(late)
            except LockLostError as error:
                self.lose(error.reason)
            except BusError as error:
                self.lose(f"session {self.session.id} could not be renewed: {error}")
            if not self.lives:
                self.lose(late)
                raise LockLostError("all that was held", self.over)

    async def _renew(self) -> None:
        pause = _PAUSE[0]
        while self.lives:
            began = self._loop.time()
            try:
                self.session = await self._backend.renew(self.session)
            except BusError as error:
                if not error.retryable:
                    raise
                log.debug("session %s: %s; trying again", self.session.id, error)
                await asyncio.sleep(random.uniform(0, pause))  # noqa: S311
                pause = min(_PAUSE[1], pause * 2)
            else:
                self.renewed = began
                return

    async def _tidy(self) -> None:
        for id_, place in list(self._leftovers.items()):
            try:
                async with asyncio.timeout(_SHARE * self.session.lease):
                    await self._backend.unlock(*place)
            except (TransportError, TimeoutError) as error:
                log.debug("lock on %s: %s; giving it up later", place[1], error)
            else:
                self._leftovers.pop(id_, None)
