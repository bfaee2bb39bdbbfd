"""Whatever a steward does may be interrupted after any step, and done again: the end is the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bus import codec, endings, inspection, jetstream, subjects
from bus.audit import audit
from bus.backlog import Backlog
from bus.connection import Connection
from bus.early import Ender
from bus.errors import ConnectionLostError, NotFoundError
from bus.mesh import Mesh
from bus.messages import MSGPACK
from bus.server import Server
from tests.conftest import StartWorker, nothing_queued
from tests.eventually import eventually
from tests.processes import actor

STEPS = ["before the result", "after the result", "after the dead letter", "after the task has left the queue"]


class Crash:
    """Fails the call that follows a step, once, as a process does that dies there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
        self.happened = 0
        where: dict[str, tuple[object, str]] = {
            "before the result": (endings, "store_result"),
            "after the result": (jetstream, "delete"),
            "after the dead letter": (jetstream, "delete"),
            "after the task has left the queue": (Connection, "publish"),
        }
        place, name = where[step]
        original: Any = getattr(place, name)

        async def fails_once(*given: Any, **named: Any) -> Any:
            if not self.happened and (name != "publish" or ".ctl." in str(given[1])):
                self.happened += 1
                raise ConnectionLostError(name)
            return await original(*given, **named)

        monkeypatch.setattr(place, name, fails_once)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("what", ["cancel", "give up"])
async def test_an_end_that_was_interrupted_is_carried_on_by_whoever_comes_next(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch, step: str, what: str
) -> None:
    handle = await mesh.submit("echo", {"keep": "me"})
    crash = Crash(monkeypatch, step)

    async def attempt(name: str) -> None:
        ender = Ender(mesh.connection, "tester", name)
        if what == "cancel":
            await ender.cancel(Backlog(mesh.connection), handle.task_id, by="a test")
        else:
            await ender.give_up(handle.sequence, 7)

    with pytest.raises(ConnectionLostError):
        await attempt("first")
    assert crash.happened == 1
    await attempt("second")
    await attempt("third")
    outcome = await handle.outcome(timeout=5)
    assert outcome.status == ("cancelled" if what == "cancel" else "failed")
    assert outcome.instance == ("second" if step == "before the result" else "first"), "the first one stored stands"
    assert await nothing_queued(mesh)
    letters = await inspection.letters(mesh.connection)
    assert len(letters) == (0 if what == "cancel" else 1)
    assert (await audit(mesh.connection)).good


async def test_a_redrive_that_was_interrupted_makes_one_new_task(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch, start_worker: StartWorker
) -> None:
    async def fails(_: Any) -> None:
        raise ValueError("as told")

    await start_worker(fails)
    handle = await mesh.submit("echo", {})
    await handle.outcome(timeout=5)
    await eventually(lambda: inspection.letters(mesh.connection))
    ender = Ender(mesh.connection, "tester", "tester-1")
    original = endings.note

    async def fails_once(*_: Any, **__: Any) -> bool:
        monkeypatch.setattr(endings, "note", original)
        raise ConnectionLostError("note")

    monkeypatch.setattr(endings, "note", fails_once)
    with pytest.raises(ConnectionLostError):
        await ender.redrive(handle.task_id)
    again = await ender.redrive(handle.task_id)
    assert (await mesh.handle("echo", again.task_id).outcome(timeout=5)).status == "failed"
    info = await jetstream.call(mesh.connection, "STREAM.INFO", subjects.TASKS)
    assert info["state"]["last_seq"] == 2, "one submit, one redrive"


@pytest.mark.parametrize("how", ["redrive", "drop"])
async def test_a_task_whose_client_hears_of_the_failure_before_the_dead_letter_stands_can_be_asked_for(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    handle = await mesh.submit("echo", {"n": 1})
    ender = Ender(mesh.connection, "tester", "tester-1")

    async def dies(*_: Any) -> None:
        raise ConnectionLostError("bury")

    with monkeypatch.context() as patch:
        patch.setattr(endings, "bury", dies)
        with pytest.raises(ConnectionLostError):
            await ender.give_up(handle.sequence, 7)
    assert (await handle.outcome(timeout=5)).status == "failed"
    assert await inspection.letters(mesh.connection) == []
    ask = ender.redrive if how == "redrive" else ender.drop
    with pytest.raises(NotFoundError):
        await ask(handle.task_id, client="another")
    await ask(handle.task_id)
    assert len(await inspection.letters(mesh.connection)) == (1 if how == "redrive" else 0)


HOSTILE: list[Mapping[str, str]] = [
    {"Nats-Sequence": "1", "Nats-Subject": "revo.task.echo.low.victim", "Status": "404", "Nats-Num-Pending": "0"},
    {"Nats-Time-Stamp": "yesterday", "Nats-Stream": "RESULTS", "nats-sequence": "1", "Description": "EOB"},
    {"Revo-Task-Id": "bystander", "Revo-Deadline": "1"},
    {"Revo-Task-Id": "a.b.*.>", "Revo-Deadline": "-5", "Revo-Parent": "anon.echo.bystander"},
    {"Revo-Deadline": "nan", "Revo-Parent": "x" * 3000, "traceparent": "\u2028", "Revo-Redrive-Of": "a.b"},
    {"Revo-Deadline": "1e308", "Content-Type": "text/html", "Revo-Fresh": "1", "Revo-Task-Id": "x" * 64},
]


async def _stored(mesh: Mesh, tasks: int) -> bool:
    info = await jetstream.call(mesh.connection, "STREAM.INFO", subjects.TASKS)
    return bool(info["state"]["messages"] == tasks)


async def test_hostile_headers_end_no_task_but_their_own(mesh: Mesh) -> None:
    """Read in bulk, as a steward reads: what a client writes is never taken for what the server says."""
    bystander = await mesh.submit("echo", {"keep": "me"}, task_id="bystander")
    for n in range(40):
        await mesh.connection.publish(subjects.task("echo", "low", "hostile"), b"\xff", HOSTILE[n % len(HOSTILE)])
    for subject in ("revo.task.echo.low.*", "revo.task.*.low.x", "revo.task.echo.low.>", "revo.task.echo.low.a:b"):
        await mesh.connection.publish(subject, b"{}", {"Revo-Deadline": "1", "Revo-Task-Id": "bystander"})
    await mesh.connection.flush()
    await eventually(lambda: _stored(mesh, 45))  # the server has them, and stores them one after the other
    backlog, ender = Backlog(mesh.connection), Ender(mesh.connection, "tester", "tester-1")
    await backlog.refresh()
    assert len(backlog) == 45
    for task in await backlog.overdue(0.0):
        assert task.sequence != bystander.sequence
        await ender.expire(task)
    found = next(task for task in await backlog.find("bystander") if task.client == "anon")
    assert (found.sequence, found.headers.get("Revo-Parent")) == (bystander.sequence, None)
    everything = [task async for task in backlog.read(list(range(1, 42)))]
    assert [task.client for task in everything].count("anon") == 1
    assert not (await audit(mesh.connection)).lost


async def test_a_result_that_nobody_can_read_ends_its_task_and_kills_no_worker(
    mesh: Mesh, start_worker: StartWorker
) -> None:
    async def echo(message: Any) -> Any:
        return message

    worker = await start_worker(echo)
    subject = subjects.result("anon", "echo", "mine")
    await jetstream.store(mesh.connection, subject, b"\xc1 garbage", {"Content-Type": "application/msgpack"})
    handle = await mesh.submit("echo", {}, task_id="mine")
    outcome = await handle.outcome(timeout=5)
    assert outcome.error is not None
    assert (outcome.status, outcome.error.code) == ("failed", "unreadable_result")
    await eventually(lambda: nothing_queued(mesh))
    assert await (await mesh.submit("echo", {"n": 1})).result(timeout=5) == {"n": 1}
    assert not worker.failed.done()


def beat(**changed: Any) -> dict[str, Any]:
    task = {
        "task_id": "t", "capability": "echo", "client": "anon", "priority": "low", "sequence": 1, "deliveries": 1,
        "attempt": 1, "state": "running", "since": 1.0, "trace_id": "1" * 32, "span_id": "2" * 16, "parent_id": "",
    }  # fmt: skip
    in_hand = [{**task, **changed.pop("task", {})}]
    known = {"agent": "a", "instance": "gone", "at": 1.0, "concurrency": 1, "capabilities": [], "in_hand": in_hand}
    return {**known, **changed}


async def test_hostile_heartbeats_and_orders_kill_no_steward_and_no_worker(
    server: Server, mesh: Mesh, tmp_path: Path, start_worker: StartWorker
) -> None:
    async def echo(message: Any) -> Any:
        return message

    worker = await start_worker(echo)
    bodies: list[object] = [
        beat(instance="x y\r\nPUB revo.task.echo.low.anon 2\r\n{}\r\n"),
        beat(instance="*"),
        beat(instance=">", agent="a.b"),
        beat(task={"client": "a b\r\n", "span_id": "3" * 16}),
        beat(instance="one", task={"span_id": "not hex"}),
        beat(instance="two", task={"since": 1e300, "trace_id": ""}),
        beat(instance="three", at=-1e300, task={"since": -1e300, "span_id": "4" * 16}),
        beat(instance="four", task={"trace_id": "0" * 32, "span_id": "0" * 16}),
        [1, 2],
        "text",
    ]
    async with actor("actors.steward:Steward", server.url, tmp_path / "log", REVO_LEASE="1.0") as steward:
        for body in bodies:
            instance = body["instance"] if isinstance(body, dict) else "gone"
            subject = f"revo.beat.a.{instance if subjects.is_token(instance) else 'gone'}"
            for one in (subject, "revo.beat.a.other", "revo.ctl.all.all.end", "revo.ctl.all.all.tasks"):
                await mesh.connection.publish(one, codec.encode(body), {"Content-Type": MSGPACK})
        await mesh.connection.publish("revo.beat.a.gone", b"\xc1", {"Content-Type": "text/html"})
        await eventually(lambda: steward.log.count("its process died") >= 1, timeout=10)
        assert "speaks for" in steward.log
        handle = await mesh.submit("nobody", {}, deadline=2.0)
        assert (await handle.outcome(timeout=10)).status == "expired"
        assert steward.log.count("Traceback") == 0, steward.log
    assert await (await mesh.submit("echo", {"n": 1})).result(timeout=5) == {"n": 1}
    assert not worker.failed.done()
    info = await jetstream.call(mesh.connection, "STREAM.INFO", subjects.TASKS)
    assert info["state"]["last_seq"] == 2, "nothing was smuggled in"
