"""Checks of deadlines, and of orders that come from outside."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator

from bus import codec, jetstream, subjects
from bus.messages import CONTENT_TYPE, MSGPACK
from revo.conformance.bench import Bench
from revo.conformance.proving import proves
from revo.conformance.tap import Seen, Unmet
from revo.conformance.told import expect

LATE = 3.0
"""Seconds after its deadline by which a task has ended, on a busy machine."""


@proves("deadline-queued", "back")
async def deadline_queued(bench: Bench) -> AsyncGenerator[None, None]:
    task = await bench.submit(deadline=-1.0)
    yield
    end = await bench.done(task)
    expect(end["status"], "expired", "status of a task whose deadline had passed")
    expect(bench.begins(task), 0, "times that it ran")


@proves("deadline-running", "running")
async def deadline_running(bench: Bench) -> None:
    task = await bench.submit("wait", seconds=8.0, deadline=1.0)
    end = await bench.done(task)
    expect(end["status"], "expired", "status of a task whose deadline passed while it ran")
    late = end.seen.at - task.deadline
    if late > LATE:
        raise Unmet(f"it ended {late:.1f} s after its deadline")


@proves("end-order", "running")
async def end_order(bench: Bench) -> None:
    """What a steward does when somebody cancels a task: result, queue, order."""
    task = await bench.submit("wait", seconds=8.0)
    await bench.begun(task)
    await bench.store_result(task, "cancelled", error="task_cancelled")
    await jetstream.delete(bench.connection, subjects.TASKS, task.sequence)
    order = codec.encode({"sequence": task.sequence, "status": "cancelled"})
    subject = subjects.control(subjects.EVERYONE, subjects.EVERYONE, "end")
    await bench.connection.publish(subject, order, {CONTENT_TYPE: MSGPACK})
    ordered = time.time()

    def ended(seen: Seen) -> bool:
        return seen.kind == "told" and seen.name == task.tell and seen.event in ("stopped", "end")

    told = await bench.tap.until("word of its handler", ended, bench.patience)
    if told.event != "stopped":
        raise Unmet(f"its handler came to its end, {told.at - ordered:.1f} s after the order")
