"""A client that floods a queue does not starve the others of it; real processes over a real server."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from bus import codec, jetstream, reading, subjects
from bus.audit import audit
from bus.connection import Connection
from bus.errors import BusError
from bus.handle import Handle
from bus.mesh import Mesh
from bus.messages import Result
from bus.server import Server
from bus.settings import Settings
from tests.eventually import eventually
from tests.processes import ActorProcess, actor

STEWARD = "actors.steward:Steward"
TOILER = "tests.integration.agents:Toiler"
SHARE = 200


async def flood(mesh: Mesh, count: int, *, seconds: float = 0.002, priority: str = "normal") -> None:
    ends = await mesh.submit_many("toil", ({"id": n, "seconds": seconds} for n in range(count)), priority=priority)
    assert all(isinstance(end, Handle) for end in ends)


async def results(connection: Connection, client: str) -> list[Result]:
    found = []
    async for stored in reading.stored_since(connection, subjects.RESULTS, 0.0, subject=f"revo.result.{client}.>"):
        found.append(codec.read(Result, stored.headers, stored.data, subject=stored.subject))
    return found


async def overtaken_by(connection: Connection, ends: list[Result]) -> int:
    """How many tasks of the flood started between the submit of the first of these and the start of the last."""
    first, last = min(end.submitted_at for end in ends), max(end.started_at for end in ends)
    return sum(first < end.started_at < last for end in await results(connection, "flood"))


@contextlib.asynccontextmanager
async def client(server: Server, name: str) -> AsyncIterator[Mesh]:
    async with Mesh.connect(settings=Settings(nats_url=server.url), client=name) as mesh:
        yield mesh


async def test_who_has_few_tasks_is_not_kept_waiting_by_twenty_thousand_of_another(
    server: Server, tmp_path: Path, figures: Callable[[str], None]
) -> None:
    async with client(server, "flood") as many, client(server, "light") as few:
        await flood(many, 20_000)
        async with actor(STEWARD, server.url, tmp_path / "steward.log"), actor(TOILER, server.url, tmp_path / "a.log"):
            one = await (await few.submit("toil", {"id": 1})).outcome(timeout=60)
            alone = await overtaken_by(few.connection, [one])
            handles = [await few.submit("toil", {"id": n}) for n in range(50)]
            fifty = [await handle.outcome(timeout=60) for handle in handles]
            together = await overtaken_by(few.connection, fifty)
            found = await audit(few.connection)
    figures(f"behind 20,000 tasks: one waited for {alone} of them, fifty for {together}")
    share = Settings().fair_share
    assert alone < 3 * share
    assert together < 3 * share
    assert {end.status for end in [one, *fifty]} == {"succeeded"}
    assert found.good, found
    assert found.accepted == 20_051
    assert found.waiting > 5_000, "the flood was not over by then"
