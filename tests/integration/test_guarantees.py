"""What is promised of every task, each proved where it could break; `tests/mutants` shows that the proofs can fail."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import signal
from pathlib import Path
from typing import Any

import pytest

from bus import attempts, endings, jetstream, subjects
from bus.backlog import Backlog
from bus.connection import Connection
from bus.early import Ender
from bus.errors import QueueFullError, ResultTimeoutError
from bus.mesh import Handle, Mesh
from bus.messages import Attempts
from bus.outcomes import Policy
from bus.server import Server
from bus.suspicion import is_poison, others_die_alone
from bus.worker import Worker
from tests.conftest import QUICK, Gate, StartWorker
from tests.eventually import eventually, in_time
from tests.processes import actor

TOILER = "tests.integration.agents:Toiler"


async def queued(mesh: Mesh) -> int:
    info = await jetstream.call(mesh.connection, "STREAM.INFO", subjects.TASKS)
    return int(info["state"]["messages"])


async def empty(mesh: Mesh) -> bool:
    return await queued(mesh) == 0


async def buried(mesh: Mesh, task_id: str) -> bool:
    return await jetstream.last(mesh.connection, subjects.DEAD, subjects.dead_of(task_id)) is not None


async def limit(connection: Connection, stream: str, max_bytes: int) -> None:
    """Set how much the stream takes: 10 bytes are too few for any message."""
    info = await jetstream.call(connection, "STREAM.INFO", stream)
    await jetstream.call(connection, "STREAM.UPDATE", stream, body={**info["config"], "max_bytes": max_bytes})


async def lapse(mesh: Mesh, worker: Worker) -> None:
    """Let the server give the worker's only task to another, as it does when the ack deadline passes."""
    (run,) = worker._in_hand.values()
    await mesh.connection.publish(run.envelope.reply, b"-NAK")


async def test_a_task_leaves_the_queue_only_after_its_result_is_stored(
    server: Server, mesh: Mesh, start_worker: StartWorker, gate: Gate, tmp_path: Path
) -> None:
    await limit(mesh.connection, subjects.RESULTS, 10)
    async with actor(TOILER, server.url, tmp_path / "1") as first:
        handle = await mesh.submit("toil", {"id": 1})
        await eventually(lambda: "trying again" in first.log)
        first.signal(signal.SIGKILL)
        await first.wait()
    assert await queued(mesh) == 1, "the worker died with the only copy"
    await limit(mesh.connection, subjects.RESULTS, 1_000_000)
    gate.open.set()
    await start_worker(gate, capability="toil")
    outcome = await handle.outcome(timeout=10)
    assert (outcome.status, outcome.deliveries, outcome.attempts) == ("succeeded", 2, 1)
    await eventually(lambda: empty(mesh))


async def test_a_result_that_cannot_be_stored_stays_in_hand_and_its_task_runs_once(
    mesh: Mesh, start_worker: StartWorker
) -> None:
    runs: list[Any] = []

    async def returns(message: Any) -> str:
        runs.append(message)
        return "done"

    await limit(mesh.connection, subjects.RESULTS, 10)
    worker = await start_worker(returns)
    handle = await mesh.submit("echo", {})
    await eventually(lambda: worker._settler.waiting or len(runs) > 1)
    assert len(runs) == 1, "it ran again although its worker had the result"
    await limit(mesh.connection, subjects.RESULTS, 1_000_000)
    assert await handle.result(timeout=5) == "done"
    assert len(runs) == 1


async def test_a_failed_task_leaves_the_queue_only_after_its_dead_letter_is_stored(
    server: Server, mesh: Mesh, start_worker: StartWorker, gate: Gate, tmp_path: Path
) -> None:
    await limit(mesh.connection, subjects.DEAD, 10)
    async with actor(TOILER, server.url, tmp_path / "1") as first:
        handle = await mesh.submit("toil", {"id": 1, "what": "raise"})
        assert (await handle.outcome(timeout=10)).status == "failed"
        await eventually(lambda: "trying again" in first.log)
        first.signal(signal.SIGKILL)
        await first.wait()
    assert await queued(mesh) == 1, "the worker died and nobody will write the dead letter"
    await limit(mesh.connection, subjects.DEAD, 1_000_000)
    gate.open.set()
    await start_worker(gate, capability="toil")
    await eventually(lambda: empty(mesh))
    assert gate.runs == [], "a task that had its result ran again"
    assert await buried(mesh, handle.task_id)


async def test_when_a_failed_task_is_gone_its_dead_letter_stands(mesh: Mesh, start_worker: StartWorker) -> None:
    async def fails(_: Any) -> None:
        raise ValueError("always")

    await start_worker(fails, policy=Policy(ack_wait=1.0, max_attempts=1))
    handle = await mesh.submit("echo", {})
    await eventually(lambda: empty(mesh))
    assert await buried(mesh, handle.task_id)


async def test_of_two_workers_that_do_one_task_the_first_result_stands_and_both_go_on(
    mesh: Mesh, start_worker: StartWorker, gate: Gate
) -> None:
    slow = await start_worker(gate)
    handle = await mesh.submit("echo", {"by": "slow"})
    await in_time(gate.begun.get(), 5)

    async def quick(_: Any) -> str:
        return "quick"

    await start_worker(quick)
    await lapse(mesh, slow)
    assert await handle.result(timeout=5) == "quick"
    gate.open.set()
    await eventually(lambda: slow.in_hand == 0 or slow._settler.waiting)
    standing = await endings.stored_result(mesh.connection, subjects.result_of(handle.task_id))
    assert standing is not None
    assert standing.value == "quick", "the second result replaced it"
    assert slow.in_hand == 0, "the second worker cannot be rid of its task"


async def test_only_errors_of_the_handler_use_up_attempts(mesh: Mesh, start_worker: StartWorker, gate: Gate) -> None:
    policy = Policy(ack_wait=30.0, max_attempts=2, backoff=0.05)
    handle = await mesh.submit("echo", {})
    for _ in range(policy.max_attempts):
        worker = await start_worker(gate, policy=policy)
        await in_time(gate.begun.get(), 5)
        await worker.drain(0.01)

    async def second_time_lucky(_: Any) -> str:
        gate.runs.append("again")
        if gate.runs.count("again") == 1:
            raise ValueError("as it happens")
        return "done"

    await start_worker(second_time_lucky)
    outcome = await handle.outcome(timeout=5)
    assert (outcome.status, outcome.attempts, outcome.deliveries) == ("succeeded", 2, 4)


async def test_a_task_in_hand_stays_in_hand_far_beyond_its_ack_deadline(
    mesh: Mesh, start_worker: StartWorker, gate: Gate
) -> None:
    await start_worker(gate)
    handle = await mesh.submit("echo", {"n": 1})
    await in_time(gate.begun.get(), 5)

    async def steals(_: Any) -> str:
        return "stolen"

    await start_worker(steals)
    with pytest.raises(ResultTimeoutError):
        await handle.result(timeout=2.0)  # twice the ack deadline
    gate.open.set()
    outcome = await handle.outcome(timeout=5)
    assert (outcome.value, outcome.deliveries) == ({"n": 1}, 1)


async def test_a_task_that_its_worker_vanished_with_runs_alone(
    mesh: Mesh, start_worker: StartWorker, gate: Gate
) -> None:
    lost = await start_worker(gate)
    suspect = await mesh.submit("echo", {"n": "suspect"})
    await in_time(gate.begun.get(), 5)

    beside = Gate()
    worker = await start_worker(beside, concurrency=2)
    innocent = await mesh.submit("echo", {"n": "innocent"})
    assert await in_time(beside.begun.get(), 5) == {"n": "innocent"}
    await lapse(mesh, lost)
    await eventually(lambda: worker._secluded or len(beside.runs) == 2)
    assert beside.runs == [{"n": "innocent"}], "it runs beside another that would die with it"
    beside.open.set()
    assert await innocent.result(timeout=5) == {"n": "innocent"}
    outcome = await suspect.outcome(timeout=5)
    assert (outcome.deliveries, outcome.attempts) == (2, 1)


async def test_a_drain_waits_for_what_runs(mesh: Mesh, start_worker: StartWorker, gate: Gate) -> None:
    worker = await start_worker(gate)
    handle = await mesh.submit("echo", {"n": 1})
    await in_time(gate.begun.get(), 5)
    draining = asyncio.create_task(worker.drain(20))
    ended, _ = await asyncio.wait([draining], timeout=0.5)
    assert not ended, "it stopped a handler that had time left"
    gate.open.set()
    await draining
    outcome = await handle.outcome(timeout=5)
    assert (outcome.status, outcome.deliveries) == ("succeeded", 1)


async def test_a_cancelled_task_leaves_the_queue_only_after_its_result_is_stored(mesh: Mesh) -> None:
    handle = await mesh.submit("echo", {})
    ender, backlog = Ender(mesh.connection, "tester", "tester-1"), Backlog(mesh.connection)
    await limit(mesh.connection, subjects.RESULTS, 10)
    with pytest.raises(QueueFullError):
        await ender.cancel(backlog, handle.task_id, by="a test")
    assert await queued(mesh) == 1, "the task is neither queued nor ended"
    await limit(mesh.connection, subjects.RESULTS, 1_000_000)
    assert (await ender.cancel(backlog, handle.task_id, by="a test")).cancelled
    assert await empty(mesh)


async def test_a_running_task_stops_when_it_is_cancelled_and_its_children_with_it(
    mesh: Mesh, start_worker: StartWorker, gate: Gate
) -> None:
    child: list[Handle] = []

    async def parent(message: Any) -> Any:
        child.append(await mesh.submit("nobody", {}))
        return await gate(message)

    worker = await start_worker(parent)
    handle = await mesh.submit("echo", {})
    await in_time(gate.begun.get(), 5)
    ender, backlog = Ender(mesh.connection, "tester", "tester-1"), Backlog(mesh.connection)
    cancelled = await ender.cancel(backlog, handle.task_id, by="a test")
    assert (cancelled.cancelled, cancelled.children) == (True, 1), "its child goes on"
    await eventually(lambda: worker.in_hand == 0, timeout=2)
    assert (await child[0].outcome(timeout=2)).status == "cancelled"


@pytest.mark.parametrize(("others", "status"), [(0, "failed"), (1, "failed"), (2, "succeeded")])
async def test_three_deaths_alone_condemn_a_task_unless_others_die_alone_too(
    mesh: Mesh, start_worker: StartWorker, gate: Gate, others: int, status: str
) -> None:
    lost = await start_worker(gate)
    handle = await mesh.submit("echo", {})
    await in_time(gate.begun.get(), 5)
    (run,) = lost._in_hand.values()
    await attempts.change(mesh.connection, run.envelope, lambda _: Attempts(suspect=True, alone=3))
    other = dataclasses.replace(run.envelope, task_id="another")
    await attempts.change(mesh.connection, other, lambda _: Attempts(suspect=True, alone=others))

    async def quick(_: Any) -> str:
        return "done"

    await start_worker(quick)
    await lapse(mesh, lost)
    outcome = await handle.outcome(timeout=5)
    assert outcome.status == status, "somebody kills processes, and an innocent task pays for it"
    await attempts.change(mesh.connection, run.envelope, lambda _: Attempts(suspect=True, alone=12))
    assert await is_poison(functools.partial(others_die_alone, mesh.connection), run.envelope, 12, QUICK), (
        "poison ends also where others die"
    )
