"""Handlers that wait for children, killed while they do, and so are those who do the children, and the steward."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from actors.admission import prepare
from actors.keyring import Keyring, wish_of
from bus import subjects
from bus.budgets import Budget
from bus.grants import Wish
from bus.mesh import Mesh
from bus.server import Server
from tests.chaos.agents import Brooding, Chaotic
from tests.chaos.fleet import STEWARD, Fleet, at_rest, count, executions
from tests.eventually import eventually, pause
from tests.guarded import Guarded
from tests.processes import actor

PARENTS, CHILDREN = 6, 20
KILLS = 3


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Guarded]:
    keyring = Keyring(tmp_path / "keys")
    keyring.init()
    for kind in (Chaotic, Brooding):
        keyring.ensure(kind.name, "agent", wish_of(kind))
    keyring.ensure("alice", "submitter", Wish(submits=("brood",)))
    async with Server(tmp_path / "nats", accounts=keyring.accounts) as server:
        made = Guarded(server, keyring)
        async with made.mesh("operator") as mesh:
            await prepare(mesh.connection, {kind.name: kind for kind in (Chaotic, Brooding)})
        yield made


@pytest.mark.xdist_group("chaos")
async def test_no_child_is_submitted_twice_however_often_its_parent_is_killed(
    tmp_path: Path, here: Guarded, mesh: Mesh, figures: Callable[[str], None]
) -> None:
    journal, began, url = tmp_path / "journal", time.monotonic(), here.server.url
    parents = Fleet(url, tmp_path, 2, target="tests.chaos.agents:Brooding", **here.env("brooding"))
    workers = Fleet(url, tmp_path, 2, **here.env("chaotic"))
    as_steward = here.env(subjects.STEWARD)
    async with (
        actor(STEWARD, url, tmp_path / "steward-1.log", **as_steward) as steward,
        parents,
        workers,
        here.mesh("alice") as client,
    ):
        wanted = [range(100 * number, 100 * number + CHILDREN) for number in range(PARENTS)]
        handles = [
            await client.submit(
                "brood",
                {"first": ids[0], "children": CHILDREN, "journal": str(journal)},
                budget=Budget(tokens=100, tasks=CHILDREN),
            )
            for ids in wanted
        ]
        await eventually(journal.exists)
        for _ in range(KILLS):
            parents.kill_one()
            workers.kill_one()
            await pause(1.5)
        steward.signal(signal.SIGKILL)
        async with actor(STEWARD, url, tmp_path / "steward-2.log", **as_steward):
            assert await client.gather(*handles, timeout=80) == [list(ids) for ids in wanted]
            await eventually(lambda: at_rest(mesh.connection))
    found = await count(mesh.connection)
    again = sum(executions(journal).values()) - PARENTS * CHILDREN
    figures(
        f"families: {PARENTS} parents with {CHILDREN} children each, {parents.kills} and {workers.kills} of their "
        f"workers killed, {found.redelivered} redelivered, {again} executions repeated, "
        f"{time.monotonic() - began:.1f} s"
    )
    assert found.audit.good, found.audit
    assert (found.audit.accepted, found.audit.doubles) == (PARENTS * (1 + CHILDREN), 0)
    assert found.redelivered >= 1
