"""When a task will start: from what waits before it, and how long such tasks have taken lately.

An estimate. It takes for granted that as many slots work as now, that tasks take as long as the last ones did, and that
nothing more urgent comes; `docs/fairness.md` tells the model. Must not know where the figures come from.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from pydantic import BaseModel

from bus import rpc, stewards, subjects
from bus.connection import Connection
from bus.errors import BusError, QueueFullError
from bus.telemetry import Telemetry

log = logging.getLogger(__name__)

AGAIN: Final = 1.0
"""Seconds for which an answer about a full queue is taken for true."""
WITHIN: Final = 1.0
"""Seconds that a steward has to say when a full queue has room; who was refused is not kept waiting for longer."""
ROOM: Final = 100
"""When so many parts of what waits are reduced by one, it is worth coming back."""


class Estimate(BaseModel):
    """What a steward can tell of a task's start."""

    starts_in: float | None
    """Seconds; None: it cannot be told, and `why` says why."""
    ahead: int
    """Tasks that will be started before it."""
    slots: int
    """How many tasks those who do such tasks run at once, other capabilities of theirs included."""
    took: float | None
    """Seconds that the last such tasks occupied a slot; None: none has ended lately."""
    room_in: float | None = None
    """Seconds in which a hundredth of what waits will have been started: when to come back to a full queue."""
    why: str = ""

    def __str__(self) -> str:
        if self.starts_in is None:
            return f"cannot be told: {self.why}"
        return "starts at once" if self.starts_in < 1 else f"starts in about {_rounded(self.starts_in)}"


def _rounded(seconds: float) -> str:
    """No more digits than an estimate is worth."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def estimate(*, ahead: int, waiting: int, slots: int, busy: int, took: float | None) -> Estimate:
    """When a task starts that has so many `ahead` of it, of `waiting` in all, while `busy` of the slots are taken."""
    known = Estimate(starts_in=None, ahead=ahead, slots=slots, took=took)
    if not slots:
        return known.model_copy(update={"why": "nobody who does such tasks is there"})
    if ahead < slots - busy:
        return known.model_copy(update={"starts_in": 0.0, "room_in": 0.0})
    if took is None:
        return known.model_copy(update={"why": "no such task has ended lately, so nobody knows how long they take"})
    # The next slot is free in a half of a task's time by the mean, each further one `slots` times as often as one.
    ends = ahead - max(0, slots - busy) + 0.5
    return known.model_copy(
        update={"starts_in": ends * took / slots, "room_in": max(1, waiting // ROOM) * took / slots}
    )


async def ask(
    connection: Connection,
    telemetry: Telemetry,
    capability: str,
    *,
    priority: str = "normal",
    task_id: str = "",
    client: str = "",
) -> Estimate:
    """What a steward says of a task that stands there, by its id, or of one that would be submitted now.

    Raises:
        InvalidSubjectError: nothing was sent.
        NotFoundError: there is no such task, or nobody ever had the capability.
        NoStewardError, TransportError: nobody says.
    """
    return Estimate.model_validate(
        await stewards.ask(connection, telemetry, "estimate", _question(capability, priority, task_id, client))
    )


async def if_known(
    connection: Connection,
    telemetry: Telemetry,
    capability: str,
    *,
    priority: str = "normal",
    task_id: str = "",
    client: str = "",
) -> Estimate | None:
    """The same for whoever can do without: None when no steward says it within a second."""
    question = _question(capability, priority, task_id, client)
    try:
        said = await rpc.call(connection, telemetry, subjects.STEWARD, "estimate", question, timeout=WITHIN)
        return Estimate.model_validate(said)
    except (BusError, ValueError) as error:
        log.debug("nobody says when a task for %s starts: %s", capability, error)
        return None


def _question(capability: str, priority: str, task_id: str, client: str) -> dict[str, Any]:
    return {
        "capability": subjects.address(capability),
        "priority": subjects.priority(priority),
        "task_id": task_id,
        "client": client,
    }


class Room:
    """Knows, for one client, when full queues have room again: asks a steward once a second for each at the most."""

    def __init__(self, connection: Connection, telemetry: Telemetry) -> None:
        self._connection = connection
        self._telemetry = telemetry
        self._known: dict[tuple[str, str], tuple[float, float | None]] = {}

    async def told(self, error: QueueFullError, capability: str, priority: str, client: str) -> QueueFullError:
        """The error with when to come back, if anybody can tell."""
        now = asyncio.get_running_loop().time()
        asked, come_back = self._known.get((capability, priority), (-AGAIN, None))
        if now - asked >= AGAIN:
            said = await if_known(self._connection, self._telemetry, capability, priority=priority, client=client)
            come_back = said.room_in if said is not None else None
            self._known[capability, priority] = (asyncio.get_running_loop().time(), come_back)
        return QueueFullError(error.subject, error.reason, come_back)
