"""Ask every instance that has a capability at once, and gather what they answer until a deadline.

At most once, and nothing is stored: for what concerns each process, such as its state or its cache. Work that must not
be lost is a task.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass, field
from typing import Any, Final

from bus import codec, replies, rpc, subjects
from bus.connection import Connection
from bus.deadlines import reserve, within
from bus.errors import BusError, CodecError, RemoteError
from bus.messages import CONTENT_TYPE, DEADLINE, INSTANCE, MSGPACK
from bus.telemetry import Telemetry
from bus.wire import Message

_ASK_REGISTRY: Final = 1.0
"""Seconds that the registry may take to say who is expected."""
_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class Reply:
    """What one instance answered: its value, or its error."""

    instance: str
    value: Any = None
    error: RemoteError | None = None


@dataclass(slots=True)
class Gathered:
    """What came of a broadcast. `missing` are instances that live by the registry and did not answer in time."""

    replies: list[Reply] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def values(self) -> list[Any]:
        """The values of those that answered without an error."""
        return [reply.value for reply in self.replies if reply.error is None]


async def gather(
    connection: Connection, telemetry: Telemetry, capability: str, message: object, *, timeout: float
) -> Gathered:
    """Send a message to every instance that has the capability; return when all have answered, at the latest after
    `timeout` seconds. Who they are the registry says; without one the whole time is waited.

    Raises:
        EncodeError, InvalidSubjectError, PayloadTooLargeError: before anything is sent.
        PermissionDeniedError: the credentials do not allow it.
        TransportError: the connection is lost.
    """
    subject = subjects.broadcast(capability, connection.caller)
    timeout = within(timeout, subject)
    until = time.time() + timeout
    body = codec.encode(message, subject=subject)
    headers = {CONTENT_TYPE: MSGPACK, DEADLINE: f"{until - reserve(timeout):.3f}"}
    attributes = {"rpc.system": "nats", "rpc.service": "broadcast", "rpc.method": capability}
    arrived: asyncio.Queue[Message] = asyncio.Queue()
    own = f"{subjects.answers(connection.caller)}.{secrets.token_hex(16)}"
    inbox = own if connection.caller else connection.client.new_inbox()
    with telemetry.span(f"broadcast {capability}", kind="client", attributes=attributes) as span:
        subscription = await connection.subscribe(inbox, arrived.put_nowait)
        try:
            telemetry.inject(headers)
            expected = await _expected(connection, telemetry, capability, until)
            await connection.publish(subject, body, headers, reply=inbox)
            await connection.flush()  # a refusal is heard here
            gathered = await _gather(arrived, expected, until, subject)
        finally:
            await subscription.drain()
        span.set("revo.replies", len(gathered.replies))
        return gathered


async def _gather(arrived: asyncio.Queue[Message], expected: set[str] | None, until: float, subject: str) -> Gathered:
    found: dict[str, Reply] = {}
    try:
        async with asyncio.timeout(max(0.0, until - time.time())):
            while expected is None or expected - found.keys():
                message = await arrived.get()
                headers = message.headers
                if headers.get("Status") == "503":
                    break  # nobody listens
                reply = _read(headers, message.data, subject)
                found.setdefault(reply.instance, reply)
    except TimeoutError:
        pass  # what did not come until now is missing
    missing = sorted((expected or set()) - found.keys())
    return Gathered(sorted(found.values(), key=lambda reply: reply.instance), missing)


def _read(headers: dict[str, str], body: bytes, subject: str) -> Reply:
    instance = headers.get(INSTANCE, "")
    try:
        return Reply(instance, replies.read(headers, body, subject))
    except RemoteError as error:
        return Reply(instance, error=error)
    except CodecError as error:
        return Reply(instance, error=RemoteError(error.code, str(error)))


async def _expected(connection: Connection, telemetry: Telemetry, capability: str, until: float) -> set[str] | None:
    """The instances that the registry knows to have the capability; None: it knows of none, or is not there."""
    found: set[str] = set()
    after = ""
    try:
        while True:
            question = {"capability": capability, "after": after, "limit": _PAGE, "names": True}
            timeout = min(_ASK_REGISTRY, max(0.1, until - time.time()))
            page = await rpc.call(connection, telemetry, subjects.REGISTRY, "find", question, timeout=timeout)
            names = [str(one["instance"]) for one in page["instances"]]
            found.update(names)
            if not page["more"]:
                return found or None
            after = names[-1]
    except BusError:
        return None
