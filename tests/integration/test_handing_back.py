"""A task that is handed back is somebody else's at once, and nobody takes it for the victim of a death."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Mapping
from typing import Any

import pytest

from bus import subjects
from bus.connection import Connection
from bus.errors import Retry
from bus.mesh import Mesh
from bus.outcomes import Policy
from bus.worker import Worker
from tests.conftest import Gate, StartWorker
from tests.eventually import eventually, in_time
from tests.integration.test_guarantees import limit


async def test_a_hundred_hand_backs_and_drains_fail_no_task(mesh: Mesh, start_worker: StartWorker, gate: Gate) -> None:
    policy = Policy(ack_wait=30.0, max_attempts=1)
    running = await mesh.submit("echo", {"n": 0}, priority="normal")
    held = await mesh.submit("echo", {"n": 1}, priority="low")
    for _ in range(100):
        worker = await start_worker(gate, policy=policy)
        await in_time(gate.begun.get(), 5)
        await eventually(functools.partial(_has_both, worker))
        await worker.drain(0.0)
    gate.open.set()
    await start_worker(gate, policy=policy)
    for handle in (running, held):
        outcome = await handle.outcome(timeout=10)
        assert (outcome.status, outcome.attempts) == ("succeeded", 1)
        assert outcome.deliveries > 100


def _has_both(worker: Worker) -> bool:
    return worker.in_hand == 2


async def test_a_result_that_cannot_be_stored_for_long_is_no_death_of_its_worker(
    mesh: Mesh, start_worker: StartWorker
) -> None:
    runs: list[Any] = []

    async def returns(message: Any) -> str:
        runs.append(message)
        return "done"

    await limit(mesh.connection, subjects.RESULTS, 10)
    await start_worker(returns, overrides={"settle_patience": 0.1})
    handle = await mesh.submit("echo", {})
    await eventually(lambda: len(runs) == 6, timeout=5)
    await limit(mesh.connection, subjects.RESULTS, 1_000_000)
    assert await handle.result(timeout=5) == "done"


@pytest.mark.parametrize("what", ["held", "ended, its result not stored"])
async def test_a_drain_without_patience_hands_back_at_once(
    mesh: Mesh, start_worker: StartWorker, gate: Gate, what: str
) -> None:
    policy = Policy(ack_wait=30.0, backoff=0.05)
    if what == "held":
        handles = [await mesh.submit("echo", {"n": n}, priority=p) for n, p in enumerate(("normal", "low"))]
        first = await start_worker(gate, policy=policy)
        begun = (await in_time(gate.begun.get(), 5))["n"]
        await eventually(lambda: first.in_hand == 2)
        handle = handles[1 - begun]
        await first.drain(0.0)
    else:
        gate.open.set()
        await limit(mesh.connection, subjects.RESULTS, 10)
        first = await start_worker(gate, policy=policy)
        handle = await mesh.submit("echo", {"n": 1})
        await eventually(lambda: first._settler.waiting)
        await first.drain(0.2)
        await limit(mesh.connection, subjects.RESULTS, 1_000_000)

    async def quick(message: Any) -> Any:
        return message

    await start_worker(quick)
    outcome = await handle.outcome(timeout=5)  # far below the ack deadline of 30 s
    assert (outcome.deliveries, outcome.attempts) == (2, 1)


async def test_a_late_extension_does_not_undo_the_pause_of_a_retry(
    mesh: Mesh, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = Connection.publish

    async def slow(
        self: Connection, subject: str, body: bytes = b"", headers: Mapping[str, str] | None = None, *, reply: str = ""
    ) -> None:
        if body == b"+WPI":
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await asyncio.Event().wait()
        await publish(self, subject, body, headers, reply=reply)

    monkeypatch.setattr(Connection, "publish", slow)
    runs = 0

    async def second_time_lucky(_: Any) -> str:
        nonlocal runs
        runs += 1
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.1):  # until the extender is about to send its first
                await asyncio.Event().wait()
        if runs == 1:
            raise Retry(0.5)
        return "done"

    await start_worker(second_time_lucky, policy=Policy(ack_wait=30.0))
    assert await (await mesh.submit("echo", {})).result(timeout=5) == "done"
