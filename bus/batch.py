"""Several messages into one stream, all or nothing: an atomic batch of JetStream (ADR-50). The stream must allow it.

It costs as much as 12 single publishes, also with two messages in it, so it is for what one message cannot do.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from bus import jetstream
from bus.connection import Connection
from bus.errors import BatchTooLargeError, QueueFullError, ServerError, TransportError

MAX: Final = 1000
"""Messages of one batch; the server's limit."""
_CROWDED: Final = frozenset({10210, 10211})
"""More batches are on their way than the server takes (50 for a stream, 1,000 in all)."""
_INCOMPLETE: Final = 10176
"""A part of it never came, or came too late: nothing was stored."""


KNOWN_ID: Final = 10201
"""Code of the `ServerError` for a batch with an id of a message that the stream knows; nothing was stored."""


class Part(NamedTuple):
    """One message of a batch, with whatever conditions its headers hold."""

    subject: str
    body: bytes
    headers: Mapping[str, str]


class BatchRefusedError(TransportError):
    """The server took no batch, for as long as it was tried: too many are on their way, or parts are lost."""

    def __init__(self, subject: str, reason: str, seconds: float) -> None:
        super().__init__(subject, reason, seconds)
        self.subject = subject
        self.reason = reason
        self.seconds = seconds

    def __str__(self) -> str:
        return f"no batch that ends on {self.subject} was taken within {self.seconds:g} s: {self.reason}"


async def store_all(
    connection: Connection, parts: Sequence[Part], *, patience: float | None = None, resend: bool = True
) -> int:
    """Store all of them, in their order and one after the other, or none; return the sequence of the last.

    Sent again, for up to `patience` seconds (default: the setting `publish_timeout`), where the answer is lost: give
    every part an expected sequence that its being stored makes wrong, or it may stand twice. Without `resend` it is
    the caller's to do so, who then knows that an answer was lost.

    Raises:
        WrongSequenceError: a condition does not hold, maybe because an earlier try was stored; nothing was.
        BatchTooLargeError: more than 1,000; nothing was sent.
        PayloadTooLargeError, QueueFullError: nothing was stored.
        BatchRefusedError: the server had no room for another batch for so long; nothing was stored.
        TransportError: whether they are stored is not known.
    """
    if not 0 < len(parts) <= MAX:
        raise BatchTooLargeError(len(parts), MAX)
    patience = connection.settings.publish_timeout if patience is None else patience
    loop = asyncio.get_running_loop()
    until, pause = loop.time() + patience, 0.01
    while True:
        try:
            return await _once(connection, parts)
        except ServerError as error:
            if error.api_code not in {*_CROWDED, _INCOMPLETE}:
                raise
            if loop.time() > until:
                raise BatchRefusedError(parts[-1].subject, str(error), patience) from error
        except TransportError as error:
            if not resend or isinstance(error, QueueFullError) or loop.time() > until:
                raise
        await asyncio.sleep(random.uniform(0, pause))  # noqa: S311
        pause = min(1.0, pause * 2)
        try:
            async with asyncio.timeout_at(until):
                await connection.connected()
        except TimeoutError:
            continue  # the next try says what is wrong


async def _once(connection: Connection, parts: Sequence[Part]) -> int:
    """One try, under an id of its own: what the server has of an earlier one goes by itself."""
    batch = secrets.token_hex(8)
    *first, final = parts
    for number, part in enumerate(first, 1):
        headers = {**part.headers, "Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)}
        await connection.publish(part.subject, part.body, headers)
    headers = {
        **final.headers,
        "Nats-Batch-Id": batch,
        "Nats-Batch-Sequence": str(len(parts)),
        "Nats-Batch-Commit": "1",
    }
    answer = await connection.request(final.subject, final.body, headers)
    said = jetstream.checked(answer, final.subject, size=len(final.body))
    return int(said["seq"])
