"""Lanes beside queues: how the few tasks of one client go past the many of others. What a steward does of it.

A queue is first come, first served over all clients. Where more wait in it than twice the setting `fair_share`, a
steward takes what waits behind more than a fair share and is of a client that has no more than that, and puts it into
the lane beside the queue, which workers serve in turn with the queue (`bus.pull`). Never more than a fair share stands
in a lane, and who has the least there is the next to be put there: so many light clients share it, too.

Where nobody has served lanes for a while, what stands in them goes back into its queue. How tasks are moved is
`bus.moving`'s.
"""

from __future__ import annotations

import asyncio
import bisect
import heapq
import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from bus import jetstream, reading, subjects, topology
from bus.backlog import Backlog, Line
from bus.connection import Connection
from bus.errors import NotFoundError
from bus.messages import Envelope
from bus.moving import Mover, together
from bus.tasks import envelope_of

MOVES: Final = 1000
"""Tasks that are moved in one look at the most: a look must end soon, for deadlines wait for the next one."""
READS: Final = 32
"""Clients whose tasks are read side by side."""
UNSERVED: Final = 30.0
"""Seconds without anybody who serves lanes after which what stands in one goes back into its queue."""


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
    """Moves tasks to lanes. One look at a time, of one steward at a time."""

    def __init__(self, connection: Connection, backlog: Backlog) -> None:
        """`backlog` is brought up to date by whoever looks."""
        self._connection = connection
        self._backlog = backlog
        self._share = connection.settings.fair_share
        self._mover = Mover(connection, backlog)
        self._looked = False
        self._unserved: dict[str, float] = {}
        """Since when nobody serves the lane beside a queue, by the server's clock."""

    @property
    def moved(self) -> int:
        """How many tasks were moved."""
        return self._mover.moved

    async def look(self, served: Callable[[str], bool]) -> list[str]:
        """Move what should be moved, up to `MOVES` tasks; return the lanes that hold something, as
        `capability.priority`. `served` says whether somebody lives who serves the lanes of a capability. Nothing is
        done while another steward does it.

        Raises:
            BusError: a step could not be done; the next look goes on.
        """
        if self._looked and len(self._backlog) <= 2 * self._share and not self._backlog.lanes:
            return []
        queues = [(queue, self._crowded(queue) and served(queue.capability)) for queue in self._queues()]
        queues = [(queue, crowded) for queue, crowded in queues if queue.lane or crowded]
        if not queues and (self._looked or not await self._mover.begun()):
            self._looked = True
            return []
        if not await self._mover.hold():
            return []
        self._looked = True  # what one who died had begun is done
        holding: list[str] = []
        moves = MOVES
        for queue, crowded in queues:
            if queue.lane and self._is_left(queue, served=served(queue.capability)):
                moves -= await self._take_back(queue, moves)
                continue
            done, holds = await self._look_at(queue, moves if crowded else 0)
            moves -= done
            if holds:
                holding.append(queue.name)
        return holding

    def _is_left(self, queue: _Queue, *, served: bool) -> bool:
        """Whether nobody has served lanes of the capability for a while."""
        if served:
            self._unserved.pop(queue.name, None)
            return False
        now = self._backlog.server_time
        return now - self._unserved.setdefault(queue.name, now) >= UNSERVED

    def _crowded(self, queue: _Queue) -> bool:
        return len(queue.lines) > 1 and sum(len(line.sequences) for line in queue.lines.values()) > 2 * self._share

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
            await self._ensure(queue, info)
        done, _ = await self._mover.move(await self._read(queue.lines, wanted), lane=True)
        return done, in_lane > 0 or done > 0

    async def _take_back(self, queue: _Queue, moves: int) -> int:
        """Move up to so many from the lane to its queue, where everybody looks; return how many were."""
        left = {client: list(line.sequences[:moves]) for client, line in queue.lane.items() if line.sequences}
        tasks = await self._read(queue.lane, left)
        done, _ = await self._mover.move(tasks[:moves], lane=False)
        return done

    async def _info(self, queue: _Queue) -> dict[str, Any] | None:
        """What the queue's consumer says; None: nobody ever had the capability."""
        name = subjects.consumer(queue.capability, queue.priority)
        try:
            return await jetstream.call(self._connection, "CONSUMER.INFO", subjects.TASKS, name)
        except NotFoundError:
            return None

    async def _ensure(self, queue: _Queue, info: Mapping[str, Any]) -> None:
        """See that the lane has its consumer, which is as its queue's, and paused with it."""
        name = subjects.lane_consumer(queue.capability, queue.priority)
        wanted = topology.lane_of(info["config"], queue.capability, queue.priority)
        try:
            standing = await jetstream.call(self._connection, "CONSUMER.INFO", subjects.TASKS, name)
            new = False
        except NotFoundError:
            standing = await self._make(name, wanted)
            new = True
        if not new and topology.compare_policies(wanted, standing["config"]):
            standing = await self._make(name, wanted)
        if new or bool(standing.get("paused")) != bool(info.get("paused")):
            # Whoever paused the queue, or let it go on, while the lane was not there has passed it over.
            now = await self._info(queue) or {}
            if bool(standing.get("paused")) != bool(now.get("paused")):
                body = {"pause_until": now["config"]["pause_until"]} if now.get("paused") else None
                await jetstream.call(self._connection, "CONSUMER.PAUSE", subjects.TASKS, name, body=body)

    async def _make(self, name: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
        body = {"stream_name": subjects.TASKS, "config": wanted, "action": ""}
        only = wanted["filter_subject"]
        return await jetstream.call(self._connection, "CONSUMER.CREATE", subjects.TASKS, name, only, body=body)

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

    async def _read(self, lines: Mapping[str, Line], wanted: dict[str, list[int]]) -> list[Envelope]:
        """The tasks that still stand there, of as many clients as there are in turn."""
        slots = asyncio.Semaphore(READS)
        default = self._connection.settings.deadline

        async def of(line: Line, sequences: list[int]) -> list[Envelope]:
            some = set(sequences)
            async with slots:
                scan = reading.scan(
                    self._connection,
                    subjects.TASKS,
                    sequences[0],
                    sequences[-1],
                    subject=line.address.subject(lane=line.lane),
                )
                found = [envelope_of(stored, default) async for stored in scan if stored.sequence in some]
            for gone in some - {envelope.sequence for envelope in found if envelope.fault is None}:
                self._backlog.gone(gone)  # it has ended, or makes no sense and stays where it is
            return [envelope for envelope in found if envelope.fault is None]

        reads = await together(of(lines[client], some) for client, some in wanted.items())
        in_turn = itertools.zip_longest(*reads)
        return [envelope for row in in_turn for envelope in row if envelope is not None]
