"""The same id twice is one task: inside the server's window, after it, and after a restart that forgets the window."""

from __future__ import annotations

from typing import Any

import pytest

from bus.audit import audit
from bus.errors import ConfigError
from bus.mesh import Mesh
from bus.server import Server
from tests.conftest import StartWorker, nothing_queued
from tests.eventually import eventually


class Counting:
    def __init__(self) -> None:
        self.runs = 0

    async def __call__(self, _: Any) -> int:
        self.runs += 1
        return self.runs


async def test_an_id_that_the_restarted_server_has_forgotten_is_still_one_task(
    server: Server, mesh: Mesh, start_worker: StartWorker
) -> None:
    counting = Counting()
    await start_worker(counting)
    first = await mesh.submit("echo", {}, idempotency_key="order 42 / März")
    assert await first.result(timeout=5) == 1
    await eventually(lambda: nothing_queued(mesh))
    server.kill()
    await server.wait()
    await server.start()
    again = await mesh.submit("echo", {}, idempotency_key="order 42 / März")
    assert (again.task_id, again.duplicate) == (first.task_id, False), "the server has forgotten it"
    assert await again.result(timeout=5) == 1
    await eventually(lambda: nothing_queued(mesh))
    assert counting.runs == 1
    report = await audit(mesh.connection)
    assert (report.accepted, report.ended, report.doubles, report.good) == (2, 2, 1, True), report


async def test_equal_content_is_one_task_in_whichever_order_its_keys_stand(
    mesh: Mesh, start_worker: StartWorker
) -> None:
    counting = Counting()
    await start_worker(counting)
    first = await mesh.submit("echo", {"a": 1, "b": [{"x": 1, "y": b"\xff"}]}, by_content=True)
    assert await first.result(timeout=5) == 1
    second = await mesh.submit("echo", {"b": [{"y": b"\xff", "x": 1}], "a": 1}, by_content=True)
    assert second.duplicate
    assert await second.result(timeout=5) == 1
    other = await mesh.submit("echo", {"a": 2}, by_content=True)
    assert await other.result(timeout=5) == 2


async def test_two_clients_may_use_one_key(server: Server, start_worker: StartWorker) -> None:
    counting = Counting()
    await start_worker(counting)
    values = set()
    for client in ("alice", "bob"):
        async with Mesh.connect(server.url, client=client) as mesh:
            handle = await mesh.submit("echo", {}, idempotency_key="k")
            values.add(await handle.result(timeout=5))
    assert values == {1, 2}


async def test_a_task_is_named_in_one_way(mesh: Mesh) -> None:
    with pytest.raises(ConfigError, match="give one of task_id, idempotency_key and by_content"):
        await mesh.submit("echo", {}, task_id="a", idempotency_key="b")
    with pytest.raises(ConfigError, match="at least one character"):
        await mesh.submit("echo", {}, idempotency_key="")
