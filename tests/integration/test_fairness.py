"""A client that floods a queue does not starve the others of it; real processes over a real server."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from actors.admission import prepare
from actors.keyring import Keyring, wish_of
from bus import codec, inspection, jetstream, moving, pull, reading, subjects
from bus import lanes as lanes_module
from bus.audit import audit
from bus.backlog import Backlog
from bus.connection import Connection
from bus.early import Ender
from bus.errors import BusError, ConnectionLostError, PermissionDeniedError, TaskCancelledError
from bus.estimates import Estimate
from bus.grants import Wish
from bus.handle import Handle
from bus.lanes import Lanes
from bus.mesh import Mesh
from bus.messages import Envelope, Result
from bus.moving import Mover
from bus.server import Server
from bus.settings import Settings
from bus.tasks import envelope_of
from bus.topology import apply, ensure_capability, pause_capability
from tests.conftest import QUICK, StartWorker, nothing_queued
from tests.eventually import eventually, in_time
from tests.guarded import Guarded
from tests.integration import agents
from tests.processes import ActorProcess, actor

STEWARD = "actors.steward:Steward"
TOILER = "tests.integration.agents:Toiler"
SHARE = 200


async def flood(mesh: Mesh, count: int, *, seconds: float = 0.005) -> None:
    ends = await mesh.submit_many("toil", ({"id": n, "seconds": seconds} for n in range(count)))
    assert all(isinstance(end, Handle) for end in ends)


async def results(connection: Connection, client: str) -> list[Result]:
    stored = reading.stored_since(connection, subjects.RESULTS, 0.0, subject=f"revo.result.{client}.>")
    return [codec.read(Result, one.headers, one.data, subject=one.subject) async for one in stored]


async def overtaken_by(connection: Connection, ends: list[Result]) -> int:
    """How many tasks of the flood started between the submit of the first of these and the start of the last."""
    first, last = min(end.submitted_at for end in ends), max(end.started_at for end in ends)
    return sum(first < end.started_at < last for end in await results(connection, "flood"))


@contextlib.asynccontextmanager
async def client(server: Server, name: str) -> AsyncIterator[Mesh]:
    async with Mesh.connect(settings=Settings(nats_url=server.url), client=name) as mesh:
        yield mesh


async def test_who_has_few_tasks_is_not_kept_waiting_by_twenty_thousand_of_another(
    server: Server, tmp_path: Path, figures: Callable[[str], None]
) -> None:
    async with client(server, "flood") as many, client(server, "light") as few:
        await flood(many, 20_000)
        async with (
            actor(STEWARD, server.url, tmp_path / "steward.log") as steward,
            actor(TOILER, server.url, tmp_path / "a.log"),
        ):
            one = await (await few.submit("toil", {"id": 1})).outcome(timeout=60)
            alone = await overtaken_by(few.connection, [one])
            handles = [await few.submit("toil", {"id": n}) for n in range(50)]
            fifty = [await handle.outcome(timeout=60) for handle in handles]
            together = await overtaken_by(few.connection, fifty)
            steward.signal(signal.SIGKILL)
            await steward.wait()
            handle = await few.submit("toil", {"id": 2})
            async with actor(STEWARD, server.url, tmp_path / "second.log"):
                back = time.time()
                last = await handle.outcome(timeout=60)
                after = await overtaken_by(few.connection, [last.model_copy(update={"submitted_at": back})])
            found = await audit(few.connection)
    figures(f"behind 20,000 tasks: one waited for {alone} of them, fifty for {together}; one that came while there was")
    figures(f"no steward: for {after} from the next one's start on")
    share = Settings().fair_share
    assert alone < 3 * share
    assert together < 3 * share
    assert after < 3 * share
    assert {end.status for end in [one, *fifty, last]} == {"succeeded"}
    assert found.good, found
    assert found.accepted == 20_052
    assert found.waiting > 2_000, "the flood was not over by then"


async def test_a_steward_that_is_killed_in_the_middle_loses_no_task_and_runs_none_twice(
    server: Server, tmp_path: Path
) -> None:
    """Two live; the one that moves tasks is killed as soon as it says which, and the other goes on."""
    journal = tmp_path / "journal"
    env = {"REVO_FAIR_SHARE": str(SHARE), "REVO_STEWARD_INTERVAL": "0.05"}
    numbers = itertools.count()

    def work(count: int) -> list[dict[str, Any]]:
        return [{"id": next(numbers), "seconds": 0.04, "journal": str(journal)} for _ in range(count)]

    async with client(server, "flood") as many, client(server, "light") as few, contextlib.AsyncExitStack() as stack:

        async def start(target: str, name: str) -> ActorProcess:
            return await stack.enter_async_context(actor(target, server.url, tmp_path / f"{name}.log", **env))

        await many.submit_many("toil", work(800))
        ends = list(await few.submit_many("toil", work(40)))
        mover = await start(STEWARD, "first")
        await start(TOILER, "toiler")
        known = await eventually(lambda: begun(few.connection, 0))
        await start(STEWARD, "second")
        ends += await few.submit_many("toil", work(40))
        await eventually(lambda: begun(few.connection, known))
        mover.signal(signal.SIGKILL)
        await mover.wait()
        ends += await few.submit_many("toil", work(40))
        handles = [end for end in ends if isinstance(end, Handle)]
        outcomes = [await handle.outcome(timeout=60) for handle in handles]
        found = await audit(many.connection)
        ran = [int(line.split()[1]) for line in journal.read_text().splitlines() if line.startswith("begin")]
    assert len(outcomes) == 120
    assert {end.status for end in outcomes} == {"succeeded"}
    assert len(ran) == len(set(ran)), "none ran twice"
    assert (found.good, found.accepted) == (True, 920), found


async def begun(connection: Connection, known: int) -> int:
    """The sequence of a claim that names tasks, newer than one that is known; 0: there is none."""
    claim = await jetstream.last(connection, subjects.AUDIT, moving.CLAIM)
    if claim is None or claim.sequence <= known:
        return 0
    return claim.sequence if codec.read(dict, claim.headers, claim.body, subject=claim.subject)["begun"] else 0


STEPS = ["after the copies", "before the note", "before the originals are deleted", "after one of them is"]


class Crash:
    """Fails a call of a look, and those that follow, as a process does that dies there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
        self.happened = False
        passed = 0
        place, name, past = {
            "after the copies": (Mover, "_settle", 0),
            "before the note": (Mover, "_note", 0),
            "before the originals are deleted": (jetstream, "delete", 0),
            "after one of them is": (jetstream, "delete", 1),
        }[step]
        original: Any = getattr(place, name)

        async def fails_once(*given: Any, **named: Any) -> Any:
            nonlocal passed
            passed += 1
            if passed > past:
                self.happened = True
                raise ConnectionLostError(name)
            return await original(*given, **named)

        monkeypatch.setattr(place, name, fails_once)


async def sharing(server: Server, stack: contextlib.AsyncExitStack, share: int) -> tuple[Connection, Lanes, Backlog]:
    """What a steward has."""
    settings = Settings(nats_url=server.url, fair_share=share)
    connection = await stack.enter_async_context(await Connection.open(server.url, settings=settings))
    backlog = Backlog(connection)
    return connection, Lanes(connection, backlog), backlog


async def look(lanes: Lanes, backlog: Backlog) -> list[str]:
    await backlog.refresh()
    return await lanes.look(lambda _: True)


async def fill(mesh: Mesh, name: str, count: int, priority: str = "normal") -> list[Handle]:
    """So many tasks of a client."""
    async with Mesh.connect(settings=mesh.connection.settings, client=name) as own:
        ends = await own.submit_many("echo", ({"of": name, "n": n} for n in range(count)), priority=priority)
    return [end for end in ends if isinstance(end, Handle)]


async def counts(connection: Connection) -> dict[str, int]:
    """How many tasks stand in each line, by its subject's end."""
    found = await reading.counts_in(connection, subjects.TASKS, "revo.task.>")
    return {subject.removeprefix("revo.task.echo."): count for subject, count in found.items()}


async def stands(connection: Connection, wanted: dict[str, int]) -> bool:
    return await counts(connection) == wanted


@pytest.mark.parametrize("step", STEPS)
async def test_a_move_that_was_interrupted_is_carried_on_by_whoever_comes_next(
    server: Server, mesh: Mesh, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    await ensure_capability(mesh.connection, "echo", QUICK, "tester")
    await fill(mesh, "flood", 50)
    await fill(mesh, "light", 5)
    async with contextlib.AsyncExitStack() as stack:
        connection, first, backlog = await sharing(server, stack, 20)
        await backlog.refresh()
        with monkeypatch.context() as patch:
            crash = Crash(patch, step)
            with pytest.raises(ConnectionLostError):
                await first.look(lambda _: True)
        assert crash.happened
        _, second, own = await sharing(server, stack, 100)  # to whom the queue is not crowded
        assert await look(second, own) == [], "the other may be at it still"
        monkeypatch.setattr(moving, "SILENT", 0.0)
        assert await look(second, own) == ["echo.normal"]
        assert await counts(connection) == {"normal.flood": 50, "normal.light.fair": 5}
        ran: list[Any] = []

        async def work(message: Any) -> None:
            ran.append(message["of"])

        worker = await start_worker(work)
        worker._puller.serve_lanes(["echo.normal"])
        await eventually(lambda: nothing_queued(mesh))
        assert (ran.count("flood"), ran.count("light")) == (50, 5), "each ran once"
        found = await audit(connection)
    assert (found.good, found.accepted) == (True, 55), found


async def deliver(connection: Connection, last: int) -> None:
    """Have all of the queue delivered, up to that sequence, to somebody who never says what became of it."""
    api = subjects.api("CONSUMER.MSG.NEXT", subjects.TASKS, subjects.consumer("echo", "normal"))
    await connection.request(api, b'{"batch":100,"no_wait":true}')
    await eventually(lambda: delivered(connection, last))


async def test_what_may_be_in_hand_by_now_is_not_taken_away_and_no_copy_is_either(
    server: Server, mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A steward that was stopped between a copy and the rest finds that the originals have been delivered."""
    await ensure_capability(mesh.connection, "echo", QUICK, "tester")
    await fill(mesh, "flood", 50)
    await fill(mesh, "light", 5)
    async with contextlib.AsyncExitStack() as stack:
        connection, lanes, backlog = await sharing(server, stack, 20)
        settle = Mover._settle

        async def late(self: Mover, *given: Any) -> int:
            await deliver(connection, 55)
            return await settle(self, *given)

        monkeypatch.setattr(Mover, "_settle", late)
        await look(lanes, backlog)
        assert lanes.moved == 0
        assert await counts(connection) == {"normal.flood": 50, "normal.light": 5, "normal.light.fair": 5}


async def test_two_stewards_that_move_the_same_tasks_at_once_lose_none(
    server: Server, mesh: Mesh, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One has read what it wants to move and is stopped; the claim goes to another, and all is moved and delivered."""
    monkeypatch.setattr(moving, "SILENT", 0.0)
    await ensure_capability(mesh.connection, "echo", QUICK, "tester")
    await fill(mesh, "flood", 50)
    await fill(mesh, "light", 5)
    async with contextlib.AsyncExitStack() as stack:
        connection, first, backlog = await sharing(server, stack, 20)
        _, second, own = await sharing(server, stack, 20)
        copy, stopped, goes_on = Mover._copy, asyncio.Event(), asyncio.Event()

        async def late(self: Mover, originals: list[Envelope], *, lane: bool) -> Any:
            if not stopped.is_set():
                stopped.set()
                await goes_on.wait()
            return await copy(self, originals, lane=lane)

        monkeypatch.setattr(Mover, "_copy", late)
        slow = asyncio.create_task(look(first, backlog))
        await in_time(stopped.wait(), 10)
        assert await look(second, own) == ["echo.normal"]
        await fill(mesh, "flood", 10)
        await deliver(connection, 70)
        goes_on.set()
        await slow
        assert await counts(connection) == {"normal.flood": 60, "normal.light.fair": 5}
        assert (await audit(connection)).good
        await look(first, backlog)
        assert await counts(connection) == {"normal.flood": 60, "normal.light.fair": 5}


async def test_one_steward_at_a_time_moves_and_another_takes_over_when_it_is_silent(
    server: Server, mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ensure_capability(mesh.connection, "echo", QUICK, "tester")
    await fill(mesh, "flood", 50)
    await fill(mesh, "light", 5)
    async with contextlib.AsyncExitStack() as stack:
        connection, first, backlog = await sharing(server, stack, 20)
        _, second, own = await sharing(server, stack, 20)
        both = await asyncio.gather(look(first, backlog), look(second, own))
        assert sorted(both) == [[], ["echo.normal"]]
        if both[0]:
            first, backlog, second, own = second, own, first, backlog
        monkeypatch.setattr(moving, "RENEWED", 0.0)
        await fill(mesh, "late", 5)
        assert await look(first, backlog) == [], "the other has it"
        assert await look(second, own) == ["echo.normal"]
        await fill(mesh, "later", 5)
        monkeypatch.setattr(moving, "SILENT", 0.0)
        assert await look(first, backlog) == ["echo.normal"]
        monkeypatch.setattr(moving, "SILENT", 60.0)
        await fill(mesh, "latest", 5)
        assert await look(second, own) == [], "it has lost it"
        lanes = {subject: count for subject, count in (await counts(connection)).items() if subject.endswith("fair")}
        assert lanes == {"normal.light.fair": 5, "normal.late.fair": 5, "normal.later.fair": 5}


async def test_what_a_dead_steward_copied_and_has_ended_is_not_run_again(
    server: Server, mesh: Mesh, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ensure_capability(mesh.connection, "echo", QUICK, "tester")
    await fill(mesh, "flood", 50)
    await fill(mesh, "light", 5)
    monkeypatch.setattr(pull, "EXPIRES", 0.3)  # who pulls while it is paused gets nothing until the next pull
    ran: list[Any] = []

    async def work(message: Any) -> None:
        ran.append(message["of"])

    async with contextlib.AsyncExitStack() as stack:
        connection, first, backlog = await sharing(server, stack, 20)
        await backlog.refresh()
        with monkeypatch.context() as patch:
            Crash(patch, "after the copies")
            with pytest.raises(ConnectionLostError):
                await first.look(lambda _: True)
        await pause_queue(connection, b'{"pause_until":"2100-01-01T00:00:00Z"}')
        worker = await start_worker(work)
        worker._puller.serve_lanes(["echo.normal"])
        await eventually(lambda: stands(connection, {"normal.flood": 50, "normal.light": 5}))
        _, second, own = await sharing(server, stack, 20)
        monkeypatch.setattr(moving, "SILENT", 0.0)
        await look(second, own)
        assert await counts(connection) == {"normal.flood": 50}
        await pause_queue(connection, b"")
        await eventually(lambda: nothing_queued(mesh))
        found = await audit(connection)
    assert (ran.count("flood"), ran.count("light")) == (50, 5), "each ran once"
    assert (found.good, found.accepted, found.ended) == (True, 55, 55), found


async def pause_queue(connection: Connection, body: bytes) -> None:
    """Pause the queue, and not its lane, or with an empty body have it go on."""
    name = subjects.consumer("echo", "normal")
    await connection.request(subjects.api("CONSUMER.PAUSE", subjects.TASKS, name), body)


async def test_the_audit_sees_that_a_moved_task_is_lost(server: Server, mesh: Mesh) -> None:
    await ensure_capability(mesh.connection, "echo", QUICK, "tester")
    await fill(mesh, "flood", 50)
    await fill(mesh, "light", 5)
    async with contextlib.AsyncExitStack() as stack:
        connection, lanes, backlog = await sharing(server, stack, 20)
        await look(lanes, backlog)
        assert (await audit(connection)).good
        for copy in (56, 58):
            await jetstream.delete(connection, subjects.TASKS, copy)
        found = await audit(connection)
    assert found.lost == 4, found  # each task, once for its original and once for its copy
    assert not found.good


async def test_a_connection_lost_while_tasks_are_read_is_one_error_that_is_tried_again(
    server: Server, mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ensure_capability(mesh.connection, "echo", QUICK, "tester")
    await fill(mesh, "flood", 50)
    for name in ("light", "other"):
        await fill(mesh, name, 5)
    async with contextlib.AsyncExitStack() as stack:
        _, lanes, backlog = await sharing(server, stack, 20)
        scan = reading.scan
        await backlog.refresh()

        def lost(*given: Any, **named: Any) -> Any:
            server.kill()
            return scan(*given, **named)

        with monkeypatch.context() as patch:
            patch.setattr(reading, "scan", lost)
            with pytest.raises(BusError) as raised:
                await lanes.look(lambda _: True)
        assert raised.value.retryable
        await server.start()
        monkeypatch.setattr(moving, "SILENT", 0.0)
        await eventually(lambda: look(lanes, backlog))


async def delivered(connection: Connection, last: int) -> bool:
    info = await jetstream.call(connection, "CONSUMER.INFO", subjects.TASKS, subjects.consumer("echo", "normal"))
    return int(info["delivered"]["stream_seq"]) >= last


async def test_many_light_clients_share_the_lane_and_who_comes_last_is_the_next(server: Server, mesh: Mesh) -> None:
    await ensure_capability(mesh.connection, "echo", QUICK, "tester")
    for name in ("flood", "some", "more"):
        await fill(mesh, name, 100 if name == "flood" else 40)
    async with contextlib.AsyncExitStack() as stack:
        connection, lanes, backlog = await sharing(server, stack, 40)
        await look(lanes, backlog)
        stands = await counts(connection)
        assert stands["normal.some.fair"] + stands["normal.more.fair"] == 40, "no more than a fair share in the lane"
        assert abs(stands["normal.some.fair"] - stands["normal.more.fair"]) <= 1
        await look(lanes, backlog)
        assert await counts(connection) == stands, "it is full"
        async for stored in reading.scan(connection, subjects.TASKS, 1, backlog.last + 40, subject=subjects.LANE_TASKS):
            await jetstream.delete(connection, subjects.TASKS, stored.sequence)
            break
        await fill(mesh, "late", 3)
        await look(lanes, backlog)
        assert (await counts(connection)).get("normal.late.fair") == 1, "there was room for one"


async def test_nothing_is_moved_where_few_wait_or_one_alone_or_nobody_serves_lanes(server: Server, mesh: Mesh) -> None:
    await ensure_capability(mesh.connection, "echo", QUICK, "tester")
    await fill(mesh, "light", 5)
    await fill(mesh, "flood", 35)
    async with contextlib.AsyncExitStack() as stack:
        connection, lanes, backlog = await sharing(server, stack, 20)
        assert await look(lanes, backlog) == []
        await fill(mesh, "flood", 10, "low")
        assert await look(lanes, backlog) == [], "no queue is crowded"
        await fill(mesh, "flood", 10)
        await fill(mesh, "light", 5)
        await backlog.refresh()
        assert await lanes.look(lambda _: False) == [], "workers of earlier versions serve no lane"
        assert await look(lanes, backlog) == ["echo.normal"]
        assert (await counts(connection))["normal.light.fair"] == 5, "the others stand behind no more than a share"


async def test_a_slot_for_long_tasks_serves_queue_and_lane_in_turn(
    server: Server, mesh: Mesh, start_worker: StartWorker
) -> None:
    await ensure_capability(mesh.connection, "echo", QUICK, "tester")
    await fill(mesh, "flood", 60)
    await fill(mesh, "light", 8)
    starts: list[str] = []
    over = asyncio.Event()

    async def work(message: Any) -> None:
        starts.append(message["of"])
        await asyncio.sleep(0.08)  # noqa: TID251  (the work itself: too long to take more in hand than there are slots)
        if starts.count("light") == 8:
            over.set()

    async with contextlib.AsyncExitStack() as stack:
        _, lanes, backlog = await sharing(server, stack, 20)
        worker = await start_worker(work)
        worker._puller.serve_lanes(await look(lanes, backlog))
        await in_time(over.wait(), 30)
    turns = [number for number, name in enumerate(starts) if name == "light"]
    assert max(later - earlier for earlier, later in itertools.pairwise(turns)) <= 3, starts
    assert min(later - earlier for earlier, later in itertools.pairwise(turns[1:])) >= 1
    assert starts[turns[0] : turns[-1]].count("flood") >= 4, "the others go on"


async def test_a_lane_that_is_told_of_while_the_first_pulls_open_is_served(
    server: Server, mesh: Mesh, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ensure_capability(mesh.connection, "echo", QUICK, "tester")
    await fill(mesh, "flood", 50)
    await fill(mesh, "light", 5)
    opening: list[pull.Puller] = []
    opens, subscribe = pull.Puller._open, Connection.subscribe

    async def opened(self: pull.Puller) -> None:
        opening.append(self)
        await opens(self)

    async def told_meanwhile(self: Connection, subject: str, on_message: Any) -> Any:
        found = await subscribe(self, subject, on_message)
        if opening:
            opening.pop().serve_lanes(["echo.normal"])
        return found

    async def work(_: Any) -> None:
        return

    async with contextlib.AsyncExitStack() as stack:
        _, lanes, backlog = await sharing(server, stack, 20)
        assert await look(lanes, backlog) == ["echo.normal"]
        monkeypatch.setattr(pull.Puller, "_open", opened)
        monkeypatch.setattr(Connection, "subscribe", told_meanwhile)
        await start_worker(work)
        await eventually(lambda: nothing_queued(mesh))


async def test_a_lane_that_is_behind_more_urgent_tasks_waits_for_them(
    server: Server, mesh: Mesh, start_worker: StartWorker
) -> None:
    await ensure_capability(mesh.connection, "echo", QUICK, "tester")
    await fill(mesh, "urgent", 100, "urgent")
    await fill(mesh, "flood", 50)
    await fill(mesh, "light", 5)
    starts: list[str] = []

    async def work(message: Any) -> None:
        starts.append(message["of"])

    async with contextlib.AsyncExitStack() as stack:
        _, lanes, backlog = await sharing(server, stack, 20)
        worker = await start_worker(work)
        worker._puller.serve_lanes(await look(lanes, backlog))
        await eventually(lambda: nothing_queued(mesh))
    assert starts[60:100].count("urgent") >= 30, "a lane is no more urgent than its queue"


async def test_a_task_in_a_lane_is_found_cancelled_and_expired_as_any_other(
    server: Server, mesh: Mesh, tmp_path: Path
) -> None:
    await ensure_capability(mesh.connection, "echo", QUICK, "tester")
    await fill(mesh, "flood", 50)
    first = await mesh.submit("echo", {"n": 1})
    second = await mesh.submit("echo", {"n": 2}, deadline=2.5)
    async with contextlib.AsyncExitStack() as stack:
        connection, lanes, backlog = await sharing(server, stack, 20)
        await look(lanes, backlog)
        assert (await counts(connection))["normal.anon.fair"] == 2
        found = (await inspection.find_task(connection, first.task_id)).queued
        assert found is not None
        assert found.stored_at < found.deadline - 3599, "its deadline counts from its submit"
        queues = {(one.capability, one.priority): one.waiting for one in await inspection.queues(connection)}
        assert queues == {("echo", "normal"): 52}
        async with actor(STEWARD, server.url, tmp_path / "steward.log"):
            assert (await first.cancel()).cancelled
            assert (await second.outcome(timeout=30)).status == "expired"
            await eventually(lambda: stands(connection, {"normal.flood": 50}))  # they leave after their results stand
        assert (await audit(connection)).good


async def test_a_cancel_stops_the_copy_that_runs_while_its_original_is_found(
    server: Server, mesh: Mesh, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ensure_capability(mesh.connection, "echo", QUICK, "tester")
    await fill(mesh, "flood", 50)
    await fill(mesh, "light", 1)
    runs, stopped = asyncio.Event(), asyncio.Event()

    async def work(_: Any) -> None:
        runs.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with contextlib.AsyncExitStack() as stack:
        connection, lanes, backlog = await sharing(server, stack, 20)
        await backlog.refresh()
        await pause_queue(connection, b'{"pause_until":"2100-01-01T00:00:00Z"}')
        with monkeypatch.context() as patch:
            Crash(patch, "after the copies")
            patch.setattr(Lanes, "_info", as_if_not_paused(Lanes._info))
            with pytest.raises(ConnectionLostError):
                await lanes.look(lambda _: True)
        worker = await start_worker(work)
        worker._puller.serve_lanes(["echo.normal"])
        await in_time(runs.wait(), 10)
        original = await jetstream.at(connection, subjects.TASKS, 51)
        assert original is not None
        ender = Ender(connection, "tester", "tester-1")
        task = envelope_of(original, 3600.0)
        assert (await ender.end(task, "cancelled", TaskCancelledError(task.task_id, "tester"))).status == "cancelled"
        await in_time(stopped.wait(), 5)  # its time limit is 10
        await eventually(lambda: stands(connection, {"normal.flood": 50}))
        found = await audit(connection)
    assert (found.good, found.ended) == (True, 2), found


def as_if_not_paused(info: Any) -> Any:
    async def said(*given: Any) -> Any:
        return {**await info(*given), "paused": False}

    return said


async def test_a_lane_that_stays_empty_is_left_out_again(
    server: Server, mesh: Mesh, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull, "EXPIRES", 0.2)
    monkeypatch.setattr(pull, "KEPT", 0.3)
    await ensure_capability(mesh.connection, "echo", QUICK, "tester")
    await fill(mesh, "flood", 50)
    await fill(mesh, "light", 5)

    async def work(_: Any) -> None:
        return

    async with contextlib.AsyncExitStack() as stack:
        connection, lanes, backlog = await sharing(server, stack, 20)
        holding = await look(lanes, backlog)
        worker = await start_worker(work)
        worker._puller.serve_lanes(holding)
        assert [source.key for source in worker._puller._sources if source.lane] == ["echo.normal.fair"]
        await eventually(lambda: nothing_queued(mesh))
        assert await look(lanes, backlog) == []
        await eventually(lambda: not any(source.lane for source in worker._puller._sources))
        handle = await mesh.submit("echo", {})
        assert (await handle.outcome(timeout=10)).status == "succeeded"
        await jetstream.call(connection, "CONSUMER.INFO", subjects.TASKS, subjects.lane_consumer("echo", "normal"))


async def test_users_with_permissions_are_treated_fairly_and_cannot_take_the_lane_themselves(
    tmp_path: Path,
) -> None:
    keyring = Keyring(tmp_path / "keys")
    keyring.init()
    keyring.ensure("toiler", "agent", wish_of(agents.Toiler))
    for name in ("flood", "light"):
        keyring.ensure(name, "submitter", Wish(submits=("toil",)))
    async with Server(tmp_path / "nats", accounts=keyring.accounts) as server, contextlib.AsyncExitStack() as stack:
        here = Guarded(server, keyring)

        async def start(name: str, target: str) -> ActorProcess:
            env = {"REVO_FAIR_SHARE": "50", **here.env(name)}
            return await stack.enter_async_context(
                actor(target, server.url, tmp_path / f"{name}.log", name=name, **env)
            )

        operator = await stack.enter_async_context(here.mesh("operator"))
        await prepare(operator.connection, {"toiler": agents.Toiler})
        many, few = [await stack.enter_async_context(here.mesh(name)) for name in ("flood", "light")]
        await flood(many, 2000, seconds=0.02)
        await start(subjects.REGISTRY, "actors.registry:Registry")
        await start(subjects.STEWARD, STEWARD)
        await start("toiler", TOILER)
        handles = [await few.submit("toil", {"id": n}) for n in range(5)]
        ends = [await handle.outcome(timeout=60) for handle in handles]
        waited = await overtaken_by(operator.connection, ends)
        with pytest.raises(PermissionDeniedError):
            await few.connection.request("revo.task.toil.normal.light.fair", b"{}")
        said = await eventually(lambda: told(few))
        assert said.slots == 4, "who may submit may ask when"
        found = await audit(operator.connection)
    assert waited < 1000
    assert found.good, found


async def test_a_capability_is_paused_with_its_lanes(server: Server, mesh: Mesh) -> None:
    await ensure_capability(mesh.connection, "echo", QUICK, "tester")
    await fill(mesh, "flood", 50)
    await fill(mesh, "light", 5)
    async with contextlib.AsyncExitStack() as stack:
        connection, lanes, backlog = await sharing(server, stack, 20)
        await look(lanes, backlog)
        await fill(mesh, "late", 5)
        lane = (subjects.TASKS, subjects.lane_consumer("echo", "normal"))
        for paused in (True, False):
            await pause_capability(connection, "echo", paused=paused)
            assert (await jetstream.call(connection, "CONSUMER.INFO", *lane)).get("paused", False) is paused
            await look(lanes, backlog)
            assert ("normal.late.fair" in await counts(connection)) is not paused, "while it is, nothing is moved"


@pytest.mark.parametrize("paused", [True, False])
async def test_a_pause_that_comes_while_a_lane_is_made_counts_for_the_lane(
    server: Server, mesh: Mesh, monkeypatch: pytest.MonkeyPatch, paused: bool
) -> None:
    await ensure_capability(mesh.connection, "echo", QUICK, "tester")
    await fill(mesh, "flood", 50)
    await fill(mesh, "light", 5)
    async with contextlib.AsyncExitStack() as stack:
        connection, lanes, backlog = await sharing(server, stack, 20)
        make = Lanes._make

        async def late(self: Lanes, name: str, wanted: Any) -> Any:
            await pause_capability(connection, "echo", paused=paused)
            return await make(self, name, wanted)

        monkeypatch.setattr(Lanes, "_make", late)
        await look(lanes, backlog)
        lane = (subjects.TASKS, subjects.lane_consumer("echo", "normal"))
        assert (await jetstream.call(connection, "CONSUMER.INFO", *lane)).get("paused", False) is paused
        await jetstream.call(connection, "CONSUMER.PAUSE", *lane, body={"pause_until": "2100-01-01T00:00:00Z"})
        await look(lanes, backlog)
        assert (await jetstream.call(connection, "CONSUMER.INFO", *lane)).get("paused", False) is paused


async def test_a_lane_is_run_as_its_queue_is_changed(server: Server, mesh: Mesh) -> None:
    await ensure_capability(mesh.connection, "echo", QUICK, "tester")
    await fill(mesh, "flood", 50)
    await fill(mesh, "light", 5)
    async with contextlib.AsyncExitStack() as stack:
        connection, lanes, backlog = await sharing(server, stack, 20)
        await look(lanes, backlog)
        config = (await jetstream.call(connection, "CONSUMER.INFO", subjects.TASKS, "echo-normal"))["config"]
        names = (subjects.TASKS, "echo-normal", config["filter_subject"])
        body = {"stream_name": subjects.TASKS, "config": {**config, "ack_wait": 9_000_000_000}, "action": "update"}
        await jetstream.call(connection, "CONSUMER.CREATE", *names, body=body)
        await look(lanes, backlog)
        lane = await jetstream.call(connection, "CONSUMER.INFO", subjects.TASKS, "echo-normal-fair")
        assert lane["config"]["ack_wait"] == 9_000_000_000


async def test_what_stands_in_a_lane_goes_back_when_nobody_is_left_who_serves_it(
    server: Server, mesh: Mesh, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ensure_capability(mesh.connection, "echo", QUICK, "tester")
    await fill(mesh, "flood", 50)
    light = await fill(mesh, "light", 5)
    async with contextlib.AsyncExitStack() as stack:
        connection, lanes, backlog = await sharing(server, stack, 20)
        await look(lanes, backlog)
        await backlog.refresh()
        before = (await inspection.find_task(connection, light[0].task_id)).queued
        assert await lanes.look(lambda _: False) == ["echo.normal"], "they may be back in a moment"
        monkeypatch.setattr(lanes_module, "UNSERVED", 0.0)
        with monkeypatch.context() as patch:
            Crash(patch, "before the note")
            with pytest.raises(ConnectionLostError):
                await lanes.look(lambda _: False)
        assert await counts(connection) == {"normal.flood": 50, "normal.light": 5, "normal.light.fair": 5}
        await backlog.refresh()
        await lanes.look(lambda _: False)
        assert await counts(connection) == {"normal.flood": 50, "normal.light": 5}
        after = (await inspection.find_task(connection, light[0].task_id)).queued
        assert before is not None
        assert after is not None
        assert after.deadline == before.deadline
        ran: list[Any] = []

        async def work(message: Any) -> None:
            ran.append(message["of"])

        await start_worker(work)
        await eventually(lambda: nothing_queued(mesh))
        found = await audit(connection)
    assert (ran.count("flood"), ran.count("light")) == (50, 5), "each ran once"
    assert (found.good, found.accepted) == (True, 55), found


async def told(mesh: Mesh) -> Estimate | None:
    """What is estimated once a heartbeat has said how long such tasks take."""
    said = await mesh.estimate("toil")
    return said if said.took else None


async def test_a_queue_of_an_earlier_version_gets_its_lanes(connection: Connection) -> None:
    await apply(connection)
    config = (await jetstream.call(connection, "STREAM.INFO", subjects.TASKS))["config"]
    config["subjects"] = [one for one in config["subjects"] if not one.endswith(".fair")]
    await jetstream.call(connection, "STREAM.UPDATE", subjects.TASKS, body=config)
    assert await apply(connection) == []
    config = (await jetstream.call(connection, "STREAM.INFO", subjects.TASKS))["config"]
    assert sorted(config["subjects"]) == sorted(subjects.TASK_FORMS)
