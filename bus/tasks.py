"""A task on its way in: submit it, and read it as a worker receives it.

What ends a task is in `bus.endings`.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import BaseModel

from bus import beside, blobs, budgets, codec, jetstream, subjects
from bus.blobs import SMALL, Place, is_large
from bus.budgets import Budget
from bus.connection import Connection
from bus.errors import ConfigError, DecodeError, NoTimeLeftError
from bus.family import FAMILY, Child, Family
from bus.messages import (
    BLOB,
    BUDGET,
    CAPABILITY,
    CONTENT_TYPE,
    DEADLINE,
    DEPTH,
    FRESH,
    HEADROOM,
    JSON,
    MAX_DEADLINE,
    MSG_ID,
    MSGPACK,
    PARENT,
    SUBMITTED,
    TASK_ID,
    VERSION,
    WIRE_VERSION,
    Envelope,
    Headers,
)
from bus.telemetry import Attributes, Span, Telemetry
from bus.wire import Message

_random: list[str] = []
"""Ids to come: one call of the system for many. A forked child must not hand out the same."""
os.register_at_fork(after_in_child=_random.clear)


def new_task_id() -> str:
    """A task id that nobody can guess: 128 random bits as 32 hex digits."""
    if not _random:
        drawn = os.urandom(16 * 256).hex()
        _random.extend(drawn[start : start + 32] for start in range(0, len(drawn), 32))
    return _random.pop()


def task_id_of_key(key: str, secret: bytes = b"") -> str:
    """The task id that stands for an idempotency key, which may be any text; who does not know the secret cannot tell.

    Raises:
        ConfigError: the key is empty.
    """
    if not isinstance(key, str) or not key:
        raise ConfigError("idempotency_key", f"{key!r} is not a text of at least one character")
    return f"key-{hashlib.blake2b(key.encode(), digest_size=16, key=secret).hexdigest()}"


def task_id_of_content(message: BaseModel | dict[str, Any], secret: bytes = b"") -> str:
    """The task id that stands for a message's content: equal content, in whichever order of keys, is one task.

    Raises:
        EncodeError: the message has no wire form.
    """
    canonical = codec.canonical(message, subject="content")
    return f"content-{hashlib.blake2b(canonical, digest_size=16, key=secret).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done with tasks, apart from what is in them.

    `capability` is where they are sent, which may be one agent by name as `@<agent>`; then `work` says which of the
    agent's capabilities is meant, and may be empty where it has only one. `deadline` is seconds from the submit.
    Submitted by a handler a task is a child of the handler's task, and cancelled with it, unless `detached`.
    """

    capability: str
    client: str
    priority: str = "normal"
    deadline: float | None = None
    detached: bool = False
    work: str = ""
    budget: Budget | None = None
    """What each of them, and all that descends from it, may spend."""


class Sealed(NamedTuple):
    """A task that is ready to be sent."""

    order: Order
    task_id: str
    subject: str
    body: bytes
    headers: dict[str, str]
    new: bool
    """Whether its id is of nobody's choosing and was never used: no worker looks for an earlier result."""
    family: Family | None = None
    """Whose child it is."""
    child: Child | None = None
    """Which one, where its id comes of that."""

    @property
    def place(self) -> Place:
        """Where what is too large for its message stands."""
        return Place(self.order.client, self.order.capability, self.task_id)

    def lost(self) -> None:
        """It could not be stored, or nobody knows: a handler that submits the same again means the same child."""
        if self.family is not None:
            self.family.lost(self.child)


def seal(
    connection: Connection, order: Order, message: BaseModel | dict[str, Any], task_id: str | None = None
) -> Sealed:
    """Make a task as it travels. Without `task_id` its id is random, or in a handler that of this child of its task.

    Raises:
        InvalidSubjectError: capability, priority, client or id cannot stand in a subject.
        ConfigError: the deadline is not a number of seconds above zero, or the budget is none.
        EncodeError, PayloadTooLargeError: the message has no wire form, or more bytes than any may have.
        NoTimeLeftError, TooDeepError, TooManyChildrenError: the handler that submits it may submit no more.
    """
    subject = subjects.task(order.capability, order.priority, order.client)
    if task_id is not None:
        subjects.token(task_id, "task id")
    if order.work:
        subjects.token(order.work, "capability")
    family = None if order.detached else FAMILY.get()
    deadline = _ends(connection, order, family)
    outer = _may_cost(connection, order, family)
    body = codec.encode(message.model_dump() if isinstance(message, BaseModel) else message, subject=subject)
    if len(body) > SMALL and is_large(connection, len(body)):
        blobs.check_size(connection, subject, len(body))
    new, child = task_id is None, None
    if task_id is None:
        if family is None:
            task_id = new_task_id()
        else:
            # From here on nothing is refused: who submits it again means the same child.
            task_id, child, new = family.name(order.capability, order.work, body, connection.secret)
    headers = {
        MSG_ID: f"{order.client}.{order.capability}.{task_id}",
        TASK_ID: task_id,
        DEADLINE: f"{deadline:.3f}",
        VERSION: WIRE_VERSION,
        CONTENT_TYPE: MSGPACK,
    }
    if new:
        headers[FRESH] = "1"
    if order.work:
        headers[CAPABILITY] = order.work
    if family is not None:
        family.add()
        headers[PARENT] = family.parent
        headers[DEPTH] = str(family.depth + 1)
    purses = budgets.opened(outer, order.budget, headers[MSG_ID])
    if purses:
        headers[BUDGET] = budgets.write(purses)
    return Sealed(order, task_id, subject, body, headers, new, family, child)


def _ends(connection: Connection, order: Order, family: Family | None) -> float:
    """Its deadline in unix seconds: no later than that of its parent."""
    seconds = connection.settings.deadline if order.deadline is None else order.deadline
    if not (isinstance(seconds, int | float) and 0 < seconds <= MAX_DEADLINE):
        raise ConfigError("deadline", f"{seconds!r} is not a number of seconds above zero, and up to 30 days")
    now = time.time()
    deadline = now + seconds if family is None else min(now + seconds, family.deadline)
    if deadline <= now:
        raise NoTimeLeftError(f"a task for {order.capability}", now - deadline)
    return deadline


def _may_cost(connection: Connection, order: Order, family: Family | None) -> tuple[budgets.Purse, ...]:
    """The budgets of whoever submits it; see that he may, and that it may have its own."""
    outer: tuple[budgets.Purse, ...] = ()
    if family is not None:
        family.check(connection.settings.max_depth, connection.settings.max_children)
        outer = family.wallet.purses if family.wallet is not None else ()
    budgets.check(outer, order.budget)
    return outer


async def submit(connection: Connection, telemetry: Telemetry, sealed: Sealed) -> jetstream.Stored:
    """Store one task and return where it stands. A message too large for one goes beside it, and first (`bus.blobs`).

    Before it returns nothing is promised; afterwards the task ends in exactly one result. The same id from the same
    client for the same capability is the same task.

    Raises:
        QueueFullError: the queue is full; nothing was stored.
        TransportError: no answer within the setting `publish_timeout`; submitting the same id again is safe.
    """
    subject, body, headers = sealed.subject, sealed.body, sealed.headers
    with _sending(telemetry, sealed):
        if len(body) <= SMALL or not is_large(connection, len(body)):
            return await jetstream.store(connection, subject, body, headers, room=HEADROOM)
        headers[BLOB] = await beside.put(connection, telemetry, sealed.place, subject, body)
        storing = jetstream.begin(connection, subject, b"", headers, room=HEADROOM)
        return await beside.finish(connection, telemetry, sealed.place, storing)


async def begin(connection: Connection, telemetry: Telemetry, sealed: Sealed) -> jetstream.Storing:
    """The same, but return once it is sent, at once unless it is large: `beside.finish` says what became of it. Its
    span ends when it is sent.
    """
    subject, body, headers = sealed.subject, sealed.body, sealed.headers
    with _sending(telemetry, sealed):
        if len(body) > SMALL and is_large(connection, len(body)):
            headers[BLOB], body = await beside.put(connection, telemetry, sealed.place, subject, body), b""
        return jetstream.begin(connection, subject, body, headers, room=HEADROOM)


def _sending(telemetry: Telemetry, sealed: Sealed) -> AbstractContextManager[Span]:
    """The span of a submit."""

    def attributes() -> Attributes:
        return {
            "messaging.system": "nats",
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.destination.name": sealed.subject,
            "messaging.message.id": sealed.task_id,
            "messaging.message.body.size": len(sealed.body),
        }

    return telemetry.sending(f"send {sealed.order.capability}", sealed.headers, attributes)


def receive(message: Message, default_deadline: float) -> Envelope:
    """The task in a delivery of TASKS. Never raises: what makes no sense stands in `fault`.

    `default_deadline` is seconds after it was stored.
    """
    ack = subjects.parse_ack(message.reply)
    stored = jetstream.StoredMessage(message.subject, ack.sequence, message.headers, message.data, ack.stored_at_ns)
    return envelope_of(stored, default_deadline, deliveries=ack.deliveries, reply=message.reply)


def envelope_of(
    stored: jetstream.StoredMessage, default_deadline: float, *, deliveries: int = 0, reply: str = ""
) -> Envelope:
    """The task in a message as it stands in TASKS. Never raises: what makes no sense stands in `fault`.

    A task that names no id gets one from its sequence, its stored time and its body, so that every redelivery has
    the same and a stream made anew never repeats one.
    """
    address, fault = _address(stored.subject)
    headers: Headers = stored.headers
    task_id = headers.get(TASK_ID, "")
    if task_id and not subjects.is_token(task_id):
        reason = f"header {TASK_ID}: {task_id!r:.80} is not 1 to 64 characters of A-Z, a-z, 0-9, underscore and hyphen"
        fault, task_id = DecodeError(stored.subject, reason), ""
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
        stored_at=_submitted_at(stored) if subjects.in_lane(stored.subject) else stored.stored_at_ns / 1e9,
        deadline=deadline,
        deliveries=deliveries,
        reply=reply,
        named=named,
        fault=fault or late_fault,
    )


@functools.lru_cache(maxsize=4096)
def _address(subject: str) -> tuple[subjects.TaskAddress, DecodeError | None]:
    """Where a task was sent, and the error for one whose subject no subject of ours may be built of: a server takes `*`
    and worse as a token from whoever publishes it.
    """
    address = subjects.parse_task(subject)
    if subjects.is_token(address.client) and subjects.is_address(address.capability):
        return address, None
    fault = DecodeError(subject, "a token of its subject is not of A-Z, a-z, 0-9, underscore and hyphen")
    capability = address.capability if subjects.is_address(address.capability) else subjects.UNUSABLE
    client = address.client if subjects.is_token(address.client) else subjects.UNUSABLE
    return subjects.TaskAddress(capability, address.priority, client), fault


def _submitted_at(stored: jetstream.StoredMessage) -> float:
    """When a task that was moved to a lane was submitted: what the steward says that moved it, if it makes sense."""
    try:
        said = float(stored.headers.get(SUBMITTED, ""))
    except ValueError:
        return stored.stored_at
    return said if 0 < said <= stored.stored_at else stored.stored_at


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
