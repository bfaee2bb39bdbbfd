"""What handlers say while they run: each number once and in order, whatever dies, and no worker waits for a reader."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import signal
import threading
import time
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import TypeAdapter

from actors.actor import Agent, TaskContext, task
from actors.steward.telling import Asked, Telling
from bus import emitting, following, jetstream, reading, subjects
from bus.budgets import Budget
from bus.emitting import Emitter
from bus.errors import (
    ConfigError,
    DamagedBlobError,
    EncodeError,
    NotFoundError,
    PermissionDeniedError,
    QueueFullError,
    Retry,
    TaskFailedError,
)
from bus.following import Chunk, Item, Lost, Progress
from bus.mesh import Mesh
from bus.rpc import CALLER
from bus.server import Server
from bus.settings import MIB, Settings
from bus.wire import Message
from tests.conftest import QUICK, StartWorker
from tests.eventually import eventually
from tests.guarded import at_work
from tests.integration.streaming import Place, Story, numbers, read, serve
from tests.processes import actor
from tests.proxy import proxied

TELLER = "tests.integration.streaming:Teller"
REGISTRY, STEWARD = "actors.registry:Registry", "actors.steward:Steward"


class Stepper(Agent):
    """Shows number after number, and waits where a test tells it to."""

    def __init__(self) -> None:
        self.reached, self.go = asyncio.Event(), asyncio.Event()

    @task("step")
    async def step(self, story: Story, context: TaskContext) -> int:
        for page in range(story.pages):
            context.emit(page)
            if page == story.hold:
                self.reached.set()
                await self.go.wait()
        return story.pages


async def stepper(start_worker: StartWorker, **how: object) -> Stepper:
    made: list[Stepper] = []

    class One(Stepper):
        name = "stepper"

        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    await serve(start_worker, One, **how)
    return made[0]


async def test_who_follows_gets_each_number_once_and_in_order_from_any_number_on(
    mesh: Mesh, start_worker: StartWorker, settings: Settings
) -> None:
    steps = await stepper(start_worker)
    steps.go.set()
    handle = await mesh.submit("step", {"pages": 1000, "hold": -1})
    got = [item async for item in handle.follow()]
    assert [(item.number, item.value) for item in got if isinstance(item, Chunk)] == [(n + 1, n) for n in range(1000)]
    assert len(got) == 1000
    assert (await handle.outcome()).chunks == 1000, "all that was said stands before the result does"
    async with Mesh.connect(settings=settings) as other:
        late = [item async for item in other.handle("step", handle.task_id).follow(after=990)]
    assert late == got[990:]
    for wrong in (-1, True, 1.5):
        with pytest.raises(ConfigError, match="not a whole number"):
            handle.follow(after=wrong)  # type: ignore[arg-type]


async def test_a_killed_workers_task_goes_on_where_it_was_and_the_numbers_with_it_for_restricted_users(
    tmp_path: Path,
) -> None:
    journal = tmp_path / "journal"
    async with at_work(tmp_path, "teller", "tell", dataclasses.replace(QUICK, time_limit=60.0)) as here:
        url, env = here.server.url, here.env
        async with (
            actor(REGISTRY, url, tmp_path / "registry", **env(subjects.REGISTRY)),
            actor(STEWARD, url, tmp_path / "steward", **env(subjects.STEWARD)),
            actor(TELLER, url, tmp_path / "1", REVO_ACK_WAIT="1", **env("teller")) as first,
            actor(TELLER, url, tmp_path / "2", REVO_ACK_WAIT="1", **env("teller")) as second,
            here.mesh("alice") as mesh,
        ):
            handle = await mesh.submit("tell", {"pages": 8, "hold": 3, "holds": 1, "journal": str(journal)})
            got = []
            async with aclosing(handle.follow()) as said:
                async for item in said:
                    got.append(item)
                    if isinstance(item, Progress) and item.text == "page 3" and item.run == 1:
                        pid = int((await eventually(lambda: [x for x in read(journal) if x[0] == "hold"]))[0][2])
                        (first if first.pid == pid else second).signal(signal.SIGKILL)
            assert await handle.result(timeout=30) == 8
            late = [item async for item in mesh.handle("tell", handle.task_id).follow(after=2)]
    assert [item.number for item in got if not isinstance(item, Lost)] == list(range(1, 19)), got
    assert late == got[2:], "who reads it later, by a steward, gets the same"
    assert {item.run for item in got if not isinstance(item, Lost)} >= {1, 2}
    pages = [int(line[1]) for line in read(journal) if line[0] == "page"]
    assert pages == [0, 1, 2, 3, 3, 4, 5, 6, 7], "only what was done since the last checkpoint is done again"


async def test_nothing_is_missing_and_nothing_comes_twice_when_the_server_is_killed_meanwhile(
    mesh: Mesh, start_worker: StartWorker, server: Server
) -> None:
    steps = await stepper(start_worker)
    handle = await mesh.submit("step", {"pages": 600, "hold": 300})
    got = []
    async with aclosing(handle.follow()) as said:
        async for item in said:
            got.append(item)
            if len(got) == 10:
                await steps.reached.wait()
                server.kill()
                steps.go.set()
                await server.wait()
                await server.start()
    assert [(item.number, item.value) for item in got if isinstance(item, Chunk)] == [(n + 1, n) for n in range(600)]
    assert len(got) == 600
    assert await handle.result(timeout=30) == 600


async def test_a_listener_that_was_cut_off_reads_what_it_did_not_hear(
    start_worker: StartWorker, settings: Settings, server: Server
) -> None:
    steps = await stepper(start_worker)
    async with (
        proxied(server.url) as wire,
        Mesh.connect(settings=settings.model_copy(update={"nats_url": wire.url})) as far,
        Mesh.connect(settings=settings) as near,
    ):
        handle = await far.submit("step", {"pages": 50, "hold": 20})
        got = []
        async with aclosing(handle.follow()) as said:
            async for item in said:
                got += numbers([item])
                if len(got) == 21:
                    await wire.cut()
                    steps.go.set()
                    await near.handle("step", handle.task_id).result(timeout=20)
                    wire.mend()
        assert got == list(range(1, 51))


async def test_a_listener_that_reads_slowly_keeps_nobody_waiting_and_misses_nothing(
    mesh: Mesh, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "BUFFERED", 20)
    steps = await stepper(start_worker)
    handle = await mesh.submit("step", {"pages": 300, "hold": 0})
    got = []
    async with aclosing(handle.follow()) as said:
        async for item in said:
            got += numbers([item])
            if len(got) == 1:
                steps.go.set()
                assert await handle.result(timeout=20) == 300, "the worker has ended and the listener has read one"
    assert got == list(range(1, 301))


async def test_what_is_not_heard_is_read(
    mesh: Mesh, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    hear, count = following._Follower._on_message, iter(range(1000))

    def deaf_now_and_then(follower: following._Follower, message: Message) -> None:
        if next(count) % 7:
            hear(follower, message)

    monkeypatch.setattr(following._Follower, "_on_message", deaf_now_and_then)
    steps = await stepper(start_worker)
    handle = await mesh.submit("step", {"pages": 100, "hold": 50})
    mesh.connection.settings.__dict__["publish_timeout"] = 1.0  # longer nothing is waited for
    got: list[Item] = []
    async with aclosing(handle.follow()) as said:
        async for item in said:
            got.append(item)
            if len(got) == 40:
                steps.go.set()
    assert not [item for item in got if isinstance(item, Lost)], "nothing is lost"
    assert numbers(got) == list(range(1, 101))


class Lavish(Agent):
    """Shows a little, and returns a lot."""

    @task("lavish")
    async def lavish(self, story: Story, context: TaskContext) -> bytes:
        for page in range(story.pages):
            context.emit(page)
        return bytes(MIB)


async def test_whoever_follows_needs_no_large_value(mesh: Mesh, start_worker: StartWorker, settings: Settings) -> None:
    await serve(start_worker, Lavish)
    handle = await mesh.submit("lavish", {"pages": 3})
    assert await handle.result(timeout=10) == bytes(MIB)
    await jetstream.call(mesh.connection, "STREAM.PURGE", subjects.BLOBS)
    async with Mesh.connect(settings=settings) as other:
        late = other.handle("lavish", handle.task_id)
        assert numbers([item async for item in late.follow()]) == [1, 2, 3]
        with pytest.raises(DamagedBlobError):
            await late.outcome(timeout=10)


async def test_what_is_gone_for_good_is_said(mesh: Mesh, start_worker: StartWorker) -> None:
    steps = await stepper(start_worker)
    steps.go.set()
    handle = await mesh.submit("step", {"pages": 10, "hold": -1})
    assert await handle.result(timeout=20) == 10
    subject = subjects.progress(mesh.client, "step", handle.task_id)
    purge = {"filter": subject, "keep": 4}
    await jetstream.call(mesh.connection, "STREAM.PURGE", subjects.PROGRESS, body=purge)
    handle._client.connection.settings.__dict__["publish_timeout"] = 0.05  # nothing is on its way any more
    some = [item async for item in handle.follow()]
    assert some[0] == Lost(1, 6)
    assert [item.number for item in some[1:] if not isinstance(item, Lost)] == [7, 8, 9, 10]
    await jetstream.call(mesh.connection, "STREAM.PURGE", subjects.PROGRESS, body={"filter": subject})
    assert [item async for item in handle.follow(after=3)] == [Lost(4, 10)]


class Threaded(Agent):
    @task("thread", backoff=0.05)
    def thread(self, story: Story, context: TaskContext) -> str:
        context.progress(0.5, "half")
        for page in range(story.pages):
            context.emit(b"%d" % page)
        if context.attempt == 1:
            raise Retry(0.01)
        return threading.current_thread().name


async def test_a_plain_handler_says_things_from_its_thread(mesh: Mesh, start_worker: StartWorker) -> None:
    await serve(start_worker, Threaded)
    handle = await mesh.submit("thread", {"pages": 600})
    got = [item async for item in handle.follow()]
    assert isinstance(got[0], Progress)
    assert (got[0].share, got[0].text) == (0.5, "half")
    once = [b"%d" % n for n in range(600)]
    assert [item.value for item in got if isinstance(item, Chunk)] == [*once, *once], (
        "an error comes after what was said"
    )
    assert numbers(got) == list(range(1, 1203))
    assert "MainThread" not in await handle.result()


class Careless(Agent):
    @task("careless", max_attempts=1)
    async def careless(self, story: Story, context: TaskContext) -> str:
        if story.pages == 0:
            context.emit(object())
        elif story.pages == 1:
            context.emit(b"x" * 2_000_000)
        elif story.pages == 2:
            context.progress(1.5)
        elif story.pages == 3:
            await context.save({"pages": 1})
        else:
            context.emit("never stored")
        return "done"


@pytest.mark.parametrize(
    ("case", "code", "says"),
    [
        (0, "encode", "no wire form"),
        (1, "payload_too_large", "exceeds the limit"),
        (2, "config", "not a share from 0 to 1"),
        (3, "config", "saves nothing; declare what, as in saves=State"),
    ],
)
async def test_what_cannot_be_said_is_the_handlers_error_at_once(
    mesh: Mesh, start_worker: StartWorker, case: int, code: str, says: str
) -> None:
    await serve(start_worker, Careless)
    with pytest.raises(TaskFailedError, match=says) as caught:
        await (await mesh.submit("careless", {"pages": case})).result(timeout=20)
    assert caught.value.code == code


async def test_a_handler_that_says_more_than_can_be_sent_and_awaits_nothing_is_told_so(
    mesh: Mesh, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Flood(Agent):
        @task("flood", max_attempts=1)
        async def flood(self, story: Story, context: TaskContext) -> None:
            for n in range(20_000):
                context.progress(n / 20_000)  # of these only the newest waits
            context.emit("x")
            for n in range(story.pages):
                context.emit(n)

    await serve(start_worker, Flood)
    handle = await mesh.submit("flood", {"pages": 9_000})
    got = [item async for item in handle.follow()]
    assert [item.value for item in got if isinstance(item, Chunk)] == ["x", *range(9_000)]
    assert len(got) < 9_500
    with pytest.raises(TaskFailedError, match=r"10000 chunks of .* bytes wait to be sent; write `await context.emit"):
        await (await mesh.submit("flood", {"pages": 11_000})).result(timeout=20)
    monkeypatch.setattr(emitting, "BACKLOG_BYTES", 100)
    with pytest.raises(TaskFailedError, match=r"write `await context.emit"):
        await (await mesh.submit("flood", {"pages": 9_000})).result(timeout=20)


async def test_what_can_never_be_stored_and_nobody_awaited_is_the_attempts_error(
    mesh: Mesh, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(_: Emitter, said: object) -> None:
        raise PermissionDeniedError("publish to", "revo.progress.x")

    monkeypatch.setattr(Emitter, "_stored", refused)
    await serve(start_worker, Careless, policy=dataclasses.replace(QUICK, max_attempts=1))
    with pytest.raises(TaskFailedError) as caught:
        await (await mesh.submit("careless", {"pages": 4})).result(timeout=20)
    assert caught.value.code == "permission_denied"


class Speaker(Agent):
    """Says, spends and saves things while there is no server, and awaits nothing."""

    begun: ClassVar[asyncio.Queue[None]]
    go: ClassVar[asyncio.Event]

    @task("speak", saves=Place)
    async def speak(self, story: Story, context: TaskContext) -> int:
        self.begun.put_nowait(None)
        await self.go.wait()
        for page in range(story.pages):
            context.emit(page)
        context.spend(tokens=4)
        context.save(Place(pages=7))
        if story.hold:
            raise ConfigError("story", "no retry cures it")
        return 42


async def test_what_comes_of_a_handler_waits_for_what_it_has_said_for_as_long_as_a_result_and_is_not_changed(
    mesh: Mesh, start_worker: StartWorker, server: Server
) -> None:
    Speaker.begun, Speaker.go = asyncio.Queue(), asyncio.Event()
    policy = dataclasses.replace(QUICK, time_limit=1.5, ack_wait=30.0)
    async with proxied(server.url) as wire:
        overrides = {"publish_timeout": 1.6, "request_timeout": 0.5, "nats_url": wire.url}
        worker = await serve(start_worker, Speaker, policy=policy, concurrency=2, overrides=overrides)
        well = await mesh.submit("speak", {"pages": 3, "hold": 0}, budget=Budget(tokens=10))
        ill = await mesh.submit("speak", {"pages": 3, "hold": 1})
        for _ in range(2):
            await Speaker.begun.get()
        await wire.cut()
        Speaker.go.set()
        await eventually(lambda: worker._settler.waiting == 2)  # by then both time limits have passed
        wire.mend()
        outcome = await well.outcome(timeout=30)
        assert (outcome.status, outcome.value, outcome.attempts) == ("succeeded", 42, 1)
        outcome = await ill.outcome(timeout=30)
        assert outcome.error is not None
        assert (outcome.error.code, outcome.attempts) == ("config", 1), "no other error takes its place"
        await worker.drain(0)
    for handle in (well, ill):
        assert numbers([item async for item in handle.follow()]) == [1, 2, 3]
    (subject,) = await reading.subjects_in(mesh.connection, subjects.BUDGETS, "revo.spent.*.tokens")
    spent = await jetstream.last(mesh.connection, subjects.BUDGETS, subject)
    assert spent is not None
    assert json.loads(spent.body) == {"val": "4"}, "it counts once"


async def test_a_value_whose_chunks_cannot_be_stored_for_long_is_handed_back_and_does_not_fail(
    mesh: Mesh, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, refusals = Emitter._stored, [2]

    async def full(emitter: Emitter, said: Any) -> None:
        if refusals[0]:
            refusals[0] -= 1
            raise QueueFullError("revo.progress.x", "insufficient storage")
        await stored(emitter, said)

    monkeypatch.setattr(Emitter, "_stored", full)
    policy = dataclasses.replace(QUICK, max_attempts=1)
    await serve(start_worker, Careless, policy=policy, overrides={"settle_patience": 0.0})
    outcome = await (await mesh.submit("careless", {"pages": 4})).outcome(timeout=20)
    assert (outcome.status, outcome.attempts, outcome.deliveries) == ("succeeded", 1, 2)


class Leaver(Agent):
    """Says and saves the most when it has to go, and awaits nothing."""

    begun: ClassVar[asyncio.Event]

    @task("leave", saves=Place)
    async def leave(self, story: Story, context: TaskContext) -> int:
        if isinstance(context.saved, Place):
            return context.saved.pages
        try:
            if story.hold:
                self.begun.set()
                await asyncio.Event().wait()
        finally:
            for page in range(story.pages):
                context.emit(page)
            context.save(Place(pages=story.pages))
        raise SystemExit(1)


async def test_what_nobody_awaits_is_stored_too_at_the_time_limit_at_an_exit_and_when_a_worker_leaves(
    mesh: Mesh, start_worker: StartWorker
) -> None:
    Leaver.begun = asyncio.Event()
    policy = dataclasses.replace(QUICK, time_limit=0.3)
    worker = await serve(start_worker, Leaver, policy=policy, concurrency=2)
    handles = [await mesh.submit("leave", {"pages": 2000, "hold": n}) for n in (0, 1)]
    for handle in handles:
        outcome = await handle.outcome(timeout=20)
        assert (outcome.value, outcome.attempts) == (2000, 2)
        assert numbers([item async for item in handle.follow()]) == list(range(1, 2001))
    await worker.drain()
    Leaver.begun.clear()
    worker = await serve(start_worker, Leaver, policy=dataclasses.replace(QUICK, time_limit=30.0))
    handle = await mesh.submit("leave", {"pages": 100, "hold": 1})
    await Leaver.begun.wait()
    await worker.drain(0)
    assert not handle.arrival.done
    await serve(start_worker, Leaver)
    outcome = await handle.outcome(timeout=20)
    assert (outcome.value, outcome.attempts) == (100, 1)


async def test_what_a_json_task_says_is_json_and_its_bytes_are_msgpack(mesh: Mesh, start_worker: StartWorker) -> None:
    class Both(Agent):
        @task("both")
        async def both(self, story: Story, context: TaskContext) -> None:
            context.progress(1, "all")
            context.emit({"a": 1})
            context.emit(b"\x00\xff")

    await serve(start_worker, Both)
    await mesh.arrivals.listen()
    headers = {"Revo-Task-Id": "plain"}
    await mesh.connection.request(subjects.task("both", "normal", mesh.client), b'{"pages": 1}', headers)
    handle = mesh.handle("both", "plain")
    got = [item async for item in handle.follow()]
    assert [item.value for item in got if isinstance(item, Chunk)] == [{"a": 1}, b"\x00\xff"]
    subject = subjects.progress(mesh.client, "both", "plain")
    stored = [one async for one in following.stored_after(mesh.connection, subject, 0)]
    assert [one.body for one in stored[:2]] == [b'{"share":1.0,"text":"all"}', b'{"chunk":{"a":1}}']
    assert [one.headers["Content-Type"] for one in stored] == ["application/json"] * 2 + ["application/msgpack"]


async def test_where_nobody_follows_nothing_is_said_and_nothing_saved() -> None:
    given = {"task_id": "t", "capability": "c", "priority": "normal", "client": "a", "attempt": 1, "deadline": 0.0}
    context = TaskContext(**given, states=TypeAdapter(Place))  # type: ignore[arg-type]
    await context.progress(0.5)
    await context.emit("x")
    await context.save(Place(pages=1))
    assert context.saved is None
    with pytest.raises(EncodeError, match="not what is declared"):
        context.save("no place")


async def test_a_steward_tells_a_client_of_its_own_tasks_alone(mesh: Mesh, start_worker: StartWorker) -> None:
    steps = await stepper(start_worker)
    steps.go.set()
    handle = await mesh.submit("step", {"pages": 1200, "hold": -1})
    await handle.outcome(timeout=20)
    steward, asked = Telling(), Asked(task_id=handle.task_id, capability="step", client=mesh.client)
    steward.mesh = mesh
    sizes = []
    while True:
        told = await steward.progress(asked)
        sizes.append(len(told.messages))
        asked = asked.model_copy(update={"after": told.messages[-1]["sequence"]})
        if not told.more:
            break
    assert sizes == [500, 500, 200]
    caller = CALLER.set("bob")
    with pytest.raises(NotFoundError, match="client bob has none of this id"):
        await steward.progress(asked)
    CALLER.reset(caller)


async def test_a_chunk_is_seen_within_ten_milliseconds(
    mesh: Mesh, start_worker: StartWorker, figures: Callable[[str], None]
) -> None:
    class Clock(Agent):
        @task("clock")
        async def clock(self, story: Story, context: TaskContext) -> None:
            for _ in range(story.pages):
                await context.emit(time.perf_counter())

    await serve(start_worker, Clock)
    best = 1e9
    for _ in range(5):  # the machine does other things besides
        handle = await mesh.submit("clock", {"pages": 500})
        took = [time.perf_counter() - item.value async for item in handle.follow() if isinstance(item, Chunk)]
        best = min(best, sorted(took)[494])
        if best < 0.01:
            break
    figures(f"emit to seen: p99 {best * 1e3:.2f} ms")
    assert best < 0.01
