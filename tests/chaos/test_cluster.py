"""A cluster of three with three copies of every stream: nothing is lost with its leader, and nothing is there twice."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from actors.keyring import Keyring
from actors.loading import default_policy
from actors.memory.backend import Author, Write
from actors.memory.store import Store
from bus import jetstream, subjects, topology
from bus.grants import Wish
from bus.mesh import Mesh
from bus.settings import Settings
from revo import Memory
from tests.chaos.fleet import STEWARD, Fleet, at_rest, count, executions, submit
from tests.cluster import cluster
from tests.eventually import eventually, pause
from tests.processes import actor

TASKS = 400


@contextlib.asynccontextmanager
async def prepared(mesh: Mesh, *addresses: str) -> AsyncIterator[None]:
    """With the consumers that an agent may not make itself, run as shipped."""
    for address in addresses:
        await topology.ensure_capability(mesh.connection, address, default_policy(Settings()), "chaotic")
    yield


@pytest.mark.xdist_group("chaos")
@pytest.mark.timeout(180)
async def test_a_cluster_loses_nothing_with_its_leader(tmp_path: Path, figures: Callable[[str], None]) -> None:
    began = time.monotonic()
    journal = tmp_path / "journal"
    keyring = Keyring(tmp_path / "keys")
    keyring.init()
    keyring.ensure("chaotic", "agent", Wish(does=("chaos",)))
    keyring.ensure("alice", "submitter", Wish(submits=("chaos",)))
    async with cluster(tmp_path, keyring) as trio:
        settings = Settings(nats_url=trio.url, replicas=3)

        def user(name: str) -> Settings:
            return settings.model_copy(update={"credentials": str(keyring.path(name))})

        env = {name: {"REVO_CREDENTIALS": str(keyring.path(name))} for name in ("chaotic", subjects.STEWARD)}
        async with (
            Mesh.connect(settings=user("operator")) as mesh,
            Mesh.connect(settings=user("alice")) as client,
            prepared(mesh, "chaos", "@chaotic"),
            actor(STEWARD, trio.url, tmp_path / "steward", REVO_REPLICAS="3", **env[subjects.STEWARD]),
            Fleet(trio.url, tmp_path, 2, REVO_REPLICAS="3", **env["chaotic"]) as fleet,
        ):

            async def submit_all() -> None:
                for number in range(TASKS):
                    await submit(client, f"task-{number}", {"id": number, "seconds": 0.02, "journal": str(journal)})
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


@pytest.mark.xdist_group("chaos")
async def test_what_is_sent_twice_at_once_to_a_cluster_is_there_once_and_both_are_told(tmp_path: Path) -> None:
    async with cluster(tmp_path) as trio:
        settings = Settings(nats_url=trio.url, replicas=3)
        async with Mesh.connect(settings=settings) as first, Mesh.connect(settings=settings) as second:
            both = (first, second)
            await topology.apply(first.connection)
            await topology.ensure_capability(first.connection, "chaos", default_policy(settings), "chaotic")
            stores = [Store(mesh.connection, mesh.telemetry) for mesh in both]
            for number in range(10):
                sent = await asyncio.gather(*(mesh.submit("chaos", {}, task_id=f"task-{number}") for mesh in both))
                assert {one.task_id for one in sent} == {f"task-{number}"}
                write = Write("k", number, await newest(first) if number else 0)
                written = await asyncio.gather(
                    *(
                        store.write("notes", [write], Author("ours"), asked_as=f"{number:032x}", ago=ago)
                        for store, ago in zip(stores, (0.0, 0.1), strict=True)
                    )
                )
                assert written[0][0].version == written[1][0].version
            for store in stores:
                await store.close()
            info = await jetstream.call(first.connection, "STREAM.INFO", subjects.TASKS)
            assert info["state"]["messages"] == 10
            assert [one.value for one in await Memory(first, "notes").history("k")] == list(range(10))


async def newest(mesh: Mesh) -> int:
    entry = await Memory(mesh, "notes").get("k")
    assert entry is not None
    return entry.version
