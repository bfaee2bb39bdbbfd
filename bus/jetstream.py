"""Durable storage as JetStream offers it: publish and know it is stored, read what is stored, call its API.

Errors are told apart by their code, never by their text. Must not know which streams there are (`bus.topology`).
"""

from __future__ import annotations

import asyncio
import base64
import datetime
import json
import random
import re
from collections.abc import Coroutine, Mapping
from typing import Any, Final, NamedTuple

from bus import codec, subjects
from bus.connection import Connection
from bus.errors import (
    BusError,
    NotFoundError,
    PayloadTooLargeError,
    QueueFullError,
    ServerError,
    TransportError,
    WrongSequenceError,
)
from bus.messages import JSON
from bus.wire import Message

_WRONG_SEQUENCE: Final = frozenset({10071, 10164})
_NOT_FOUND: Final = frozenset({10014, 10037, 10059})  # consumer, message, stream
_FULL: Final = frozenset({10077, 10047, 10023, 10028, 10026, 10074})
CONSUMER_EXISTS: Final = frozenset({10105, 10148, 10013})
"""Codes of a `ServerError` when a consumer of that name is there already."""
_ACK: Final = re.compile(rb'\{"stream":"(\w+)", ?"seq":(\d+)\}\Z')
"""What the server answers when all is well and nothing is special."""
_DIRECT_HEADERS: Final = frozenset(
    {"Nats-Stream", "Nats-Subject", "Nats-Sequence", "Nats-Time-Stamp", "Nats-Num-Pending", "Nats-Last-Sequence"}
)
"""What the server adds to a message that is read directly."""
_TOO_LARGE: Final = 10054
_GONE: Final = frozenset({10043, 10057, 10037})
_SERVER_BUSY: Final = frozenset({10008, 10009, 10039, 10158, 10163, 10167})
"""No leader; catching up; not enabled for this account yet; a cluster has not yet agreed on a message with this id; nor
on one with this subject; too many wait."""


class Stored(NamedTuple):
    """Where a message was stored. `duplicate`: an earlier one with the same id stands there. `total`: of a counter."""

    stream: str
    sequence: int
    duplicate: bool
    total: int | None = None


class StoredMessage(NamedTuple):
    """One message as it stands in a stream."""

    subject: str
    sequence: int
    headers: dict[str, str]
    body: bytes
    stored_at_ns: int

    @property
    def stored_at(self) -> float:
        """Unix seconds."""
        return self.stored_at_ns / 1e9


async def call(
    connection: Connection,
    operation: str,
    *names: str,
    body: Mapping[str, Any] | None = None,
    timeout: float | None = None,
) -> dict[str, Any]:
    """Call the JetStream API and return its answer; `timeout` is as in `Connection.request`.

    Raises:
        NotFoundError: when the stream, consumer or message does not exist.
        ServerError: when the server refuses for another reason.
        TransportError: when there was no answer.
    """
    subject = subjects.api(operation, *names)
    request = json.dumps(body).encode() if body is not None else b""
    return checked(await connection.request(subject, request, timeout=timeout), subject)


def store(
    connection: Connection,
    subject: str,
    body: bytes,
    headers: Mapping[str, str] | None = None,
    *,
    patience: float | None = None,
    room: int = 0,
) -> Coroutine[Any, Any, Stored]:
    """Publish one message; await what this returns for the answer of its stream, which has stored it then.

    A publish whose answer is lost is sent again for up to `patience` seconds (default: the setting `publish_timeout`),
    across reconnects; give it a `Nats-Msg-Id` or an expected sequence, or it may stand twice. `room` is bytes of the
    server's limit for a message that must stay free.

    Raises:
        PayloadTooLargeError: before anything is sent, or by the stream's own limit.
        QueueFullError: at once, when the stream is at its limit.
        WrongSequenceError: when the expected sequence in the headers is not the stream's.
        TransportError: the last one, when `patience` is used up; whether the message is stored is not known.
    """
    return finish(connection, begin(connection, subject, body, headers, room=room), patience=patience)


class Storing(NamedTuple):
    """A message on its way to its stream."""

    subject: str
    body: bytes
    headers: Mapping[str, str] | None
    answer: asyncio.Future[Message]


def begin(
    connection: Connection, subject: str, body: bytes, headers: Mapping[str, str] | None = None, *, room: int = 0
) -> Storing:
    """Publish one message and return at once; `finish` says what became of it.

    Raises:
        PayloadTooLargeError, BusClosedError, ConnectionLostError: nothing was sent.
    """
    return Storing(subject, body, headers, connection.begin(subject, body, headers, room=room))


async def finish(connection: Connection, storing: Storing, *, patience: float | None = None) -> Stored:
    """Return once its stream has stored the message; see `store`."""
    patience = connection.settings.publish_timeout if patience is None else patience
    subject, body, headers, answer = storing
    if connection.client.congested:
        await connection.client.relieved()
    try:
        return _stored(await answer, subject, body)
    except TransportError as error:
        if isinstance(error, QueueFullError):
            raise
        first = error
    loop = asyncio.get_running_loop()
    until = loop.time() + patience
    pause = 0.05
    while True:
        remaining = until - loop.time()
        if remaining <= 0:
            raise first
        try:
            async with asyncio.timeout(remaining):
                await asyncio.sleep(random.uniform(0, pause))  # noqa: S311
                await connection.connected()
        except TimeoutError:
            raise first from None
        pause = min(2.0, pause * 2)
        try:
            return _stored(await connection.request(subject, body, headers), subject, body)
        except TransportError as error:
            if isinstance(error, QueueFullError):
                raise
            first = error


def _stored(message: Message, subject: str, body: bytes) -> Stored:
    quick = _ACK.match(message.data)
    if quick is not None:
        return Stored(quick[1].decode(), int(quick[2]), False)
    answer = checked(message, subject, size=len(body))
    total = answer.get("val")
    return Stored(
        answer["stream"], answer["seq"], answer.get("duplicate", False), None if total is None else int(total)
    )


def checked(message: Message, subject: str, *, size: int = 0) -> dict[str, Any]:
    """The fields of an answer of the API.

    Raises:
        ServerError: what the answer's error code stands for.
    """
    answer: dict[str, Any] = codec.decode(message.data, JSON, subject=subject)
    if "error" in answer:
        fault = answer["error"]
        raise _error(subject, int(fault.get("err_code", 0)), str(fault.get("description", "")), size)
    return answer


def _error(subject: str, code: int, text: str, size: int) -> BusError:
    if code in _WRONG_SEQUENCE:
        return WrongSequenceError(subject, text, code)
    if code in _NOT_FOUND:
        return NotFoundError(subject, text, code)
    if code in _FULL:
        return QueueFullError(subject, text)
    if code == _TOO_LARGE:
        return PayloadTooLargeError(subject, size, size - 1)
    if code in _SERVER_BUSY:
        return JetStreamBusyError(subject, text)
    return ServerError(subject, text, code)


class JetStreamBusyError(TransportError):
    """JetStream is starting, electing a leader or agreeing on the same message; the same call works in a moment."""

    def __init__(self, subject: str, reason: str) -> None:
        super().__init__(subject, reason)
        self.subject = subject
        self.reason = reason

    def __str__(self) -> str:
        return f"jetstream cannot serve {self.subject} yet: {self.reason}"


async def last(connection: Connection, stream: str, subject: str, *, quick: bool = False) -> StoredMessage | None:
    """The newest message on `subject` (wildcards allowed) as the stream's leader has it, or None.

    The leader is asked, not the nearest copy: a direct get may answer from a minority. Where there is but one copy a
    `quick` look takes that, at half the cost. Those with an account of their own are granted subjects, not streams, so
    they read the subject itself from whichever copy answers: what they are told is there is there, and what is not may
    have come a moment ago.
    """
    if connection.restricted or (quick and not connection.clustered):
        return await _last_of(connection, stream, subject)
    try:
        answer = await call(connection, "STREAM.MSG.GET", stream, body={"last_by_subj": subject})
    except NotFoundError as error:
        if error.api_code == 10037:
            return None
        raise
    return _parse(answer["message"])


async def _last_of(connection: Connection, stream: str, subject: str) -> StoredMessage | None:
    message = await connection.request(subjects.api("DIRECT.GET", stream, subject))
    headers = message.headers
    status = headers.get("Status", "")
    if status == "404":
        return None
    if status:
        raise ServerError(stream, f"direct read refused: {status} {headers.get('Description', '')}")
    return direct(message)


def direct(message: Message) -> StoredMessage:
    """The stored message in the answer to a direct read."""
    headers = message.headers
    return StoredMessage(
        subject=headers["Nats-Subject"],
        sequence=int(headers["Nats-Sequence"]),
        headers={name: value for name, value in headers.items() if name not in _DIRECT_HEADERS},
        body=message.data,
        stored_at_ns=unix_ns(headers["Nats-Time-Stamp"]),
    )


async def at(connection: Connection, stream: str, sequence: int) -> StoredMessage | None:
    """The message at a sequence, or None when it is gone."""
    try:
        answer = await call(connection, "STREAM.MSG.GET", stream, body={"seq": sequence})
    except NotFoundError as error:
        if error.api_code == 10037:
            return None
        raise
    return _parse(answer["message"])


def _parse(raw: Mapping[str, Any]) -> StoredMessage:
    headers: dict[str, str] = {}
    for line in base64.b64decode(raw.get("hdrs", "")).decode(errors="replace").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip()] = value.strip()
    return StoredMessage(
        subject=raw["subject"],
        sequence=raw["seq"],
        headers=headers,
        body=base64.b64decode(raw.get("data", "")),
        stored_at_ns=unix_ns(raw["time"]),
    )


async def delete(connection: Connection, stream: str, sequence: int) -> bool:
    """Take the message at a sequence out of a stream; False when it is gone already."""
    try:
        await call(connection, "STREAM.MSG.DELETE", stream, body={"seq": sequence, "no_erase": True})
    except ServerError as error:
        if error.api_code not in _GONE:
            raise
        return False
    return True


async def after(connection: Connection, stream: str, sequence: int, subject: str = ">") -> StoredMessage | None:
    """The first message at or after a sequence, on a subject (wildcards allowed), as the stream's leader has it."""
    try:
        body = {"seq": max(1, sequence), "next_by_subj": subject}
        answer = await call(connection, "STREAM.MSG.GET", stream, body=body)
    except NotFoundError as error:
        if error.api_code == 10037:
            return None
        raise
    return _parse(answer["message"])


def unix_ns(timestamp: str) -> int:
    """A server's timestamp as unix nanoseconds, which `fromisoformat` does not read."""
    date, _, fraction = timestamp.rstrip("Z").partition(".")
    whole = datetime.datetime.fromisoformat(date).replace(tzinfo=datetime.UTC).timestamp()
    return int(whole) * 1_000_000_000 + int(f"{fraction:0<9}"[:9] or 0)
