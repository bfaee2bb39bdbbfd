"""What a shell offers after TAB where only the mesh knows. Quick, and without a word when there is no mesh."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeVar

import typer

if TYPE_CHECKING:
    from actors.registry.messages import CapabilitySummary
    from bus.mesh import Mesh

T = TypeVar("T")

_PATIENCE: Final = 0.7


def capabilities(incomplete: str) -> list[str]:
    """The capabilities that somebody who lives has."""
    return [one.capability for one in _known() if one.capability.startswith(incomplete)]


def agents(incomplete: str) -> list[str]:
    """The agents that live."""
    names = {agent for one in _known() for agent in one.agents}
    return sorted(name for name in names if name.startswith(incomplete))


def namespaces(incomplete: str) -> list[str]:
    """The namespaces of shared memory."""

    async def ask(mesh: Mesh) -> list[str]:
        from actors.memory.namespaces import sizes

        return [name for name in await sizes(mesh) if name.startswith(incomplete)]

    return _asked(ask)


def keys(context: typer.Context, incomplete: str) -> list[str]:
    """What stands in the namespace that the command names, a hundred at the most."""

    async def ask(mesh: Mesh) -> list[str]:
        from actors.memory.client import Memory

        memory = Memory(mesh, context.params.get("namespace") or "main")
        page = await memory.list(incomplete.rpartition("/")[0])
        return [one.key for one in page.entries if one.key.startswith(incomplete)]

    return _asked(ask)


def _known() -> list[CapabilitySummary]:
    async def ask(mesh: Mesh) -> list[CapabilitySummary]:
        from actors.registry.client import RegistryClient

        return await RegistryClient(mesh).capabilities()

    return _asked(ask)


def _asked(question: Callable[[Mesh], Awaitable[list[T]]]) -> list[T]:
    from bus.errors import BusError

    try:
        return asyncio.run(_ask(question))
    except (BusError, TimeoutError, OSError):
        return []  # a shell that completes has nowhere to show an error


async def _ask(question: Callable[[Mesh], Awaitable[list[T]]]) -> list[T]:
    from bus.mesh import Mesh
    from bus.settings import Settings

    settings = Settings.from_env().model_copy(update={"connect_timeout": _PATIENCE, "trace_sample": 0.0})
    async with asyncio.timeout(2 * _PATIENCE), Mesh.connect(settings=settings, service="revo-completion") as mesh:
        return await question(mesh)
