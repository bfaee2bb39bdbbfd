"""Processes of either version of Revo, and what an upgrade must leave behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from bus.connection import Connection
from tests.chaos.fleet import Count, at_rest, count
from tests.eventually import eventually, in_time
from tests.processes import ROOT, ActorProcess, actor


class Stage:
    """Starts processes, each of which ends with the test at the latest."""

    def __init__(self, stack: AsyncExitStack, url: str, folder: Path) -> None:
        self._stack = stack
        self._url = url
        self._folder = folder
        self._started = 0
        self.journal = folder / "journal"

    async def start(self, target: str, tree: Path = ROOT) -> ActorProcess:
        """An actor that is ready. `tree` is the Revo that it runs."""
        self._started += 1
        log = self._folder / f"{self._started}.log"
        process = actor(target, self._url, log, tree=tree, JOURNAL=str(self.journal))
        return await self._stack.enter_async_context(process)

    async def end(self, process: ActorProcess) -> None:
        """SIGTERM, and it leaves in order."""
        process.signal(signal.SIGTERM)
        assert await process.wait() == 0, process.log
        assert "Traceback" not in process.log, process.log

    async def revo(self, tree: Path, *words: str) -> dict[str, Any]:
        """What the command prints."""
        env = {**os.environ, "REVO_NATS_URL": self._url}
        command = [sys.executable, "-m", "revo", *words, "--output", "json"]
        process = await asyncio.create_subprocess_exec(*command, cwd=tree, env=env, stdout=asyncio.subprocess.PIPE)
        out, _ = await in_time(process.communicate(), 30)
        printed: dict[str, Any] = json.loads(out)
        return printed

    def noted(self, what: str) -> list[str]:
        """Which versions of the agent wrote this, as in `begin 7`, into the journal."""
        lines = self.journal.read_text().splitlines() if self.journal.exists() else []
        return [line.partition(" ")[0] for line in lines if line.partition(" ")[2] == what]


async def all_is_well(connection: Connection) -> Count:
    """Every task has exactly one result, nothing waits, and the audit is good."""
    await eventually(lambda: at_rest(connection))
    found = await count(connection)
    assert found.audit.good, found.audit
    assert found.audit.accepted == found.audit.ended == found.results.total()
    assert set(found.results.values()) == {1}
    return found
