"""What clients and stewards say of tasks that are to be done later, and how clients ask.

A schedule is a message in LATER, which the server puts on another subject when it is due; a steward makes a task of it
then (`bus.due`). Only stewards write there (`bus.later`): clients ask them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field

from bus import stewards, subjects
from bus.connection import Connection
from bus.errors import ConfigError, PayloadTooLargeError, QueueFullError, RemoteError
from bus.fields import Token, TokenOrEmpty
from bus.messages import HEADROOM, MAX_DEADLINE, MSGPACK
from bus.telemetry import Telemetry
from bus.when import MAX_AHEAD, When

MAX_ID: Final = 40
"""Characters of the id of a schedule that is due again and again: its occurrences add a number."""
ROOM: Final = 4096
"""Bytes that a schedule's headers take at the most."""


class Making(BaseModel):
    """What makes the task of a schedule, apart from its body: the header `Revo-Schedule`, as JSON."""

    address: str
    """Where it is sent: a capability, or `@<agent>`."""
    priority: str
    seconds: Annotated[float, Field(gt=0, le=MAX_DEADLINE)]
    """From when it falls due to its deadline."""
    when: str
    zone: str = ""
    at: float
    """Unix seconds: when it was made."""

    @property
    def due(self) -> When:
        """When it is due."""
        return When(self.when, self.zone)


class Plan(BaseModel):
    """A schedule as a client wants it. One of the same client and id is replaced."""

    schedule_id: Token
    client: TokenOrEmpty = ""
    when: str = Field(max_length=200)
    zone: str = Field("", max_length=80)
    body: bytes
    content_type: Literal["application/msgpack", "application/json"] = MSGPACK
    priority: str = "normal"
    seconds: Annotated[float, Field(gt=0, le=MAX_DEADLINE)] = 3600.0
    work: str = ""
    traceparent: str = Field("", max_length=60, pattern=r"^[0-9a-f-]*$")
    after: float | None = Field(None, ge=0, le=MAX_AHEAD)
    """Seconds from now by the server's clock, which count instead of the time in `when`: that is by the client's."""
    fresh: bool = False
    """The id is random and new: there is nothing to be replaced."""


class Planned(BaseModel):
    """What became of it."""

    schedule_id: str
    next_at: float | None = None
    """Unix seconds."""
    replaced: bool = False
    duplicate: bool = False
    """A task of this id has ended already; nothing was stored."""
    full: str = ""
    """Why there is no room for it; nothing was stored."""


class Which(BaseModel):
    """One schedule. `client` is whose, where others are asked for than one's own."""

    schedule_id: Token
    client: TokenOrEmpty = ""
    by: str = Field("somebody", max_length=200)


class Whose(BaseModel):
    """Whose schedules; empty: everybody's, for who may ask so."""

    client: TokenOrEmpty = ""
    schedule_id: TokenOrEmpty = ""
    after: str | None = Field(None, max_length=200)
    """To read them all: those after this one in the order of `<client>.<schedule id>`; empty: from the first on."""


class Occurrence(BaseModel):
    """A task that a schedule made."""

    task_id: str
    at: float
    """Unix seconds, when it fell due."""


class ScheduleInfo(BaseModel):
    """A schedule as it stands. Times are unix seconds."""

    schedule_id: str
    client: str
    capability: str
    """Or `@<agent>`."""
    work: str = ""
    when: str
    zone: str = ""
    priority: str = "normal"
    deadline: float = 0.0
    """Seconds from when it falls due."""
    created_at: float = 0.0
    paused: bool = False
    next_at: float | None = None
    due_since: float | None = None
    """It fell due then, and is no task yet: no steward had time for it, or the queue is full."""
    last: Occurrence | None = None

    @property
    def once(self) -> bool:
        """Whether it is due only once: then its id is that of its task."""
        return When(self.when, self.zone).once


class Listing(BaseModel):
    """Schedules, the next one first, and how many there are in all."""

    schedules: list[ScheduleInfo]
    total: int
    more: str = ""
    """Where they are read in order: there may be more after this one."""


# --- what clients ask -------------------------------------------------------------------------------------


async def plan(connection: Connection, telemetry: Telemetry, address: str, wanted: Plan) -> Planned:
    """Have a steward keep a schedule. Returns once it is stored.

    Raises:
        ConfigError: a steward refuses it. PayloadTooLargeError: nothing was sent.
        QueueFullError: there are too many; nothing was stored.
        NoStewardError, TransportError: as of all that stewards are asked; asking again is safe.
    """
    limit = connection.max_payload - HEADROOM - ROOM
    if len(wanted.body) > limit:
        raise PayloadTooLargeError(subjects.schedule(wanted.client, wanted.schedule_id), len(wanted.body), limit)
    try:
        said = await stewards.ask(connection, telemetry, "schedule", wanted.model_dump(), scope=address)
    except RemoteError as error:
        raise _refusal(error, wanted.schedule_id) from error
    planned = Planned.model_validate(said)
    if planned.full:
        raise QueueFullError(subjects.schedule(wanted.client, wanted.schedule_id), planned.full)
    return planned


async def find(connection: Connection, telemetry: Telemetry, *, client: str = "", schedule_id: str = "") -> Listing:
    """The schedules of a client, or everybody's, or those of one id. At most 1,000 of them, the next first."""
    message = Whose(client=client, schedule_id=schedule_id).model_dump()
    return Listing.model_validate(await stewards.ask(connection, telemetry, "schedules", message))


async def find_all(connection: Connection, telemetry: Telemetry, *, client: str) -> list[ScheduleInfo]:
    """All the schedules of a client, the next first. What comes or goes while they are read may be among them or not.

    Raises:
        NoStewardError, TransportError: see `plan`.
    """
    first = await find(connection, telemetry, client=client)
    if first.total <= len(first.schedules):
        return first.schedules
    found: list[ScheduleInfo] = []
    after: str | None = ""
    while after is not None:
        message = Whose(client=client, after=after).model_dump()
        page = Listing.model_validate(await stewards.ask(connection, telemetry, "schedules", message))
        found += page.schedules
        after = page.more or None
    return in_order(found)


def in_order(found: Iterable[ScheduleInfo]) -> list[ScheduleInfo]:
    """The next one first, and last what is paused."""
    return sorted(found, key=lambda one: (one.next_at is None, one.next_at or 0.0, one.client, one.schedule_id))


async def turn(
    connection: Connection, telemetry: Telemetry, method: str, schedule_id: str, *, client: str, by: str
) -> ScheduleInfo:
    """`unschedule`, `pause_schedule` or `resume_schedule`; return how it stands, or stood.

    Raises:
        NotFoundError: there is no such schedule. ConfigError: several clients have one of this id.
        NoStewardError, TransportError: see `plan`.
    """
    message: dict[str, Any] = Which(schedule_id=schedule_id, client=client, by=by).model_dump()
    try:
        return ScheduleInfo.model_validate(await stewards.ask(connection, telemetry, method, message))
    except RemoteError as error:
        raise _refusal(error, schedule_id) from error


def _refusal(error: RemoteError, schedule_id: str) -> ConfigError | RemoteError:
    """What the steward found wrong, in its words, where it is the caller's to mend."""
    if error.code not in ("config", "invalid_subject"):
        return error
    what, colon, reason = error.message.partition(": ")
    return ConfigError(what, reason) if colon else ConfigError(f"schedule {schedule_id}", error.message)
