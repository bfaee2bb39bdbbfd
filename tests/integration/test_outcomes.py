"""The outcome table over a real server: whatever happens to a task, it ends as the table says."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from bus import codec, jetstream, subjects, worker
from bus.connection import Connection
from bus.errors import (
    EncodeError,
    QueueFullError,
    ResultTimeoutError,
    Retry,
    TaskFailedError,
)
from bus.mesh import Mesh
from bus.messages import DEAD_LETTER, DeadLetter
from bus.outcomes import Policy
from bus.server import Server
from bus.settings import Settings
from tests.conftest import QUICK, Gate, StartWorker
from tests.eventually import eventually, in_time


async def dead_letter(mesh: Mesh, task_id: str) -> tuple[DeadLetter, bytes]:
    stored = await eventually(lambda: jetstream.last(mesh.connection, subjects.DEAD, subjects.dead_of(task_id)))
    return DeadLetter.model_validate_json(stored.headers[DEAD_LETTER]), stored.body


async def queued(connection: Connection) -> int:
    info = await jetstream.call(connection, "STREAM.INFO", subjects.TASKS)
    return int(info["state"]["messages"])


class NoRetryError(Exception):
    retryable = False


async def test_what_the_handler_returns_is_the_result_and_the_task_is_gone(
    mesh: Mesh, start_worker: StartWorker
) -> None:
    async def double(message: dict[str, int]) -> int:
        return message["n"] * 2

    await start_worker(double)
    handle = await mesh.submit("echo", {"n": 21})
    assert await handle.result(timeout=5) == 42
    outcome = await handle.outcome()
    assert (outcome.status, outcome.attempts, outcome.deliveries) == ("succeeded", 1, 1)
    assert outcome.sequence == handle.sequence
    await eventually(lambda: _is_empty(mesh))


async def _is_empty(mesh: Mesh) -> bool:
    return await queued(mesh.connection) == 0


async def test_a_retryable_error_runs_again_and_only_errors_count_as_attempts(
    mesh: Mesh, start_worker: StartWorker
) -> None:
    runs = 0

    async def third_time_lucky(_: Any) -> str:
        nonlocal runs
        runs += 1
        if runs < 3:
            raise Retry(0.01)
        return "done"

    await start_worker(third_time_lucky)
    handle = await mesh.submit("echo", {})
    outcome = await handle.outcome(timeout=5)
    assert (outcome.value, outcome.attempts, runs) == ("done", 3, 3)


async def test_an_error_without_an_opinion_is_retried_until_the_attempts_are_used_up(
    mesh: Mesh, start_worker: StartWorker
) -> None:
    runs = 0

    last_try = 0.0

    async def fails(_: Any) -> None:
        nonlocal runs, last_try
        runs += 1
        last_try = time.time()
        raise ValueError("always")

    await start_worker(fails)
    handle = await mesh.submit("echo", {"keep": "me"})
    with pytest.raises(TaskFailedError, match="always") as caught:
        await handle.result(timeout=5)
    assert caught.value.code == "value_error"
    assert runs == QUICK.max_attempts
    letter, body = await dead_letter(mesh, handle.task_id)
    assert codec.decode(body, "application/msgpack") == {"keep": "me"}
    assert letter.attempts == QUICK.max_attempts
    assert letter.died_at - last_try < 1.0
    assert "ValueError: always" in letter.error.traceback
    await eventually(lambda: _is_empty(mesh))


async def test_an_error_that_no_retry_cures_fails_at_once(mesh: Mesh, start_worker: StartWorker) -> None:
    async def fails(_: Any) -> None:
        raise NoRetryError("never")

    await start_worker(fails)
    outcome = await (await mesh.submit("echo", {})).outcome(timeout=5)
    assert (outcome.status, outcome.attempts) == ("failed", 1)


@pytest.mark.parametrize("value", [object(), 2**70, {"nested": {1, 2, object}}])
async def test_a_value_that_does_not_encode_fails_for_good(
    mesh: Mesh, start_worker: StartWorker, value: object
) -> None:
    async def returns(_: Any) -> object:
        return value

    await start_worker(returns)
    handle = await mesh.submit("echo", {})
    outcome = await handle.outcome(timeout=5)
    assert outcome.error is not None
    assert (outcome.status, outcome.error.code) == ("failed", "encode")
    await dead_letter(mesh, handle.task_id)


async def test_a_value_beyond_the_maximum_fails_for_good_and_the_connection_lives(
    mesh: Mesh, start_worker: StartWorker
) -> None:
    async def returns(message: dict[str, int]) -> str:
        return "x" * message["size"]

    await start_worker(returns, overrides={"blob_max": 1_500_000})
    outcome = await (await mesh.submit("echo", {"size": 2_000_000})).outcome(timeout=5)
    assert outcome.error is not None
    assert outcome.error.code == "payload_too_large"
    assert "REVO_BLOB_MAX" in outcome.error.message
    assert await (await mesh.submit("echo", {"size": 3})).result(timeout=5) == "xxx"


async def test_a_handler_that_exits_fails_its_task_not_its_process(mesh: Mesh, start_worker: StartWorker) -> None:
    async def exits(_: Any) -> None:
        raise SystemExit(3)

    await start_worker(exits)
    outcome = await (await mesh.submit("echo", {})).outcome(timeout=5)
    assert outcome.error is not None
    assert (outcome.status, outcome.error.code) == ("failed", "system_exit")


async def test_a_deadline_that_passes_while_it_runs_expires_the_task_and_stops_the_handler(
    mesh: Mesh, start_worker: StartWorker
) -> None:
    stopped = asyncio.Event()

    async def sleeps(_: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    await start_worker(sleeps)
    handle = await mesh.submit("echo", {}, deadline=0.3)
    outcome = await handle.outcome(timeout=5)
    assert outcome.status == "expired"
    await in_time(stopped.wait(), 5)
    await eventually(lambda: _is_empty(mesh))
    assert await jetstream.last(mesh.connection, subjects.DEAD, subjects.dead_of(handle.task_id)) is None


async def test_a_deadline_that_passed_in_the_queue_expires_the_task_without_running_it(
    mesh: Mesh, start_worker: StartWorker, gate: Gate
) -> None:
    handle = await mesh.submit("echo", {}, deadline=0.05)
    with pytest.raises(ResultTimeoutError):
        await handle.outcome(timeout=0.1)
    await start_worker(gate)
    assert (await handle.outcome(timeout=5)).status == "expired"
    assert gate.runs == []


async def test_an_attempt_beyond_its_time_limit_is_stopped_and_tried_again(
    mesh: Mesh, start_worker: StartWorker
) -> None:
    runs = 0

    async def slow_once(_: Any) -> str:
        nonlocal runs
        runs += 1
        if runs == 1:
            await asyncio.Event().wait()
        return "done"

    await start_worker(slow_once, policy=Policy(ack_wait=1.0, time_limit=0.1, backoff=0.05))
    outcome = await (await mesh.submit("echo", {})).outcome(timeout=5)
    assert (outcome.status, outcome.attempts) == ("succeeded", 2)


async def test_full_results_stop_the_worker_and_lose_nothing(server: Server, start_worker: StartWorker) -> None:
    small = Settings(nats_url=server.url, ack_wait=1.0)
    async with Mesh.connect(settings=small) as mesh:
        await resize(mesh.connection, subjects.RESULTS, 4096)
        runs: list[int] = []

        async def returns(message: dict[str, int]) -> str:
            runs.append(message["n"])
            return "x" * 500

        await start_worker(returns)
        handles = [await mesh.submit("echo", {"n": n}) for n in range(12)]
        await eventually(lambda: _refuses(mesh.connection))
        await resize(mesh.connection, subjects.RESULTS, 1_000_000)
        assert [await handle.result(timeout=10) for handle in handles] == ["x" * 500] * 12
        assert sorted(runs) == list(range(12)), "a task ran twice although its worker lived"


async def resize(connection: Connection, stream: str, max_bytes: int) -> None:
    info = await jetstream.call(connection, "STREAM.INFO", stream)
    await jetstream.call(connection, "STREAM.UPDATE", stream, body={**info["config"], "max_bytes": max_bytes})


async def _refuses(connection: Connection) -> bool:
    try:
        await jetstream.store(connection, "revo.result.probe.probe.probe", b"x" * 600)
    except QueueFullError:
        return True
    return False


async def test_a_full_queue_refuses_the_submitter(mesh: Mesh) -> None:
    await resize(mesh.connection, subjects.TASKS, 2000)

    async def fill() -> None:
        for _ in range(20):
            await mesh.submit("echo", {"x": "y" * 300})

    with pytest.raises(QueueFullError, match="try again when the queue has drained"):
        await fill()
    assert 0 < await queued(mesh.connection) < 20


async def test_a_message_that_does_not_encode_is_refused_before_anything_is_sent(mesh: Mesh) -> None:
    with pytest.raises(EncodeError):
        await mesh.submit("echo", {"x": object()})
    assert await queued(mesh.connection) == 0


async def test_the_same_id_twice_is_one_task_while_it_waits_and_after_it_ended(
    mesh: Mesh, start_worker: StartWorker
) -> None:
    runs = 0

    async def counts(_: Any) -> int:
        nonlocal runs
        runs += 1
        return runs

    first = await mesh.submit("echo", {}, task_id="the-one")
    second = await mesh.submit("echo", {}, task_id="the-one")
    assert (first.duplicate, second.duplicate) == (False, True)
    await start_worker(counts)
    assert await first.result(timeout=5) == 1
    # As after the server's window: the stream has forgotten the id, the stored result has not.
    await jetstream.store(mesh.connection, "revo.task.echo.normal.anon", b"{}", {"Revo-Task-Id": "the-one"})
    third = mesh.handle("echo", "the-one")
    assert await third.result(timeout=5) == 1
    await eventually(lambda: _is_empty(mesh))
    assert runs == 1


async def test_a_task_that_waits_in_hand_goes_to_another_worker_as_soon_as_its_own_drains(
    mesh: Mesh, start_worker: StartWorker, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "HELD", 30.0)  # it is the drain that hands it back, not the worker's own patience
    handles = [
        await mesh.submit("echo", {"n": 0}, priority="normal"),
        await mesh.submit("echo", {"n": 1}, priority="low"),
    ]
    first = await start_worker(gate, policy=Policy(ack_wait=30.0))
    begun = (await in_time(gate.begun.get(), 5))["n"]  # whichever arrived first
    running, held = handles[begun], handles[1 - begun]
    await eventually(lambda: first.in_hand == 2)
    done: list[Any] = []

    async def note(message: Any) -> Any:
        done.append(message)
        return message

    await start_worker(note)
    draining = asyncio.create_task(first.drain(20))
    outcome = await held.outcome(timeout=3)  # far below the ack deadline: it was handed back, not abandoned
    assert (outcome.deliveries, outcome.attempts) == (2, 1)
    gate.open.set()
    await draining
    assert (await running.outcome(timeout=5)).deliveries == 1


async def test_a_worker_without_a_free_slot_draws_nothing(mesh: Mesh, start_worker: StartWorker, gate: Gate) -> None:
    busy = await start_worker(gate)
    await mesh.submit("echo", {"n": 0})
    await in_time(gate.begun.get(), 5)
    await eventually(lambda: busy._puller.quiet, timeout=3)

    async def echo(message: Any) -> Any:
        return message

    handles = [
        await mesh.submit("echo", {"n": n}, priority=priority)
        for n in range(3)
        for priority in ("critical", "normal", "low")
    ]
    await start_worker(echo)
    outcomes = [await handle.outcome(timeout=5) for handle in handles]
    assert {outcome.deliveries for outcome in outcomes} == {1}
    assert busy.in_hand == 1
    gate.open.set()


async def test_a_critical_task_goes_past_all_that_wait(mesh: Mesh, start_worker: StartWorker, gate: Gate) -> None:
    for n in range(20):
        await mesh.submit("echo", {"n": n}, priority="low")
    await mesh.submit("echo", {"n": "critical"}, priority="critical")
    await start_worker(gate)
    first = await in_time(gate.begun.get(), 5)
    gate.open.set()
    second = await in_time(gate.begun.get(), 5)
    assert {"n": "critical"} in (first, second)


async def test_a_pause_that_no_clock_can_hold_is_a_long_one(mesh: Mesh, start_worker: StartWorker) -> None:
    """A server that asks for one, such as a model's, is not asked again at once: its nanoseconds overflowed."""
    runs = []

    async def later(message: Any) -> Any:
        runs.append(message)
        if message.get("later"):
            raise Retry(1e14)
        return message

    await start_worker(later)
    await mesh.submit("echo", {"later": True})
    for n in range(50):
        assert await (await mesh.submit("echo", {"n": n})).result(timeout=5) == {"n": n}
    assert runs.count({"later": True}) == 1
