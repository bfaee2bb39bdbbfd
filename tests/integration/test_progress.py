"""What handlers say while they run: each number once and in order, whatever dies, and no worker waits for a reader."""

from __future__ import annotations

from bus.mesh import Mesh
from bus.workbench import WORKBENCH
from tests.conftest import StartWorker


async def test_who_follows_gets_each_number_once_and_in_order_and_then_the_result(
    mesh: Mesh, start_worker: StartWorker
) -> None:
    async def handler(message: dict[str, int]) -> int:
        bench = WORKBENCH.get()
        assert bench is not None
        for n in range(message["n"]):
            bench.emit(n)
        return message["n"]

    await start_worker(handler)
    handle = await mesh.submit("echo", {"n": 1000})
    got = [item async for item in handle.follow()]
    assert [item.number for item in got] == list(range(1, 1001))
    assert [item.value for item in got] == list(range(1000))
    assert (await handle.outcome()).chunks == 1000
    got = [item async for item in handle.follow(after=990)]
    assert [item.number for item in got] == list(range(991, 1001))
