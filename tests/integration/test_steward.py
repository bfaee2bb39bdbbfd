"""The steward ends what no worker ends, and says so; real processes over a real server."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bus import inspection, jetstream, subjects
from bus.audit import audit
from bus.errors import NoStewardError, NotFoundError, TaskFailedError
from bus.mesh import Mesh
from bus.messages import DEAD_LETTER, DeadLetter
from bus.server import Server
from tests.conftest import Gate, StartWorker, nothing_queued
from tests.eventually import eventually, in_time
from tests.processes import ActorProcess, actor

STEWARD = "actors.steward:Steward"


@pytest.fixture
async def steward(server: Server, mesh: Mesh, tmp_path: Path) -> AsyncIterator[ActorProcess]:
    async with actor(STEWARD, server.url, tmp_path / "steward.log") as process:
        yield process


async def test_a_deadline_ends_a_task_that_nobody_can_do(mesh: Mesh, steward: ActorProcess) -> None:
    deadline = time.time() + 1.0
    handle = await mesh.submit("nobody-does-this", {}, deadline=1.0)
    outcome = await handle.outcome(timeout=10)
    assert outcome.status == "expired"
    assert outcome.agent == "revo-steward"
    assert 0 <= outcome.finished_at - deadline < 2.0
    await eventually(lambda: nothing_queued(mesh))
    with pytest.raises(TaskFailedError, match="expired: deadline_exceeded"):
        await handle.result(timeout=1)


async def test_a_deadline_ends_a_task_behind_a_busy_worker_and_one_whose_worker_died(
    mesh: Mesh, steward: ActorProcess, start_worker: StartWorker, gate: Gate
) -> None:
    await start_worker(gate)
    busy = await mesh.submit("echo", {"n": 1})
    await in_time(gate.begun.get(), 5)
    behind = await mesh.submit("echo", {"n": 2}, deadline=0.5)
    assert (await behind.outcome(timeout=5)).status == "expired"
    gate.open.set()
    assert await busy.result(timeout=5) == {"n": 1}
    assert gate.runs == [{"n": 1}]


async def test_two_thousand_overdue_tasks_are_ended(mesh: Mesh, steward: ActorProcess) -> None:
    handles = await asyncio.gather(*(mesh.submit("nobody", {"n": n}, deadline=1.0) for n in range(2000)))
    outcomes = await asyncio.gather(*(handle.outcome(timeout=60) for handle in handles))
    assert {outcome.status for outcome in outcomes} == {"expired"}
    await eventually(lambda: nothing_queued(mesh))


async def test_a_queued_task_is_cancelled_before_it_starts(
    mesh: Mesh, steward: ActorProcess, start_worker: StartWorker, gate: Gate
) -> None:
    handle = await mesh.submit("echo", {"n": 1})
    cancelled = await handle.cancel()
    assert (cancelled.cancelled, cancelled.status) == (True, "cancelled")
    await eventually(lambda: nothing_queued(mesh))
    assert (await handle.outcome(timeout=5)).status == "cancelled"
    again = await handle.cancel()
    assert again.cancelled, "repeating it changes nothing"
    await start_worker(gate)
    await mesh.submit("echo", {"n": 2})
    assert (await in_time(gate.begun.get(), 5))["n"] == 2
    gate.open.set()


async def test_a_running_task_is_cancelled_from_another_client_by_its_id_alone(
    mesh: Mesh, steward: ActorProcess, start_worker: StartWorker, gate: Gate, server: Server
) -> None:
    stopped = asyncio.Event()

    async def stubborn(message: object) -> None:
        gate.begun.put_nowait(message)
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    await start_worker(stubborn)
    handle = await mesh.submit("echo", {"n": 1})
    await in_time(gate.begun.get(), 5)
    async with Mesh.connect(server.url, client="another") as other:
        asked_at = time.monotonic()
        cancelled = await other.cancel(handle.task_id)
        await in_time(stopped.wait(), 5)
        assert time.monotonic() - asked_at < 1.0
    assert cancelled.cancelled
    outcome = await handle.outcome(timeout=5)
    assert outcome.error is not None
    assert (outcome.status, outcome.error.message) == (
        "cancelled",
        f"task {handle.task_id} was cancelled by client another",
    )


async def test_a_cancel_that_comes_too_late_says_how_the_task_ended(
    mesh: Mesh, steward: ActorProcess, start_worker: StartWorker
) -> None:
    async def echo(message: object) -> object:
        return message

    await start_worker(echo)
    handle = await mesh.submit("echo", {"n": 1})
    assert await handle.result(timeout=5) == {"n": 1}
    late = await handle.cancel()
    assert (late.cancelled, late.status) == (False, "succeeded")
    with pytest.raises(NotFoundError, match="task never-was: it neither waits nor runs"):
        await mesh.cancel("never-was")


async def test_without_a_steward_a_cancel_says_so_and_what_to_do(mesh: Mesh) -> None:
    handle = await mesh.submit("echo", {"n": 1})
    with pytest.raises(NoStewardError, match="no steward runs to cancel it; `revo up` starts one"):
        await handle.cancel()


async def test_a_cancel_reaches_the_children_that_are_not_detached(
    server: Server, mesh: Mesh, steward: ActorProcess, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    async with (
        actor("tests.integration.agents:Parent", server.url, tmp_path / "parent.log"),
        actor("tests.integration.agents:Toiler", server.url, tmp_path / "toiler.log"),
    ):
        handle = await mesh.submit("raise_family", {"children": 3, "journal": str(journal)})
        await eventually(lambda: journal.exists() and journal.read_text().count("begin") == 4)
        cancelled = await handle.cancel()
        assert cancelled.cancelled
        assert cancelled.children >= 3
        await eventually(lambda: _all_quiet(mesh, 1))
        beats = await inspection.workers(mesh.connection)
        assert [task.client for beat in beats for task in beat.in_hand] == ["parent"], "the detached one runs on"
        results = await inspection.latest_results(mesh.connection, 20)
        ended = sorted((result.capability, result.status) for result in results)
        assert ended == [
            *[("raise_child", "cancelled")] * 3,
            ("raise_family", "cancelled"),
            *[("toil", "cancelled")] * 3,
        ]


async def _all_quiet(mesh: Mesh, running: int) -> bool:
    beats = await inspection.workers(mesh.connection)
    return sum(len(beat.in_hand) for beat in beats) == running


async def test_a_cancel_stops_a_thread_and_kills_the_processes_that_it_started(
    server: Server, mesh: Mesh, steward: ActorProcess, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    async with actor("tests.integration.agents:Shelling", server.url, tmp_path / "log"):
        handle = await mesh.submit("shell", {"journal": str(journal)})
        await eventually(lambda: journal.exists() and len(journal.read_text().split()) == 2)
        pids = [int(pid) for pid in journal.read_text().split()]
        asked_at = time.monotonic()
        assert (await handle.cancel()).cancelled
        await eventually(lambda: not any(alive(pid) for pid in pids), timeout=3)
        assert time.monotonic() - asked_at < 1.0
        await eventually(lambda: _all_quiet(mesh, 0))


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


async def test_a_dead_task_is_redriven_once_and_its_chain_is_told(
    mesh: Mesh, steward: ActorProcess, start_worker: StartWorker
) -> None:
    broken = True

    async def fails(message: dict[str, int]) -> int:
        if broken:
            raise ValueError("broken")
        return message["n"] + 1

    await start_worker(fails)
    handle = await mesh.submit("echo", {"n": 41}, priority="high", deadline=100)
    assert (await handle.outcome(timeout=10)).status == "failed"
    await eventually(lambda: inspection.letters(mesh.connection))
    first = await mesh.redrive(handle.task_id)
    second = await mesh.redrive(handle.task_id)
    assert (first.task_id, first.duplicate, second.duplicate) == (second.task_id, False, True)
    assert (await mesh.handle("echo", first.task_id).outcome(timeout=10)).status == "failed"
    broken = False
    await eventually(lambda: _count(mesh, 2))
    third = await mesh.redrive(first.task_id)
    outcome = await mesh.handle("echo", third.task_id).outcome(timeout=10)
    assert outcome.value == 42
    links: list[inspection.Link] = []
    for one in (handle.task_id, first.task_id, third.task_id):
        links = await inspection.chain(mesh.connection, one)
        assert [link.task_id for link in links] == [handle.task_id, first.task_id, third.task_id]
    assert [(link.status, link.dead) for link in links] == [("failed", True), ("failed", True), ("succeeded", False)]
    stored = await jetstream.last(mesh.connection, subjects.DEAD, subjects.dead_of(first.task_id))
    assert stored is not None
    letter = DeadLetter.model_validate_json(stored.headers[DEAD_LETTER])
    assert letter.subject == "revo.task.echo.high.anon", "it keeps its priority"
    letters = await inspection.letters(mesh.connection)
    assert [(one.letter.task_id, one.redriven_as) for one in letters] == [
        (handle.task_id, first.task_id),
        (first.task_id, third.task_id),
    ]
    dropped = await mesh.drop_dead(handle.task_id)
    assert dropped.task_id == handle.task_id
    assert [one.letter.task_id for one in await inspection.letters(mesh.connection)] == [first.task_id]
    with pytest.raises(NotFoundError, match="there is none"):
        await mesh.drop_dead(handle.task_id)
    report = await audit(mesh.connection)
    assert report.good, report


async def _count(mesh: Mesh, letters: int) -> bool:
    return len(await inspection.letters(mesh.connection)) == letters


async def test_a_task_that_its_consumer_delivers_no_more_is_dead_within_a_second(
    mesh: Mesh, steward: ActorProcess, start_worker: StartWorker
) -> None:
    async def hands_back(_: object) -> None:
        raise ValueError("again")

    await start_worker(hands_back)
    name = subjects.consumer("echo", "normal")
    info = await jetstream.call(mesh.connection, "CONSUMER.INFO", subjects.TASKS, name)
    body = {"stream_name": subjects.TASKS, "config": {**info["config"], "max_deliver": 1}, "action": "update"}
    await jetstream.call(mesh.connection, "CONSUMER.CREATE", subjects.TASKS, name, "revo.task.echo.normal.*", body=body)
    handle = await mesh.submit("echo", {"keep": "me"})
    outcome = await handle.outcome(timeout=10)
    assert outcome.error is not None
    assert (outcome.status, outcome.error.code) == ("failed", "deliveries_exhausted")
    subject = subjects.dead_of(handle.task_id)
    await eventually(lambda: jetstream.last(mesh.connection, subjects.DEAD, subject), timeout=1)
    await eventually(lambda: nothing_queued(mesh))


async def test_two_stewards_and_the_death_of_one_change_nothing(
    server: Server, mesh: Mesh, steward: ActorProcess, tmp_path: Path
) -> None:
    async with actor(STEWARD, server.url, tmp_path / "second.log"):
        handles = [await mesh.submit("nobody", {"n": n}, deadline=0.5 + n / 100) for n in range(100)]
        steward.signal(signal.SIGKILL)
        for handle in handles:
            assert (await handle.outcome(timeout=10)).status == "expired"
        await eventually(lambda: nothing_queued(mesh))
    report = await audit(mesh.connection)
    assert (report.ended, report.waiting, report.good) == (100, 0, True)


async def test_a_cancel_outlives_a_restart_of_the_server(
    server: Server, mesh: Mesh, steward: ActorProcess, start_worker: StartWorker, gate: Gate
) -> None:
    await start_worker(gate)
    running = await mesh.submit("echo", {"n": 1})
    await in_time(gate.begun.get(), 5)
    server.kill()
    await server.wait()
    cancelling = asyncio.create_task(running.cancel())
    await server.start()
    assert (await in_time(cancelling, 15)).cancelled
    assert (await running.outcome(timeout=5)).status == "cancelled"
    await eventually(lambda: _all_quiet(mesh, 0))
