"""What names that nobody has any more have left behind is forgotten, and nothing that somebody needs."""

from __future__ import annotations

import pytest

from actors.bridge import leftovers
from actors.bridge.leftovers import Leftovers
from bus import jetstream, subjects, topology
from bus.connection import Connection
from bus.mesh import Mesh
from tests.conftest import QUICK, StartWorker
from tests.eventually import eventually


async def standing(connection: Connection) -> set[str]:
    page = await jetstream.call(connection, "CONSUMER.LIST", subjects.TASKS)
    return {row["name"].rpartition("-")[0] for row in page["consumers"]}


async def pulled(connection: Connection, consumer: str) -> bool:
    return bool((await jetstream.call(connection, "CONSUMER.INFO", subjects.TASKS, consumer))["num_waiting"])


async def test_only_names_that_are_gone_for_long_and_that_nothing_waits_for_are_forgotten(
    connection: Connection, mesh: Mesh, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "EVERY", 0.0)
    await topology.apply(connection)
    owners = dict.fromkeys(("@gone", "@waits", "@known", "@paused", "served"), subjects.BRIDGE) | {"@ours": "ours"}
    for name, owner in owners.items():
        await topology.ensure_capability(connection, name, QUICK, owner)
    waits = await mesh.submit("@waits", {"n": 1})
    await topology.pause_capability(connection, "@paused", paused=True)

    async def echo(message: object) -> object:
        return message

    await start_worker(echo, capability="served")
    await eventually(lambda: pulled(connection, "served-low"))
    everybody = Leftovers(connection, 3600.0)
    await everybody.look(set())
    await everybody.look(set())
    assert await standing(connection) == owners.keys(), "they have only just gone"

    once = Leftovers(connection, 1e-3)
    await once.look({"known"})
    assert await standing(connection) == owners.keys(), "who is seen to be gone for the first time may come back"
    await once.look({"known"})
    assert await standing(connection) == owners.keys() - {"@gone"}
    await start_worker(echo, capability="@waits")
    assert await waits.result(timeout=30) == {"n": 1}


async def test_a_task_that_comes_when_its_queue_is_being_forgotten_is_done_once_somebody_comes(
    connection: Connection, mesh: Mesh, start_worker: StartWorker
) -> None:
    await topology.apply(connection)
    await topology.ensure_capability(connection, "echo", QUICK, "tester")
    waits = await mesh.submit("echo", {"n": 1})
    for priority in subjects.PRIORITIES:
        name = subjects.consumer("echo", priority)
        await jetstream.call(connection, "CONSUMER.DELETE", subjects.TASKS, name)

    async def echo(message: object) -> object:
        return message

    await start_worker(echo)
    assert await waits.result(timeout=30) == {"n": 1}
