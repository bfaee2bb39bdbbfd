"""Keeps the tasks in hand ours: tells the server, while their handlers run, that they are still worked on.

It runs in a thread with a connection and an event loop of its own, so that a handler which blocks the worker's
loop does not lose its task to another worker. The same thread sees that the loop is blocked and says by what.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Final

from bus.connection import Connection
from bus.errors import BusError
from bus.settings import Settings

log = logging.getLogger(__name__)

Pulse = Callable[[Connection], Awaitable[None]]

_GIVE_UP: Final = 2.0
"""Seconds after which a nak takes the other way."""
BLOCKED_AFTER: Final = 2.0
"""Seconds without a turn of the worker's loop before it is reported with its stack."""


def both(first: Pulse, second: Pulse) -> Pulse:
    """One pulse after the other."""

    async def pulse(connection: Connection) -> None:
        await first(connection)
        await second(connection)

    return pulse


class Extender:
    """Extends the ack deadline of every held delivery each third of `ack_wait` seconds.

    `hold` and `release` cost a dictionary write; nothing else is done per message.
    """

    def __init__(self, url: str, *, name: str, ack_wait: float, settings: Settings, pulse: Pulse) -> None:
        """`pulse` sends the worker's heartbeat through a connection; it is called in our thread."""
        self._url = url
        self._name = name
        self._interval = ack_wait / 3
        # Two of them, and who began to block just before a renewal of its lease was due is not late with it.
        self._tick = min(self._interval, settings.heartbeat, settings.lease_heartbeat / 5)
        self._settings = settings
        self._pulse = pulse
        self._held: dict[int, str] = {}
        self._loop = asyncio.get_running_loop()
        self._watched = threading.get_ident()
        self._seen = time.monotonic()
        self._stop: asyncio.Event | None = None
        self._thread_loop: asyncio.AbstractEventLoop | None = None
        self._connection: Connection | None = None
        self._sending: asyncio.Lock
        self._thread = threading.Thread(target=self._main, name=f"{name} extender", daemon=True)
        self._started = False
        self._reported = False

    def hold(self, sequence: int, reply: str) -> None:
        """Extend this delivery from now on. A newer delivery of the same task replaces the older."""
        self._held[sequence] = reply
        if not self._started:
            self._started = True
            self._seen = time.monotonic()  # who is idle has no turns, and is not blocked
            self._thread.start()  # with the first task: an idle agent has one thread and one connection less

    def release(self, sequence: int) -> None:
        """Extend it no more: it is about to be settled."""
        self._held.pop(sequence, None)

    async def give_back(self, connection: Connection, reply: str, nak: bytes) -> None:
        """Send a nak that asks for a pause, behind every extension: one that came after it would undo the pause, and
        the task would wait for its ack deadline. It goes the extensions' way, or by `connection` when there is none.
        """
        loop, ours = self._thread_loop, self._connection
        if loop is not None and ours is not None and ours.is_connected:
            try:
                sending = asyncio.run_coroutine_threadsafe(self._send(ours, reply, nak), loop)
                async with asyncio.timeout(_GIVE_UP):
                    await asyncio.wrap_future(sending)
            except (BusError, RuntimeError, TimeoutError) as error:
                log.debug("extender of %s has no way for a nak: %s", self._name, error)
            else:
                return
        await connection.publish(reply, nak)

    async def _send(self, ours: Connection, reply: str, nak: bytes) -> None:
        async with self._sending:
            await ours.publish(reply, nak)

    async def close(self) -> None:
        """End the thread. Returns when its connection is closed, after two seconds at the most."""
        self._held.clear()
        loop, stop = self._thread_loop, self._stop
        if self._started and loop is not None and stop is not None:
            try:
                loop.call_soon_threadsafe(stop.set)
            except RuntimeError:
                return  # its loop has ended by itself
            await asyncio.to_thread(self._thread.join, 2.0)

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        except BusError as error:
            # The worker's own connection decides whether the process lives; tasks fall back to their ack deadline.
            log.error("extender of %s ended: %s", self._name, error)  # noqa: TRY400  (one line says it)

    async def _run(self) -> None:
        self._thread_loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._sending = asyncio.Lock()
        connection = self._connection = await self._connect()
        due = time.monotonic()
        try:
            while not self._stop.is_set():
                if time.monotonic() >= due:
                    due = time.monotonic() + self._interval - self._tick / 2
                    await self._extend(connection)
                await self._watch(connection)
                try:
                    async with asyncio.timeout(self._tick):
                        await self._stop.wait()
                except TimeoutError:
                    continue
        finally:
            self._connection = None
            await connection.close()

    async def _connect(self) -> Connection:
        while True:
            try:
                return await Connection.open(self._url, name=f"{self._name}-extender", settings=self._settings)
            except BusError as error:
                if not error.retryable:
                    raise
                log.warning("extender of %s: %s", self._name, error)

    async def _extend(self, connection: Connection) -> None:
        if not connection.is_connected:
            return  # what would be sent after the reconnect may be about tasks that are long settled
        async with self._sending:
            for sequence, reply in list(self._held.items()):
                if self._held.get(sequence) == reply:  # it may have been let go of meanwhile
                    await connection.publish(reply, b"+WPI")

    async def _watch(self, connection: Connection) -> None:
        """Speak for a blocked loop, and report it with its stack, once for each time that it is blocked."""
        blocked = time.monotonic() - self._seen
        if blocked > 1.5 * self._tick:
            await self._pulse(connection)
        if blocked <= self._tick:
            self._reported = False
        elif blocked > self._tick + BLOCKED_AFTER and self._held and not self._reported:
            self._reported = True
            frame = sys._current_frames().get(self._watched)  # noqa: SLF001  (the documented way to another thread)
            stack = "".join(traceback.format_stack(frame)) if frame else "no stack"
            log.warning(
                "the event loop of %s has been blocked for %.1f s; use a plain `def` handler, which runs in a "
                "thread, or asyncio.to_thread. It is at:\n%s",
                self._name,
                blocked,
                stack,
            )
        try:
            self._loop.call_soon_threadsafe(self._turn)
        except RuntimeError:
            log.debug("the loop of %s has ended", self._name)

    def _turn(self) -> None:
        self._seen = time.monotonic()
