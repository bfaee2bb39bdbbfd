"""What is known of a task's earlier tries is right, or one too low: it never blames an innocent task."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping
from functools import partial
from typing import Any

import pytest

from bus import attempts
from bus.connection import Connection
from bus.errors import ConnectionLostError
from bus.mesh import Mesh
from bus.messages import JSON, Attempts, Envelope
from bus.wire import Message


def suspect() -> Envelope:
    now = time.time()
    return Envelope(
        subject="revo.task.echo.normal.anon",
        capability="echo",
        priority="normal",
        client="anon",
        task_id="suspect",
        body=b"{}",
        headers={},
        content_type=JSON,
        sequence=1,
        stored_at=now,
        deadline=now + 60,
        deliveries=2,
        reply="$JS.ACK.TASKS.echo-normal.2.1.1.1700000000000000000.0",
        named=True,
    )


async def test_a_run_alone_counts_once_though_the_answer_to_its_store_is_lost(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = Connection.begin
    lost: list[str] = []

    async def lose(answer: Awaitable[Message], subject: str) -> Message:
        await answer
        lost.append(subject)
        raise ConnectionLostError(subject)

    def lose_the_first_answer(
        self: Connection, subject: str, body: bytes = b"", headers: Mapping[str, str] | None = None, **more: Any
    ) -> asyncio.Future[Message]:
        answer = begin(self, subject, body, headers, **more)
        return asyncio.ensure_future(lose(answer, subject)) if subject.startswith("$KV.") and not lost else answer

    monkeypatch.setattr(Connection, "begin", lose_the_first_answer)
    changed = await attempts.change(mesh.connection, suspect(), partial(attempts.run_alone, deaths=0))
    assert lost
    assert changed.alone == 1
    again = await attempts.change(mesh.connection, suspect(), partial(attempts.run_alone, deaths=changed.alone))
    assert again.alone == 2


def test_deaths_that_were_forgiven_while_a_task_waited_to_run_alone_stay_forgiven() -> None:
    assert attempts.run_alone(Attempts(alone=0), deaths=2).alone == 1
