"""What reaches each agent, and for how long somebody works on it. Real processes."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from bus.errors import BusError, InvalidSubjectError, RemoteError
from bus.mesh import Handle, Mesh
from bus.server import Server
from bus.settings import Settings
from tests.office import DESK, office
from tests.processes import actor

CHANGED = "tests.integration.agents:Changed"


@pytest.fixture
def settings(server: Server) -> Settings:
    return Settings(nats_url=server.url, lease_heartbeat=1.0)


async def test_each_agent_is_reached_and_nobody_works_on_for_who_has_given_up(
    server: Server, mesh: Mesh, tmp_path: Path
) -> None:
    async with office(server, mesh, tmp_path, "desk", "back") as (_, _, back):
        await deadlines(mesh)
        both = await mesh.publish("news", {}, publish_id="monday")
        assert sorted(both) == ["back", "desk"]
        outcomes = {agent: await _handle(handle).outcome(timeout=10) for agent, handle in both.items()}
        assert outcomes["back"].instance == back.instance
        again = await mesh.publish("news", {}, publish_id="monday")
        assert all(_handle(handle).duplicate for handle in again.values())
        gathered = await mesh.ask_topic("news", {}, timeout=5)
        assert (len(gathered.values), gathered.missing) == (2, [])
        assert sorted(await mesh.submit_each("note", {})) == ["back", "desk"]
        back.signal(signal.SIGTERM)
        await back.wait()

        later = await mesh.publish("news", {})
        assert sorted(later) == ["back", "desk"], "it subscribes also while it does not run"
        assert (await mesh.ask_topic("news", {}, timeout=5)).missing == ["back"]
        assert sorted(await mesh.submit_each("note", {})) == ["desk"]
        async with actor(CHANGED, server.url, tmp_path / "changed.log"):
            assert list(await mesh.publish("news", {})) == ["back"], "a newer version wants none"
            async with actor(DESK, server.url, tmp_path / "back-2.log", name="back") as anew:
                assert (await _handle(later["back"]).outcome(timeout=10)).instance == anew.instance
            async with actor(DESK, server.url, tmp_path / "older.log"):
                assert list(await mesh.publish("news", {})) == ["back"], "and an older one has no say beside it"
        assert await mesh.publish("nobody-listens", {}) == {}
        for name in ("a.b", "x" * 60):
            with pytest.raises(InvalidSubjectError):
                await mesh.publish(name, {})


async def deadlines(mesh: Mesh) -> None:
    """Each has less time than the one that asks it."""
    began = time.monotonic()
    question = {"seconds": 60.0, "to": "back", "timeout": 60.0}
    asking = asyncio.ensure_future(mesh.ask("desk", "wait", question, timeout=3.0))
    with pytest.raises(RemoteError) as late:
        await mesh.ask("desk", "wait", {"seconds": 60.0}, timeout=2.0)
    assert late.value.code == "deadline_exceeded", "and no time-out of our own"
    assert await asking == "deadline_exceeded", "the one at the end gives up first, and the one between tells of it"
    assert time.monotonic() - began < 30.0
    handle = await mesh.submit("note", {"to": "back"}, agent="desk", deadline=20)
    ours, child = await handle.result(timeout=10)
    assert child <= ours


def _handle(one: Handle | BusError) -> Handle:
    assert isinstance(one, Handle)
    return one
