"""Families of tasks among users who may do no more than that, each in an account of its own."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from actors.admission import prepare
from actors.keyring import Keyring, wish_of
from bus import inspection, subjects
from bus.budgets import Budget
from bus.errors import PermissionDeniedError
from bus.grants import Wish
from bus.server import Server
from bus.stewards import ask
from tests.eventually import eventually, in_time
from tests.guarded import Guarded
from tests.integration import elders
from tests.integration.agents import Toiler
from tests.integration.test_processes import begun
from tests.processes import ActorProcess, actor

AGENTS = {"elder": elders.Elder, "spender": elders.Spender, "toiler": Toiler}


@contextlib.asynccontextmanager
async def agent(here: Guarded, folder: Path, name: str, target: str) -> AsyncIterator[ActorProcess]:
    log = folder / f"{name}-{len(list(folder.glob('*.log')))}.log"
    async with actor(target, here.server.url, log, name=name, REVO_ACK_WAIT="1", **here.env(name)) as process:
        yield process


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Guarded]:
    keyring = Keyring(tmp_path / "keys")
    keyring.init()
    for name, kind in AGENTS.items():
        keyring.ensure(name, "agent", wish_of(kind))
    keyring.ensure("alice", "submitter", Wish(submits=("*",)))
    async with Server(tmp_path / "nats", accounts=keyring.accounts) as server:
        made = Guarded(server, keyring)
        async with made.mesh("operator") as mesh:
            await prepare(mesh.connection, dict(AGENTS))
        async with agent(made, tmp_path, subjects.STEWARD, "actors.steward:Steward"):
            yield made


async def test_a_restricted_handler_that_was_killed_finds_its_children(here: Guarded, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    async with here.mesh("alice") as mesh, agent(here, tmp_path, "toiler", "tests.integration.agents:Toiler"):
        work = {"seconds": 2.0, "journal": str(journal)}
        async with agent(here, tmp_path, "elder", "tests.integration.elders:Elder") as first:
            handle = await mesh.submit("lead", {"children": 4, "does": "toil", "says": work})
            await eventually(lambda: len(begun(journal)) == 4)
            question = {"parent": f"alice.lead.{handle.task_id}", "client": "elder"}
            async with here.mesh("toiler") as other:  # who learns of nobody's children but its own
                assert (await ask(other.connection, other.telemetry, "children", question))["standing"] == {}
            with pytest.raises(PermissionDeniedError):
                await ask(mesh.connection, mesh.telemetry, "children", question)
            first.signal(signal.SIGKILL)
            await first.wait()
        async with agent(here, tmp_path, "elder", "tests.integration.elders:Elder"):
            assert await handle.result(timeout=20) == [0, 1, 2, 3]
        assert len(begun(journal)) == 4


async def test_a_budget_stops_the_tree_of_restricted_agents(here: Guarded, tmp_path: Path) -> None:
    async with here.mesh("alice") as mesh, agent(here, tmp_path, "spender", "tests.integration.elders:Spender"):
        leaf = {"tokens": 1, "seconds": 50.0}
        message = {"tokens": 1, "seconds": 50.0, "errands": 3, "then": leaf}
        handle = await mesh.submit("errand", message, budget=Budget(tokens=3, tasks=10))
        outcome = await handle.outcome(timeout=20)
        assert outcome.error is not None
        assert (outcome.status, outcome.error.code) == ("failed", "budget_exceeded")
        async with here.mesh("operator") as operator:

            async def all_ended() -> bool:
                return len(await inspection.latest_results(operator.connection, 10)) == 4

            await eventually(all_ended)
        both = [await mesh.submit("errand", {"tokens": 1}, budget=Budget(tokens=1)) for _ in range(2)]
        assert await in_time(mesh.gather(*both), 20) == [{"tokens": 0, "money": None, "tasks": None}] * 2
