"""What an actor says of itself at every renewal of its lease: its load, its health, and whether it hears its queue.

Connected is not enough: an instance proves that it does what it is given. Tasks prove it as they come and go. Who has
none is sent a probe by the registry (`actors.registry.prober`), which goes the way of a task, through the queue and
the mailbox. Who had room and proved nothing is deaf.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from itertools import islice
from typing import Any, Final

from actors.mailbox import Mailbox
from actors.probes import LAG_EVERY, watch_lag
from actors.registry.model import Health
from bus.connection import Connection
from bus.health import Body, Lag, Meter
from bus.worker import Worker

LATE: Final = 0.5
"""Seconds that an event loop may be late before its actor is degraded."""
OFTEN: Final = 0.5
"""The share of failures from which on an actor is degraded."""
ALWAYS: Final = 0.95
"""The share from which on it is in error."""
ENOUGH: Final = 5.0
"""So many ends that share must stand for: one failure in the morning is no state."""
SILENT: Final = 2.0
"""Seconds without anything from its queue from which on an instance says so at once: probes come each second."""
STALE: Final = 10.0
"""Seconds for which what `on_probe` raised is told."""
PROBE_LIMIT: Final = 5.0
"""Seconds for an actor's own `on_probe`."""

Check = Callable[[], Awaitable[None]]


class SelfReport:
    """How one instance is, by its own word."""

    def __init__(self, mailbox: Mailbox, check: Check) -> None:
        """`check` is the actor's own word on whether it can work: it raises when not."""
        self.meter = Meter()
        self._lag = Lag(LAG_EVERY)
        self.paused = ""
        self._mailbox = mailbox
        self._check = check
        self._body = Body()
        self._worker: Worker | None = None
        self._proved = time.monotonic()
        self._full = 0.0
        self._heard = 0
        self._refused = False
        self._error = ""
        self._failed_at = 0.0
        self._on_change = _nobody
        self.breakers: list[Callable[[], Mapping[str, str]]] = []
        """Who knows of breakers: each gives those that are not closed. Any thread may ask."""

    def start(self, on_change: Callable[[], None]) -> Callable[[], None]:
        """Look at the event loop from now on, once a second; returns what ends it. `on_change` hears when others should
        know at once what there is to say.
        """
        self._on_change = on_change
        self._lag.late(0.0)
        return watch_lag(self._look)

    def _look(self, late: float) -> None:
        self._lag.late(late)
        if self.is_silent:
            self._on_change()

    def know(self, connection: Connection, worker: Worker) -> None:
        """It takes tasks, and is expected to prove it."""
        self._worker = worker
        self.breakers.append(lambda: worker.breakers)
        connection.on_reconnect(self._on_reconnect)
        self._begin_anew()

    async def _on_reconnect(self) -> None:
        self._begin_anew()  # while nobody could reach it there was nothing to hear

    def _begin_anew(self) -> None:
        self._proved = time.monotonic()
        self._full = self._mailbox.full_seconds

    def proved(self) -> None:
        """A task left, or a probe was done. That one came need not be told: who has room is sent probes."""
        now = time.monotonic()
        changes = now - self._proved > SILENT
        self._heard += 1
        self._proved = now
        self._full = self._mailbox.full_seconds
        if changes:
            self._on_change()

    def left(self, took: float | None, *, failed: bool) -> None:
        """A task is in hand no more, so its queue was heard."""
        self.proved()
        if took is not None:
            self.meter.ended(took, failed=failed)

    def refused(self) -> None:
        """The server lets us have no probes: our credentials are of an earlier version. Then nobody can tell."""
        self._refused = True

    @property
    def is_silent(self) -> bool:
        """Whether it has heard nothing for so long that others should look at it. Any thread may ask."""
        return (self.silence() or 0.0) > SILENT

    def turned(self) -> None:
        """A breaker has changed."""
        self._on_change()

    async def probe(self) -> None:
        """Do a probe: wait for a turn as a task does, and ask the actor whether it can work."""
        await self._mailbox.enter(bounded=False)
        try:
            async with asyncio.timeout(PROBE_LIMIT):
                await self._check()
            self._error = ""
        except TimeoutError:
            self._fail(f"its on_probe took longer than {PROBE_LIMIT:g} s")
        except Exception as error:  # noqa: BLE001  (whatever it raises is its word)
            self._fail(f"{type(error).__name__}: {error}"[:200])
        finally:
            self._mailbox.leave()
        self.proved()

    def _fail(self, error: str) -> None:
        self._error, self._failed_at = error, time.monotonic()

    def pause(self, reason: str) -> None:
        """Somebody wants it to take nothing, for this reason; empty: it goes on."""
        self.paused = reason
        self._begin_anew()

    def silence(self) -> float | None:
        """Seconds in which it could have proved itself and did not; None: it has no room, or takes nothing."""
        worker = self._worker
        if worker is None or self._refused or self.paused or not worker.taking or self._mailbox.is_full:
            return None
        return max(0.0, time.monotonic() - self._proved - (self._mailbox.full_seconds - self._full))

    def say(self) -> dict[str, Any]:
        """Fields of its lease. Any thread may ask: while a handler blocks the loop, another does."""
        mailbox, worker = self._mailbox, self._worker
        said: dict[str, Any] = {
            "running": mailbox.running,
            "waiting": mailbox.waiting + (worker.waiting if worker else 0),
            "paused": self.paused,
            "breakers": dict(islice(((name, state) for one in self.breakers for name, state in one().items()), 256)),
            "health": self._health(),
        }
        return said

    def _health(self) -> Health:
        cost, meter, lag = self._body.cost(), self.meter, self._lag.worst()
        rate = meter.error_rate
        failing = meter.weight >= ENOUGH
        degraded = []
        if lag > LATE:
            degraded.append(f"its event loop was late by {lag:.1f} s")
        if failing and rate >= OFTEN:
            degraded.append(f"{rate:.0%} of what it did lately failed")
        if self._worker is not None and self._worker.unstored:
            degraded.append(f"{self._worker.unstored} ends of tasks wait to be stored")
        error = self._error if time.monotonic() - self._failed_at < STALE else ""  # with work at hand nobody asks again
        if not error and failing and rate >= ALWAYS:
            error = "all that it did lately failed"
        return Health.model_construct(
            cpu=cost.cpu,
            memory=cost.memory,
            lag=lag,
            done=meter.done,
            error_rate=round(rate, 4),
            latency=meter.latency(),
            requests=meter.requests(),
            idle=self.silence(),
            heard=self._heard,
            degraded=degraded,
            error=error,
        )


def _nobody() -> None:
    """Who is told before there is somebody to be told."""
