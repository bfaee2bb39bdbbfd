"""The first connect to a server, and how often a lost one is tried again.

Cure of trap 12 of nats-py: it tries an address where nobody listens for 120 s, with a traceback each time. Here the
first connect gives up in time, with one line; later losses are healed for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final

import nats.errors
from nats.aio.client import Server

from bus.credentials import DEFAULT_INBOX, Credentials
from bus.errors import AuthenticationError, ConfigError, NoJetStreamError, ServerTooOldError, ServerUnreachableError
from bus.settings import Settings, check_secrets, redact
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

    def __init__(
        self,
        url: str,
        name: str,
        settings: Settings,
        credentials: Credentials | None,
        *,
        on_error: OnError,
        events: dict[str, OnEvent],
    ) -> None:
        self._url = url
        self._name = name
        self._credentials = credentials
        self._tls = tls_context(settings, url)
        self._on_error = on_error
        self._events = events
        self._standing = False
        self.client = WireClient(credentials, secure=self._tls is not None)
        self.last_error: BaseException | None = None

    async def dial(self) -> None:
        while not self._standing:
            try:
                await self._connect()
            except OSError as error:
                # A server that refuses us resets the connection; nats-py then stumbles over its own clean-up.
                self.last_error = error
                self.client = WireClient(self._credentials, secure=self._tls is not None)
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
            inbox_prefix=self._credentials.inbox if self._credentials else DEFAULT_INBOX,
            tls=self._tls,
        )

    async def _heard(self, error: Exception) -> None:
        if self._standing:
            await self._on_error(error)
            return
        self.last_error = error
        if "authorization" in str(error).lower():
            raise _RefusedError from error


def tls_context(settings: Settings, url: str) -> ssl.SSLContext | None:
    """How to speak TLS with a server; None where nothing asks for it.

    Raises:
        ConfigError: a file that a setting names cannot be used.
    """
    if not (settings.tls_ca or settings.tls_cert) and "tls://" not in url and "wss://" not in url:
        return None
    for name in ("tls_ca", "tls_cert", "tls_key"):
        path = getattr(settings, name)
        if path and not os.access(path, os.R_OK):
            raise ConfigError(f"REVO_{name.upper()}={path}", "cannot be read")
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca or None)
        if settings.tls_cert:
            context.load_cert_chain(settings.tls_cert, settings.tls_key or None)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError("REVO_TLS_CA, REVO_TLS_CERT or REVO_TLS_KEY", f"{error}".lower()) from error
    return context


async def dial(
    url: str,
    *,
    name: str,
    settings: Settings,
    credentials: Credentials | None,
    on_error: OnError,
    on_lost: OnEvent,
    on_back: OnEvent,
    on_closed: OnEvent,
) -> WireClient:
    """A client that stands, with a server that has what we need; the callbacks hear of it from then on.

    Raises:
        ConfigError: a password would travel in the clear, or a file for TLS cannot be used.
        ServerUnreachableError: when no server answered within the setting `connect_timeout`.
        AuthenticationError: at once, when the server refuses the credentials.
        ServerTooOldError, NoJetStreamError: when the server lacks what Revo stands on.
    """
    events = {"disconnected_cb": on_lost, "reconnected_cb": on_back, "closed_cb": on_closed}
    check_secrets(url)
    timeout = settings.connect_timeout
    dialer = _Dialer(url, name, settings, credentials, on_error=on_error, events=events)
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
