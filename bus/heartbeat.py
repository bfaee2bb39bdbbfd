"""Signs of life of a worker, with what it has in hand; and, for who listens, which workers have fallen silent.

A worker sends one a second, and one 30 ms after it began with a task that takes longer than that. While a handler
blocks the worker's loop, the extender's thread sends them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from bus import codec, subjects
from bus.connection import Connection
from bus.errors import BusError, DecodeError
from bus.messages import CONTENT_TYPE, MSGPACK, Beat
from bus.wire import Message

log = logging.getLogger(__name__)

EARLY: Final = 0.03
"""Seconds after the start of a task until it is told, should it run so long: shorter ones cost nothing."""


class Heart:
    """Sends a worker's heartbeats."""

    def __init__(
        self,
        connection: Connection,
        beat: Callable[[], Beat],
        news: Callable[[], float | None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        """`news` says for how many seconds a task has run that no heartbeat has carried; None: there is none."""
        self._connection = connection
        self._beat = beat
        self._news = news
        self._spawn = spawn
        self._interval = connection.settings.heartbeat
        self._next: asyncio.TimerHandle | None = None
        self._early: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Beat from now on."""
        self._next = asyncio.get_running_loop().call_later(self._interval, self.start)
        self._spawn(self.pulse(self._connection))

    def soon(self) -> None:
        """A task has begun: tell of it, if it is still there in a moment."""
        if self._early is None and self._next is not None:
            self._early = asyncio.get_running_loop().call_later(EARLY, self._tell)

    def _tell(self) -> None:
        self._early = None
        age = self._news()
        if age is None or self._next is None:
            return
        if age >= EARLY:
            self._spawn(self.pulse(self._connection))
        else:
            self._early = asyncio.get_running_loop().call_later(EARLY - age, self._tell)

    async def pulse(self, connection: Connection) -> None:
        """Send one heartbeat through a connection, which may be of another thread."""
        if not connection.is_connected:
            return  # what would be sent after the reconnect may be long untrue
        beat = self._beat()
        try:
            body = codec.encode(beat.model_dump())
            await connection.publish(subjects.beat(beat.agent, beat.instance), body, {CONTENT_TYPE: MSGPACK})
        except BusError as error:
            log.debug("heartbeat of %s: %s", beat.instance, error)

    async def stop(self) -> None:
        """The last one, which says so."""
        for timer in (self._next, self._early):
            if timer is not None:
                timer.cancel()
        self._next = None
        await self.pulse(self._connection)


@dataclass(slots=True)
class _Known:
    beat: Beat
    seen: float


class Watch:
    """Hears every heartbeat and knows which workers have fallen silent."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: dict[str, _Known] = {}
        connection.on_reconnect(self._start_over)

    async def open(self) -> None:
        """Listen from now on."""
        await self._connection.subscribe(subjects.BEATS, self._on_beat)

    def _on_beat(self, message: Message) -> None:
        try:
            beat = codec.read(Beat, message.headers, message.data, subject=message.subject)
        except DecodeError as error:
            log.warning("%s", error)
            return
        if subjects.beat(beat.agent, beat.instance) != message.subject:
            log.warning("a heartbeat on %s speaks for %s of %s", message.subject, beat.instance, beat.agent)
        elif beat.leaving:
            self._known.pop(beat.instance, None)
        else:
            self._known[beat.instance] = _Known(beat, time.monotonic())

    async def _start_over(self) -> None:
        """We were deaf, not they silent: nobody counts as silent before two heartbeats more could have come."""
        fresh = time.monotonic() + 2 * self._connection.settings.heartbeat
        for known in self._known.values():
            known.seen = fresh

    def silent(self, seconds: float) -> list[Beat]:
        """The last heartbeats of those that have said nothing for so long."""
        before = time.monotonic() - seconds
        return [known.beat for known in self._known.values() if known.seen < before]

    def doing(self, address: str) -> list[Beat]:
        """The last heartbeats of those that do the tasks of a capability, or of an agent as `@name`."""
        beats = (known.beat for known in self._known.values())
        return [beat for beat in beats if address in beat.capabilities or address == f"@{beat.agent}"]

    def serves_lanes(self, address: str) -> bool:
        """Whether somebody does such tasks and serves the lanes beside their queues: earlier versions do not."""
        return any(beat.lanes for beat in self.doing(address))

    def forget(self, instance: str) -> None:
        """It is dead."""
        self._known.pop(instance, None)

    def heard(self, instance: str) -> None:
        """It has answered in another way."""
        if instance in self._known:
            self._known[instance].seen = time.monotonic()
