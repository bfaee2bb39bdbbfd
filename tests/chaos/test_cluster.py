"""A cluster of three with three copies of every stream: its leader dies twice, and nothing is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bus import subjects
from bus.mesh import Mesh
from bus.settings import Settings
from tests.chaos.fleet import Fleet, at_rest, count, executions, pause, submit
from tests.cluster import cluster
from tests.eventually import eventually

TASKS = 400


@pytest.mark.xdist_group("chaos")
@pytest.mark.timeout(180)
async def test_a_cluster_loses_nothing_with_its_leader(tmp_path: Path, figures: Callable[[str], None]) -> None:
    began = time.monotonic()
    journal = tmp_path / "journal"
    async with cluster(tmp_path) as trio:
        settings = Settings(nats_url=trio.url, replicas=3)
        async with (
            Mesh.connect(settings=settings) as mesh,
            Fleet(trio.url, tmp_path, 2, REVO_REPLICAS="3") as fleet,
        ):

            async def submit_all() -> None:
                for number in range(TASKS):
                    await submit(mesh, f"task-{number}", {"id": number, "seconds": 0.02, "journal": str(journal)})
                    await pause(0.03)

            submitting = asyncio.create_task(submit_all())
            for _ in range(2):
                await pause(2.0)
                leader = await trio.leader(mesh.connection, subjects.TASKS)
                leader.kill()
                await leader.wait()
                fleet.kill_one()
                await pause(1.0)
                await leader.start()
                await trio.leader(mesh.connection, subjects.TASKS)
                await trio.whole(mesh.connection, subjects.TASKS)
            await submitting
            await eventually(lambda: at_rest(mesh.connection), timeout=60)
            found = await count(mesh.connection)
    again = sum(executions(journal).values()) - TASKS
    figures(
        f"cluster: {TASKS} tasks, leader of three killed twice, {found.redelivered} redelivered, "
        f"{again} executions repeated, lost {found.audit.lost}, doubled {found.audit.doubled}, "
        f"{time.monotonic() - began:.1f} s"
    )
    assert set(found.statuses.values()) == {"succeeded"}
    assert set(found.results) == {f"task-{number}" for number in range(TASKS)}
    assert set(found.results.values()) == {1}
    assert found.dead == set()
    assert found.audit.good, found.audit
