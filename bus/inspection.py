"""Looks at what there is: queues from their consumers, running tasks from their workers, ended ones from RESULTS.

Nothing here is kept anywhere, and nothing is changed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

from bus import beside, blobs, codec, early, endings, jetstream, reading, standing, subjects
from bus.blobs import Place
from bus.connection import Connection
from bus.errors import DecodeError, InvalidSubjectError, NotFoundError, PayloadTooLargeError
from bus.messages import CONTENT_TYPE, MSGPACK, Beat, DeadLetter, Envelope, InHand, Result
from bus.reading import stored_since
from bus.schedules import ScheduleInfo
from bus.tasks import envelope_of
from bus.wire import Message

log = logging.getLogger(__name__)

ANSWER_WITHIN: Final = 0.3
"""Seconds that workers have to say what they have in hand."""


@dataclass(slots=True)
class Queue:
    """One capability at one priority. `waiting` have not been delivered, `in_hand` are with workers or wait to be
    delivered again.
    """

    capability: str
    priority: str
    waiting: int
    in_hand: int
    redelivered: int
    served: bool = True
    """Whether any agent ever had the capability."""


@dataclass(slots=True)
class TaskView:
    """One task, wherever it is: exactly one of the four is set."""

    queued: Envelope | None = None
    running: InHand | None = None
    instance: str = ""
    """Who runs it."""
    ended: Result | None = None
    later: ScheduleInfo | None = None
    """It is not due yet, or has fallen due this instant."""


@dataclass(slots=True)
class Letter:
    """A dead letter and what was made of it. `body` is the original, as it was submitted."""

    letter: DeadLetter
    headers: dict[str, str]
    body: bytes
    redriven_as: str = ""
    missing: str = ""
    """Why the body cannot be read: it was large, and is gone or damaged."""


@dataclass(slots=True)
class Link:
    """One task of a chain of redrives. `status` is empty while it waits or runs, and when its result is gone."""

    task_id: str
    status: str = ""
    error: str = ""
    dead: bool = False
    at: float = field(default=0.0)
    """Unix seconds of its end."""


async def queues(connection: Connection) -> list[Queue]:
    """All capabilities and priorities that something waits in or is in hand of, by name and urgency."""
    found: dict[tuple[str, str], Queue] = {}
    offset, total = 0, 1
    while offset < total:
        page = await jetstream.call(connection, "CONSUMER.LIST", subjects.TASKS, body={"offset": offset})
        total, rows = int(page["total"]), page.get("consumers") or []
        if not rows:
            break
        offset += len(rows)
        for row in rows:
            name = subjects.parse_consumer(row["name"])
            if name is not None:
                queue = found.setdefault(name[:2], Queue(name.capability, name.priority, 0, 0, 0))
                queue.waiting += row["num_pending"]  # of the queue, and of the lane beside it
                queue.in_hand += row["num_ack_pending"]
                queue.redelivered += row["num_redelivered"]
    info = await jetstream.call(connection, "STREAM.INFO", subjects.TASKS, body={"subjects_filter": ">"})
    for subject, count in (info["state"].get("subjects") or {}).items():
        address = subjects.parse_task(subject)
        key = (address.capability, address.priority)
        if key not in found:
            found[key] = Queue(*key, 0, 0, 0, served=False)
        if not found[key].served:
            found[key].waiting += count
    order = {priority: rank for rank, priority in enumerate(subjects.PRIORITIES)}
    rows = [queue for queue in found.values() if queue.waiting or queue.in_hand]
    return sorted(rows, key=lambda queue: (queue.capability, order[queue.priority]))


async def workers(connection: Connection, *, task_id: str = "", within: float = ANSWER_WITHIN) -> list[Beat]:
    """What the workers say that they have in hand; with a task id, the first that has that one.

    A worker that does not answer in time, because it hangs, is left out.
    """
    answers: asyncio.Queue[Message] = asyncio.Queue()
    inbox = connection.client.new_inbox()
    subscription = await connection.subscribe(inbox, answers.put_nowait)
    beats: list[Beat] = []
    try:
        question = codec.encode({"task_id": task_id})
        subject = subjects.control(subjects.EVERYONE, subjects.EVERYONE, "tasks")
        await connection.publish(subject, question, {CONTENT_TYPE: MSGPACK}, reply=inbox)
        async with asyncio.timeout(within):
            while True:
                message = await answers.get()
                if message.headers.get("Status") == "503":
                    break  # there are none
                try:
                    beats.append(codec.read(Beat, message.headers, message.data, subject=message.subject))
                except DecodeError as error:
                    log.warning("%s", error)
                    continue
                if task_id:
                    break
    except TimeoutError:
        pass  # that were all
    finally:
        await subscription.drain()
    return sorted(beats, key=lambda beat: beat.instance)


async def latest_results(connection: Connection, count: int) -> list[Result]:
    """The last results that were stored, the newest first."""
    info = await jetstream.call(connection, "STREAM.INFO", subjects.RESULTS)
    found: list[Result] = []
    sequence, first = int(info["state"]["last_seq"]), int(info["state"]["first_seq"])
    tries = 3 * count  # some are gone: their time is up
    while sequence >= max(1, first) and len(found) < count and tries:
        stored = await jetstream.at(connection, subjects.RESULTS, sequence)
        if stored is not None:
            found.append(endings.read_result(stored.headers, stored.body, stored.subject))
        sequence, tries = sequence - 1, tries - 1
    return found


async def find_task(connection: Connection, task_id: str) -> TaskView:
    """Where a task is now; of one that has ended its value, too, wherever that stands.

    Raises:
        DecodeError, PayloadTooLargeError: its value is large, and cannot be read.
        NotFoundError: it neither waits nor runs, is not due later, and has no result.
    """
    subject = subjects.result_of(task_id)
    for _ in range(2):  # it may end between one look and the next
        result = await endings.stored_result(connection, subject)
        if result is not None:
            return TaskView(ended=await beside.filled(connection, result))
        planned = await standing.find_once(connection, task_id)
        if planned is not None:
            return TaskView(later=planned)
        for beat in await workers(connection, task_id=task_id):
            return TaskView(running=beat.in_hand[0], instance=beat.instance)
        async for envelope in queued(connection):
            if envelope.task_id == task_id:
                return TaskView(queued=envelope)
    raise NotFoundError(
        f"task {task_id}", "it neither waits nor runs, and it has no result (results are kept for a time)"
    )


async def queued(connection: Connection) -> AsyncIterator[Envelope]:
    """All that stands in TASKS, waiting or in hand, in the order it came."""
    info = await jetstream.call(connection, "STREAM.INFO", subjects.TASKS)
    first, last = int(info["state"]["first_seq"]), int(info["state"]["last_seq"])
    async for stored in reading.scan(connection, subjects.TASKS, first, last):
        yield envelope_of(stored, connection.settings.deadline)


async def letters(connection: Connection, *, capability: str = "", since: float = 0.0) -> list[Letter]:
    """The dead letters, without their bodies, in the order of their deaths; `since` is unix seconds."""
    redriven = await _redriven(connection)
    subject = f"revo.dead.*.{subjects.address(capability)}.*" if capability else ""
    found = []
    async for message in stored_since(connection, subjects.DEAD, since, subject=subject, headers_only=True):
        headers = message.headers
        stored = jetstream.StoredMessage(message.subject, 0, headers, b"", 0)
        try:
            letter = early.read_letter(stored)
        except DecodeError:
            continue  # not one of ours; it stays where it is
        found.append(Letter(letter, headers, b"", redriven.get(subjects.parse_name(message.subject), "")))
    return found


async def letter(connection: Connection, task_id: str) -> Letter:
    """One dead letter, with the original body, wherever that stands.

    Raises:
        NotFoundError: there is none.
    """
    stored = await early.find_letter(connection, task_id, "", "")
    name = subjects.parse_name(stored.subject)
    redriven = await _redriven(connection)
    body, missing = stored.body, ""
    try:
        blob = blobs.named_in(stored.headers, stored.subject)
        if blob is not None:
            body = await blobs.get(connection, Place(*name), blob)
    except (DecodeError, PayloadTooLargeError) as error:  # the rest of the letter is worth reading
        missing = str(error)
    return Letter(early.read_letter(stored), stored.headers, body, redriven.get(name, ""), missing)


async def _redriven(connection: Connection) -> dict[tuple[str, str, str], str]:
    """By (client, capability, id) of the dead: the id of the task that was made of it."""
    found = {}
    async for message in stored_since(connection, subjects.AUDIT, 0.0, subject=subjects.note("redriven", ">")):
        try:
            body = codec.read(dict, message.headers, message.data, subject=message.subject)
            found[subjects.parse_name(message.subject)] = subjects.token(body["task_id"])
        except (DecodeError, InvalidSubjectError, KeyError, ValueError) as error:
            log.warning("a note that cannot be read is left out: %s", error)
    return found


async def chain(connection: Connection, task_id: str) -> list[Link]:
    """The task and those that it was redriven from and as, the first one first."""
    redriven = await _redriven(connection)
    forward = {name[2]: new for name, new in redriven.items()}
    back = {new: old for old, new in forward.items()}
    ids = [task_id]
    while (earlier := back.get(ids[0])) is not None and earlier not in ids:
        ids.insert(0, earlier)
    while (later := forward.get(ids[-1])) is not None and later not in ids:
        ids.append(later)
    return [await _link(connection, one) for one in ids]


async def _link(connection: Connection, task_id: str) -> Link:
    result = await endings.stored_result(connection, subjects.result_of(task_id))
    stored = await jetstream.last(connection, subjects.DEAD, subjects.dead_of(task_id))
    if result is not None:
        error = f"{result.error.code}: {result.error.message}" if result.error else ""
        return Link(task_id, result.status, error, stored is not None, result.finished_at)
    if stored is not None:
        letter = early.read_letter(stored)
        return Link(task_id, "failed", f"{letter.reason}: {letter.error.message}", dead=True, at=letter.died_at)
    return Link(task_id, at=time.time())
