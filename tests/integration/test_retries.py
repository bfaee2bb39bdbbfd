"""What a worker keeps against trouble of its own work: a breaker, a budget of retries, what is known of a suspect."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from bus import attempts
from bus.mesh import Mesh
from bus.outcomes import Happening
from bus.run import Run
from bus.telemetry import Span
from tests.conftest import QUICK, Gate, StartWorker
from tests.eventually import eventually, in_time
from tests.integration.test_faults import Told


class UnreachableError(Exception):
    """What the handler needs is away."""

    fault_class = "communication"


async def test_while_a_breaker_is_open_nothing_of_its_capability_runs_and_no_attempt_is_burnt(
    mesh: Mesh, start_worker: StartWorker
) -> None:
    runs, failed, healed = list[float](), 0, False

    async def reach(message: Any) -> Any:
        nonlocal failed, healed
        runs.append(time.time())
        healed = healed or "echo" in worker.breakers  # by the first trial, whenever that is
        if not healed:
            failed += 1
            raise UnreachableError
        return message

    worker = await start_worker(reach, policy=dataclasses.replace(QUICK, max_attempts=20), traced=True)
    told = Told(mesh)
    handles = [await mesh.submit("echo", {"n": n}, priority="normal" if n % 2 else "low") for n in range(8)]
    (opened,) = await eventually(lambda: told.events("breaker", "open"))
    assert [await handle.result(timeout=30) for handle in handles] == [{"n": n} for n in range(8)]
    (tried,) = await eventually(lambda: told.events("breaker", "half-open"))
    assert not [at for at in runs if opened.at < at < tried.at]
    (closed,) = await eventually(lambda: told.events("breaker", "closed"))
    assert (closed.details["capability"], worker.breakers) == ("echo", {})
    assert 5 <= failed <= 7, "five, and a few more where they fail so slowly that the first count less"
    assert len(runs) == 8 + failed


async def test_a_suspect_that_is_handed_back_without_being_run_stays_one(mesh: Mesh, start_worker: StartWorker) -> None:
    gate = Gate()
    worker = await start_worker(gate)
    handle = await mesh.submit("echo", {})
    await in_time(gate.begun.get(), 5)
    (held,) = worker._in_hand.values()
    envelope = dataclasses.replace(held.envelope, deliveries=2, reply="revo.nobody")
    await worker._settler.conclude(Run(envelope, held.capability), Span(), Happening.HANDED_BACK, None)
    record, _ = await attempts.read(mesh.connection, envelope)
    assert (record.suspect, record.returned) == (True, 2)
    gate.open.set()
    assert (await handle.outcome(timeout=5)).status == "succeeded"


async def test_a_storm_of_retries_is_slowed_down_and_told_of_once_and_none_is_lost(
    mesh: Mesh, start_worker: StartWorker
) -> None:
    failed: set[int] = set()

    async def fails_once(message: dict[str, int]) -> int:
        if message["n"] not in failed:
            failed.add(message["n"])
            raise RuntimeError("something")
        return message["n"]

    await start_worker(fails_once, concurrency=20, traced=True)
    told = Told(mesh)
    handles = [await mesh.submit("echo", {"n": n}) for n in range(20)]
    assert [await handle.result(timeout=30) for handle in handles] == list(range(20))
    assert await told.of("unknown", "echo") == [("medium", "back-off")], "one event for twenty failures"

    async def slowed() -> bool:
        spans = [span for handle in handles for span in await told.attempts(handle)]
        names = [event.name for span in spans for event in span.events]
        return names.count("retry") == 20 and 5 <= names.count("retry budget used up") <= 10

    await eventually(slowed)
