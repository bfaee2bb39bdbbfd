"""Request and reply with deadlines and remote errors, served as NATS micro services (ADR-32).

Every instance of a service is a member of one queue group, so each request goes to one of them, and answers besides on
a subject of its own; the ordinary NATS tools list and measure the service. At most once: a request that got no reply
may have been acted on.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bus import codec, replies, subjects
from bus.connection import Connection, Subscription
from bus.deadlines import TERM, Term, reserve, within
from bus.errors import BusError, DecodeError, EncodeError, PermissionDeniedError, RemoteError
from bus.health import Meter
from bus.messages import CONTENT_TYPE, DEADLINE, INSTANCE, MSGPACK, SERVICE_ERROR
from bus.micro import Endpoint, Micro
from bus.telemetry import Attributes, Telemetry
from bus.wire import Message, OnMessage

log = logging.getLogger(__name__)


CALLER: ContextVar[str] = ContextVar("revo_caller", default="")
"""Who asks, where a handler of a request runs: held by permissions, so nobody can say that he is somebody else. Empty:
somebody who may ask anything, or a server that knows no users.
"""

SCOPE: ContextVar[str] = ContextVar("revo_scope", default="")
"""Within which scope is asked, where a handler of a scoped request runs; held by permissions as the caller is."""


@dataclass(slots=True)
class Request:
    """One request as its handler sees it. `deadline` is unix seconds: later nobody waits for the reply."""

    service: str
    method: str
    body: bytes
    headers: Mapping[str, str]
    content_type: str
    deadline: float


RpcHandler = Callable[[Request], Awaitable[object]]
"""Takes a request and returns the reply's value, plain or pydantic; what it raises is the caller's `RemoteError`."""


@dataclass(slots=True, kw_only=True)
class _Method(Endpoint):
    handler: RpcHandler
    direct: bool = True
    subscriptions: list[Subscription] = field(default_factory=list)


async def call(
    connection: Connection,
    telemetry: Telemetry,
    service: str,
    method: str,
    message: object,
    *,
    timeout: float | None = None,
    scope: str = "",
) -> Any:
    """Ask a service, within a scope where its method has some, and return the plain value of its reply.

    It is waited no longer than for the handler that asks, if one does, and the service is told to end a bit earlier.

    Raises:
        NoRespondersError: at once, when no instance of the service runs.
        RequestTimeoutError: no reply within `timeout` seconds; the handler is cancelled by then.
        RemoteError: the handler failed; `retryable` says whether a retry may help.
        NoTimeLeftError: whoever waits for the handler that asks has given up; nothing was sent.
        EncodeError, InvalidSubjectError, PayloadTooLargeError: before anything is sent.
    """
    if scope:
        subject = subjects.scoped(service, method, scope, connection.caller)
    else:
        subject = subjects.rpc(service, method, connection.caller)
    question = prepare(connection, subject, message, timeout=timeout)
    attributes = functools.partial(attributes_of, service, method)
    with telemetry.sending(f"{service}/{method}", question.headers, attributes, kind="client"):
        return await exchange(connection, question)


class Question(NamedTuple):
    """A request that is ready to be sent. `timeout` is seconds."""

    subject: str
    body: bytes
    headers: dict[str, str]
    timeout: float


def prepare(connection: Connection, subject: str, message: object, *, timeout: float | None = None) -> Question:
    """A request with its deadline.

    Raises:
        NoTimeLeftError, EncodeError: see `call`.
    """
    timeout = within(connection.settings.request_timeout if timeout is None else timeout, subject)
    body = codec.encode(message, subject=subject)
    until = time.time() + timeout - reserve(timeout)
    return Question(subject, body, {CONTENT_TYPE: MSGPACK, DEADLINE: f"{until:.3f}"}, timeout)


async def exchange(connection: Connection, question: Question) -> Any:
    """Send it and return the plain value of the reply; see `call`."""
    subject, body, headers, timeout = question
    reply = await connection.request(subject, body, headers, timeout=timeout)
    return replies.read(reply.headers, reply.data, subject)


async def tell(connection: Connection, telemetry: Telemetry, service: str, method: str, message: object) -> None:
    """Send a service a message that nobody answers. At most once: nothing says whether it arrived."""
    subject = subjects.rpc(service, method, connection.caller)
    headers = {CONTENT_TYPE: MSGPACK}
    telemetry.inject(headers)
    await connection.publish(subject, codec.encode(message, subject=subject), headers)


@dataclass(slots=True)
class Service:
    """One instance of a micro service. Add endpoints, `start`, and `drain` before the connection closes."""

    connection: Connection
    telemetry: Telemetry
    name: str
    instance: str
    version: str
    description: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    meter: Meter | None = None
    """Counts what came to an end."""
    _methods: dict[str, _Method] = field(default_factory=dict)
    _micro: Micro = field(init=False)
    _running: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._micro = Micro(
            self.connection,
            self.name,
            self.instance,
            self.version,
            self.description,
            self.metadata,
            self._methods.values(),
        )

    def endpoint(self, method: str, handler: RpcHandler, *, scoped: bool = False) -> None:
        """Answer `method` with `handler`. Requests run side by side; bounding them is the handler's business. One that
        is `scoped` is asked within a scope, which stands in `SCOPE`, and of no instance directly.
        """
        subject = subjects.scoped(self.name, method, "*") if scoped else subjects.rpc(self.name, method)
        self._methods[method] = _Method(method, subject, self.name, handler=handler, direct=not scoped)

    def on_broadcast(self, capability: str, handler: RpcHandler) -> None:
        """Answer what is sent to all instances that have a capability; no queue group chooses one of them."""
        name = f"broadcast-{capability}"
        self._methods[name] = _Method(name, subjects.broadcast(capability), "", handler=handler)

    async def start(self) -> None:
        """Serve; returns when the server knows of every endpoint."""
        await self.resume()
        await self._micro.start()

    async def resume(self) -> None:
        """Take requests, from the start or after a pause; who takes them already goes on."""
        if any(method.subscriptions for method in self._methods.values()):
            return
        for method in self._methods.values():
            await self._listen(method, method.subject, method.queue)
            if method.queue and method.direct:
                try:
                    await self._listen(method, subjects.direct(self.name, self.instance, method.name), "")
                except PermissionDeniedError as error:  # granted by an earlier version; `revo keys` grants it anew
                    log.warning("%s cannot be asked directly: %s", self.instance, error)

    async def pause(self) -> None:
        """Take no more requests for now, so that they go to other instances; those in hand are answered."""
        ending = [one for method in self._methods.values() for one in method.subscriptions]
        for method in self._methods.values():
            method.subscriptions.clear()
        await asyncio.gather(*(one.drain() for one in ending))

    async def _listen(self, method: _Method, subject: str, queue: str) -> None:
        receive = self._receiver(method)
        for form in (subject, f"{subject}.*"):  # the second with the caller's name
            method.subscriptions.append(await self.connection.subscribe(form, receive, queue=queue))

    async def drain(self, timeout: float) -> None:
        """Take no more requests and answer those in hand; cut off what takes longer than `timeout` seconds.

        Cure of traps 7 and 8: nats-py's `Service.stop` and `drain` lose requests that are in flight.
        """
        await self._micro.drain()
        await self.pause()
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=timeout)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _receiver(self, method: _Method) -> OnMessage:
        def receive(message: Message) -> None:
            task = asyncio.get_running_loop().create_task(self._serve(method, message))
            self._running.add(task)
            task.add_done_callback(self._served)

        return receive

    def _served(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("service %s: %s", self.name, error, exc_info=error)

    async def _serve(self, method: _Method, message: Message) -> None:
        started = time.perf_counter()
        headers = message.headers
        method.requests += 1
        content_type = MSGPACK
        failed = False
        name = f"{self.name}/{method.name}"
        attributes = functools.partial(attributes_of, self.name, method.name)
        with self.telemetry.span(name, kind="server", headers=headers, attributes=attributes) as span:
            try:
                content_type = codec.content_type_of(headers, subject=message.subject)
                deadline = _deadline(headers, self.connection.settings.request_timeout, message.subject)
                request = Request(self.name, method.name, message.data, headers, content_type, deadline)
                CALLER.set(subjects.caller_of(message.subject))
                SCOPE.set(subjects.scope_of(message.subject))
                TERM.set(term := Term(deadline))
                try:
                    value = await self._before(deadline, method.handler(request), name)
                finally:
                    term.end()
                body = codec.encode(value, content_type, subject=message.subject)
                reply = {CONTENT_TYPE: content_type}
            except asyncio.CancelledError:
                stops = RemoteError("draining", "the actor stops", True)
                await self._reply(message, *replies.failure(stops, content_type))
                raise
            except (Exception, SystemExit) as error:  # noqa: BLE001  (whatever a handler raises goes to the caller)
                method.failed(f"{type(error).__name__}: {error}")
                span.fail(error)
                failed = not isinstance(error, BusError) or isinstance(error, EncodeError)  # others are the caller's
                body, reply = replies.failure(error, content_type)
            finally:
                took = time.perf_counter() - started
                method.processing += took
                if self.meter is not None:
                    self.meter.ended(took, failed=failed, method=method.name)
            await self._reply(message, body, reply)

    async def _before(self, deadline: float, work: Awaitable[object], name: str) -> object:
        """The work's value, unless the deadline (unix seconds) comes first; the work is cancelled then."""
        task = asyncio.current_task()
        assert task is not None
        late = False

        def stop() -> None:
            nonlocal late
            late = True
            task.cancel()

        alarm = self.connection.alarms.set(max(0.0, deadline - time.time()), stop)
        try:
            return await work
        except asyncio.CancelledError as error:
            if not late or task.uncancel() > 0:
                raise  # we were to stop for another reason, too
            raise RemoteError("deadline_exceeded", f"{name} did not end before the deadline", True) from error
        finally:
            alarm.clear()

    async def _reply(self, message: Message, body: bytes, headers: dict[str, str]) -> None:
        """Answer, if an answer is wanted. Cure of trap 9: nats-py's `respond` echoes the request's headers."""
        if not message.reply:
            if SERVICE_ERROR in headers:
                log.warning("%s failed and nobody waits for the reply: %s", message.subject, headers[SERVICE_ERROR])
            return
        headers = {**headers, INSTANCE: self.instance}
        try:
            await self.connection.publish(message.reply, body, headers)
        except BusError as error:
            fault, reply = replies.failure(error, headers.get(CONTENT_TYPE, MSGPACK))
            log.warning("reply of %s not sent: %s", message.subject, error)
            if not error.retryable and self.connection.is_connected:
                await self.connection.publish(message.reply, fault, reply)


def attributes_of(service: str, method: str) -> Attributes:
    """What a span says of a request."""
    return {"rpc.system": "nats", "rpc.service": service, "rpc.method": method}


def _deadline(headers: Mapping[str, str], default: float, subject: str) -> float:
    try:
        return float(headers[DEADLINE]) if DEADLINE in headers else time.time() + default
    except ValueError:
        raise DecodeError(subject, f"header {DEADLINE}: {headers[DEADLINE]!r:.40} is not unix seconds") from None
