"""What a handler has saved: the next attempt goes on from it, and who was thought dead cannot overwrite it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import signal
from pathlib import Path
from typing import ClassVar

import pytest

from actors.actor import Agent, TaskContext, check_class, task
from bus import checkpoints, codec, jetstream, subjects
from bus.connection import Connection
from bus.errors import (
    ConfigError,
    ConnectionLostError,
    PayloadTooLargeError,
    QueueFullError,
    Retry,
    SupersededError,
    TaskFailedError,
    WrongSequenceError,
)
from bus.following import Chunk
from bus.mesh import Mesh
from bus.messages import CONTENT_TYPE, MSGPACK, Envelope
from bus.pending import Pending
from bus.server import Server
from bus.tasks import envelope_of
from tests.conftest import QUICK, StartWorker
from tests.eventually import eventually
from tests.guarded import at_work, before
from tests.integration.streaming import WOKEN, Place, Story, numbers, read, serve
from tests.integration.test_progress import TELLER
from tests.processes import actor


def holding(journal: Path, number: int) -> list[str] | None:
    held = [line for line in read(journal) if line[0] == "hold"]
    return held[number] if len(held) > number else None


async def stands(mesh: Mesh, capability: str, task_id: str) -> jetstream.StoredMessage | None:
    subject = subjects.saved(mesh.client, capability, task_id)
    return await jetstream.last(mesh.connection, subjects.CHECKPOINTS, subject)


async def test_a_worker_that_was_thought_dead_cannot_overwrite_its_successor(
    mesh: Mesh, server: Server, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    async with (
        actor(TELLER, server.url, tmp_path / "1", REVO_ACK_WAIT="1") as first,
        actor(TELLER, server.url, tmp_path / "2", REVO_ACK_WAIT="1") as second,
    ):
        handle = await mesh.submit("tell", {"pages": 9, "hold": 3, "holds": 2, "journal": str(journal)})
        pid = int((await eventually(lambda: holding(journal, 0)))[2])
        zombie, other = (first, second) if first.pid == pid else (second, first)
        zombie.signal(signal.SIGSTOP)
        assert int((await eventually(lambda: holding(journal, 1)))[2]) == other.pid
        zombie.signal(signal.SIGCONT)
        zombie.signal(signal.SIGUSR1)
        await eventually(lambda: "is superseded" in zombie.log)
        standing = await stands(mesh, "tell", handle.task_id)
        assert standing is not None
        assert codec.read(Place, standing.headers, standing.body).pages == 6, "the successor's state stands"
        other.signal(signal.SIGUSR1)
        outcome = await handle.outcome(timeout=30)
        assert (outcome.value, outcome.instance) == (9, other.instance)
        told = [item async for item in handle.follow()]
        pages = [item.value["pid"] for item in told if isinstance(item, Chunk)]
        assert pages == [zombie.pid] * 4 + [other.pid] * (6 + WOKEN), "what the zombie says is left out"
        assert numbers(told) == list(range(1, 2 * 4 + 2 * 6 + WOKEN + 1))
        await eventually(lambda: _gone(mesh, handle.task_id))


async def _gone(mesh: Mesh, task_id: str) -> bool:
    standing = await stands(mesh, "tell", task_id)
    return standing is None or not standing.body


class Dogged(Agent):
    """Saves without a look at what becomes of it."""

    reached: ClassVar[asyncio.Event]
    go: ClassVar[asyncio.Event]

    @task("dogged", saves=Place)
    async def dogged(self, story: Story, context: TaskContext) -> list[int]:
        before = context.saved.pages if context.saved is not None else 0
        await context.save(Place(pages=before + 1))
        if before == 0:
            self.reached.set()
            await self.go.wait()
            context.save(Place(pages=99))
            await asyncio.Event().wait()
        return [before, context.attempt]


async def test_an_attempt_that_is_superseded_is_stopped_and_leaves_no_trace(
    mesh: Mesh, start_worker: StartWorker
) -> None:
    Dogged.reached, Dogged.go = asyncio.Event(), asyncio.Event()
    await serve(start_worker, Dogged)
    handle = await mesh.submit("dogged", {})
    await Dogged.reached.wait()
    of_it = dataclasses.replace(envelope(1), client=mesh.client, capability="dogged", task_id=handle.task_id)
    await checkpoints.Checkpoint(mesh.connection, of_it, 1, lambda _: None).claim()
    Dogged.go.set()
    outcome = await handle.outcome(timeout=20)
    assert (outcome.value, outcome.deliveries) == ([1, 1], 2), "another delivery goes on, and nothing counts against it"


class Deaf(Agent):
    """Hears that it is superseded, and stays."""

    begun: ClassVar[asyncio.Event]
    go: ClassVar[asyncio.Event]
    told: ClassVar[asyncio.Event]

    @task("deaf", saves=Place)
    async def deaf(self, story: Story, context: TaskContext) -> None:
        await context.save(Place(pages=1))
        self.begun.set()
        await self.go.wait()
        with contextlib.suppress(SupersededError):
            await context.save(Place(pages=2))
        self.told.set()
        await asyncio.Event().wait()


async def test_who_is_superseded_hands_nothing_back_when_it_leaves(mesh: Mesh, start_worker: StartWorker) -> None:
    Deaf.begun, Deaf.go, Deaf.told = asyncio.Event(), asyncio.Event(), asyncio.Event()
    said: list[bytes] = []
    await mesh.connection.subscribe("$JS.ACK.>", lambda message: said.append(message.data))
    worker = await serve(start_worker, Deaf)
    handle = await mesh.submit("deaf", {})
    await Deaf.begun.wait()
    of_it = dataclasses.replace(envelope(2), client=mesh.client, capability="deaf", task_id=handle.task_id)
    await checkpoints.Checkpoint(mesh.connection, of_it, 2, lambda _: None).claim()
    Deaf.go.set()
    await Deaf.told.wait()
    await worker.drain(0)
    await worker._connection.flush()
    await mesh.connection.flush()
    assert not [word for word in said if word.startswith((b"-NAK", b"+ACK", b"+TERM"))], "the delivery is another's"


class Saver(Agent):
    """Saves as it is told."""

    @task("save", saves=Place, backoff=0.05)
    async def save(self, story: Story, context: TaskContext) -> list[int]:
        place = context.saved
        before = place.pages if place is not None else -1
        for page in range(before + 1, story.pages):
            context.save(Place(pages=page))
        if context.attempt <= story.holds:
            raise Retry(0.01)
        return [before, context.attempt]


class ThreadedSaver(Agent):
    @task("thread_save", saves=Place)
    def save(self, story: Story, context: TaskContext) -> int:
        before = context.saved.pages if context.saved is not None else 0
        context.save(Place(pages=before + 10))
        if context.attempt == 1:
            raise Retry(0.01)
        return before


async def test_an_error_keeps_what_was_saved_and_the_result_takes_it_away(
    mesh: Mesh, start_worker: StartWorker
) -> None:
    await serve(start_worker, Saver)
    handle = await mesh.submit("save", {"pages": 500, "holds": 1})
    assert await handle.result(timeout=20) == [499, 2], "the last of what was saved, and nobody awaited, stood"
    await eventually(lambda: _empty(mesh, handle.task_id))


async def _empty(mesh: Mesh, task_id: str) -> bool:
    return await stands(mesh, "save", task_id) is None


async def test_a_plain_handler_saves_from_its_thread(mesh: Mesh, start_worker: StartWorker) -> None:
    await serve(start_worker, ThreadedSaver)
    assert await (await mesh.submit("thread_save", {})).result(timeout=20) == 10


class Wrong(Agent):
    @task("wrong", saves=Place, max_attempts=1)
    async def wrong(self, story: Story, context: TaskContext) -> None:
        if story.pages == 0:
            await context.save(story.journal)
        else:
            await context.save(Place.model_construct(pages=1 << 70))


@pytest.mark.parametrize(("case", "says"), [(0, "checkpoint of wrong .*not what is declared"), (1, "does not encode")])
async def test_a_state_that_cannot_be_saved_is_the_handlers_error(
    mesh: Mesh, start_worker: StartWorker, case: int, says: str
) -> None:
    await serve(start_worker, Wrong)
    with pytest.raises(TaskFailedError, match=says) as caught:
        await (await mesh.submit("wrong", {"pages": case})).result(timeout=20)
    assert caught.value.code == "encode"


def test_a_handler_that_saves_needs_a_context() -> None:
    class Without(Agent):
        @task("without", saves=Place)
        async def without(self, story: Story) -> None: ...

    with pytest.raises(ConfigError, match="needs a TaskContext"):
        check_class(Without)


def envelope(deliveries: int) -> Envelope:
    stored = jetstream.StoredMessage("revo.task.save.normal.anon", 1, {"Revo-Task-Id": "t1"}, b"{}", 10**18)
    return envelope_of(stored, 4e9, deliveries=deliveries)


def checkpoint(connection: Connection, deliveries: int) -> checkpoints.Checkpoint:
    return checkpoints.Checkpoint(connection, envelope(deliveries), deliveries, lambda _: None)


async def test_a_save_whose_answer_is_lost_is_told_from_one_that_came_too_late(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, lose = jetstream.store, [2]

    async def lossy(*args: object, **how: object) -> jetstream.Stored:
        stored: jetstream.Stored = await store(*args, **how)  # type: ignore[arg-type]
        if lose[0]:
            lose[0] -= 1
            return await store(*args, **how)  # type: ignore[arg-type]  # as when it is sent again
        return stored

    monkeypatch.setattr(jetstream, "store", lossy)
    first = checkpoint(mesh.connection, 1)
    await first.claim()
    await first.save({"pages": 1}, None)
    await first.save({"pages": 2}, None)
    assert not lose[0]
    second = checkpoint(mesh.connection, 2)
    await second.claim()
    assert second.found() == (True, {"pages": 2})
    for _ in range(2):
        with pytest.raises(SupersededError, match="run 1 of task t1 is superseded"):
            await first.save({"pages": 3}, None)
    with pytest.raises(SupersededError):
        await checkpoint(mesh.connection, 1).claim()  # it was stopped before it could claim, and the second was not
    await second.save({"pages": 4}, None)


async def test_what_was_submitted_before_a_save_stands_with_it_however_many_runs_claim_it(mesh: Mesh) -> None:
    first = checkpoint(mesh.connection, 1)
    await first.save({"pages": 1}, None, "1:AAAA")
    first.save({"pages": 2}, None, "2:AAAA")
    await first.save({"pages": 3}, None, "3:AAAA")
    second, third = checkpoint(mesh.connection, 2), checkpoint(mesh.connection, 3)
    for other in (second, third):
        await other.claim()
        assert (other.found(), other.children) == ((True, {"pages": 3}), "3:AAAA")
    with pytest.raises(PayloadTooLargeError, match="Revo-Children"):
        await third.save({"pages": 4}, None, "A" * 65_000)
    await third.save({"pages": 4}, None, "1:" + "A" * 59_000)


async def test_a_save_that_failed_for_want_of_a_server_does_not_stop_the_next_one(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, lose = jetstream.store, [1]

    async def lossy(*args: object, **how: object) -> jetstream.Stored:
        stored: jetstream.Stored = await store(*args, **how)  # type: ignore[arg-type]
        if lose[0]:
            lose[0] -= 1
            raise ConnectionLostError("revo.saved")
        return stored

    first = checkpoint(mesh.connection, 1)
    monkeypatch.setattr(jetstream, "store", lossy)
    with pytest.raises(ConnectionLostError):
        await first.save({"pages": 1}, None)
    await first.save({"pages": 2}, None)
    other = checkpoint(mesh.connection, 2)
    await other.claim()
    assert other.found() == (True, {"pages": 2})


async def test_what_was_said_before_a_save_is_stored_before_it(mesh: Mesh) -> None:
    early, said, saver = Pending(), Pending(), checkpoint(mesh.connection, 1)
    first = saver.save({"pages": 0}, early)
    await mesh.connection.flush()
    save = saver.save({"pages": 1}, said)
    assert save is first, "of two that wait only the newer is stored"
    early.succeed()
    await mesh.connection.flush()
    assert not saver.stands
    said.fail(WrongSequenceError("x", "y"))
    with pytest.raises(WrongSequenceError):
        await save
    assert not saver.stands, "a state must not say that something was shown that never was"
    await saver.flush()


async def test_an_agent_with_credentials_of_before_checkpoints_does_what_saves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before(monkeypatch, ".CHECKPOINTS.", "revo.saved.")
    async with (
        at_work(tmp_path, "teller", "tell") as here,
        actor("actors.steward:Steward", here.server.url, tmp_path / "steward.log", **here.env(subjects.STEWARD)),
        actor(TELLER, here.server.url, tmp_path / "teller.log", **here.env("teller")),
        here.mesh("alice") as mesh,
    ):
        saving = await mesh.submit("tell", {"pages": 1}, task_id="one")
        with pytest.raises(TaskFailedError, match=r"may not publish.* revo\.saved\.alice\.tell\.one"):
            await saving.result(timeout=20)
        assert await (await mesh.submit("tell", {"pages": 0}, task_id="two")).result(timeout=20) == 0


class Keeper(Agent):
    """Saves what it is given, and returns what an attempt before it has saved."""

    @task("keep", saves=Place)
    async def keep(self, place: Place, context: TaskContext) -> int:
        if place.pages:
            await context.save(place)
        return context.saved.pages if context.saved else 0


async def test_where_there_is_no_room_for_checkpoints_only_those_wait_who_have_one(
    mesh: Mesh, start_worker: StartWorker
) -> None:
    connection = mesh.connection
    info = await jetstream.call(connection, "STREAM.INFO", subjects.CHECKPOINTS)
    config = {**info["config"], "max_bytes": 64 * 1024}
    await jetstream.call(connection, "STREAM.UPDATE", subjects.CHECKPOINTS, body=config)
    state = codec.encode({"pages": 7}, MSGPACK)
    await jetstream.store(connection, subjects.saved("anon", "keep", "old"), state, {CONTENT_TYPE: MSGPACK})
    for size in (1000, 10):
        with contextlib.suppress(QueueFullError):
            for number in range(1000):
                await jetstream.store(connection, subjects.saved("anon", "other", f"{size}-{number}"), bytes(size))
    worker = await serve(start_worker, Keeper, policy=dataclasses.replace(QUICK, max_attempts=1), concurrency=2)
    waits = await mesh.submit("keep", {}, task_id="old")
    assert await (await mesh.submit("keep", {}, task_id="new")).result(timeout=10) == 0
    with pytest.raises(TaskFailedError, match="full"):
        await (await mesh.submit("keep", {"pages": 1}, task_id="saves")).result(timeout=10)
    assert not waits.arrival.done
    assert worker.unstored == 0, "it takes what it can do"
    body = {"filter": subjects.saved("anon", "other", "*")}
    await jetstream.call(connection, "STREAM.PURGE", subjects.CHECKPOINTS, body=body)
    outcome = await waits.outcome(timeout=10)
    assert (outcome.value, outcome.attempts) == (7, 1)
    assert outcome.deliveries > 1


async def test_a_run_that_found_no_room_to_claim_takes_over_what_an_earlier_one_saves_then(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = checkpoint(mesh.connection, 1), checkpoint(mesh.connection, 2)

    async def full(*_: object) -> jetstream.Stored:
        raise QueueFullError("revo.saved", "maximum bytes exceeded")

    with monkeypatch.context() as there:
        there.setattr(jetstream, "store", full)
        await second.claim()
    await first.save({"pages": 1}, None)
    await second.save({"pages": 2}, None)
    with pytest.raises(SupersededError):
        await first.save({"pages": 3}, None)
