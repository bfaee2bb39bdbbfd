"""The audit sees what is wrong: each fault is made on purpose, in the streams themselves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bus import audit as audit_module
from bus import codec, jetstream, subjects
from bus.audit import Audit, audit
from bus.mesh import Mesh
from bus.server import Server
from bus.settings import Settings
from tests.conftest import StartWorker, nothing_queued
from tests.eventually import eventually


async def echo(message: Any) -> Any:
    if message.get("fail"):
        raise ValueError("as told")
    return message


async def test_a_mesh_at_rest_is_counted_and_nothing_is_wrong(mesh: Mesh, start_worker: StartWorker) -> None:
    assert (await audit(mesh.connection)).accepted == 0
    await start_worker(echo)
    handles = [await mesh.submit("echo", {"fail": n == 3}) for n in range(5)]
    for handle in handles:
        await handle.outcome(timeout=5)
    await eventually(lambda: nothing_queued(mesh))
    await mesh.submit("nobody", {})
    report = await audit(mesh.connection)
    assert (report.accepted, report.ended, report.waiting, report.redelivered) == (6, 5, 1, 1)
    assert report.statuses == {"succeeded": 4, "failed": 1}
    assert report.good


async def test_a_task_that_vanished_is_lost(mesh: Mesh) -> None:
    handles = [await mesh.submit("echo", {"n": n}) for n in range(3)]
    await jetstream.delete(mesh.connection, subjects.TASKS, handles[1].sequence)
    report = await audit(mesh.connection)
    assert (report.lost, report.names["lost"], report.good) == (1, [str(handles[1].sequence)], False)


async def test_a_task_past_its_deadline_that_nobody_ends_is_in_limbo(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = await mesh.submit("echo", {}, deadline=0.01)
    assert not (await audit(mesh.connection)).limbo, "a steward may be about to"
    monkeypatch.setattr(audit_module, "OVERDUE", 0.0)

    async def accused() -> Audit | None:
        report = await audit(mesh.connection)
        return None if report.good else report

    report = await eventually(accused)
    assert (report.limbo, report.names) == (1, {"limbo": [f"anon.echo.{handle.task_id}"]})


async def test_a_second_result_and_a_missing_dead_letter_are_seen(mesh: Mesh, start_worker: StartWorker) -> None:
    await start_worker(echo)
    good, bad = await mesh.submit("echo", {}), await mesh.submit("echo", {"fail": True})
    outcome = await good.outcome(timeout=5)
    await bad.outcome(timeout=5)
    await eventually(lambda: nothing_queued(mesh))
    forged = outcome.model_copy(update={"task_id": "other"})
    body = codec.encode(forged.model_dump())
    subject = subjects.result("anon", "echo", "other")
    await jetstream.store(mesh.connection, subject, body, {"Content-Type": "application/msgpack"})
    letter = await jetstream.last(mesh.connection, subjects.DEAD, subjects.dead_of(bad.task_id))
    assert letter is not None
    await jetstream.delete(mesh.connection, subjects.DEAD, letter.sequence)
    report = await audit(mesh.connection)
    assert (report.doubled, report.unburied, report.good) == (1, 1, False)
    assert report.names["unburied"] == [f"anon.echo.{bad.task_id}"]


async def test_results_whose_time_is_up_are_not_missed_but_a_loss_after_the_anchor_is(
    server: Server, start_worker: StartWorker
) -> None:
    settings = Settings(nats_url=server.url, result_ttl=1.0, ack_wait=1.0, deadline=1.0)
    await start_worker(echo, overrides={"result_ttl": 1.0})
    async with Mesh.connect(settings=settings) as mesh:
        handles = [await mesh.submit("echo", {}, deadline=0.5) for _ in range(3)]
        for handle in handles:
            assert (await handle.outcome(timeout=5)).status == "succeeded"
        await eventually(lambda: _results_gone(mesh), timeout=15)
        info = await jetstream.call(mesh.connection, "STREAM.INFO", subjects.TASKS)
        now = jetstream.unix_ns(info["ts"]) / 1e9
        body = codec.encode({"at": now, "last": 3})
        await jetstream.store(mesh.connection, subjects.note("anchor"), body, {"Content-Type": "application/msgpack"})
        lost = await mesh.submit("nobody", {})
        await jetstream.delete(mesh.connection, subjects.TASKS, lost.sequence)
        report = await audit(mesh.connection)
        assert (report.accepted, report.lost, report.names["lost"]) == (1, 1, ["4"])
        assert report.since == pytest.approx(now)


async def _results_gone(mesh: Mesh) -> bool:
    info = await jetstream.call(mesh.connection, "STREAM.INFO", subjects.RESULTS)
    return int(info["state"]["messages"]) == 0


async def test_a_mesh_at_full_work_is_never_accused(mesh: Mesh, start_worker: StartWorker) -> None:
    await start_worker(echo, concurrency=8)
    await start_worker(echo, concurrency=8)
    submitted = asyncio.Event()

    async def submit() -> None:
        for batch in range(40):
            handles = await asyncio.gather(*(mesh.submit("echo", {"fail": batch == n == 5}) for n in range(20)))
            for handle in handles:
                await handle.outcome(timeout=20)
        submitted.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(submit())
        audits = 0
        while not submitted.is_set():
            report = await audit(mesh.connection)
            assert report.good, report
            audits += 1
    assert audits >= 3
