"""A registry, and agents that answer and ask each other, as processes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from actors.registry.client import RegistryClient
from bus.mesh import Mesh
from bus.server import Server
from tests.eventually import eventually
from tests.processes import ActorProcess, actor

REGISTRY = "actors.registry:Registry"
DESK = "tests.integration.agents:Desk"


@contextlib.asynccontextmanager
async def office(server: Server, mesh: Mesh, folder: Path, *names: str) -> AsyncIterator[list[ActorProcess]]:
    """A registry, and after it an instance of the agent for each name; all are ready."""
    env = {"REVO_LEASE_HEARTBEAT": "1"}
    async with contextlib.AsyncExitStack() as stack:
        starting = [actor(REGISTRY, server.url, folder / "registry.log", **env)]
        for number, name in enumerate(names):
            starting.append(actor(DESK, server.url, folder / f"{name}-{number}.log", name=name, **env))
        started = await asyncio.gather(*(stack.enter_async_context(one) for one in starting))
        client = RegistryClient(mesh)
        await eventually(lambda: _ready(client, len(names)))
        yield started


async def _ready(client: RegistryClient, count: int) -> bool:
    found = await client.instances()
    return len([one for one in found if one.kind == "agent" and one.state == "ready"]) == count
