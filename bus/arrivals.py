"""Where the results of one client's tasks arrive: one subscription for all of them, and a look after each reconnect."""

from __future__ import annotations

import asyncio
import functools
import logging
import weakref
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from bus import beside, endings, subjects
from bus.connection import Connection, Subscription
from bus.errors import BusClosedError, BusError, TransportError
from bus.messages import CONTENT_TYPE, Result
from bus.wire import Message

log = logging.getLogger(__name__)

LOOK_AGAIN: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds between two looks in a cluster, by who may not ask a stream's leader; a copy is behind for less than that."""


AT_ONCE: Final = 64
"""Results that are looked up side by side."""
PAUSE: Final = 0.2
"""Seconds until what could not be looked up is tried again: JetStream comes up a moment after the server does."""


class Arrival:
    """The result of one task, once it is there. Any number may wait for it."""

    __slots__ = ("__weakref__", "_closed", "_filling", "_told", "_waiters", "result")

    def __init__(self) -> None:
        self.result: Result | None = None
        self._closed = False
        self._filling: asyncio.Lock | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._told: list[Callable[[Arrival], None]] = []

    @property
    def done(self) -> bool:
        """Whether there is nothing left to wait for: it has arrived, or the connection is closed."""
        return self.result is not None or self._closed

    def set(self, result: Result | None) -> None:
        """It has arrived; None: it never will, for the connection is closed."""
        if self.done:
            return
        self.result, self._closed = result, result is None
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()
        told, self._told = self._told, []
        for callback in told:
            callback(self)

    def tell(self, callback: Callable[[Arrival], None]) -> None:
        """Have `callback` called once, when there is nothing left to wait for. It must be quick and must not raise."""
        self._told.append(callback)

    def forget(self, callback: Callable[[Arrival], None]) -> None:
        """Call it no more."""
        if callback in self._told:
            self._told.remove(callback)

    async def wait(self, connection: Connection, timeout: float | None) -> bool:
        """Return once there is nothing left to wait for; False when `timeout` seconds were over first."""
        if self.done:
            return True
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        alarm = None if timeout is None else connection.alarms.set(timeout, functools.partial(_give_up, waiter))
        try:
            await waiter
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # it is not the alarm, but whoever waits, that was cancelled
            return self.done
        finally:
            if alarm is not None:
                alarm.clear()
            if not self.done:
                self._waiters.remove(waiter)
        return True

    async def filled(self, connection: Connection) -> Result:
        """The result that has arrived, with its value where that is large and stands beside it: read once for all.

        Raises:
            CodecError, PayloadTooLargeError, TransportError: it cannot be had; see `beside.filled`.
        """
        assert self.result is not None
        if self.result.blob is not None:
            self._filling = self._filling or asyncio.Lock()
            async with self._filling:
                self.result = await beside.filled(connection, self.result)
        return self.result


class Arrivals:
    """The results of one client."""

    def __init__(self, connection: Connection, client: str) -> None:
        self._connection = connection
        self._client = client
        self._waiting: weakref.WeakValueDictionary[tuple[str, str], Arrival] = weakref.WeakValueDictionary()
        self._subscription: Subscription | None = None
        self._subscribing = asyncio.Lock()
        self._looking: set[asyncio.Task[None]] = set()
        self._rereading: asyncio.Task[None] | None = None
        connection.on_reconnect(self._reread)
        connection.closed.add_done_callback(self._close)

    @property
    def listening(self) -> bool:
        """Whether what is stored from now on is heard."""
        return self._subscription is not None

    async def listen(self) -> None:
        """Listen from now on."""
        async with self._subscribing:
            if self._subscription is None:
                self._subscription = await self._connection.subscribe(subjects.done(self._client), self._on_done)

    def of(self, capability: str, task_id: str) -> Arrival:
        """Where a task's result arrives: the same for all who ask, and it lives as long as one of them."""
        key = (capability, task_id)
        arrival = self._waiting.get(key)
        if arrival is None:
            self._waiting[key] = arrival = Arrival()
        return arrival

    async def look(self, capability: str, task_id: str, arrival: Arrival) -> None:
        """See whether a result stands that was stored before anybody listened.

        Raises:
            TransportError, ServerError: it could not be looked up.
        """
        subject = subjects.result(self._client, capability, task_id)
        result = await endings.stored_result(self._connection, subject)
        if result is not None:
            arrival.set(result)
        elif self._connection.restricted and self._connection.clustered:
            self._spawn(self._look_again(capability, task_id, weakref.ref(arrival)))

    async def _look_again(self, capability: str, task_id: str, seen: weakref.ref[Arrival]) -> None:
        """We were answered by any copy of RESULTS, and it may have been behind: what it missed is not said again."""
        subject = subjects.result(self._client, capability, task_id)
        for pause in LOOK_AGAIN:
            await asyncio.sleep(pause)
            arrival = seen()
            if arrival is None or arrival.done:
                return
            try:
                result = await endings.stored_result(self._connection, subject)
            except TransportError as error:
                log.debug("result of %s: %s", task_id, error)
                continue
            if result is not None:
                arrival.set(result)
                return
            del arrival  # who waits for it may give up meanwhile

    def stop(self) -> None:
        """Look for nothing more."""
        for task in self._looking:
            task.cancel()

    def _on_done(self, message: Message) -> None:
        """A result was stored. RESULTS republishes what it stored, so a refused publish is never seen here."""
        arrival = self._waiting.get(subjects.parse_done(message.subject))
        if arrival is not None and not arrival.done:
            headers = {CONTENT_TYPE: message.header(CONTENT_TYPE)}
            arrival.set(endings.read_result(headers, message.data, message.subject))

    def _close(self, _closed: object) -> None:
        for arrival in list(self._waiting.values()):
            arrival.set(None)

    async def _reread(self) -> None:
        """After a reconnect: results may have been stored while nobody listened."""
        if self._rereading is not None:
            self._rereading.cancel()  # of the reconnect before; this one looks for all that is still waited for
        self._rereading = self._spawn(self._read_all())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._looking.add(task)
        task.add_done_callback(self._looked)
        return task

    def _looked(self, task: asyncio.Task[None]) -> None:
        self._looking.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a result could not be looked up: %s", error, exc_info=error)

    async def _read_all(self) -> None:
        listed = list(self._waiting.items())
        await self.look_for([(*key, arrival) for key, arrival in listed], lenient=True)

    async def look_for(self, wanted: Sequence[tuple[str, str, Arrival]], *, lenient: bool = False) -> None:
        """Look up the results of many tasks, given as capability, task id and where each arrives: `AT_ONCE` side by
        side, and again after errors of transport, until each has been looked up, or has arrived, or the connection is
        closed. While that is lost nothing is asked.

        Raises:
            ServerError: one cannot be looked up at all; where that is `lenient`, it is logged instead.
        """
        left = iter(wanted)

        async def some() -> None:
            for capability, task_id, arrival in left:
                try:
                    await self._look_until(capability, task_id, arrival)
                except BusClosedError:
                    return  # then nothing arrives any more, which is said to all who wait
                except BusError as error:
                    if not lenient:
                        raise
                    log.warning("result of %s: %s", task_id, error)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(AT_ONCE, len(wanted))):
                    group.create_task(some())
        except ExceptionGroup as several:
            raise several.exceptions[0] from several

    async def _look_until(self, capability: str, task_id: str, arrival: Arrival) -> None:
        while not arrival.done:
            try:
                await self._connection.connected()
                await self.look(capability, task_id, arrival)
            except TransportError as error:
                log.debug("result of %s: %s", task_id, error)
                await asyncio.sleep(PAUSE)
            else:
                return


def _give_up(waiter: asyncio.Future[None]) -> None:
    waiter.cancel()


async def closed(connection: Connection) -> BusError:
    """Why nothing arrives any more."""
    try:
        await connection.connected()
    except BusError as error:
        return error
    return BusClosedError()
