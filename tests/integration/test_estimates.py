"""When a task will start, and when to come back to a full queue: said by a steward, of real processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bus import estimates, rpc
from bus.connection import Connection
from bus.errors import NoStewardError, NotFoundError, QueueFullError
from bus.estimates import estimate
from bus.mesh import Handle, Mesh
from bus.server import Server
from bus.settings import Settings
from tests.conftest import Gate, StartWorker
from tests.eventually import eventually, in_time
from tests.processes import actor

STEWARD = "actors.steward:Steward"
TOILER = "tests.integration.agents:Toiler"


async def known(mesh: Mesh, capability: str) -> estimates.Estimate | None:
    """What is estimated once somebody can tell."""
    try:
        said = await mesh.estimate(capability)
    except NotFoundError:
        return None
    return said if said.took is not None else None


async def test_in_a_steady_state_the_start_is_told_within_a_factor_of_two(
    server: Server, mesh: Mesh, tmp_path: Path, figures: Callable[[str], None]
) -> None:
    async with actor(STEWARD, server.url, tmp_path / "s.log"), actor(TOILER, server.url, tmp_path / "t.log"):
        await mesh.submit_many("toil", ({"seconds": 0.05} for _ in range(140)))
        await eventually(lambda: known(mesh, "toil"))
        handle = await mesh.submit("toil", {"seconds": 0.05})
        asked_at, said = time.time(), await handle.estimate()
        outcome = await handle.outcome(timeout=60)
    assert said.starts_in is not None
    took = outcome.started_at - asked_at
    figures(
        f"estimate: {said.starts_in:.2f} s for a start {took:.2f} s later, {said.ahead} ahead on {said.slots} slots"
    )
    assert 0.5 <= said.starts_in / took <= 2
    assert (said.slots, str(said)[:16]) == (4, "starts in about ")


async def test_a_full_queue_says_when_to_come_back_and_asks_a_steward_once_a_second(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(nats_url=server.url, client_queue=20)
    async with Mesh.connect(settings=settings) as mesh:
        asked: list[str] = []
        call = rpc.call

        async def counted(*given: Any, **named: Any) -> Any:
            asked.append(given[3])
            return await call(*given, **named)

        monkeypatch.setattr(rpc, "call", counted)
        ends = await mesh.submit_many("toil", ({"seconds": 0.3} for _ in range(30)))
        full = [end for end in ends if isinstance(end, QueueFullError)]
        assert [end.come_back for end in full] == [None] * 10, "there is no steward"
        assert asked == ["estimate"], "and nobody asks for one ten times"
        async with actor(STEWARD, server.url, tmp_path / "s.log"), actor(TOILER, server.url, tmp_path / "t.log"):
            await eventually(lambda: known(mesh, "toil"))
            error = await eventually(lambda: refused(mesh))
    assert 0 < error.come_back < 5
    assert "come back in about 1 s" in str(error)


async def refused(mesh: Mesh) -> QueueFullError | None:
    """The error of a queue that is full, once it says when to come back."""
    ends = await mesh.submit_many("toil", ({"seconds": 0.3} for _ in range(30)))
    full = [end for end in ends if isinstance(end, QueueFullError)]
    return full[0] if full and full[0].come_back is not None else None


async def test_what_cannot_be_told_is_not_guessed(
    server: Server, mesh: Mesh, tmp_path: Path, start_worker: StartWorker, gate: Gate
) -> None:
    with pytest.raises(NoStewardError):
        await mesh.estimate("echo")
    async with actor(STEWARD, server.url, tmp_path / "s.log"):
        with pytest.raises(NotFoundError, match="no agent ever had it"):
            await mesh.estimate("nobody-does-this")
        await start_worker(gate)
        first = await mesh.submit("echo", {"n": 1})
        await in_time(gate.begun.get(), 10)
        second = await mesh.submit("echo", {"n": 2})
        await eventually(lambda: told(second, "no such task has ended lately, so nobody knows how long they take"))
        assert (await first.estimate()).starts_in == 0.0
        assert "with a worker" in (await first.estimate()).why
        gate.open.set()
        await second.outcome(timeout=10)
        with pytest.raises(NotFoundError, match="neither waits nor runs"):
            await eventually(lambda: told(second, "never"))


async def told(handle: Handle, why: str) -> bool:
    said = await handle.estimate()
    return said.starts_in is None and said.why == why


async def test_a_heartbeat_says_how_long_tasks_took_only_where_that_is_known(
    connection: Connection, start_worker: StartWorker, mesh: Mesh
) -> None:
    async def work(message: Any) -> Any:
        return message

    worker = await start_worker(work)
    assert worker._beat().took == {}
    await (await mesh.submit("echo", {})).outcome(timeout=10)
    took = await eventually(lambda: worker._beat().took)  # its result is there before it is at its end
    assert 0 < took["echo"] < 5


def test_an_estimate_is_what_waits_before_it_by_what_is_done_at_once() -> None:
    assert estimate(ahead=40, waiting=40, slots=4, busy=4, took=0.5).starts_in == pytest.approx(40.5 * 0.5 / 4)
    assert estimate(ahead=0, waiting=0, slots=4, busy=3, took=None).starts_in == 0.0
    assert estimate(ahead=3, waiting=3, slots=0, busy=0, took=1.0).why == "nobody who does such tasks is there"
    assert str(estimate(ahead=7200, waiting=7200, slots=1, busy=1, took=1.0)) == "starts in about 2 h"
