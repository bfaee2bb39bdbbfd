"""Whether an actor is alive and ready, and what it counts: what its HTTP port shows.

*Alive* is whoever answers, for the answer comes from the event loop. *Ready* is who is connected, registered, takes
work and is not leaving.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final

from actors.mailbox import Mailbox
from actors.probes import Answer, Probes, watch_lag
from actors.registry.registrar import Registrar
from bus.connection import Connection
from bus.settings import Settings
from bus.telemetry import Metrics, Telemetry
from bus.worker import Worker

STARTING: Final = "starting"
READY: Final = "ready"
DRAINING: Final = "draining"


class Vitals:
    """The pages of one actor."""

    def __init__(self, actor: str, instance: str, settings: Settings) -> None:
        self._who = {"actor": actor, "instance": instance}
        self._settings = settings
        self._metrics = Metrics()
        self._checks: dict[str, Callable[[], bool]] = {"connected": lambda: False, "registered": lambda: False}
        self._stack = AsyncExitStack()
        self.phase = STARTING
        self._began = time.monotonic()

    async def open(self, telemetry: Telemetry) -> None:
        """Serve them, and count, if the setting `http` says where.

        Raises:
            ConfigError: nobody can listen there.
        """
        if self._settings.http_address is None:
            return
        self._metrics = telemetry.count()
        pages = {"/healthz": self._health, "/readyz": self._ready, "/metrics": self._show_metrics}
        probes = Probes(self._settings, pages)
        self._stack.push_async_callback(probes.close)
        await probes.open()
        self._stack.callback(watch_lag(self._metrics.lagged))

    async def close(self) -> None:
        """Serve no more."""
        await self._stack.aclose()

    def know(self, connection: Connection, registrar: Registrar, mailbox: Mailbox) -> None:
        """Look at these from now on."""
        self._checks["connected"] = lambda: connection.is_connected
        self._checks["registered"] = lambda: registrar.holds_lease
        watch = self._metrics.watch
        watch("revo_mailbox_running", "Messages that are handled at this moment.", lambda: mailbox.running)
        watch("revo_mailbox_waiting", "Requests that wait in the mailbox.", lambda: mailbox.waiting)
        watch("revo_nats_connected", "1 while there is a connection.", lambda: connection.is_connected)
        watch(
            "revo_nats_reconnects",
            "Connections that came after the first.",
            lambda: connection.reconnects,
            grows=True,
        )
        watch("revo_lease_age_seconds", "Since the lease was renewed; NaN without one.", registrar.lease_age)

    def know_worker(self, worker: Worker) -> None:
        """And at this one."""
        self._metrics.watch("revo_tasks_in_hand", "Tasks that wait or run in this process.", lambda: worker.in_hand)
        self._metrics.watch("revo_tasks_held", "Those of them that wait.", lambda: worker.waiting)

    def _health(self, _: str) -> Answer:
        return Answer.of(200, **self._who, phase=self.phase, uptime=round(time.monotonic() - self._began, 3))

    def _ready(self, _: str) -> Answer:
        checks = {name: check() for name, check in self._checks.items()}
        missing = [name for name, good in checks.items() if not good]
        if self.phase != READY:
            missing.append(f"it is {self.phase}")
        return Answer.of(503 if missing else 200, **self._who, phase=self.phase, **checks, missing=missing)

    def _show_metrics(self, accept: str) -> Answer:
        body, content_type = self._metrics.text(accept)
        return Answer(200, body, content_type)
