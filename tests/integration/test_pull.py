"""Standing pulls: one that the server has lost without a word is stood anew."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from bus import pull, topology, worker
from bus.connection import Connection, Subscription
from bus.mesh import Handle, Mesh
from bus.worker import Worker
from tests.conftest import QUICK, StartWorker
from tests.eventually import eventually


async def test_pulls_that_died_with_their_leader_are_stood_anew(
    mesh: Mesh, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull, "HEARTBEAT", 0.3)
    send = Connection.send
    swallowed: list[str] = []

    def lossy(
        self: Connection,
        subject: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        reply: str = "",
        room: int = 0,
    ) -> None:
        if "CONSUMER.MSG.NEXT" in subject and len(swallowed) < 5:
            swallowed.append(subject)
        else:
            send(self, subject, body, headers, reply=reply, room=room)

    monkeypatch.setattr(Connection, "send", lossy)

    async def echo(message: Any) -> Any:
        return message

    await start_worker(echo)
    await eventually(lambda: len(swallowed) == 5)
    handle = await mesh.submit("echo", {"n": 1})
    assert await handle.result(timeout=10) == {"n": 1}, "and not when a pull ends by itself"


async def test_a_pull_that_stands_is_not_stood_twice(
    mesh: Mesh, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull, "HEARTBEAT", 0.1)
    send = Connection.send
    sent: list[str] = []

    def counted(
        self: Connection,
        subject: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        reply: str = "",
        room: int = 0,
    ) -> None:
        if "CONSUMER.MSG.NEXT" in subject:
            sent.append(subject)
        send(self, subject, body, headers, reply=reply, room=room)

    monkeypatch.setattr(Connection, "send", counted)

    async def echo(message: Any) -> Any:
        return message

    await start_worker(echo)
    await eventually(lambda: len(sent) == 5)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.5):
            await asyncio.Event().wait()
    assert len(sent) == 5, "the server's heartbeats say that they stand"


async def test_a_drain_waits_for_what_was_sent_to_pulls_that_had_just_been_ended(
    mesh: Mesh, connection: Connection, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def echo(message: Any) -> Any:
        return message

    monkeypatch.setattr(worker, "HELD", 30.0)
    await topology.ensure_capability(connection, "echo", patient := dataclasses.replace(QUICK, ack_wait=60.0), "tester")
    for turn in range(20):
        sent = await mesh.submit_many("echo", [{}] * 40)
        leaving = await start_worker(echo, policy=patient)
        await begun(leaving)
        for _ in range(turn):
            await asyncio.sleep(0)  # noqa: TID251  (each time a turn of the loop later)
        leaving._puller.want(0, now=True)  # as when its last slot is taken
        async with asyncio.timeout(10):  # it would keep for as long as that what it had not known of
            await leaving.drain(20)
        assert leaving._puller.quiet
        staying = await start_worker(echo, policy=patient)
        done = await mesh.gather(*(one for one in sent if isinstance(one, Handle)), timeout=10)
        assert done == [{}] * 40, "and none of them waited for its ack deadline"
        await staying.drain()


async def test_an_inbox_outlives_the_pull_that_it_was_just_named_in(
    start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[float] = []
    end = Subscription.drain

    async def noted(self: Subscription) -> None:
        if "_INBOX" in self.subject:
            ended.append(asyncio.get_running_loop().time())
        await end(self)

    monkeypatch.setattr(Subscription, "drain", noted)

    async def echo(message: Any) -> Any:
        return message

    leaving = await start_worker(echo)
    sent = await begun(leaving)
    await leaving.drain()
    assert ended[0] - sent >= pull.DIGESTED, "what the server is just about to send comes to somebody"


async def begun(worker: Worker) -> float:
    """Return as soon as its pulls stand, with the time when the last was sent."""
    while (generation := worker._puller._generation) is None:  # noqa: ASYNC110  (see below)
        await asyncio.sleep(0)  # noqa: TID251  (a turn of the loop: later is too late)
    return max(one.sent for one in generation.pulls)
