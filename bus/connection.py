"""One connection to NATS that loses nothing silently: the cures for what nats-py does, in one place.

nats-py's errors become ours here. Each cure names the trap that it closes and has a test that fails without it
(`tests/integration/test_connection_traps.py`). Must not know tasks, actors or streams.

The module uses a few private calls of nats-py 2.16 (marked), where the public ones lose messages; `pyproject.toml`
pins the minor version for that reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import nats.errors

from bus.alarms import Alarms
from bus.calls import Calls
from bus.credentials import Credentials
from bus.dial import dial, reason
from bus.errors import (
    BusClosedError,
    BusError,
    ConnectionLostError,
    EncodeError,
    InvalidSubjectError,
    PayloadTooLargeError,
    PermissionDeniedError,
    RequestTimeoutError,
)
from bus.settings import Settings, redact
from bus.wire import Message, OnMessage, WireClient, write_headers

__all__ = ["Connection", "Message", "OnMessage", "Subscription"]

log = logging.getLogger(__name__)


class Subscription:
    """Interest in a subject. `drain` ends it without losing a message."""

    def __init__(self, connection: Connection, subject: str, number: int) -> None:
        self._connection = connection
        self._number = number
        self._ended = False
        self.subject = subject
        """As it was subscribed."""

    async def drain(self) -> None:
        """End the interest and return when every message that the server had sent has been handled.

        Cure of trap 1: nats-py writes PING before a pending UNSUB, so its own `drain` may return while the
        server still sends (34 of 16,000 messages lost). The UNSUB goes out first here.
        """
        client = self._connection.client
        if client.is_closed or self._ended:
            return
        self._ended = True
        try:
            await client.end_interest(self._number)
            await self._connection.flush()  # messages are handled as they are read: behind the answer none is left
        except (BusError, nats.errors.Error):
            # The connection is gone, and the interest with it.
            log.debug("unsubscribing %s without an answer: the connection is lost", self.subject)
        client.forget(self._number)

    def forget(self) -> None:
        """Hand on nothing more, whatever still comes: for who may miss it."""
        self._connection.client.forget(self._number)


class Connection:
    """A connection that reconnects for ever and turns silence into errors.

    Get one with `Connection.open`. It is of one event loop.
    """

    def __init__(self, url: str, *, name: str, settings: Settings) -> None:
        self.url = url
        self.name = name
        self.settings = settings
        self.client = WireClient()
        self.credentials: Credentials | None = None
        """Whose connection it is, where the server asks."""
        self.closed: asyncio.Future[BusError | None] = asyncio.get_running_loop().create_future()
        """Done once the connection is closed: with None when we closed it, else with the reason."""
        self.alarms = Alarms()
        """For what has a time limit and hardly ever reaches it."""
        self._calls = Calls(self.alarms)
        self._inbox = ""
        self._closing = False
        self._lost_at = 0.0
        self.reconnects = 0
        """How often it was lost and came back."""
        self.since = 0.0
        """Since when it stands without a break, by the monotonic clock."""
        self._connected = asyncio.Event()
        self._on_reconnect: list[Callable[[], Awaitable[None]]] = []
        self._on_disconnect: list[Callable[[], None]] = []
        self._denials: list[PermissionDeniedError] = []
        self._excused: dict[str, Callable[[], None]] = {}
        self._last_error: BaseException | None = None

    @classmethod
    async def open(cls, url: str, *, name: str = "revo", settings: Settings | None = None) -> Connection:
        """A connection that stands.

        Raises:
            ConfigError: the credentials, or a file for TLS, cannot be used.
            ServerUnreachableError: when no server answered within the setting `connect_timeout`.
            AuthenticationError: at once, when the server refuses the credentials.
            ServerTooOldError, NoJetStreamError: when the server lacks what Revo stands on.
        """
        settings = settings or Settings.from_env()
        self = cls(url, name=name, settings=settings)
        path = settings.find_credentials(url)
        self.credentials = await asyncio.to_thread(Credentials.load, Path(path)) if path else None
        self.client = await dial(
            url,
            name=name,
            settings=settings,
            credentials=self.credentials,
            on_error=self._on_error,
            on_lost=self._on_lost,
            on_back=self._on_back,
            on_closed=self._on_closed,
        )
        self.since = time.monotonic()
        self._connected.set()
        try:
            self._inbox = self.client.new_inbox()
            await self.subscribe(f"{self._inbox}.*", self._calls.on_reply)
        except BaseException:
            await self.close()
            raise
        return self

    # --- what nats-py tells us ----------------------------------------------------------------------------

    async def _on_error(self, error: Exception) -> None:
        """Every asynchronous error of nats-py, as a log line or as the error of the call that it belongs to."""
        self._last_error = error
        text = str(error)
        if "permissions violation" in text.lower():
            self._on_denied(text)
        elif self._connected.is_set() and not self._closing:
            log.warning("connection %s: %s", self.name, reason(error))

    def _on_denied(self, text: str) -> None:
        """Cure of trap 11: a denied publish shows as a time-out and a denied subscribe as success.

        nats-py lower-cases the subject; requests in flight on it fail at once, `flush` raises for the rest.
        """
        verb = "subscribe to" if "for subscription" in text.lower() else "publish to"
        subject = text.partition('"')[2].partition('"')[0]
        if subject.lower() in self._excused:
            self._excused[subject.lower()]()
        elif not self._calls.fail(subject, lambda exact: PermissionDeniedError(verb, exact)):
            self._denials.append(PermissionDeniedError(verb, subject))
            del self._denials[:-100]
            log.error("%s", self._denials[-1])

    def excuse(self, subject: str, on_denied: Callable[[], None]) -> None:
        """Have `on_denied` called when we may not publish there; for others that is no error then."""
        self._excused[subject.lower()] = on_denied

    async def _on_lost(self) -> None:
        if not self._connected.is_set() or self._closing:
            return
        self._connected.clear()
        self._lost_at = time.monotonic()
        log.warning("connection %s to %s is lost; reconnecting", self.name, redact(self.url))
        self._calls.fail_all(None)
        for callback in list(self._on_disconnect):
            callback()

    async def _on_back(self) -> None:
        self.reconnects += 1
        self.since = time.monotonic()
        self._connected.set()
        log.warning("connection %s is back after %.1f s", self.name, time.monotonic() - self._lost_at)
        for callback in list(self._on_reconnect):
            await callback()

    async def _on_closed(self) -> None:
        self._connected.clear()
        if self.closed.done():
            return
        why = None if self._closing else BusClosedError(f"the server closed the connection: {self._last_error}")
        self._calls.fail_all(why)
        self.closed.set_result(why)

    def on_reconnect(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Have `callback` called after every reconnect. It must be quick and must not raise."""
        self._on_reconnect.append(callback)

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when the connection is lost. It must be quick and must not raise."""
        self._on_disconnect.append(callback)

    def forget(self, *callbacks: Callable[..., object]) -> None:
        """Call these no more: whoever wanted them called has ended before the connection."""
        for callback in callbacks:
            for table in (self._on_reconnect, self._on_disconnect):
                if callback in table:
                    table.remove(callback)  # type: ignore[arg-type]  # it is in it

    # --- who we are ---------------------------------------------------------------------------------------

    @property
    def user(self) -> str:
        """Our name to the server; empty where it asks for none."""
        return self.credentials.user if self.credentials else ""

    @property
    def restricted(self) -> bool:
        """Whether we are granted single subjects, and no stream."""
        return self.credentials is not None and self.credentials.restricted

    @property
    def secret(self) -> bytes:
        """What only our user knows, for ids that nobody else can guess; empty where the server asks for no user."""
        return self.credentials.secret.encode() if self.credentials else b""

    @property
    def caller(self) -> str:
        """The last token of what we ask of others, by which they know us; empty: who asks may ask anything."""
        return self.user if self.restricted else ""

    # --- state --------------------------------------------------------------------------------------------

    @property
    def is_connected(self) -> bool:
        """Whether the connection stands at this moment."""
        return self._connected.is_set()

    @property
    def clustered(self) -> bool:
        """Whether the server is one of several, which may not all know the same at the same moment."""
        return bool(self.client._server_info.get("cluster"))  # noqa: SLF001  (no public way to read INFO)

    @property
    def server_id(self) -> str:
        """Which server it is, or was; one that was started anew is another."""
        return str(self.client._server_info.get("server_id", ""))  # noqa: SLF001  (no public way to read INFO)

    @property
    def max_payload(self) -> int:
        """The most bytes, headers included, that the server takes in one message."""
        return self.client.max_payload

    async def connected(self) -> None:
        """Return once the connection stands.

        Raises:
            BusClosedError: when it is closed for good.
        """
        self._check_open()
        if self._connected.is_set():
            return
        waiter = asyncio.ensure_future(self._connected.wait())
        try:
            await asyncio.wait((waiter, self.closed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
        self._check_open()

    @contextlib.contextmanager
    def unbroken(self, what: str) -> Iterator[asyncio.Future[Message]]:
        """A future that fails with `ConnectionLostError` as soon as the connection is lost within the block, and is
        never done otherwise: for `what` cannot be gone on with after a reconnect.
        """
        token = self._calls.new_token()
        lost = self._calls.add(token, what, None)
        try:
            yield lost
        finally:
            self._calls.drop(token)
            if lost.done():
                lost.exception()  # read once: nobody may have waited for it

    def _check_open(self) -> None:
        if self._closing or self.closed.done() or self.client.is_closed:
            why = self.closed.result() if self.closed.done() else None
            raise why or BusClosedError

    # --- messages -----------------------------------------------------------------------------------------

    def send(
        self,
        subject: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        reply: str = "",
        room: int = 0,
        lazy: bool = False,
    ) -> None:
        """Have one message go out in this turn of the loop, at most once: nobody confirms it. A `lazy` one may go a
        moment later, together with others.

        While the connection is lost, up to 2 MiB are kept and sent after the reconnect. Whoever sends much uses
        `publish`, which waits for a server that is slower than we are.

        Cure of trap 2: nats-py checks the body alone; with its headers above the limit the server closes the
        connection for good. `room` is bytes of the limit that must stay free.

        Raises:
            PayloadTooLargeError, InvalidSubjectError, EncodeError: before anything is sent.
            BusClosedError: when the connection is closed.
            ConnectionLostError: when the connection is lost and the buffer is full.
        """
        try:
            head = write_headers(headers) if headers else b""
        except nats.errors.BadHeaderError as error:
            raise EncodeError(subject, f"the name of a header is none: {error}") from error
        size = len(head) + len(body)
        if size + room > self.client.max_payload:
            raise PayloadTooLargeError(subject, size, self.client.max_payload - room)
        try:
            self.client.send(subject, body, head, reply, lazy=lazy)
        except nats.errors.BadSubjectError as error:
            shown = f"{subject} (reply {reply})" if reply else subject
            raise InvalidSubjectError(
                shown, "it is empty, or has a space or a sign in it that cannot be printed"
            ) from error
        except nats.errors.OutboundBufferLimitError as error:
            raise ConnectionLostError(subject) from error
        except nats.errors.ConnectionClosedError as error:
            raise BusClosedError from error

    async def publish(
        self, subject: str, body: bytes = b"", headers: Mapping[str, str] | None = None, *, reply: str = ""
    ) -> None:
        """The same, and wait while more is on its way than the server takes.

        Raises:
            PayloadTooLargeError, BusClosedError, ConnectionLostError: as `send`.
        """
        self.send(subject, body, headers, reply=reply)
        if self.client.congested:
            await self.client.relieved()

    async def request(
        self,
        subject: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        timeout: float | None = None,
        room: int = 0,
    ) -> Message:
        """Publish one message and wait for one reply.

        At most once: a time-out does not mean that the other side did not act. Cure of trap 3: a request
        in flight fails at once when the connection is lost.

        Raises:
            NoRespondersError: at once, when nobody is subscribed.
            RequestTimeoutError: when no reply came within `timeout` seconds.
            ConnectionLostError: when the connection is lost before the reply.
            PermissionDeniedError: when the credentials do not allow it.
        """
        call = self.begin(subject, body, headers, timeout=timeout, room=room)
        if self.client.congested:
            await self.client.relieved()
        return await call

    def begin(
        self,
        subject: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        timeout: float | None = None,
        room: int = 0,
    ) -> asyncio.Future[Message]:
        """Publish one message and return at once; the future is done with the reply, or with what `request` raises.

        Raises:
            PayloadTooLargeError, BusClosedError, ConnectionLostError: nothing was sent, as in `send`.
        """
        timeout = self.settings.request_timeout if timeout is None else timeout
        token = self._calls.new_token()
        self.send(subject, body, headers, reply=f"{self._inbox}.{token}", room=room)
        return self._calls.add(token, subject, timeout)

    async def subscribe(self, subject: str, handler: OnMessage, *, queue: str = "") -> Subscription:
        """Have `handler` called for every message on `subject` as it is read; of a queue group, one member each.

        Returns once the server knows of it.

        Raises:
            PermissionDeniedError: when the credentials do not allow it.
            BusClosedError: when the connection is closed.
        """
        try:
            number = await self.client.listen(subject, queue, handler)
        except nats.errors.ConnectionClosedError as error:
            raise BusClosedError from error
        self._denials = [denial for denial in self._denials if denial.subject != subject.lower()]
        try:
            if self.client.is_connected:
                with contextlib.suppress(ConnectionLostError, RequestTimeoutError):  # it is sent at the reconnect
                    await self.flush()
        except BaseException:
            self.client.forget(number)  # nobody else knows of it who could end it
            with contextlib.suppress(nats.errors.Error):
                await self.client.end_interest(number)
            raise
        return Subscription(self, subject, number)

    async def flush(self, *, timeout: float | None = None) -> None:
        """Return when the server has everything that was sent before.

        Cure of trap 1: nats-py writes its PING past the commands that still wait in its buffer.

        Raises:
            PermissionDeniedError: when the server refused something that was sent since the last flush.
            ConnectionLostError, RequestTimeoutError: when there was no answer.
        """
        if not self.client.is_connected:
            raise ConnectionLostError("flush")  # what was sent is sent again, or was lost, with the reconnect
        timeout = self.settings.request_timeout if timeout is None else timeout
        token = self._calls.new_token()
        lost = self._calls.add(token, "flush", None)  # fails, as every call in flight does, when the connection is lost
        flushing = asyncio.ensure_future(self._flush(timeout))
        try:
            await asyncio.wait((flushing, lost), return_when=asyncio.FIRST_COMPLETED)
            if lost.done():
                lost.result()
            await flushing
        finally:
            flushing.cancel()
            self._calls.drop(token)
            if lost.done():
                lost.exception()  # it may have failed while we failed of something else
        if self._denials:
            denials, self._denials = self._denials, []
            raise denials[0]

    async def _flush(self, timeout: float) -> None:
        """Not by nats-py's own `flush`: cancelled or too late, it leaves a cancelled future among those that wait for a
        PONG, and the PONG that comes for it ends the loop that reads. The connection stands then, and is deaf.
        """
        client = self.client
        if client.is_closed:
            raise ConnectionLostError("flush")
        pong: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout):
                await client._flush_pending(force_flush=True)  # noqa: SLF001  (writes the buffer first)
                await client._send_ping(pong)  # noqa: SLF001
                await asyncio.wait((pong,))  # which does not cancel it
        except TimeoutError as error:
            if not client.is_connected:
                raise ConnectionLostError("flush") from error
            raise RequestTimeoutError("flush", timeout) from error
        except (nats.errors.ConnectionClosedError, OSError, RuntimeError, AttributeError, AssertionError) as error:
            # RuntimeError: what uvloop says of a transport that is closed. The last two: nats-py has dropped it.
            raise ConnectionLostError("flush") from error
        if pong.cancelled():
            raise ConnectionLostError("flush")

    # --- closing ------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Send what is still to be sent, then close. Never waits longer than two seconds. May be repeated.

        Cure of trap 8: nats-py's `drain` does not wait for tasks that handlers spawned; whoever spawns them (worker,
        rpc) awaits them before this is called, so nothing is left to lose.
        """
        if self._closing:
            return
        if self.client.is_connected:
            with contextlib.suppress(BusError):
                await self.flush(timeout=2.0)
        self._closing = True
        self.alarms.close()
        if not self.client.is_connected:
            self.client.forget_unsent()
        with contextlib.suppress(nats.errors.Error, OSError):
            await self.client.close()
        await self._on_closed()  # which nats-py does not always say

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
