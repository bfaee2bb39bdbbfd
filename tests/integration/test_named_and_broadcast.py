"""Tasks for one agent by name, and messages to all instances at once."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from bus.errors import RemoteError
from bus.mesh import Mesh
from bus.server import Server
from tests.conftest import nothing_queued
from tests.eventually import eventually
from tests.processes import actor

REGISTRY = "actors.registry:Registry"
PAIR = "tests.integration.agents:Pair"
LONER = "tests.integration.agents:Loner"


async def test_a_task_for_one_agent_is_done_by_none_other(server: Server, mesh: Mesh, tmp_path: Path) -> None:
    async with (
        actor(PAIR, server.url, tmp_path / "left.log", name="left") as left,
        actor(PAIR, server.url, tmp_path / "right.log", name="right") as right,
    ):
        for agent, process in (("left", left), ("right", right)):
            for n in range(10):
                handle = await mesh.submit("where", {"n": n}, agent=agent)
                assert await handle.result(timeout=5) == f"{process.instance} {n}"
                assert handle.capability == f"@{agent}"
        answers: set[str] = set()
        while len(answers) < 2:  # whoever is free
            answers.add((await (await mesh.submit("where", {})).result(timeout=5)).split()[0])
        assert answers == {left.instance, right.instance}


async def test_a_task_for_one_agent_waits_for_it_and_survives_its_death(
    server: Server, mesh: Mesh, tmp_path: Path
) -> None:
    early = await mesh.submit("@loner", {"seconds": 30.0})
    assert "no agent has been called loner yet" in early.warning
    async with actor(LONER, server.url, tmp_path / "one.log") as first:
        await eventually(lambda: "begin" in first.log)
        first.signal(signal.SIGKILL)
    late = await mesh.submit("@loner", {"seconds": 0.0}, priority="critical")
    async with (
        actor("actors.steward:Steward", server.url, tmp_path / "steward.log"),
        actor(LONER, server.url, tmp_path / "two.log") as second,
    ):
        assert await late.result(timeout=5) == second.instance
        assert (await early.cancel()).cancelled
        await eventually(lambda: nothing_queued(mesh))


async def test_an_agent_with_two_capabilities_must_be_told_which(server: Server, mesh: Mesh, tmp_path: Path) -> None:
    async with actor(PAIR, server.url, tmp_path / "pair.log") as pair:
        outcome = await (await mesh.submit("@pair", {"n": 1})).outcome(timeout=5)
        assert outcome.error is not None
        assert (outcome.status, outcome.error.code) == ("failed", "decode")
        assert "Revo-Capability" in outcome.error.message
        assert "fail, where" in outcome.error.message
        unknown = await (await mesh.submit("sing", {"n": 1}, agent="pair")).outcome(timeout=5)
        assert unknown.status == "failed"
        assert await (await mesh.submit("where", {"n": 1}, agent="pair")).result(timeout=5) == f"{pair.instance} 1"


async def test_a_broadcast_reaches_all_and_ends_when_the_last_has_answered(
    server: Server, mesh: Mesh, tmp_path: Path
) -> None:
    async with (
        actor(REGISTRY, server.url, tmp_path / "registry.log"),
        actor(PAIR, server.url, tmp_path / "left.log") as left,
        actor(PAIR, server.url, tmp_path / "right.log") as right,
    ):
        names = sorted((left.instance, right.instance))
        gathered = await eventually(lambda: _all(mesh, names))
        assert gathered.values == [f"{name} 5" for name in names]
        failed = await mesh.broadcast("fail", {"n": 1})
        assert [str(reply.error) for reply in failed.replies] == ["value_error: as told"] * 2
        bad = await mesh.broadcast("where", {"n": "no number"})
        assert all(isinstance(reply.error, RemoteError) and reply.error.code == "decode" for reply in bad.replies)
        right.signal(signal.SIGSTOP)
        partly = await mesh.broadcast("where", {"n": 5}, timeout=0.5)
        assert partly.missing == [right.instance]
        assert partly.values == [f"{left.instance} 5"]
        right.signal(signal.SIGCONT)


async def _all(mesh: Mesh, names: list[str]) -> object:
    gathered = await mesh.broadcast("where", {"n": 5}, timeout=5.0)
    return gathered if [reply.instance for reply in gathered.replies] == names and not gathered.missing else None


async def test_a_broadcast_that_nobody_hears_comes_back_at_once(mesh: Mesh) -> None:
    gathered = await mesh.broadcast("nobody-has-this", {}, timeout=30.0)
    assert (gathered.replies, gathered.missing) == ([], [])


async def test_without_a_registry_a_broadcast_gathers_until_its_time_is_up(
    server: Server, mesh: Mesh, tmp_path: Path
) -> None:
    async with actor(PAIR, server.url, tmp_path / "pair.log") as pair:
        gathered = await mesh.broadcast("where", {"n": 2}, timeout=0.5)
        assert gathered.values == [f"{pair.instance} 2"]


@pytest.mark.parametrize("agent", ["a b", "", "@x", "x" * 65])
async def test_an_agent_that_cannot_be_named_is_refused(agent: str, mesh: Mesh) -> None:
    with pytest.raises(Exception, match="agent name is 1 to 64"):
        await mesh.submit("where", {}, agent=agent)
    assert await nothing_queued(mesh)
