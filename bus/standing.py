"""What LATER holds of a schedule, read: how it stands, and the task that it is to make."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from pydantic import ValidationError

from bus import codec, jetstream, reading, schedules, subjects, when
from bus.connection import Connection
from bus.errors import ConfigError, DecodeError, InvalidSubjectError, NotFoundError
from bus.messages import CAPABILITY, MAX_DEADLINE, SCHEDULE, WHEN, Envelope, without_control_headers
from bus.schedules import Listing, Making, Occurrence, ScheduleInfo

SHOWN: Final = 1000
"""Schedules of one listing."""


@dataclass(slots=True)
class Standing:
    """What LATER holds of one schedule, by the kind of subject: `later`, `paused`, `due` and `occurred`."""

    client: str
    schedule_id: str
    messages: dict[str, jetstream.StoredMessage] = field(default_factory=dict)

    def info(self, now: float) -> ScheduleInfo | None:
        """How it stands; None: it is none any more, or not one that we wrote."""
        stored = self.messages.get("later") or self.messages.get("paused") or self.messages.get("due")
        if stored is None:
            return None
        try:
            making = read_making(stored.headers, stored.subject)
        except DecodeError:
            return None
        occurred = read_occurrence(self.messages.get("occurred"), self.schedule_id)
        active, due = self.messages.get("later"), self.messages.get("due")
        if active is None and due is not None and "paused" not in self.messages and not making.due.once:
            return None  # taken away after it fell due for the last time
        base = max(stored.stored_at, occurred.at if occurred else 0.0)
        return ScheduleInfo(
            schedule_id=self.schedule_id,
            client=self.client,
            capability=making.address,
            work=stored.headers.get(CAPABILITY, ""),
            when=making.when,
            zone=making.zone,
            priority=making.priority,
            deadline=making.seconds,
            created_at=making.at,
            paused=active is None and "paused" in self.messages,
            next_at=next_of(making, now, base) if active else None,
            due_since=due.stored_at if due else None,
            last=occurred,
        )


def next_of(making: Making, now: float, base: float) -> float | None:
    """When it is due next; of what is due once its time, also if that has passed. `base` is as in `When.after`."""
    return making.due.after(0.0 if making.due.once else now, base=base)


def read_making(headers: dict[str, str], subject: str) -> Making:
    """What makes a task of a message in LATER.

    Raises:
        DecodeError: it is not one that a steward wrote.
    """
    try:
        making = Making.model_validate_json(headers.get(SCHEDULE, ""))
        subjects.task(making.address, making.priority)
        when.parse(making.when, making.zone)
        return making
    except (ValidationError, ConfigError) as error:
        raise DecodeError(subject, f"header {SCHEDULE}: {error}") from error


def read_occurrence(stored: jetstream.StoredMessage | None, schedule_id: str) -> Occurrence | None:
    """The last occurrence that is noted; None: there was none, or none that can be read."""
    if stored is None:
        return None
    try:
        body = codec.read(dict, stored.headers, stored.body, subject=stored.subject)
        return Occurrence(task_id=f"{schedule_id}-{int(body['sequence'])}", at=float(body["at"]))
    except (DecodeError, KeyError, TypeError, ValueError):
        return None


def never_queued(
    info: ScheduleInfo, messages: Iterable[jetstream.StoredMessage], task_id: str, *, due_at: float | None = None
) -> Envelope:
    """The task of a schedule that ends without ever having stood in the queue: its sequence is 0."""
    stored = next(iter(messages))
    now = time.time()
    due = due_at if due_at is not None else info.due_since or info.next_at or now
    return Envelope(
        subject=subjects.task(info.capability, info.priority, info.client),
        capability=info.capability,
        priority=info.priority,
        client=info.client,
        task_id=task_id,
        body=stored.body,
        headers=without_control_headers(stored.headers),
        content_type=codec.content_type_of(stored.headers),
        sequence=0,
        stored_at=due_at or info.created_at,
        deadline=min(due + info.deadline, now + MAX_DEADLINE),
        deliveries=0,
        reply="",
        named=True,
        attempt=0,
    )


async def listing(connection: Connection, client: str = "", schedule_id: str = "") -> Listing:
    """Schedules of a client, or everybody's, or those of one id. The next ones, where there are too many."""
    now = time.time()
    found = [one.info(now) for one in await everything(connection, client, schedule_id)]
    rows = schedules.in_order(info for info in found if info is not None)
    return Listing(schedules=rows[:SHOWN], total=len(rows))


async def page(connection: Connection, client: str, after: str) -> Listing:
    """Schedules of a client, or everybody's, that come after one in the order of `<client>.<schedule id>`."""
    names = await reading.subjects_in(connection, subjects.LATER, f"revo.*.{client or '*'}.*")
    by_id: dict[str, list[str]] = {}
    for name in names:
        by_id.setdefault(name.split(".", 2)[2], []).append(name)
    some = sorted(one for one in by_id if one > after)[:SHOWN]
    wanted = [name for one in some if all(map(subjects.is_token, one.split("."))) for name in by_id[one]]
    found: dict[tuple[str, str], Standing] = {}
    async for stored in reading.latest(connection, subjects.LATER, wanted):
        _add(found, stored)
    now = time.time()
    rows = [info for one in found.values() if (info := one.info(now)) is not None]
    return Listing(schedules=rows, total=len(by_id), more=some[-1] if len(some) == SHOWN else "")


async def everything(
    connection: Connection, client: str = "", schedule_id: str = "", *, recurring: bool = False
) -> list[Standing]:
    """What LATER holds, by schedule, without the bodies; of those alone that are due again and again."""
    found: dict[tuple[str, str], Standing] = {}
    info = await jetstream.call(connection, "STREAM.INFO", subjects.LATER)
    first, last = int(info["state"]["first_seq"]), int(info["state"]["last_seq"])
    pattern = f"revo.*.{client or '*'}.{schedule_id or '*'}"
    async for stored in reading.scan(connection, subjects.LATER, first, last, subject=pattern):
        if not (recurring and stored.headers.get(WHEN, "").startswith("@at ")):
            _add(found, stored)
    return list(found.values())


def _add(found: dict[tuple[str, str], Standing], stored: jetstream.StoredMessage) -> None:
    """Add what LATER holds on one subject to what it holds by schedule, without the body of a task."""
    try:
        client, schedule_id = subjects.parse_schedule(stored.subject)
        subjects.schedule(client, schedule_id)
    except InvalidSubjectError:
        return  # a server takes `*` and worse from an operator
    standing = found.setdefault((client, schedule_id), Standing(client, schedule_id))
    body = stored.body if stored.subject.startswith("revo.occurred.") else b""
    standing.messages[stored.subject.split(".")[1]] = stored._replace(body=body)


async def find_once(connection: Connection, task_id: str) -> ScheduleInfo | None:
    """A task that is not due yet, or is no task yet, by its id alone; None: there is none.

    Raises:
        NotFoundError: what has this id is due again and again: its tasks have ids of their own.
    """
    for kind in ("later", "paused", "due"):
        try:
            stored = await jetstream.last(connection, subjects.LATER, f"revo.{kind}.*.{subjects.token(task_id)}")
        except NotFoundError:
            return None  # a mesh of an earlier version, without that stream
        if stored is None:
            continue
        client, _ = subjects.parse_schedule(stored.subject)
        info = Standing(client, task_id, {kind: stored}).info(time.time())
        if info is not None and info.once:
            return info
        if info is not None:
            raise NotFoundError(f"task {task_id}", f"it is a schedule; see `revo schedule show {task_id}`")
    return None
