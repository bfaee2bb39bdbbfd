"""Tasks that are due later, once or again and again: real stewards over a real server, killed where it hurts."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, assert_type

import pytest

from bus import codec, events, inspection, jetstream, schedules, standing, subjects, when
from bus.audit import audit
from bus.backlog import Backlog
from bus.connection import Connection
from bus.cron import Cron
from bus.due import Due
from bus.errors import (
    ConfigError,
    NotFoundError,
    PayloadTooLargeError,
    PermissionDeniedError,
    QueueFullError,
    ServerError,
)
from bus.later import Later
from bus.mesh import Handle, Mesh, Schedule
from bus.messages import CONTENT_TYPE, JSON, MSGPACK, WHEN, WHERE
from bus.server import Server
from bus.standing import Standing
from tests.conftest import Gate, StartWorker, nothing_queued
from tests.eventually import eventually
from tests.guarded import guarded
from tests.integration.test_guarantees import limit
from tests.processes import ActorProcess, actor

STEWARD = "actors.steward:Steward"
TOILER = "tests.integration.agents:Toiler"

StartSteward = Callable[[], contextlib.AbstractAsyncContextManager[ActorProcess]]


@pytest.fixture
def start(server: Server, tmp_path: Path) -> StartSteward:
    number = iter(range(100))
    return lambda: actor(STEWARD, server.url, tmp_path / f"steward-{next(number)}.log", REVO_ACK_WAIT="1")


@pytest.fixture
async def steward(start: StartSteward, mesh: Mesh) -> AsyncIterator[ActorProcess]:
    async with start() as process:
        yield process


class Counting:
    """A handler that notes what it was given."""

    def __init__(self) -> None:
        self.runs: list[Any] = []

    async def __call__(self, message: Any) -> Any:
        self.runs.append(message)
        return message


async def held(mesh: Mesh) -> list[str]:
    """What stands in LATER, as `<kind>.<id>`."""
    info = await jetstream.call(mesh.connection, "STREAM.INFO", subjects.LATER, body={"subjects_filter": ">"})
    return sorted(f"{name.split('.')[1]}.{name.split('.')[3]}" for name in info["state"].get("subjects") or {})


async def passed(moment: float) -> None:
    await eventually(lambda: time.time() > moment)


def keeping(tasks: set[asyncio.Task[None]]) -> Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]:
    """Starts what it is given, and keeps it."""

    def spawn(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        tasks.add(task := asyncio.create_task(work))
        return task

    return spawn


async def killed(process: ActorProcess) -> None:
    process.signal(signal.SIGKILL)
    await process.wait()


async def is_good(mesh: Mesh) -> bool:
    found = await audit(mesh.connection)
    assert found.good, found
    return found.waiting == 0


async def test_a_task_is_done_when_it_is_due_and_its_handle_knows_of_it(
    mesh: Mesh, steward: ActorProcess, start_worker: StartWorker
) -> None:
    await start_worker(Counting())
    due = time.time() + 0.7
    later = await mesh.submit("echo", {"n": 1}, at=due, task_id="later")
    assert_type(later, Handle)
    await mesh.submit("echo", {"n": 2}, after=datetime.timedelta(hours=1), schedule_id="much-later")
    view = await inspection.find_task(mesh.connection, "later")
    assert view.later is not None
    assert view.later.next_at == pytest.approx(due, abs=0.001)
    assert [info.schedule_id for info in await mesh.schedules()] == ["later", "much-later"]
    outcome = await later.outcome(timeout=10)
    assert (outcome.value, outcome.task_id) == ({"n": 1}, "later")
    assert due <= outcome.started_at < due + 2.0
    again = await mesh.submit("echo", {"n": 1}, after=0, task_id="later")
    assert again.duplicate, "the same id is the same task for as long as its result is kept"
    assert await held(mesh) == ["later.much-later"]
    past = await mesh.submit("echo", {"n": 3}, at=time.time() - 100)
    assert await past.result(timeout=10) == {"n": 3}, "what is past is due at once"
    assert await eventually(lambda: is_good(mesh))


async def test_after_counts_by_the_clock_of_the_server_and_not_by_the_client_s(
    mesh: Mesh, steward: ActorProcess, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await start_worker(Counting())
    now = time.time
    for wrong in (-3600.0, 3600.0):
        begun = now()
        with monkeypatch.context() as patch:
            patch.setattr("bus.when.time.time", lambda by=wrong: now() + by)
            handle = await mesh.submit("echo", {"n": 1}, after=0.3)
        outcome = await handle.outcome(timeout=10)
        assert begun + 0.3 <= outcome.started_at < begun + 10
    plan = {"schedule_id": "x", "client": "me", "when": "@daily", "after": 1, "body": "{}", "content_type": JSON}
    subject = subjects.scoped(subjects.STEWARD, "schedule", "echo")
    refused = await mesh.connection.request(subject, json.dumps(plan).encode())
    assert "is of what is due once" in refused.headers["Nats-Service-Error"]


async def test_what_is_due_again_and_again_has_an_id_and_a_result_each_time(
    mesh: Mesh, steward: ActorProcess, start_worker: StartWorker
) -> None:
    await start_worker(counting := Counting())
    schedule = await mesh.submit("echo", {"n": 1}, every=1, schedule_id="tick", priority="high")
    assert_type(schedule, Schedule)
    await eventually(lambda: bool(counting.runs))
    info = await schedule.info()
    assert info.last is not None
    assert (info.when, info.priority, info.paused) == ("@every 1s", "high", False)
    last = await schedule.last()
    assert last is not None
    assert last.task_id.startswith("tick-")
    assert (await last.outcome(timeout=5)).status == "succeeded"
    with pytest.raises(NotFoundError, match="it is a schedule"):
        await inspection.find_task(mesh.connection, "tick")
    assert (await schedule.pause()).paused
    assert await held(mesh) == ["occurred.tick", "paused.tick"]
    assert await eventually(lambda: is_good(mesh))
    runs = len(counting.runs)
    assert not (await schedule.resume()).paused
    await eventually(lambda: len(counting.runs) > runs)
    await schedule.cancel()
    assert await eventually(lambda: nothing_left(mesh))
    with pytest.raises(NotFoundError, match="has none of this id"):
        await schedule.info()
    with pytest.raises(NotFoundError, match="there is none"):
        await schedule.cancel()


async def nothing_left(mesh: Mesh) -> bool:
    """Whether no schedule stands; the last occurrence may have been noted as it was taken away."""
    return not await mesh.schedules()


async def test_a_bare_client_schedules_by_a_request_and_its_message_and_address_reach_the_queue_unchanged(
    mesh: Mesh, steward: ActorProcess, start_worker: StartWorker
) -> None:
    await start_worker(counting := Counting())
    plan = {"schedule_id": "bare", "client": "me", "when": "@at 2026-01-01T00:00:00Z", "body": '{"n": 1}'}
    subject = subjects.scoped(subjects.STEWARD, "schedule", "echo")
    wanted = json.dumps({**plan, "content_type": JSON}).encode()
    said = json.loads((await mesh.connection.request(subject, wanted)).data)
    assert (said["replaced"], said["duplicate"], said["full"]) == (False, False, "")
    await eventually(lambda: bool(counting.runs))
    assert counting.runs == [{"n": 1}]
    named = await mesh.submit("toil", {"n": 2}, agent="nobody", priority="low", after=0, deadline=50)
    stored = await eventually(lambda: jetstream.last(mesh.connection, subjects.TASKS, "revo.task.@nobody.>"))
    assert (stored.subject, stored.headers["Revo-Capability"]) == ("revo.task.@nobody.low.anon", "toil")
    assert (stored.headers["Revo-Task-Id"], "Revo-Fresh" in stored.headers) == (named.task_id, False)
    assert float(stored.headers["Revo-Deadline"]) == pytest.approx(time.time() + 50, abs=10)
    assert "traceparent" in stored.headers, "it stays in the trace of its submit"
    for field, value in {"content_type": "text/plain\r\nNats-Rollup: all", "traceparent": "00\r\nNats-TTL: 1s"}.items():
        hostile = await mesh.connection.request(subject, json.dumps({**plan, field: value}).encode())
        assert field in hostile.headers["Nats-Service-Error"]
    wrong = json.dumps({**plan, "when": "0 9 * * 7"}).encode()
    refused = await mesh.connection.request(subject, wanted.replace(b"2026-01-01T00:00:00Z", b"tomorrow"))
    assert "is no time such as" in refused.headers["Nats-Service-Error"]
    assert "Sunday is 0" in (await mesh.connection.request(subject, wrong)).headers["Nats-Service-Error"]


async def test_one_of_the_same_id_is_replaced_and_one_of_the_other_kind_is_not(
    mesh: Mesh, steward: ActorProcess, start_worker: StartWorker
) -> None:
    await start_worker(counting := Counting())
    first = await mesh.submit("echo", {"n": 1}, after=3600, schedule_id="one")
    await mesh.schedule("one").pause()
    second = await mesh.submit("echo", {"n": 2}, after=0.2, schedule_id="one")
    assert await first.result(timeout=10) == await second.result(timeout=10) == {"n": 2}
    assert counting.runs == [{"n": 2}]
    nightly = await mesh.submit("echo", {"n": 3}, cron="0 2 * * *", timezone="Europe/Berlin", schedule_id="nightly")
    assert not nightly.replaced
    nightly = await mesh.submit("echo", {"n": 3}, cron="0 3 * * *", schedule_id="nightly")
    assert nightly.replaced
    (info,) = await mesh.schedules()
    assert (info.when, info.zone, info.next_at) == ("0 0 3 * * *", "", nightly.next_at)
    with pytest.raises(ConfigError, match="there is one of this id that is due again and again"):
        await mesh.submit("echo", {"n": 4}, after=1, schedule_id="nightly")


async def test_a_task_that_is_not_due_yet_is_cancelled_and_whoever_waits_for_it_hears_so(
    mesh: Mesh, steward: ActorProcess, start_worker: StartWorker
) -> None:
    await start_worker(counting := Counting())
    handle = await mesh.submit("echo", {"n": 1}, after=0.6)
    waiting = asyncio.create_task(handle.outcome(timeout=10))
    cancelled = await handle.cancel()
    assert (cancelled.cancelled, cancelled.status) == (True, "cancelled")
    outcome = await waiting
    assert (outcome.status, outcome.sequence) == ("cancelled", 0)
    assert await held(mesh) == []
    assert (await mesh.cancel(handle.task_id)).cancelled, "repeating it changes nothing"
    paused = await mesh.submit("echo", {"n": 2}, after=3600, schedule_id="paused")
    await mesh.schedule("paused").pause()
    await mesh.schedule("paused").cancel()
    assert (await paused.outcome(timeout=5)).status == "cancelled"
    clock = await mesh.submit("echo", {"n": 3}, after=0.6)
    await clock.result(timeout=10)
    assert counting.runs == [{"n": 3}]
    with pytest.raises(NotFoundError, match="task never-was"):
        await mesh.cancel("never-was")
    assert await eventually(lambda: is_good(mesh))


async def test_what_falls_due_the_instant_that_it_is_paused_is_done_once_and_not_again_when_it_goes_on(
    mesh: Mesh, connection: Connection, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is by then: due, a task in the queue, or ended."""
    counting, tasks = Counting(), set[asyncio.Task[None]]()
    due = Due(connection, "revo-steward", "s-1", spawn=keeping(tasks))
    later = Later(connection, Backlog(connection), agent="revo-steward", instance="s-1")

    async def pause(name: str, until: Callable[[], Any]) -> None:
        store = jetstream.store
        await keep(connection, name, when.when(after=0.3).text)

        async def slowly(where: Connection, subject: str, *arguments: Any, **more: Any) -> Any:
            if subject.startswith("revo.paused."):
                await eventually(until)
            return await store(where, subject, *arguments, **more)

        with monkeypatch.context() as patch, contextlib.suppress(NotFoundError):
            patch.setattr("bus.later.jetstream.store", slowly)
            await later.pause("anon", name)

    await pause("due", lambda: stands(mesh, "due.due"))
    assert await held(mesh) == ["due.due"]
    await due.open()
    await pause("queued", lambda: stands(mesh))
    assert await held(mesh) == []
    await start_worker(counting)
    await pause("ended", lambda: len(counting.runs) == 3)
    await eventually(lambda: nothing_queued(mesh))
    assert await held(mesh) == []
    await keep(connection, "ended", when.when(after=3600).text)  # a pause that was cut short leaves this
    await later.pause("anon", "ended")
    with pytest.raises(NotFoundError):
        await later.resume("anon", "ended")
    assert await held(mesh) == []
    assert counting.runs == [{"n": 1}] * 3
    await due.close()


async def test_what_falls_due_after_its_cancel_was_cut_short_is_not_done(
    mesh: Mesh, start: StartSteward, start_worker: StartWorker
) -> None:
    """A steward that is killed after it stored the result, and before it took the schedule away."""
    await start_worker(counting := Counting())
    async with start():
        handle = await mesh.submit("echo", {"n": 1}, after=0.3, task_id="cut-short")
        stood = await jetstream.last(mesh.connection, subjects.LATER, subjects.schedule(mesh.client, "cut-short"))
        assert stood is not None
        await handle.cancel()
        await jetstream.store(mesh.connection, stood.subject, stood.body, stood.headers)
        clock = await mesh.submit("echo", {"n": 2}, after=0.6)
        await clock.result(timeout=10)
        assert await eventually(lambda: is_good(mesh))
    assert counting.runs == [{"n": 2}]
    assert (await handle.outcome(timeout=5)).status == "cancelled"


async def test_what_falls_due_while_stewards_and_server_are_killed_is_done_once(
    server: Server, mesh: Mesh, start: StartSteward, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    async with contextlib.AsyncExitStack() as stack:
        toiler = actor(TOILER, server.url, tmp_path / "toiler.log")
        first, _ = await asyncio.gather(*map(stack.enter_async_context, (start(), toiler)))
        due = time.time() + 0.8
        orders = ({"id": n, "journal": str(journal)} for n in range(300))
        handles = await asyncio.gather(
            *(mesh.submit("toil", order, at=due, task_id=f"storm-{order['id']}") for order in orders)
        )
        await passed(due)
        await eventually(lambda: some_were_moved(mesh))
        await killed(first)
        server.kill()
        await server.stop()
        await server.start()
        await stack.enter_async_context(start())
        assert [await handle.result(timeout=30) for handle in handles] == list(range(300))
        assert await eventually(lambda: is_good(mesh))
    begun = [line.split()[1] for line in journal.read_text().splitlines() if line.startswith("begin")]
    assert sorted(map(int, begun)) == list(range(300)), "each once"


async def some_were_moved(mesh: Mesh) -> bool:
    info = await jetstream.call(mesh.connection, "STREAM.INFO", subjects.TASKS)
    return int(info["state"]["last_seq"]) > 0


async def test_what_was_moved_and_not_settled_is_the_same_task_when_it_is_moved_again(
    server: Server, mesh: Mesh, connection: Connection, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between storing the task and settling what fell due: at once, and when the server has forgotten its id."""
    await start_worker(counting := Counting())
    unsettled: list[str] = []
    tasks: set[asyncio.Task[None]] = set()
    due = Due(connection, "revo-steward", "s-1", spawn=keeping(tasks))
    publish = connection.publish

    async def lost(subject: str, *arguments: Any, **more: Any) -> None:
        if subject.startswith("$JS.ACK.LATER."):
            unsettled.append(subject)
        else:
            await publish(subject, *arguments, **more)

    monkeypatch.setattr(connection, "publish", lost)
    await due.open()
    await keep(connection, "once", "@at 2026-01-01T00:00:00Z")
    handle = mesh.handle("echo", "once")
    assert await handle.result(timeout=10) == {"n": 1}
    await eventually(lambda: len(unsettled) == 1)
    await publish(unsettled[-1], b"-NAK")
    await eventually(lambda: len(unsettled) == 2)
    assert (await audit(mesh.connection)).accepted == 1, "it was dropped as a double"
    server.kill()
    await server.stop()
    await server.start()
    await mesh.connection.connected()
    await eventually(lambda: len(unsettled) >= 3)  # its ack deadline has passed
    await eventually(lambda: ended_as_double(mesh))
    assert counting.runs == [{"n": 1}]
    await due.close()


async def ended_as_double(mesh: Mesh) -> bool:
    found = await audit(mesh.connection)
    assert found.good, found
    return found.doubles >= 1


async def keep(connection: Connection, schedule_id: str, when: str, client: str = "anon") -> None:
    """A schedule as a steward keeps it."""
    making = schedules.Making(address="echo", priority="normal", seconds=60.0, when=when, at=time.time())
    headers = {
        "Revo-Schedule": making.model_dump_json(),
        CONTENT_TYPE: MSGPACK,
        WHEN: when,
        WHERE: subjects.due(client, schedule_id),
    }
    subject = subjects.schedule(client, schedule_id)
    await jetstream.store(connection, subject, codec.encode({"n": 1}), headers)


async def test_what_recurs_and_was_due_while_no_server_ran_is_done_once_when_it_is_up(
    server: Server, mesh: Mesh, start: StartSteward, start_worker: StartWorker
) -> None:
    """A killed server forgets that it was due: the stewards, any number of them, see to it, and only once. What had
    occurred before and was not due meanwhile is not done again.
    """
    await start_worker(counting := Counting())
    async with contextlib.AsyncExitStack() as stack:
        first, second = await asyncio.gather(*(stack.enter_async_context(start()) for _ in range(2)))
        before = int(time.time() + 1.3)
        due = before + 2
        schedule = await mesh.submit("echo", {"n": 1}, cron=f"{due % 60} * * * * *", schedule_id="missed")
        assert schedule.next_at == due
        await mesh.submit("echo", {"n": 2}, every=3600, schedule_id="not-due")
        await mesh.submit("echo", {"n": 3}, cron=f"{before % 60} * * * * *", schedule_id="before")
        await mesh.submit("echo", {"n": 4}, cron=f"{before % 60},{due % 60} * * * * *", schedule_id="both")
        await eventually(lambda: len(counting.runs) == 2)
        server.kill()
        await server.stop()
        await passed(due + 0.1)
        await server.start()
        await eventually(lambda: len(counting.runs) >= 4)
        assert "was due while no server ran" in first.log + second.log
        assert (await schedule.cancel()).last is not None
        assert await eventually(lambda: is_good(mesh))
        late = Due(mesh.connection, "revo-steward", "s-3", spawn=asyncio.ensure_future)
        later = Later(mesh.connection, Backlog(mesh.connection), agent="revo-steward", instance="s-3")
        assert await late.catch_up(later) == 0, "who looks after that finds nothing"
    assert sorted(order["n"] for order in counting.runs) == [1, 3, 4, 4]


async def test_what_is_moved_while_a_steward_looks_for_what_was_missed_is_done_once(
    mesh: Mesh, connection: Connection, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look takes a while. Here it finds two schedules as they stood before they were due, and both are moved by
    another steward as it goes on: of one what is due has been seen by then, of the other only what is noted of it.
    """
    await start_worker(counting := Counting())
    tasks: set[asyncio.Task[None]] = set()
    due = Due(connection, "revo-steward", "s-1", spawn=keeping(tasks))
    looked = asyncio.Event()

    last, everything = jetstream.last, standing.everything

    async def slowly(*arguments: Any, **more: Any) -> list[Standing]:
        found = await everything(*arguments, **more)
        await eventually(lambda: stands(mesh, "due.one", "due.two"))
        return found

    async def moved_after_the_first_look(*arguments: Any, **more: Any) -> Any:
        found = await last(*arguments, **more)
        if not looked.is_set():
            looked.set()
            await due.open()
            await eventually(lambda: stands(mesh, "later.one", "later.two", "occurred.one", "occurred.two"))
        return found

    monkeypatch.setattr("bus.due.MISSED", -5.0)  # what is due in the next seconds is looked at as if it had passed
    at = int(time.time()) + 2 if time.time() % 1 > 0.8 else int(time.time()) + 1
    for name in ("one", "two"):
        await keep(connection, name, f"{at % 60} * * * * *")
    with monkeypatch.context() as patch:
        patch.setattr("bus.due.standing.everything", slowly)
        patch.setattr("bus.later.jetstream.last", moved_after_the_first_look)
        assert await due.catch_up(Later(connection, Backlog(connection), agent="revo-steward", instance="s-2")) == 0
    await eventually(lambda: len(counting.runs) >= 2)
    assert await stands(mesh, "later.one", "later.two", "occurred.one", "occurred.two")
    assert await eventually(lambda: is_good(mesh))
    assert len(counting.runs) == 2
    await due.close()


async def stands(mesh: Mesh, *names: str) -> bool:
    """Whether these stand in LATER; if none of them is due, whether nothing else does."""
    found = set(await held(mesh))
    return found >= set(names) if any(name.startswith("due.") for name in names) else found == set(names)


async def test_what_nobody_could_take_before_it_was_due_again_is_done_once(
    mesh: Mesh, start: StartSteward, start_worker: StartWorker
) -> None:
    await start_worker(counting := Counting())
    await keep(mesh.connection, "tick", "* * * * * *")
    seen: set[int] = set()

    async def due_again() -> bool:
        stored = await jetstream.last(mesh.connection, subjects.LATER, subjects.due(mesh.client, "tick"))
        seen.update([stored.sequence] if stored else [])
        return len(seen) >= 2

    await eventually(due_again)
    assert "due.tick" in await held(mesh)
    async with start():
        await eventually(lambda: bool(counting.runs))
        info = await mesh.schedule("tick").cancel()
    await eventually(lambda: nothing_queued(mesh))
    assert info.last is not None
    assert len(counting.runs) < len(seen), "the last of them took the place of the others"
    assert await is_good(mesh)


async def test_a_full_queue_of_one_client_holds_up_nobody_else_and_loses_nothing(
    server: Server, mesh: Mesh, steward: ActorProcess, start_worker: StartWorker
) -> None:
    info = await jetstream.call(mesh.connection, "STREAM.INFO", subjects.TASKS)
    await jetstream.call(
        mesh.connection, "STREAM.UPDATE", subjects.TASKS, body={**info["config"], "max_msgs_per_subject": 2}
    )
    gate = Gate()
    async with Mesh.connect(server.url, client="flood") as flood:
        stuck = [await flood.submit("echo", {"n": n}) for n in range(2)]
        late = [await flood.submit("echo", {"n": n}, after=0.1, deadline=600) for n in (2, 3)]
        gone = await flood.submit("echo", {"n": 4}, after=0.1, deadline=0.5)
        other = await mesh.submit("other", {"n": 5}, after=0.2)
        await start_worker(Counting(), capability="other")
        assert await other.result(timeout=10) == {"n": 5}, "it waited behind somebody else's"
        assert {info.schedule_id for info in await flood.schedules() if info.due_since} >= {one.task_id for one in late}
        assert (await gone.outcome(timeout=20)).status == "expired", "its deadline holds although it found no room"
        gate.open.set()
        await start_worker(gate)
        assert [await one.result(timeout=30) for one in (*stuck, *late)] == [{"n": n} for n in range(4)]
    assert await eventually(lambda: is_good(mesh))


async def end_of(submitting: Awaitable[Handle]) -> Handle | QueueFullError:
    try:
        return await submitting
    except QueueFullError as error:
        return error


async def test_there_are_no_more_schedules_than_there_is_room_for(mesh: Mesh, steward: ActorProcess) -> None:
    await limit(mesh.connection, subjects.LATER, 60_000)
    ends = [await end_of(mesh.submit("echo", {"n": number}, after=3600)) for number in range(40)]
    kept = [end.task_id for end in ends if isinstance(end, Handle)]
    refused = {str(end).partition(" was refused: ")[2] for end in ends if isinstance(end, QueueFullError)}
    assert len(kept) > 5
    assert {text.partition(",")[0] for text in refused} == {"schedules take 40% of stream LATER"}
    assert sorted(info.schedule_id for info in await mesh.schedules()) == sorted(kept), "none was lost for another"


async def test_a_client_sees_all_his_schedules_however_many_and_the_next_one_first(
    mesh: Mesh, connection: Connection, steward: ActorProcess
) -> None:
    kept = [f"kept-{number}" for number in range(2010)]
    at = time.time() + 3600
    for number in range(0, len(kept), 500):
        some = enumerate(kept[number : number + 500], number)
        await asyncio.gather(*(keep(connection, one, when.when(at=at - place).text) for place, one in some))
    await keep(connection, "not-his", "@every 3600s", client="other")
    found = await mesh.schedules()
    assert [info.schedule_id for info in found] == kept[::-1]
    assert {info.client for info in found} == {"anon"}
    everybody = await schedules.find_all(connection, mesh.telemetry, client="")
    assert len(everybody) == len(kept) + 1


async def test_what_is_too_large_for_a_message_is_refused_before_anything_is_sent(mesh: Mesh) -> None:
    with pytest.raises(PayloadTooLargeError, match="exceeds the limit"):
        await mesh.submit("echo", {"text": "x" * 1_000_000}, after=1)


async def test_the_server_takes_just_those_patterns_that_we_take(connection: Connection, mesh: Mesh) -> None:
    good = [
        "0 9 * * 1-5",
        "*/2 * * * * *",
        "@daily",
        "0 0 29 2 *",
        "0 9 ? * MON-FRI",
        "0 9-17/2 1,15 JAN *",
        "0 0/3 * * *",
    ]
    bad = [
        "0 9 31 2 *",
        "0 60 * * * *",
        "0 9 * * 7",
        "0 9 L * *",
        "5-1 * * * *",
        "0 9 * * ,",
        "@reboot",
        "* * * *",
        "0 */0 * * *",
    ]
    for pattern in good:
        await keep(connection, "pattern", Cron(pattern).text)
    for pattern in bad:
        with pytest.raises(ConfigError):
            Cron(pattern)
        fields = pattern.split()
        with pytest.raises(ServerError, match="pattern is invalid"):
            await keep(connection, "pattern", " ".join(["0", *fields]) if len(fields) == 5 else pattern)


@pytest.mark.parametrize("isolated", [True, False], ids=["own", "shared"])
async def test_everybody_schedules_what_he_may_submit_and_changes_his_own_alone(tmp_path: Path, isolated: bool) -> None:
    async with (
        guarded(tmp_path, isolated=isolated) as here,
        actor(STEWARD, here.server.url, tmp_path / "steward.log", name=subjects.STEWARD, **here.env(subjects.STEWARD)),
        here.mesh("alice") as alice,
        here.mesh("bob") as bob,
        here.mesh("operator") as operator,
    ):
        handle = await alice.submit("echo", {"n": 1}, after=3600, task_id="hers")
        tick = await alice.submit("echo", {"n": 2}, cron="* * * * * *", schedule_id="tick")
        with pytest.raises(PermissionDeniedError, match=r"schedule\.other\.alice"):
            await alice.submit("other", {}, after=1)
        with pytest.raises(PermissionDeniedError, match=r"revo\.later\.alice\.x"):
            await jetstream.store(alice.connection, subjects.schedule("alice", "x"), b"")
        assert await bob.schedules() == []
        for method in ("unschedule", "pause_schedule"):
            with pytest.raises(NotFoundError):
                await schedules.turn(bob.connection, bob.telemetry, method, "tick", client="alice", by="bob")
        with pytest.raises(NotFoundError):
            await bob.cancel("hers")
        mine = await bob.submit("echo", {"n": 3}, every=60, schedule_id="tick")
        with pytest.raises(ConfigError, match="alice or bob's"):
            await schedules.turn(operator.connection, operator.telemetry, "unschedule", "tick", client="", by="op")
        await mine.cancel()
        assert [one.client for one in await alice.schedules()] == ["alice", "alice"]
        due = await alice.submit("echo", {"n": 4}, after=0.1, deadline=0.5)
        assert (await due.outcome(timeout=10)).client == "alice"
        last = await eventually(tick.last)
        assert (await tick.pause()).paused
        assert (await last.cancel()).cancelled
        await tick.cancel()
        assert (await handle.cancel()).cancelled
        assert (await handle.outcome(timeout=5)).status == "cancelled"
        subject = f"revo.event.{events.SCHEDULE}.>"
        async with asyncio.timeout(10), events.follow(operator.connection, since=0, subject=subject) as told:
            who = [(event.what, event.by) for event in [await anext(told) for _ in range(5)]]
        alices, bobs = "client alice", "client bob"
        assert who == [
            ("added", alices),
            ("added", bobs),
            ("removed", bobs),
            ("paused", alices),
            ("removed", alices),
        ], "of what recurs, and who it was"


async def test_a_steward_of_a_mesh_that_has_no_place_for_schedules_does_all_the_rest(tmp_path: Path) -> None:
    """As after an upgrade of the stewards alone: the streams are an operator's to make."""
    log = tmp_path / "steward.log"
    async with guarded(tmp_path, isolated=True) as here, here.mesh("operator") as operator, here.mesh("alice") as alice:
        await jetstream.call(operator.connection, "STREAM.DELETE", subjects.LATER)
        async with actor(STEWARD, here.server.url, log, name=subjects.STEWARD, **here.env(subjects.STEWARD)):
            with pytest.raises(NotFoundError, match="stream not found"):
                await alice.submit("echo", {}, after=1)
            handle = await alice.submit("echo", {})
            assert (await handle.cancel()).cancelled
        assert "no schedules are kept" in log.read_text()
