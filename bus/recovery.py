"""What a worker does about faults: says what they are, waits, shuts a capability for a while, asks for room.

It decides nothing about a task (that is `bus.outcomes`); it says how long the next attempt waits and tells the mesh.
What it tells is bounded: of each class of each capability an event for the first, for one that is graver and for
another strategy, and no two within `faults.GAP` seconds.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final

from bus import endings, events, faults, rpc, subjects
from bus.breaker import State
from bus.connection import Connection
from bus.errors import BusError, Retry
from bus.faults import FaultClass, Ledger
from bus.guards import FIRST, Guards
from bus.messages import MAX_DEADLINE
from bus.run import Run
from bus.telemetry import Telemetry

log = logging.getLogger(__name__)

BEYOND: Final = 8.0
"""So many times as long waits a retry for which the budget has nothing left: it is late, and never lost."""
ASK_EVERY: Final = 10.0
"""Seconds between two times that we ask for idle neighbours to leave."""
SOONEST: Final = 0.1
"""Seconds that at least pass before something that others told us to try again, or handed back, comes again."""
SPREAD: Final = 1.0
"""Seconds over which those that lost the server together tell of it."""


class Recovery:
    """What one worker does about faults."""

    def __init__(
        self,
        connection: Connection,
        telemetry: Telemetry,
        capabilities: Iterable[str],
        *,
        agent: str,
        instance: str,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        in_hand: Callable[[], Iterable[Run]],
        changed: Callable[[], None],
        turned: Callable[[], None] | None,
    ) -> None:
        """`changed` is called when `shut` is another, `turned` when a breaker has changed; `in_hand` says which tasks a
        lost connection concerns.
        """
        self._connection = connection
        self._telemetry = telemetry
        self._agent = agent
        self._instance = instance
        self._spawn = spawn
        self._in_hand = in_hand
        self._on_turn = turned
        self._guards = Guards(capabilities, on_change=self._turned, on_shut=changed)
        self._ledger = Ledger()
        self._latest: dict[tuple[str, FaultClass], dict[str, Any]] = {}
        self._timers: dict[tuple[str, FaultClass], asyncio.TimerHandle] = {}
        self._loop = asyncio.get_running_loop()
        self._asked = -ASK_EVERY
        self._lost_at: float | None = None
        self._closed = False
        connection.on_disconnect(self._lost)
        connection.on_reconnect(self._back)

    @property
    def guards(self) -> Guards:
        """The breakers and budgets."""
        return self._guards

    # --- one task -----------------------------------------------------------------------------------------

    def admit(self, run: Run) -> bool:
        """Whether a task may start now. One that may not is to be handed back: `run.pause` says for how long."""
        name = run.capability.name
        run.way = self._guards.admit(name)
        if run.way:
            run.trial = run.way != FIRST and self._guards.is_trial(name)
            return True
        run.pause = _spread(self._guards.retry_in(name))
        return False

    def well(self, run: Run) -> None:
        """Its handler returned."""
        state = self._guards.well(run.capability.name, run.way, first=run.envelope.attempt == 1)
        run.way = 0
        if state is not None:
            run.span.event("breaker", state=state, capability=run.capability.name)

    def met(self, run: Run, error: BaseException, *, last: bool) -> None:
        """An attempt failed: say so on its span, and see to what follows. `last`: there is no further one."""
        kind, name, first = faults.classify(error), run.capability.name, run.envelope.attempt == 1
        fault = self._note(name, kind, run, error, last=last)
        run.span.set("revo.fault.class", kind)
        run.span.set("revo.fault.severity", str(fault.severity))
        run.span.set("revo.fault.recovery", fault.recovery)
        run.span.set("revo.fault.count", fault.count)
        counts = kind in faults.BREAKING
        state = self._guards.failed(name, run.way, counts=counts, first=first, took=run.took or 0.0)
        run.way = 0
        if state is not None:
            run.span.event("breaker", state=state, capability=name, retry_in=round(self._guards.retry_in(name), 3))
        if not last:
            run.pause = self._pause(run, error, fault.slower)
        if kind == "resource" and self._loop.time() - self._asked >= ASK_EVERY and not self._closed:
            self._asked = self._loop.time()
            self._spawn(self._ask_for_room(endings.error_code(error)))

    def _pause(self, run: Run, error: BaseException, slower: float) -> float:
        """Seconds until the next attempt: longer the graver the fault is, and not before the error says, with jitter,
        for many may have been told the same moment. A handler's own `Retry(delay)` is taken at its word. Beyond the
        budget the long pause comes on top.
        """
        asked, usual = faults.hint(error), run.capability.policy.pause
        if not self._guards.may_retry(run.capability.name):
            run.span.event("retry budget used up")
            return min((asked or 0.0) + usual(run.envelope.attempt, slower * BEYOND), MAX_DEADLINE)
        if asked is None:
            return usual(run.envelope.attempt, slower)
        return min(asked if isinstance(error, Retry) else _spread(asked), MAX_DEADLINE)

    def unstored(self, run: Run, error: BusError) -> None:
        """What became of a task cannot be stored for now. It stays in hand, and nothing more is taken."""
        kind = faults.classify(error)
        fault = self._note(run.capability.name, kind, run, error)
        run.span.event("waiting for the server", fault=kind, severity=str(fault.severity), recovery=fault.recovery)

    def left(self, run: Run) -> None:
        """It is no longer in hand."""
        if run.way > FIRST:
            self._guards.left(run.capability.name, run.way)

    async def _ask_for_room(self, reason: str) -> None:
        message = {"instance": self._instance, "reason": reason}
        try:
            said = await rpc.call(self._connection, self._telemetry, subjects.STEWARD, "shed", message)
        except BusError as error:
            log.warning("%s is short of resources, and no idle neighbour leaves: %s", self._instance, error)
        else:
            log.warning("%s is short of resources (%s): %s", self._instance, reason, said.get("said", ""))

    # --- the connection -----------------------------------------------------------------------------------

    def _lost(self) -> None:
        self._lost_at = self._loop.time()
        for run in self._in_hand():
            run.span.event("connection lost", fault="network", recovery="back-off")

    async def _back(self) -> None:
        if self._lost_at is None:
            return
        seconds, self._lost_at = self._loop.time() - self._lost_at, None
        self._note("", "network", seconds=round(seconds, 3), soon=random.uniform(0, SPREAD))  # noqa: S311

    # --- what is told -------------------------------------------------------------------------------------

    def _turned(self, name: str, state: State, retry_in: float) -> None:
        log.warning("the breaker of %s in %s is %s", name, self._instance, state)
        if self._on_turn is not None:
            self._on_turn()
        details = {"capability": name} | ({"retry_in": round(retry_in, 3)} if retry_in else {})
        self._spawn(self._tell(events.BREAKER, state, details))

    def _note(
        self,
        name: str,
        kind: FaultClass,
        run: Run | None = None,
        error: BaseException | None = None,
        *,
        last: bool = False,
        soon: float = 0.0,
        **details: Any,
    ) -> faults.Fault:
        """Count a fault, and tell of it now or later if it is news."""
        fault = self._ledger.met(name, kind, self._loop.time(), last=last)
        self._telemetry.metrics.faulted(name, kind, fault.recovery)
        if run is not None and error is not None:  # no text of it: events are for eyes that may see no task
            details |= {"error": endings.error_code(error), "task_id": run.envelope.task_id}
            details["attempt"] = run.envelope.attempt
        key = (name, kind)
        self._latest[key] = details
        wait = self._ledger.news(name, kind, self._loop.time())
        if wait is not None and key not in self._timers and not self._closed:
            if wait + soon > 0:
                self._timers[key] = self._loop.call_later(wait + soon, self._tell_of, key)
            else:
                self._tell_of(key)
        return fault

    def _tell_of(self, key: tuple[str, FaultClass]) -> None:
        self._timers.pop(key, None)
        fault, count = self._ledger.tell(*key, self._loop.time())
        details: dict[str, Any] = {"capability": key[0]} if key[0] else {}
        details |= {"severity": str(fault.severity), "recovery": fault.recovery, "count": count, **self._latest[key]}
        self._spawn(self._tell(events.FAULT, fault.kind, details))

    async def _tell(self, kind: str, what: str, details: dict[str, Any]) -> None:
        by = self._instance
        await events.tell(self._connection, kind, by, what, agent=self._agent, by=by, **details)

    def close(self) -> None:
        """Tell nothing more, and look at the clock no more. What still runs fails as before, on its span."""
        self._closed = True
        self._connection.forget(self._lost, self._back)
        self._guards.close()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()


def _spread(seconds: float) -> float:
    """Not before these seconds, and not at once with all others."""
    return max(SOONEST, seconds) * random.uniform(1.0, 1.5)  # noqa: S311  (spreads load, guards nothing)
