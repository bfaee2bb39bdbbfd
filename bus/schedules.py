"""When a task is to be done that is not to be done now, and what clients and stewards say of it.

A schedule is a message in LATER, which the server puts on another subject when it is due; a steward makes a task of it
then (`bus.due`). Only stewards write there (`bus.later`): clients ask them.
"""

from __future__ import annotations

import datetime
import functools
import math
import time
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, Field

from bus import stewards, subjects
from bus.connection import Connection
from bus.cron import Cron, time_zone
from bus.errors import ConfigError, PayloadTooLargeError, QueueFullError, RemoteError
from bus.messages import HEADROOM, MAX_DEADLINE, MSGPACK
from bus.telemetry import Telemetry

MAX_ID: Final = 40
"""Characters of the id of a schedule that is due again and again: its occurrences add a number."""
MAX_AHEAD: Final = 10 * 366 * 86400.0
"""Seconds that a time may lie ahead."""
ROOM: Final = 4096
"""Bytes that a schedule's headers take at the most."""

Time = datetime.datetime | float | str
Span = datetime.timedelta | float
_UTC: Final = datetime.UTC


class When(NamedTuple):
    """When something is due, as the server takes it."""

    text: str
    """`@at 2026-11-22T08:00:00.000000Z`, `@every 5s`, a cron pattern of six fields or `@daily` and its like."""
    zone: str = ""

    @property
    def once(self) -> bool:
        """Whether it is due only once."""
        return self.text.startswith("@at ")

    def after(self, then: float, *, base: float = 0.0) -> float | None:
        """The first time after `then`, in unix seconds, that it is due; None: never. What is due every so often is so
        counted from `base`, when it was last or when it began.
        """
        kind, _, rest = self.text.partition(" ")
        if kind == "@at":
            at = datetime.datetime.fromisoformat(rest).timestamp()
            return at if at > then else None
        if kind == "@every":
            every = float(rest[:-1])
            start = math.floor(base + 0.5)  # the server keeps whole seconds
            return start + every * max(1.0, math.floor((then - start) / every) + 1)
        due = _cron(self.text, self.zone).after(datetime.datetime.fromtimestamp(then, _UTC))
        return due.timestamp() if due else None


def when(
    *,
    at: Time | None = None,
    after: Span | None = None,
    every: Span | None = None,
    cron: str | None = None,
    timezone: str | None = None,
) -> When:
    """When it is due, from what a caller says.

    Raises:
        ConfigError: it says nothing, several things at once, or something that the server would refuse.
    """
    said = [
        name for name, value in {"at": at, "after": after, "every": every, "cron": cron}.items() if value is not None
    ]
    if len(said) != 1:
        raise ConfigError(" and ".join(said) or "schedule", "give one of at, after, every and cron")
    if timezone is not None:
        time_zone(timezone)
        if at is None and cron is None:
            raise ConfigError(f"timezone {timezone}", f"means nothing with {said[0]}; it is for cron and at")
    if at is not None:
        return _at(_moment(at, timezone))
    if after is not None:
        return _at(time.time() + _seconds("after", after, least=0.0))
    if every is not None:
        seconds = _seconds("every", every, least=1.0)
        if not seconds.is_integer():
            raise ConfigError(f"every {seconds:g}", "is not a whole number of seconds, which is what the server keeps")
        return When(f"@every {int(seconds)}s")
    return When(_cron(cron or "", timezone or "").text, timezone or "")


@functools.lru_cache(maxsize=1024)
def _cron(pattern: str, zone: str) -> Cron:
    """Whether there is a next time is found out once: that takes longer than all else."""
    return Cron(pattern, zone)


def parse(text: str, zone: str) -> When:
    """The same from what stands on the wire.

    Raises:
        ConfigError: the server would refuse it.
    """
    kind, _, rest = text.partition(" ")
    if kind == "@at" and not zone:
        return _at(_moment(rest, None))
    if kind == "@every" and not zone and rest.endswith("s") and rest[:-1].isdigit():
        return when(every=float(rest[:-1]))
    return when(cron=text, timezone=zone or None)


def _at(moment: float) -> When:
    if not 0 < moment < time.time() + MAX_AHEAD:
        raise ConfigError(f"at {moment:.0f}", "is not a time between 1970 and ten years from now")
    text = datetime.datetime.fromtimestamp(moment, _UTC).isoformat(timespec="microseconds")
    return When(f"@at {text.removesuffix('+00:00')}Z")


def _moment(at: Time, timezone: str | None) -> float:
    """Unix seconds of a time."""
    if isinstance(at, int | float) and not isinstance(at, bool):
        return float(at)
    moment = at
    if isinstance(moment, str):
        try:
            moment = datetime.datetime.fromisoformat(moment)
        except ValueError as error:
            raise ConfigError(f"at {at!r:.40}", "is no time such as 2026-12-24T18:00:00+01:00") from error
    if not isinstance(moment, datetime.datetime):
        raise ConfigError(f"at {at!r:.40}", "is no datetime, unix seconds or text such as 2026-12-24T18:00:00+01:00")
    if moment.tzinfo is None:
        if timezone is None:
            reason = "says no time zone: end it with Z or +01:00, or give one, such as Europe/Berlin"
            raise ConfigError(f"at {moment.isoformat()}", reason)
        moment = moment.replace(tzinfo=time_zone(timezone))
    elif timezone is not None:
        raise ConfigError(f"timezone {timezone}", f"contradicts at {moment.isoformat()}, which says one itself")
    try:
        return moment.timestamp()
    except (OverflowError, ValueError) as error:
        raise ConfigError(f"at {moment!r:.60}", "is too far away") from error


def _seconds(what: str, span: Span, *, least: float) -> float:
    seconds = span.total_seconds() if isinstance(span, datetime.timedelta) else span
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not least <= seconds <= MAX_AHEAD:
        bounds = "from 1 second" if least else "from 0"
        raise ConfigError(f"{what} {span!r:.40}", f"is not a number of seconds, or a timedelta, {bounds} to ten years")
    return float(seconds)


# --- what is said of them ---------------------------------------------------------------------------------


def _token(value: str) -> str:
    return subjects.token(value, "schedule id")


def _client(value: str) -> str:
    return value and subjects.token(value, "client")


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

    schedule_id: Annotated[str, AfterValidator(_token)]
    client: Annotated[str, AfterValidator(_client)] = ""
    when: str = Field(max_length=200)
    zone: str = Field("", max_length=80)
    body: bytes
    content_type: Literal["application/msgpack", "application/json"] = MSGPACK
    priority: str = "normal"
    seconds: Annotated[float, Field(gt=0, le=MAX_DEADLINE)] = 3600.0
    work: str = ""
    traceparent: str = Field("", max_length=60, pattern=r"\A[0-9a-f-]*\z")
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

    schedule_id: Annotated[str, AfterValidator(_token)]
    client: Annotated[str, AfterValidator(_client)] = ""
    by: str = Field("somebody", max_length=200)


class Whose(BaseModel):
    """Whose schedules; empty: everybody's, for who may ask so."""

    client: Annotated[str, AfterValidator(_client)] = ""
    schedule_id: Annotated[str, AfterValidator(_client)] = ""


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
