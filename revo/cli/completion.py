"""What a shell offers after TAB where only the mesh knows. Quick, and without a word when there is no mesh."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from actors.registry.messages import CapabilitySummary

_PATIENCE: Final = 0.7


def capabilities(incomplete: str) -> list[str]:
    """The capabilities that somebody who lives has."""
    return [one.capability for one in _known() if one.capability.startswith(incomplete)]


def agents(incomplete: str) -> list[str]:
    """The agents that live."""
    names = {agent for one in _known() for agent in one.agents}
    return sorted(name for name in names if name.startswith(incomplete))


def _known() -> list[CapabilitySummary]:
    from bus.errors import BusError

    try:
        return asyncio.run(_ask())
    except (BusError, TimeoutError, OSError):
        return []  # a shell that completes has nowhere to show an error


async def _ask() -> list[CapabilitySummary]:
    from actors.registry.client import RegistryClient
    from bus.mesh import Mesh
    from bus.settings import Settings

    settings = Settings.from_env().model_copy(update={"connect_timeout": _PATIENCE, "trace_sample": 0.0})
    async with asyncio.timeout(2 * _PATIENCE), Mesh.connect(settings=settings, service="revo-completion") as mesh:
        return await RegistryClient(mesh).capabilities()
