"""A task on its way in: submit it, and read it as a worker receives it.

What ends a task is in `bus.endings`.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import time
from typing import Any

from nats.aio.msg import Msg
from pydantic import BaseModel

from bus import codec, jetstream, subjects
from bus.connection import Connection
from bus.errors import ConfigError, DecodeError, InvalidSubjectError
from bus.messages import (
    CONTENT_TYPE,
    DEADLINE,
    FRESH,
    HEADROOM,
    JSON,
    MAX_DEADLINE,
    MSG_ID,
    MSGPACK,
    TASK_ID,
    VERSION,
    WIRE_VERSION,
    Envelope,
    Headers,
)
from bus.telemetry import Attributes, Telemetry


def new_task_id() -> str:
    """A task id that nobody can guess: 128 random bits as 32 hex digits."""
    return secrets.token_hex(16)


async def submit(
    connection: Connection,
    telemetry: Telemetry,
    capability: str,
    message: BaseModel | dict[str, Any],
    *,
    priority: str = "normal",
    client: str,
    task_id: str,
    fresh: bool = False,
    deadline: float | None = None,
) -> jetstream.Stored:
    """Store one task and return where it stands.

    Before it returns nothing is promised; afterwards the task ends in exactly one result. `deadline` is seconds
    from now. The same id from the same client for the same capability is the same task; `fresh` says that the id
    is random and new, so that no worker looks for an earlier one.

    Raises:
        InvalidSubjectError: capability, priority, client or id cannot stand in a subject.
        ConfigError: the deadline is not a number of seconds above zero.
        EncodeError, PayloadTooLargeError: before anything is sent.
        QueueFullError: the queue is full; nothing was stored.
        TransportError: no answer within the setting `publish_timeout`; submitting the same id again is safe.
    """
    subject = subjects.task(capability, priority, client)
    subjects.token(task_id, "task id")
    seconds = connection.settings.deadline if deadline is None else deadline
    if not (isinstance(seconds, int | float) and 0 < seconds <= MAX_DEADLINE):
        raise ConfigError("deadline", f"{seconds!r} is not a number of seconds above zero, and up to 30 days")
    body = codec.encode(message.model_dump() if isinstance(message, BaseModel) else message, subject=subject)
    headers = {
        MSG_ID: f"{client}.{capability}.{task_id}",
        TASK_ID: task_id,
        DEADLINE: f"{time.time() + seconds:.3f}",
        VERSION: WIRE_VERSION,
        CONTENT_TYPE: MSGPACK,
    }
    if fresh:
        headers[FRESH] = "1"
    attributes: Attributes = {
        "messaging.system": "nats",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": subject,
        "messaging.message.id": task_id,
        "messaging.message.body.size": len(body),
    }
    with telemetry.span(f"send {capability}", kind="producer", attributes=attributes):
        telemetry.inject(headers)
        connection.check_size(subject, body, headers, room=HEADROOM)
        return await jetstream.store(connection, subject, body, headers)


def receive(message: Msg, default_deadline: float) -> Envelope:
    """The task in a delivery of TASKS. Never raises: what makes no sense stands in `fault`.

    A task that names no id gets one from its sequence, its stored time and its body, so that every redelivery has
    the same and a stream made anew never repeats one. `default_deadline` is seconds after it was stored.
    """
    address = subjects.parse_task(message.subject)
    ack = subjects.parse_ack(message.reply)
    headers: Headers = message.headers or {}
    stored_at = ack.stored_at_ns / 1e9
    fault: DecodeError | None = None
    task_id = headers.get(TASK_ID, "")
    if task_id:
        try:
            subjects.token(task_id, "task id")
        except InvalidSubjectError as error:
            fault, task_id = DecodeError(message.subject, f"header {TASK_ID}: {error}"), ""
    named = bool(task_id) and FRESH not in headers
    try:
        deadline = float(headers[DEADLINE]) if DEADLINE in headers else stored_at + default_deadline
    except ValueError:
        deadline = math.nan
    if not 0 < deadline <= stored_at + MAX_DEADLINE + 60.0:  # clocks may differ by a minute
        reason = f"header {DEADLINE}: {headers[DEADLINE]!r:.40} is not unix seconds, up to 30 days ahead"
        fault = DecodeError(message.subject, reason)
        deadline = stored_at + default_deadline
    try:
        content_type = codec.content_type_of(headers)
    except DecodeError as error:
        fault, content_type = DecodeError(message.subject, error.reason), JSON
    return Envelope(
        subject=message.subject,
        capability=address.capability,
        priority=address.priority,
        client=address.client,
        task_id=task_id or derived_task_id(ack, message.data),
        body=message.data,
        headers=headers,
        content_type=content_type,
        sequence=ack.sequence,
        stored_at=stored_at,
        deadline=deadline,
        deliveries=ack.deliveries,
        reply=message.reply,
        named=named,
        fault=fault,
    )


def derived_task_id(ack: subjects.AckToken, body: bytes) -> str:
    """The id of a task that named none: 128 bits, the same at every delivery."""
    digest = hashlib.blake2b(f"{ack.sequence}.{ack.stored_at_ns}.".encode(), digest_size=16)
    digest.update(body)
    return digest.hexdigest()
