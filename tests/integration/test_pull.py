"""Standing pulls: one that the server has lost without a word is stood anew."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from bus import pull
from bus.connection import Connection
from bus.mesh import Mesh
from tests.conftest import StartWorker
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
    assert await handle.result(timeout=3) == {"n": 1}


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
