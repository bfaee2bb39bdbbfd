"""The first connect to a server, and how often a lost one is tried again.

Cure of trap 12 of nats-py: it tries an address where nobody listens for 120 s, with a traceback each time. Here the
first connect gives up in time, with one line; later losses are healed for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

import nats.errors
from nats.aio.client import Server

from bus.errors import AuthenticationError, NoJetStreamError, ServerTooOldError, ServerUnreachableError
from bus.settings import redact
from bus.wire import WireClient

RECONNECT_FIRST: Final = 0.05
RECONNECT_MAX: Final = 2.0
"""Seconds between two attempts to reconnect: from the first to the last, doubling, with full jitter."""

NEEDS: Final = {(2, 11): "results that expire by themselves (Nats-TTL)"}
"""What we stand on, by the first server version that has it."""

OnError = Callable[[Exception], Awaitable[None]]
OnEvent = Callable[[], Awaitable[None]]


class _RefusedError(Exception):
    """The server refused our credentials: ends the first connect at once instead of trying for ever."""


class _Dialer:
    """One first connect. Until it stands, errors are its own; afterwards they go to `on_error`."""

    def __init__(self, url: str, name: str, on_error: OnError, events: dict[str, OnEvent]) -> None:
        self._url = url
        self._name = name
        self._on_error = on_error
        self._events = events
        self._standing = False
        self.client = WireClient()
        self.last_error: BaseException | None = None

    async def dial(self) -> None:
        while not self._standing:
            try:
                await self._connect()
            except OSError as error:
                # A server that refuses us resets the connection; nats-py then stumbles over its own clean-up.
                self.last_error = error
                self.client = WireClient()
                await asyncio.sleep(RECONNECT_FIRST)
            else:
                self._standing = True

    async def _connect(self) -> None:
        await self.client.connect(
            self._url.split(","),
            name=self._name,
            error_cb=self._heard,
            **self._events,  # type: ignore[arg-type]
            allow_reconnect=True,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.2,  # type: ignore[arg-type]  # seconds; nats-py takes floats too
            reconnect_to_server_handler=next_server,
            connect_timeout=2,
            ping_interval=10,
            max_outstanding_pings=2,
            skip_subject_validation=True,  # bus.subjects builds them all
        )

    async def _heard(self, error: Exception) -> None:
        if self._standing:
            await self._on_error(error)
            return
        self.last_error = error
        if "authorization" in str(error).lower():
            raise _RefusedError from error


async def dial(
    url: str, *, name: str, timeout: float, on_error: OnError, on_lost: OnEvent, on_back: OnEvent, on_closed: OnEvent
) -> WireClient:
    """A client that stands, with a server that has what we need; the callbacks hear of it from then on.

    Raises:
        ServerUnreachableError: when no server answered within `timeout` seconds.
        AuthenticationError: at once, when the server refuses the credentials.
        ServerTooOldError, NoJetStreamError: when the server lacks what Revo stands on.
    """
    events = {"disconnected_cb": on_lost, "reconnected_cb": on_back, "closed_cb": on_closed}
    dialer = _Dialer(url, name, on_error, events)
    try:
        async with asyncio.timeout(timeout):
            await dialer.dial()
        check_server(dialer.client, url)
    except _RefusedError as error:
        await _abandon(dialer.client)
        raise AuthenticationError(redact(url)) from error
    except (TimeoutError, nats.errors.Error) as error:
        await _abandon(dialer.client)
        raise ServerUnreachableError(redact(url), timeout, reason(dialer.last_error)) from error
    except BaseException:
        await _abandon(dialer.client)
        raise
    return dialer.client


def check_server(client: WireClient, url: str) -> None:
    """See that the server has what we need.

    Raises:
        ServerTooOldError, NoJetStreamError: it has not.
    """
    version = client.connected_server_version
    for needs, feature in NEEDS.items():
        if (version.major, version.minor) < needs:
            found = f"{version.major}.{version.minor}"
            raise ServerTooOldError(redact(url), feature, ".".join(map(str, needs)), found)
    if not client._server_info.get("jetstream"):  # noqa: SLF001  (no public way to read INFO)
        raise NoJetStreamError(redact(url))


def next_server(servers: list[Server], _info: dict[str, Any]) -> tuple[Server, float]:
    """The next server to try and the pause before: exponential with full jitter.

    So that a thousand processes do not come back in step.
    """
    server = min(servers, key=lambda known: known.reconnects)
    ceiling = min(RECONNECT_MAX, RECONNECT_FIRST * 2.0 ** min(server.reconnects, 10))
    return server, random.uniform(0, ceiling)  # noqa: S311  (spreads load, guards nothing)


async def _abandon(client: WireClient) -> None:
    """Close what a failed connect left behind."""
    with contextlib.suppress(nats.errors.Error, OSError, AssertionError):  # the last: it never got so far
        await client.close()


def reason(error: BaseException | None) -> str:
    """One line for what nats-py calls an error."""
    if error is None:
        return ""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error).removeprefix("nats: ").strip("'").lower() or type(error).__name__
