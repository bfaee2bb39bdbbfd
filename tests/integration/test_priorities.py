"""Urgency at saturation, by counting: who is urgent is next, and who is not has a turn all the same."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from bus.errors import BusError
from bus.mesh import Mesh
from bus.subjects import PRIORITIES
from tests.conftest import StartWorker
from tests.eventually import eventually, in_time


async def fill(mesh: Mesh, priority: str, count: int) -> None:
    ends = await mesh.submit_many("echo", ({"priority": priority} for _ in range(count)), priority=priority)
    assert not [end for end in ends if isinstance(end, BusError)]


async def test_at_saturation_the_least_urgent_has_one_start_in_20_and_the_most_urgent_most(
    mesh: Mesh, start_worker: StartWorker
) -> None:
    starts: list[str] = []
    enough = asyncio.Event()

    async def work(message: Any) -> None:
        starts.append(message["priority"])
        if starts.count("low") >= 60:
            enough.set()
        await asyncio.sleep(0.002)  # noqa: TID251  (the work itself)

    for priority in PRIORITIES:
        await fill(mesh, priority, {"critical": 2000, "low": 80}.get(priority, 200))
    await start_worker(work, concurrency=4)
    await in_time(enough.wait(), 60)
    settled = starts[50:]  # the first pulls bring one of each, before anybody knows who waits
    turns = [number for number, priority in enumerate(settled) if priority == "low"]
    gaps = [later - earlier for earlier, later in itertools.pairwise(turns)]
    assert max(gaps) <= 20, "somebody starves"
    assert settled.count("critical") > len(settled) / 2, "urgency does not count"


async def test_a_critical_task_behind_ten_thousand_low_ones_is_the_next_to_start(
    mesh: Mesh, start_worker: StartWorker
) -> None:
    starts: list[str] = []
    blocked, released = asyncio.Event(), asyncio.Event()

    async def work(message: Any) -> None:
        starts.append(message["priority"])
        if len(starts) == 500:
            blocked.set()
            await released.wait()

    await fill(mesh, "low", 10_000)
    worker = await start_worker(work)
    await in_time(blocked.wait(), 30)
    for number in (1, 2):
        await fill(mesh, "critical", 1)
        await eventually(lambda: worker._held.count(0) == number)  # noqa: B023  (it is in hand before the slot is free)
    assert starts == ["low"] * 500
    released.set()
    await eventually(lambda: len(starts) > 502)
    assert starts[500:503] == ["critical", "critical", "low"]


async def test_a_critical_task_goes_before_what_waits_while_all_slots_have_been_taken_for_long(
    mesh: Mesh, start_worker: StartWorker
) -> None:
    starts: list[str] = []
    blocked, released = asyncio.Event(), asyncio.Event()

    async def work(message: Any) -> None:
        starts.append(message["priority"])
        blocked.set()
        await released.wait()

    await fill(mesh, "low", 20)
    await start_worker(work)
    await in_time(blocked.wait(), 30)
    await fill(mesh, "critical", 1)
    released.set()
    await eventually(lambda: len(starts) == 21)
    assert starts[:2] == ["low", "critical"]
