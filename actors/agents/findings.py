"""Keeps what agents find in a file in shared memory, each in a part of its own: `findings/<path>`."""

from __future__ import annotations

import asyncio
import logging
from pathlib import PurePath
from typing import Any, Final

from actors.memory.client import Memory
from bus.errors import BusError, ConfigError
from bus.mesh import Mesh
from bus.telemetry import span

log = logging.getLogger(__name__)

NAMESPACE: Final = "findings"
"""Those who write to it at the same time write different parts, which a merge keeps both of."""
PATIENCE: Final = 3.0
"""Seconds that a task waits for its finding to be kept."""
REST: Final = 30.0
"""Seconds for which nothing is kept after that failed: tasks are not to be late because nobody remembers them."""


class Findings:
    """What one agent keeps. That it cannot fails no task: it is in the log, and on the task's trace."""

    def __init__(self, mesh: Mesh, agent: str) -> None:
        self._memory = Memory(mesh, NAMESPACE)
        self._agent = agent
        self._resting_until = 0.0

    async def keep(self, path: str, found: dict[str, Any]) -> None:
        """Keep what was found in a file, beside what others found in it. The same again makes no new version."""
        now = asyncio.get_running_loop().time
        if now() < self._resting_until:
            return
        with span("keep findings", path=path) as traced:
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._put("/".join(PurePath(path).parts).lstrip("/"), found)
            except ConfigError as error:
                traced.fail(error)
                log.info("what was found in %s is not kept: %s", path, error)
            except (BusError, TimeoutError) as error:
                traced.fail(error)
                self._resting_until = now() + REST
                reason = str(error) or f"no answer within {PATIENCE:g} s"
                log.warning("what is found is not kept for the next %g s: %s", REST, reason)

    async def _put(self, key: str, found: dict[str, Any]) -> None:
        entry = await self._memory.get(key)
        standing = entry.value if entry is not None and isinstance(entry.value, dict) else {}
        if standing.get(self._agent) != found:
            await self._memory.put(key, {**standing, self._agent: found}, entry)  # alternatives stay: none is chosen
