"""What happened, for whoever wants to know: agents that came and went, what the system did. Kept for a week.

Nothing hangs on an event: who needs a fact reads it where it stands. A task that goes well costs none.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from bus import codec, jetstream, subjects
from bus.connection import Connection
from bus.errors import BusError, DecodeError
from bus.messages import CONTENT_TYPE, MSG_ID, MSGPACK
from bus.watch import NEW, Watch

log = logging.getLogger(__name__)

AGENT: Final = "agent"
SYSTEM: Final = "system"
FAULT: Final = "fault"
"""What went wrong with an instance; `what` is its class (`bus.faults`)."""
BREAKER: Final = "breaker"
"""A capability of an instance, or what it asks, is left alone for a while, tried again, and well."""
MEMORY: Final = "memory"
"""What happened in a namespace of shared memory: to its locks, and that values contradict each other."""
SCHEDULE: Final = "schedule"
"""Somebody has changed a schedule, or its occurrence was not done in time."""
_PATIENCE: Final = 5.0


class Event(BaseModel):
    """One thing that happened, as stored in EVENTS on `revo.event.<kind>.<name>.<what>`, with the agent before
    the name where it is of one.
    """

    model_config = ConfigDict(extra="ignore")

    kind: str = ""
    agent: str = ""
    """Whose instance it is; empty for a part of the system."""
    name: str = ""
    """The instance, or the part of the system."""
    what: str = ""
    at: float
    """Unix seconds, when it happened."""
    by: str = ""
    """Who says so."""
    details: dict[str, Any] = {}


async def tell(
    connection: Connection,
    kind: str,
    name: str,
    what: str,
    *,
    agent: str = "",
    by: str = "",
    once: str = "",
    **details: Any,
) -> None:
    """Store one event. It is told once however often it is told with the same `once`. Losing one breaks nothing, so
    an event that cannot be stored is a line in the log.

    Raises:
        InvalidSubjectError, EncodeError: nothing was sent.
    """
    subject = subjects.event(kind, name, what, agent=agent)
    body = codec.encode({"at": time.time(), "by": by, "details": details}, subject=subject)
    headers = {CONTENT_TYPE: MSGPACK} | ({MSG_ID: once} if once else {})
    try:
        await jetstream.store(connection, subject, body, headers, patience=_PATIENCE)
    except BusError as error:
        log.warning("event %s is not told: %s", subject, error)


def read(stored: jetstream.StoredMessage) -> Event:
    """The event in a message of EVENTS.

    Raises:
        DecodeError: it is none.
    """
    event = codec.read(Event, stored.headers, stored.body, subject=stored.subject)
    _, _, *parts = stored.subject.split(".")
    if len(parts) not in (3, 4):
        raise DecodeError(stored.subject, "not the subject of an event")
    event.kind, event.name, event.what = parts[0], *parts[-2:]
    event.agent = parts[1] if len(parts) == 4 else ""
    return event


@asynccontextmanager
async def follow(
    connection: Connection, *, since: float | None = None, subject: str = subjects.EVENT_SUBJECTS
) -> AsyncIterator[AsyncIterator[Event]]:
    """Events as they happen, without a gap, for the length of a block; first those since `since` (unix seconds)."""
    arrived: asyncio.Queue[jetstream.StoredMessage] = asyncio.Queue()
    start = NEW
    if since is not None:
        begin = datetime.datetime.fromtimestamp(max(0.0, since), datetime.UTC).isoformat()
        start = {"deliver_policy": "by_start_time", "opt_start_time": begin}
    async with asyncio.TaskGroup() as group:
        watch = Watch(connection, subjects.EVENTS, subject, arrived.put_nowait, start=start, spawn=group.create_task)
        await watch.open()
        try:
            yield _events(arrived)
        finally:
            await watch.close()


async def _events(arrived: asyncio.Queue[jetstream.StoredMessage]) -> AsyncIterator[Event]:
    while True:
        try:
            yield read(await arrived.get())
        except DecodeError as error:
            log.warning("%s", error)
