"""A foreign agent, by the protocol's own host package, and the processes that make it one of a mesh."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import nats
from synadia_ai.agent_service import AgentService, PromptStream
from synadia_ai.agents import Envelope, ResponseChunk
from synadia_ai.agents.envelope import Attachment

from actors.registry.client import RegistryClient
from actors.registry.model import Instance
from bus.mesh import Mesh
from bus.server import Server
from tests.eventually import eventually
from tests.processes import ActorProcess, actor

REGISTRY: Final = "actors.registry:Registry"
BRIDGE: Final = "actors.bridge:Bridge"
BEAT: Final = {"REVO_LEASE_HEARTBEAT": "0.5"}


class Hermes:
    """What the foreign agent does; it notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.traceparents: list[str] = []
        self.open = asyncio.Event()

    async def __call__(self, envelope: Envelope, stream: PromptStream) -> None:
        self.asked.append(envelope.prompt)
        self.traceparents.append((stream._request.headers or {}).get("traceparent", ""))
        what, _, rest = envelope.prompt.partition(" ")
        if what == "fail":
            raise ValueError("as told")
        if what == "flood":
            for _ in range(3):
                await stream.send("x" * 500_000)
        if what == "wait":
            await self.open.wait()
        if what == "ask":
            answers = [(await stream.ask(f"{word}?", timeout=5)).prompt for word in rest.split()]
            await stream.send(" and ".join(answers))
        for attachment in envelope.attachments or ():
            turned = Attachment.from_bytes(f"turned-{attachment.filename}", attachment.to_bytes()[::-1])
            await stream.send(ResponseChunk(text="", attachments=[turned]))
        await stream.send("you said ")
        await stream.send(envelope.prompt)


@contextlib.asynccontextmanager
async def host(
    url: str, handler: Callable[[Envelope, PromptStream], Awaitable[None]], *, seed: str = "", **how: Any
) -> AsyncIterator[AgentService]:
    """A foreign agent, `hermes` of `ana` by default, that beats once a second."""
    about = {"agent": "hermes", "owner": "ana", "session_name": "main", "attachments_ok": True}
    wanted = {**about, "heartbeat_interval_s": 1, "max_concurrent_prompts": 64, **how}
    connection = await nats.connect(url, **({"nkeys_seed_str": seed} if seed else {}))
    service = AgentService(nc=connection, **wanted)
    service.on_prompt(handler)
    await service.start()
    try:
        yield service
    finally:
        await service.stop()
        await connection.close()


async def foreign(mesh: Mesh) -> list[Instance]:
    return [one for one in await RegistryClient(mesh).instances() if one.foreign]


async def found(mesh: Mesh, count: int = 1) -> list[Instance]:
    """The foreign agents, once there are so many."""

    async def look() -> list[Instance] | None:
        seen = await foreign(mesh)
        return seen if len(seen) == count else None

    seen: list[Instance] = await eventually(look)
    return seen


@contextlib.asynccontextmanager
async def bridged(server: Server, folder: Path, settings: str = "{}", **env: str) -> AsyncIterator[ActorProcess]:
    """A registry and a bridge, as processes."""
    async with contextlib.AsyncExitStack() as stack:
        made = [
            actor(REGISTRY, server.url, folder / "registry.log", **BEAT),
            actor(BRIDGE, server.url, folder / "bridge.log", **BEAT, **env, REVO_ACTOR_SETTINGS=settings),
        ]
        entered = await asyncio.gather(*(stack.enter_async_context(one) for one in made))
        yield entered[1]
