"""Tasks that others have ended while they were in a worker's hands, or on their way there.

Their results stand. What was said while the worker was cut off it did not hear, so it looks when it is back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from bus.connection import Connection
from bus.control import EndOrder
from bus.errors import BusError
from bus.outcomes import Happening
from bus.run import Run
from bus.settling import Settler

log = logging.getLogger(__name__)

REMEMBERED: Final = 1000
"""Tasks that others ended which a worker remembers, in case one of them is still on its way to it."""


class Revoked:
    """Has a worker let go of what others have ended."""

    def __init__(
        self,
        connection: Connection,
        settler: Settler,
        in_hand: Mapping[int, Run],
        *,
        let_go: Callable[[Run, Happening], None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        """`let_go` ends a task that is in hand; `spawn` runs a coroutine."""
        self._connection = connection
        self._settler = settler
        self._in_hand = in_hand
        self._let_go = let_go
        self._spawn = spawn
        self.early: dict[int, Happening] = {}
        """Those that were ended lately and not in hand then, by sequence: one of them may still be on its way to us."""
        connection.on_reconnect(self._back)

    def on_end(self, order: EndOrder) -> None:
        """Somebody else has ended a task, its result stands: let go of it, now or when it arrives."""
        why = Happening.EXPIRED if order.status == "expired" else Happening.CANCELLED
        run = self._in_hand.get(order.sequence)
        runs = [run] if run is not None else self._named(order.task)
        for one in runs:
            self._let_go(one, why)
        if runs:
            return
        self.early[order.sequence] = why
        if len(self.early) > REMEMBERED:
            del self.early[next(iter(self.early))]

    def _named(self, name: str) -> list[Run]:
        """What is in hand of a task under another sequence: it was moved meanwhile (`bus.moving`)."""
        return [run for run in self._in_hand.values() if run.envelope.name == name]

    async def _back(self) -> None:
        """After a reconnect: what was said meanwhile we did not hear."""
        for run in list(self._in_hand.values()):
            self._spawn(self._look_again(run))

    async def _look_again(self, run: Run) -> None:
        try:
            ended = await self._settler.stored_result(run.envelope)
        except BusError as error:
            log.debug("result of %s: %s", run.envelope.task_id, error)  # whoever stores ours finds out
            return
        if ended is not None and self._in_hand.get(run.envelope.sequence) is run:
            self._let_go(run, Happening.EXPIRED if ended.status == "expired" else Happening.CANCELLED)

    def close(self) -> None:
        """Look no more."""
        self._connection.forget(self._back)
