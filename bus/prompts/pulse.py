"""That an instance lives: told from time to time, and to whoever asks for its status."""

from __future__ import annotations

import contextlib

from bus.alarms import Alarm
from bus.connection import Connection, Message
from bus.errors import BusError
from bus.micro import Endpoint
from bus.prompts.presence import write_presence
from bus.subjects import PromptAddress


class Pulse:
    """Heartbeats every `prompt_heartbeat` seconds, and one at once after a reconnect."""

    def __init__(self, connection: Connection, address: PromptAddress, instance: str, status: Endpoint) -> None:
        self._connection = connection
        self._address = address
        self._instance = instance
        self._status = status
        self._interval = connection.settings.prompt_heartbeat
        self._next: Alarm | None = None
        self._stopped = False

    def start(self) -> None:
        """Beat from now on."""
        self._connection.on_reconnect(self._on_reconnect)
        self._beat()

    def stop(self) -> None:
        """Beat no more."""
        self._stopped = True
        if self._next is not None:
            self._next.clear()

    def answer(self, message: Message) -> None:
        """Answer who asks for the status."""
        self._status.requests += 1
        if message.reply:
            self._connection.send(message.reply, self._now())

    def _now(self) -> bytes:
        return write_presence(self._address, self._instance, self._interval)

    def _beat(self) -> None:
        self._next = self._connection.alarms.set(self._interval, self._beat)
        if self._connection.is_connected:  # old heartbeats are of no use after a reconnect
            with contextlib.suppress(BusError):  # the connection is being lost, or closed
                self._connection.send(self._address.presence, self._now())

    async def _on_reconnect(self) -> None:
        if not self._stopped:
            if self._next is not None:
                self._next.clear()
            self._beat()
