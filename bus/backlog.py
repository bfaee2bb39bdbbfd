"""What stands in TASKS, as a steward must know it: by deadline, by task id, by parent and by line.

A view, not a state: made from the stream alone, 48 bytes a task, and brought up to date by reading what came since. A
task that ends is not taken out one by one; what is found in the view is looked up in the stream before it is used.
"""

from __future__ import annotations

import asyncio
import bisect
import hashlib
import heapq
import math
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from bus import jetstream, reading, subjects
from bus.connection import Connection
from bus.messages import PARENT, Envelope
from bus.tasks import envelope_of

HORIZON: Final = 60.0
"""Seconds ahead for which deadlines are kept in order; the rest is looked through once for each half of that."""
SLACK: Final = 10_000
"""Tasks that may have ended without leaving the view, besides as many as there are, before it is made anew."""
FEW: Final = 20
"""Up to so many tasks are read one by one, more of them in one sweep."""
MANY: Final = 5000
"""Tasks that are given at a time."""


@dataclass(slots=True)
class Line:
    """The tasks of one client that wait in one queue, or in the lane beside it, in the order they came."""

    number: int
    address: subjects.TaskAddress
    lane: bool
    sequences: array[int] = field(default_factory=lambda: array("Q"))


class Backlog:
    """The tasks in TASKS. Bring it up to date with `refresh` before asking it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.last = 0
        """The last sequence that was looked at: so many tasks were ever accepted."""
        self._refreshing = asyncio.Lock()
        self._next = 1
        self.server_time = 0.0
        """The server's clock at the last refresh, in unix seconds: deadlines are judged by one clock."""
        self._forget()

    def _forget(self) -> None:
        self.last = 0
        self._sequences = array("Q")
        self._deadlines = array("d")
        self._ids = array("Q")
        self._parents = array("Q")
        self._numbers = array("Q")
        self._numbered: dict[int, Line] = {}
        self.lines: dict[str, Line] = {}
        """By subject. Tasks that have ended may still stand in theirs."""
        self.lanes = 0
        """How many of them are in lanes."""
        self._near: list[tuple[float, int]] = []
        self._horizon = 0.0

    def __len__(self) -> int:
        return len(self._sequences)

    async def refresh(self) -> None:
        """Learn what came since the last time.

        Raises:
            TransportError: the server does not answer; what was learnt stays.
        """
        async with self._refreshing:
            await self._refresh()

    async def _refresh(self) -> None:
        info = await jetstream.call(self._connection, "STREAM.INFO", subjects.TASKS)
        state = info["state"]
        first, last, standing = int(state["first_seq"]), int(state["last_seq"]), int(state["messages"])
        self.server_time = jetstream.unix_ns(info["ts"]) / 1e9
        if last < self.last or len(self) > 2 * standing + SLACK:
            self._forget()  # a stream made anew, or a view that is mostly of tasks that have ended
        self._drop_before(first)
        if standing:
            async for stored in reading.scan(self._connection, subjects.TASKS, max(first, self.last + 1), last):
                self._add(stored)
        self.last = last
        if self.server_time > self._horizon - HORIZON / 2:
            self._look_ahead()

    def _drop_before(self, first: int) -> None:
        gone = bisect.bisect_left(self._sequences, first)
        if gone:
            for number, count in Counter(self._numbers[:gone]).items():
                if number:
                    self._leave(self._numbered[number], slice(count))
            for column in (self._sequences, self._deadlines, self._ids, self._parents, self._numbers):
                del column[:gone]

    def before(self, address: subjects.TaskAddress, after: int, sequence: int) -> tuple[int, int]:
        """How many tasks of all clients stand between two sequences in the queue that a task is in, and how many before
        the second in the lane beside it. Some of them may have ended.
        """
        waiting = [0, 0]
        for line in self.lines.values():
            if line.address[:2] == address[:2]:
                end = bisect.bisect_left(line.sequences, sequence)
                start = 0 if line.lane else bisect.bisect_right(line.sequences, after)
                waiting[line.lane] += max(0, end - start)
        return waiting[0], waiting[1]

    def gone(self, sequence: int) -> None:
        """It is in its line no more, or is to be looked for there no more."""
        index = bisect.bisect_left(self._sequences, sequence)
        if index < len(self) and self._sequences[index] == sequence and self._numbers[index]:
            line, self._numbers[index] = self._numbered[self._numbers[index]], 0
            place = bisect.bisect_left(line.sequences, sequence)
            self._leave(line, slice(place, place + 1))

    def _leave(self, line: Line, which: slice) -> None:
        del line.sequences[which]
        if not line.sequences:
            self.lanes -= line.lane
            del self._numbered[line.number]
            del self.lines[line.address.subject(lane=line.lane)]

    def _line(self, envelope: Envelope) -> Line:
        address = subjects.TaskAddress(envelope.capability, envelope.priority, envelope.client)
        lane = subjects.in_lane(envelope.subject)
        line = self.lines.get(subject := address.subject(lane=lane))
        if line is None:
            self._numbered[self._next] = self.lines[subject] = line = Line(self._next, address, lane)
            self._next += 1
            self.lanes += lane
        return line

    def _add(self, stored: jetstream.StoredMessage) -> None:
        envelope = envelope_of(stored, self._connection.settings.deadline)
        parent = stored.headers.get(PARENT, "")
        self._sequences.append(stored.sequence)
        self._deadlines.append(envelope.deadline)
        self._ids.append(_hash(envelope.task_id))
        self._parents.append(_hash(parent) if parent else 0)
        line = self._line(envelope)
        line.sequences.append(stored.sequence)
        self._numbers.append(line.number)
        if envelope.deadline <= self._horizon:
            heapq.heappush(self._near, (envelope.deadline, stored.sequence))

    def _look_ahead(self) -> None:
        self._horizon = horizon = self.server_time + HORIZON
        pairs = zip(self._deadlines, self._sequences, strict=True)
        self._near = [pair for pair in pairs if pair[0] <= horizon]
        heapq.heapify(self._near)

    async def overdue(self, patience: float) -> list[Envelope]:
        """Tasks that are still there `patience` seconds after their deadline; none when there are no more.

        Each is given once. Whoever cannot end one says so with `again`.

        Raises:
            TransportError: the server does not answer; they are given at the next call.
        """
        now = self.server_time - patience
        due: list[tuple[float, int]] = []
        while self._near and self._near[0][0] <= now and len(due) < MANY:
            due.append(heapq.heappop(self._near))
        try:
            found = [envelope async for envelope in self.read([sequence for _, sequence in due])]
        except BaseException:
            for pair in due:
                heapq.heappush(self._near, pair)
            raise
        for _, sequence in due:
            self._mark(sequence, math.inf)
        return found

    def again(self, envelope: Envelope, *, after: float = 0.0) -> None:
        """Give it again at a look that comes `after` seconds or more from now."""
        due = max(envelope.deadline, self.server_time + after) if after else envelope.deadline
        self._mark(envelope.sequence, due)
        heapq.heappush(self._near, (due, envelope.sequence))

    def _mark(self, sequence: int, deadline: float) -> None:
        index = bisect.bisect_left(self._sequences, sequence)
        if index < len(self._sequences) and self._sequences[index] == sequence:
            self._deadlines[index] = deadline

    async def find(self, task_id: str) -> list[Envelope]:
        """The tasks with that id that still stand there: of several clients, or one that was submitted twice."""
        async with self._refreshing:  # a view that is just being made anew has not everything
            if not self.last:
                await self._refresh()
            where = self._where(self._ids, _hash(task_id))
        found = [envelope async for envelope in self.read(where)]
        return [envelope for envelope in found if envelope.task_id == task_id]

    async def children(self, name: str) -> list[Envelope]:
        """The tasks that still stand there and were submitted by the handler of the task with that full name."""
        found = [envelope async for envelope in self.read(self._where(self._parents, _hash(name)))]
        return [envelope for envelope in found if envelope.headers.get(PARENT) == name]

    def _where(self, column: array[int], value: int) -> list[int]:
        found: list[int] = []
        start = 0
        while True:
            try:
                index = column.index(value, start)
            except ValueError:
                return found
            found.append(self._sequences[index])
            start = index + 1

    async def read(self, sequences: Sequence[int]) -> AsyncIterator[Envelope]:
        """Those of the tasks that still stand in the stream."""
        default = self._connection.settings.deadline
        if len(sequences) <= FEW:
            for sequence in sequences:
                stored = await jetstream.at(self._connection, subjects.TASKS, sequence)
                if stored is not None:
                    yield envelope_of(stored, default)
            return
        wanted = set(sequences)
        sweep = reading.scan(self._connection, subjects.TASKS, min(wanted), max(wanted))
        async for stored in sweep:
            if stored.sequence in wanted:
                yield envelope_of(stored, default)


def _hash(text: str) -> int:
    """64 bits that stand for a text; the rare double is told apart by looking it up. Never 0."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") or 1
