"""Lanes beside queues: how the few tasks of one client go past the many of others. What a steward does of it.

A queue is first come, first served over all clients. Where more wait in it than twice the setting `fair_share`, a
steward takes what waits behind more than a fair share and is of a client that has no more than that, and puts it into
the lane beside the queue, which workers serve in turn with the queue (`bus.pull`). Never more than a fair share stands
in a lane, and who has the least there is the next to be put there: so many light clients share it, too.

A move is: store a copy, see that the original is still far from being delivered, note it for the audit, delete the
original. After a crash in between both stand, and whichever steward looks next goes on from there. A task that was
never in anybody's hands has one copy in the end; should both be delivered all the same, because a steward was stopped
for long within the last two steps, the first result is the result, as ever.
"""

from __future__ import annotations

import asyncio
import bisect
import heapq
import itertools
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bus import codec, jetstream, reading, subjects
from bus.backlog import Backlog, Line
from bus.connection import Connection
from bus.errors import NotFoundError, PayloadTooLargeError, QueueFullError
from bus.messages import (
    CONTENT_TYPE,
    DEADLINE,
    FRESH,
    FROM,
    HEADROOM,
    MSG_ID,
    MSGPACK,
    SUBMITTED,
    TASK_ID,
    Envelope,
    without_control_headers,
)
from bus.tasks import envelope_of

log = logging.getLogger(__name__)

MOVES: Final = 1000
"""Tasks that are moved in one look at the most: a look must end soon, for deadlines wait for the next one."""
AT_ONCE: Final = 100
"""Tasks that are moved side by side."""
READS: Final = 32
"""Clients whose tasks are read side by side."""

Moved = tuple[int, int]
"""The sequence of an original, and that of its copy."""


@dataclass(slots=True)
class _Queue:
    """One queue as the backlog knows it: by client, its line in the queue and the one in the lane."""

    capability: str
    priority: str
    lines: dict[str, Line] = field(default_factory=dict)
    lane: dict[str, Line] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.capability}.{self.priority}"


class Lanes:
    """Moves tasks to lanes. One look at a time."""

    def __init__(self, connection: Connection, backlog: Backlog) -> None:
        """`backlog` is brought up to date by whoever looks."""
        self._connection = connection
        self._backlog = backlog
        self._share = connection.settings.fair_share
        self._checked: dict[str, int] = {}
        self.moved = 0
        """How many tasks were moved."""

    async def look(self, served: Callable[[str], bool]) -> list[str]:
        """Move what should be moved, up to `MOVES` tasks; return the lanes that hold something, as
        `capability.priority`. `served` says whether somebody lives who serves the lanes of a capability.

        Raises:
            BusError: a step could not be done; the next look goes on.
        """
        if len(self._backlog) <= 2 * self._share and not self._backlog.lanes:
            return []
        holding: list[str] = []
        moves = MOVES
        for queue in self._queues():
            crowded = (
                len(queue.lines) > 1 and sum(len(line.sequences) for line in queue.lines.values()) > 2 * self._share
            )
            if not queue.lane and not (crowded and served(queue.capability)):
                continue
            done, holds = await self._look_at(queue, moves if crowded and served(queue.capability) else 0)
            moves -= done
            if holds:
                holding.append(queue.name)
        return holding

    def _queues(self) -> list[_Queue]:
        found: dict[tuple[str, str], _Queue] = {}
        for line in self._backlog.lines.values():
            capability, priority, client = line.address
            queue = found.get((capability, priority))
            if queue is None:
                queue = found[capability, priority] = _Queue(capability, priority)
            (queue.lane if line.lane else queue.lines)[client] = line
        return list(found.values())

    async def _look_at(self, queue: _Queue, moves: int) -> tuple[int, bool]:
        """Move up to so many; return how many were, and whether the lane holds something."""
        counts = await reading.counts_in(
            self._connection, subjects.TASKS, f"revo.task.{queue.capability}.{queue.priority}.>"
        )
        in_lane = sum(count for subject, count in counts.items() if subjects.in_lane(subject))
        for line in list(queue.lane.values()):
            if line.address.subject(lane=True) not in counts:
                for ended in list(line.sequences):
                    self._backlog.gone(ended)
        info = await self._info(queue)
        if info is None:
            return 0, in_lane > 0
        delivered = int(info["delivered"]["stream_seq"])
        room = min(moves, self._share - in_lane)
        wanted: dict[str, list[int]] = {}
        if room > 0 and int(info["num_pending"]) > 2 * self._share and not info.get("paused"):
            wanted = self._pick(queue, counts, delivered, room)
        if in_lane or wanted:
            await self._ensure(queue, info["config"])
        done = 0
        if in_lane:
            pairs, checked = await self._unfinished(queue, delivered)
            done = await self._settle(queue, pairs)
            self._checked[queue.name] = checked
        for some in _chunks(await self._read(queue, wanted), AT_ONCE):
            copies, full = await self._copy(some)
            done += await self._settle(queue, copies)
            if full:
                break
        return done, in_lane > 0 or done > 0

    async def _info(self, queue: _Queue) -> dict[str, Any] | None:
        """What the queue's consumer says; None: nobody ever had the capability."""
        name = subjects.consumer(queue.capability, queue.priority)
        try:
            return await jetstream.call(self._connection, "CONSUMER.INFO", subjects.TASKS, name)
        except NotFoundError:
            return None

    async def _ensure(self, queue: _Queue, config: dict[str, Any]) -> None:
        """See that the lane has its consumer, which is as its queue's."""
        name = subjects.lane_consumer(queue.capability, queue.priority)
        try:
            await jetstream.call(self._connection, "CONSUMER.INFO", subjects.TASKS, name)
        except NotFoundError:
            only = subjects.lane_filter(queue.capability, queue.priority)
            own = {"name": name, "durable_name": name, "filter_subject": only}
            own["description"] = f"{queue.priority} tasks for {queue.capability} that go past the many of others"
            body = {"stream_name": subjects.TASKS, "config": {**config, **own}, "action": ""}
            await jetstream.call(self._connection, "CONSUMER.CREATE", subjects.TASKS, name, only, body=body)

    # --- which ------------------------------------------------------------------------------------------------

    def _pick(self, queue: _Queue, counts: dict[str, int], delivered: int, room: int) -> dict[str, list[int]]:
        """The sequences to move, by client: of clients with no more than a fair share, what waits behind more than one;
        who has the least in the lane is the next.
        """
        slices = []
        for line in queue.lines.values():
            start = bisect.bisect_right(line.sequences, delivered)
            slices.append(line.sequences[start : start + self._share + 1])
        far = next(itertools.islice(heapq.merge(*slices), self._share, None), None)
        if far is None:
            return {}
        turns: list[tuple[int, int, str]] = []
        left: dict[str, int] = {}
        for client, line in queue.lines.items():
            in_lane = counts.get(line.address.subject(lane=True), 0)
            if counts.get(line.address.subject(), 0) + in_lane <= self._share:
                left[client] = start = bisect.bisect_left(line.sequences, far)
                if start < len(line.sequences):
                    turns.append((in_lane, line.sequences[start], client))
        heapq.heapify(turns)
        found: dict[str, list[int]] = defaultdict(list)
        while turns and room:
            in_lane, sequence, client = heapq.heappop(turns)
            found[client].append(sequence)
            room -= 1
            left[client] += 1
            if left[client] < len(sequences := queue.lines[client].sequences):
                heapq.heappush(turns, (in_lane + 1, sequences[left[client]], client))
        return found

    async def _unfinished(self, queue: _Queue, delivered: int) -> tuple[list[Moved], int]:
        """Moves that somebody began and did not end: an original stands with its copy. Each copy is looked at once, up
        to the sequence that is returned, too.
        """
        checked = self._checked.get(queue.name, 0)
        if checked > self._backlog.last:
            checked = 0  # the stream was made anew
        last = checked
        found: list[Moved] = []
        for client, lane in queue.lane.items():
            new = {
                self._backlog.id_of(one): one for one in lane.sequences[bisect.bisect_right(lane.sequences, checked) :]
            }
            last = max([last, *new.values()])
            line = queue.lines.get(client)
            if not new or line is None:
                continue
            start = bisect.bisect_right(line.sequences, delivered)
            near = line.sequences[start : start + self._share]
            found += [(one, new[task_id]) for one in near if (task_id := self._backlog.id_of(one)) in new]
        certain = [pair for pair in found if await self._is_copy(*pair)]
        return certain, last

    async def _is_copy(self, sequence: int, copy: int) -> bool:
        stored = await jetstream.at(self._connection, subjects.TASKS, copy)
        return stored is not None and stored.headers.get(FROM) == str(sequence)

    # --- and how ----------------------------------------------------------------------------------------------

    async def _read(self, queue: _Queue, wanted: dict[str, list[int]]) -> list[Envelope]:
        """The tasks that still stand there, of as many clients as there are in turn."""
        slots = asyncio.Semaphore(READS)
        default = self._connection.settings.deadline

        async def of(line: Line, sequences: list[int]) -> list[Envelope]:
            some = set(sequences)
            async with slots:
                scan = reading.scan(
                    self._connection, subjects.TASKS, sequences[0], sequences[-1], subject=line.address.subject()
                )
                found = [envelope_of(stored, default) async for stored in scan if stored.sequence in some]
            for gone in some - {envelope.sequence for envelope in found if envelope.fault is None}:
                self._backlog.gone(gone)  # it has ended, or makes no sense and stays where it is
            return [envelope for envelope in found if envelope.fault is None]

        async with asyncio.TaskGroup() as group:
            reads = [group.create_task(of(queue.lines[client], some)) for client, some in wanted.items()]
        in_turn = itertools.zip_longest(*(read.result() for read in reads))
        return [envelope for row in in_turn for envelope in row if envelope is not None]

    async def _copy(self, originals: Sequence[Envelope]) -> tuple[list[Moved], bool]:
        """Store copies in the lane; return which stand, and whether there is no room for more."""

        async def one(original: Envelope) -> jetstream.Stored:
            subject = subjects.TaskAddress(original.capability, original.priority, original.client).subject(lane=True)
            return await jetstream.store(
                self._connection, subject, original.body, lane_headers(original), room=HEADROOM
            )

        ends = await asyncio.gather(*(one(original) for original in originals), return_exceptions=True)
        copies: list[Moved] = []
        full = False
        for original, end in zip(originals, ends, strict=True):
            if isinstance(end, PayloadTooLargeError):
                self._backlog.gone(original.sequence)  # no room for our headers: it waits where it is
            elif isinstance(end, QueueFullError):
                full = True
            elif isinstance(end, BaseException):
                raise end
            else:
                copies.append((original.sequence, end.sequence))
        return copies, full

    async def _settle(self, queue: _Queue, copies: Sequence[Moved]) -> int:
        """Delete the originals, or the copies of those that may be in somebody's hands by now; how many were moved."""
        info = await self._info(queue) if copies else None
        if info is None:
            return 0
        delivered = int(info["delivered"]["stream_seq"])
        left = [sequence if sequence > delivered else copy for sequence, copy in copies]
        await self._note(left)
        await asyncio.gather(*(jetstream.delete(self._connection, subjects.TASKS, one) for one in left))
        for one in left:
            self._backlog.gone(one)
        moved = sum(sequence > delivered for sequence, _ in copies)
        self.moved += moved
        return moved

    async def _note(self, left: list[int]) -> None:
        """Tell the audit which sequences are no task's any more; before they are deleted, or they would be lost."""
        body = codec.encode({"left": left})
        await jetstream.store(self._connection, subjects.note("moved"), body, {CONTENT_TYPE: MSGPACK})


def lane_headers(original: Envelope) -> dict[str, str]:
    """The headers of a task's copy in a lane: those it had, and what was known of it by where it stood."""
    headers = without_control_headers(original.headers)
    headers.pop(FRESH, None)  # the original may stand, too, and have a result by the time that the copy is delivered
    return headers | {
        TASK_ID: original.task_id,
        DEADLINE: f"{original.deadline:.3f}",
        SUBMITTED: f"{original.stored_at:.6f}",
        FROM: str(original.sequence),
        MSG_ID: f"{original.name}.{subjects.FAIR}.{original.sequence}",
    }


def _chunks(envelopes: Sequence[Envelope], size: int) -> Iterable[Sequence[Envelope]]:
    return (envelopes[start : start + size] for start in range(0, len(envelopes), size))
