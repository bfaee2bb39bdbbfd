"""Writes the spans that a process could not that died or hangs: of the attempts that it had in hand, from its last
heartbeat. Tells of either as the fault that it is.
"""

from __future__ import annotations

import logging
import time
from typing import Final

from bus import attempts, codec, endings, events, subjects
from bus.connection import Connection
from bus.errors import NoRespondersError, RequestTimeoutError
from bus.faults import Fault, FaultClass, Ledger
from bus.messages import CONTENT_TYPE, MSGPACK, Beat, InHand, SpanRecord
from bus.telemetry import Telemetry

log = logging.getLogger(__name__)

ASK_FOR: Final = 0.5
"""Seconds that a silent worker has to answer."""
REMEMBERED: Final = 1000
"""The last faults that were counted: who must tell of one again counts it once."""


async def is_gone(connection: Connection, beat: Beat) -> bool | None:
    """Whether a worker's process is gone: True, False when it answers, None when it is there and does not answer.

    Raises:
        TransportError: the server cannot be asked.
    """
    subject = subjects.control(beat.agent, beat.instance, "tasks")
    try:
        await connection.request(subject, codec.encode({}), {CONTENT_TYPE: MSGPACK}, timeout=ASK_FOR)
    except NoRespondersError:
        return True
    except RequestTimeoutError:
        return None
    return False


class Obituary:
    """Ends the spans of lost attempts, each by one of the stewards."""

    def __init__(self, connection: Connection, telemetry: Telemetry) -> None:
        self._connection = connection
        self._telemetry = telemetry
        self._ledger = Ledger()
        self._counted: dict[tuple[str, FaultClass, float], Fault] = {}

    async def died(self, beat: Beat) -> None:
        """A process is gone: tell of what it had in hand when it was last heard of, unless that had ended before, and
        of its death, once however many stewards do. Whoever looks after it starts another: `revo up`, or Kubernetes.

        Raises:
            TransportError: not all could be written; doing it again is safe.
        """
        await self._write(beat, "crash", "its process died", f"crash-{beat.instance}")

    async def hangs(self, beat: Beat, seconds: float) -> None:
        """A process is there and has said nothing for so long; as `died`. Nobody ends it, and it may go on: its tasks
        go elsewhere meanwhile. It may hang again, which is another fault.

        Raises:
            TransportError: not all could be written; doing it again is safe.
        """
        await self._write(beat, "timeout", f"its process hangs for {seconds:g} s", f"hang-{beat.instance}-{beat.at}")

    def _met(self, beat: Beat, kind: FaultClass) -> Fault:
        key = (beat.instance, kind, beat.at)
        if key not in self._counted:
            if len(self._counted) >= REMEMBERED:
                del self._counted[next(iter(self._counted))]
            self._counted[key] = self._ledger.met(beat.agent, kind, time.monotonic())
        return self._counted[key]

    async def _write(self, beat: Beat, kind: FaultClass, reason: str, once: str) -> None:
        fault, lost = self._met(beat, kind), list[str]()
        for task in beat.in_hand:
            if await self._was_lost(task):
                lost.append(task.task_id)
                if not task.span_id:
                    continue
                names = (task.client, task.capability, task.task_id, task.span_id)
                body = {"instance": beat.instance, "reason": reason, "at": time.time()}
                if await endings.note(self._connection, "lost", *names, body=body):
                    self._telemetry.end_for(_span(beat, task, reason, fault))
                    log.warning("%s: %s, with attempt %d of task %s", beat.instance, reason, task.attempt, task.task_id)

        about = {"severity": str(fault.severity), "recovery": fault.recovery, "count": fault.count, "reason": reason}
        name, by = beat.instance, self._telemetry.instance
        await events.tell(
            self._connection, events.FAULT, name, kind, agent=beat.agent, by=by, once=once, **about, tasks=lost[:20]
        )

    async def _was_lost(self, task: InHand) -> bool:
        """Whether the attempt did not come to an end of its own after that heartbeat."""
        subject = subjects.result(task.client, task.capability, task.task_id)
        result = await endings.stored_result(self._connection, subject)
        if result is not None and result.deliveries == task.deliveries:
            return False
        record = await attempts.of(self._connection, task.client, task.capability, task.task_id)
        return record.errors < task.attempt and record.returned < task.deliveries


def _span(beat: Beat, task: InHand, reason: str, fault: Fault) -> SpanRecord:
    return SpanRecord(
        trace_id=task.trace_id,
        span_id=task.span_id,
        parent_id=task.parent_id,
        name=f"process {task.capability}",
        kind="consumer",
        service=beat.agent,
        instance=beat.instance,
        start=task.since,
        end=max(beat.at, task.since),
        status="error",
        status_message=reason,
        attributes={
            "messaging.system": "nats",
            "messaging.operation.name": "process",
            "messaging.consumer.group.name": task.capability,
            "messaging.message.id": task.task_id,
            "revo.deliveries": task.deliveries,
            "revo.attempt": task.attempt,
            "revo.outcome": "lost",
            "revo.fault.class": fault.kind,
            "revo.fault.severity": str(fault.severity),
            "revo.fault.recovery": fault.recovery,
        },
    )
