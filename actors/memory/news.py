"""What happens in shared memory, told as events and counted: conflicts, locks of the dead, waits without an end."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, Final

from bus import events, subjects
from bus.connection import Connection
from bus.errors import InvalidKeyError, RequestTimeoutError
from bus.jetstream import StoredMessage
from bus.telemetry import Telemetry
from bus.watch import NEW, Watch

log = logging.getLogger(__name__)

CONFLICT: Final = "conflict"
_STREAM: Final = subjects.bucket(subjects.MEMORY_BUCKET)
_PREFIX: Final = subjects.entry(subjects.MEMORY_BUCKET, "")


class News:
    """Tells events of kind `memory`, each once however many coordinators see it."""

    def __init__(
        self,
        connection: Connection,
        telemetry: Telemetry,
        *,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._connection = connection
        self._by = telemetry.instance
        self._spawn = spawn
        self.counts: Counter[str] = Counter()
        """How often this coordinator told what."""
        subject = f"{_PREFIX}{subjects.CONFLICTS}.>"
        self._watch = Watch(connection, _STREAM, subject, self._see, start=NEW, spawn=spawn)

    async def open(self) -> None:
        """Tell of conflicts from now on, whoever makes them."""
        try:
            await self._watch.open()
        except TimeoutError:
            raise RequestTimeoutError(_STREAM, self._connection.settings.publish_timeout) from None

    async def close(self) -> None:
        """Tell no more."""
        await self._watch.close()

    async def tell(self, namespace: str, what: str, *, once: str = "", **details: Any) -> None:
        """Tell that something happened in a namespace; the same `once` is the same event."""
        self.counts[what] += 1
        await events.tell(self._connection, events.MEMORY, namespace, what, by=self._by, once=once, **details)

    def _see(self, stored: StoredMessage) -> None:
        """An entry has a conflict set, or none any more."""
        if stored.headers.get("KV-Operation"):
            return
        try:
            namespace, key = subjects.parse_kept(stored.subject.removeprefix(_PREFIX))
        except InvalidKeyError as error:
            log.warning("%s; nobody is told of it", error)
            return
        once = f"memory.{CONFLICT}.{stored.sequence}"
        self._spawn(self.tell(namespace, CONFLICT, once=once, key=key, version=stored.sequence))
