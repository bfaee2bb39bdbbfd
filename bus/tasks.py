"""A task on its way in: submit it, and read it as a worker receives it.

What ends a task is in `bus.endings`.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from nats.aio.msg import Msg
from pydantic import BaseModel

from bus import codec, jetstream, subjects
from bus.connection import Connection
from bus.errors import ConfigError, DecodeError, InvalidSubjectError
from bus.messages import (
    CAPABILITY,
    CONTENT_TYPE,
    DEADLINE,
    FRESH,
    HEADROOM,
    JSON,
    MAX_DEADLINE,
    MSG_ID,
    MSGPACK,
    PARENT,
    TASK_ID,
    VERSION,
    WIRE_VERSION,
    Envelope,
    Headers,
)
from bus.telemetry import Attributes, Telemetry


@dataclass(slots=True)
class Family:
    """What a running handler's submits know of it: its task is the parent of theirs."""

    parent: str
    """Its full name, `<client>.<capability>.<task id>`."""
    children: int = 0


FAMILY: ContextVar[Family | None] = ContextVar("revo_family", default=None)
"""Set where a handler runs."""


def new_task_id() -> str:
    """A task id that nobody can guess: 128 random bits as 32 hex digits."""
    return secrets.token_hex(16)


def task_id_of_key(key: str) -> str:
    """The task id that stands for an idempotency key, which may be any text.

    Raises:
        ConfigError: the key is empty.
    """
    if not isinstance(key, str) or not key:
        raise ConfigError("idempotency_key", f"{key!r} is not a text of at least one character")
    return f"key-{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}"


def task_id_of_content(message: BaseModel | dict[str, Any]) -> str:
    """The task id that stands for a message's content: equal content, in whichever order of keys, is one task.

    Raises:
        EncodeError: the message has no wire form.
    """
    canonical = codec.canonical(message, subject="content")
    return f"content-{hashlib.blake2b(canonical, digest_size=16).hexdigest()}"


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
    detached: bool = False,
    work: str = "",
) -> jetstream.Stored:
    """Store one task and return where it stands. `capability` is where it is sent, which may be one agent by name as
    `@<agent>`; then `work` says which of the agent's capabilities is meant, and may be empty where it has only one.

    Before it returns nothing is promised; afterwards the task ends in exactly one result. `deadline` is seconds
    from now. The same id from the same client for the same capability is the same task; `fresh` says that the id
    is random and new, so that no worker looks for an earlier one. Submitted by a handler it is a child of the handler's
    task, and cancelled with it, unless `detached`.

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
    if work:
        headers[CAPABILITY] = subjects.token(work, "capability")
    family = FAMILY.get()
    if family is not None and not detached:
        family.children += 1
        headers[PARENT] = family.parent
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

    `default_deadline` is seconds after it was stored.
    """
    ack = subjects.parse_ack(message.reply)
    stored = jetstream.StoredMessage(
        message.subject, ack.sequence, message.headers or {}, message.data, ack.stored_at_ns
    )
    return envelope_of(stored, default_deadline, deliveries=ack.deliveries, reply=message.reply)


def envelope_of(
    stored: jetstream.StoredMessage, default_deadline: float, *, deliveries: int = 0, reply: str = ""
) -> Envelope:
    """The task in a message as it stands in TASKS. Never raises: what makes no sense stands in `fault`.

    A task that names no id gets one from its sequence, its stored time and its body, so that every redelivery has
    the same and a stream made anew never repeats one.
    """
    address = subjects.parse_task(stored.subject)
    headers: Headers = stored.headers
    stored_at = stored.stored_at
    fault: DecodeError | None = None
    if not (subjects.is_token(address.client) and subjects.is_address(address.capability)):
        # A server takes `*` and worse as a token from whoever publishes it; no subject of ours is built of it.
        fault = DecodeError(stored.subject, "a token of its subject is not of A-Z, a-z, 0-9, underscore and hyphen")
        capability = address.capability if subjects.is_address(address.capability) else subjects.UNUSABLE
        client = address.client if subjects.is_token(address.client) else subjects.UNUSABLE
        address = subjects.TaskAddress(capability, address.priority, client)
    task_id = headers.get(TASK_ID, "")
    if task_id:
        try:
            subjects.token(task_id, "task id")
        except InvalidSubjectError as error:
            fault, task_id = DecodeError(stored.subject, f"header {TASK_ID}: {error}"), ""
    named = bool(task_id) and FRESH not in headers
    deadline, late_fault = _deadline(stored, default_deadline)
    try:
        content_type = codec.content_type_of(headers)
    except DecodeError as error:
        fault, content_type = DecodeError(stored.subject, error.reason), JSON
    return Envelope(
        subject=stored.subject,
        capability=address.capability,
        priority=address.priority,
        client=address.client,
        task_id=task_id or derived_task_id(stored),
        body=stored.body,
        headers=headers,
        content_type=content_type,
        sequence=stored.sequence,
        stored_at=stored_at,
        deadline=deadline,
        deliveries=deliveries,
        reply=reply,
        named=named,
        fault=fault or late_fault,
    )


def _deadline(stored: jetstream.StoredMessage, default: float) -> tuple[float, DecodeError | None]:
    """The task's deadline in unix seconds; with a fault, the default, when its header makes no sense."""
    said = stored.headers.get(DEADLINE)
    fallback = stored.stored_at + default
    if said is None:
        return fallback, None
    try:
        deadline = float(said)
    except ValueError:
        deadline = math.nan
    if 0 < deadline <= stored.stored_at + MAX_DEADLINE + 60.0:  # clocks may differ by a minute
        return deadline, None
    reason = f"header {DEADLINE}: {said!r:.40} is not unix seconds, up to 30 days ahead"
    return fallback, DecodeError(stored.subject, reason)


def derived_task_id(stored: jetstream.StoredMessage) -> str:
    """The id of a task that named none: 128 bits, the same at every delivery."""
    digest = hashlib.blake2b(f"{stored.sequence}.{stored.stored_at_ns}.".encode(), digest_size=16)
    digest.update(stored.body)
    return digest.hexdigest()
