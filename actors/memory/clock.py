"""The server's clock, by which entries expire; ours may be wrong. And how long to try."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from actors.memory.versions import STREAM
from bus.connection import Connection
from bus.errors import QueueFullError, TransportError
from bus.topology import server_time

T = TypeVar("T")

_FRESH: Final = 300.0
"""Seconds for which what was measured counts: two clocks drift apart by some 30 ms meanwhile."""


class Clock:
    """Tells the server's time; measured when somebody asks, and again after a while, or by another server."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._ahead = 0.0
        self._measured = float("-inf")
        self._reconnects = 0

    async def now(self) -> float:
        """The server's clock, in unix seconds, to within half the time of a request.

        Raises:
            TransportError: no answer.
        """
        loop = asyncio.get_running_loop()
        if loop.time() - self._measured > _FRESH or self._connection.reconnects != self._reconnects:
            reconnects, asked = self._connection.reconnects, loop.time()
            said = await retried(self._connection, lambda: server_time(self._connection, STREAM))
            self._ahead = said - (asked + loop.time()) / 2
            self._measured, self._reconnects = asked, reconnects
        return self._ahead + loop.time()


async def retried(
    connection: Connection, call: Callable[[], Awaitable[T]], *, first: TransportError | None = None
) -> T:
    """What `call` returns, which changes nothing: called again for the setting `request_timeout` where the world is in
    the way. `first` is how it failed already.

    Raises:
        TransportError: the last one.
    """
    patience = Patience(connection, connection.settings.request_timeout)
    while True:
        if first is not None:
            await patience.wait(first)
        try:
            return await call()
        except QueueFullError:
            raise
        except TransportError as error:
            first = error


def once(connection: Connection) -> float:
    """Seconds for one try of what is `retried`, where the connection stands and yet no answer comes."""
    return connection.settings.request_timeout / 3


class Patience:
    """How long something is tried, and the pauses between, which grow."""

    def __init__(self, connection: Connection, seconds: float) -> None:
        self._connection = connection
        self._until = asyncio.get_running_loop().time() + seconds
        self._pause = 0.01

    async def wait(self, error: TransportError) -> None:
        """Return when to try again: the connection stands, and a moment has passed.

        Raises:
            TransportError: `error`; there is no more time.
        """
        try:
            async with asyncio.timeout_at(self._until):
                await asyncio.sleep(random.uniform(0, self._pause))  # noqa: S311
                await self._connection.connected()
        except TimeoutError:
            raise error from None
        self._pause = min(1.0, self._pause * 2)
