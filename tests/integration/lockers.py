"""A process that holds a lock, for tests that kill or stop it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator

from actors.memory.client import Memory
from actors.memory.errors import StaleFenceError
from bus.mesh import Mesh
from bus.settings import Settings
from tests.eventually import in_time
from tests.processes import ROOT


class Locker:
    """A process that has said which token it was given."""

    def __init__(self, process: asyncio.subprocess.Process, token: int) -> None:
        self._process = process
        self.token = token

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def says(self) -> str:
        """The next line."""
        assert self._process.stdout is not None
        return (await in_time(self._process.stdout.readline(), 20)).decode().strip()


@contextlib.asynccontextmanager
async def locker(url: str, key: str, **env: str) -> AsyncIterator[Locker]:
    """One that holds an exclusive lock on a key of the namespace `yard`; it is killed at the end of the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.integration.lockers",
        key,
        cwd=ROOT,
        env={**os.environ, "REVO_NATS_URL": url, **env},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield Locker(process, int((await in_time(process.stdout.readline(), 30)).decode()))
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _main(key: str) -> None:
    async with Mesh.connect(settings=Settings.from_env()) as mesh:
        memory = Memory(mesh, "yard")
        lock = await memory.lock(key).acquire()
        await memory.put(f"{key}/mine", "before", fence=lock)
        _say(f"{lock.token}")
        await lock.lost.wait()
        try:
            await memory.put(f"{key}/mine", "after", fence=lock)
        except StaleFenceError as error:
            _say(f"refused {error.token}")
        else:
            _say("written")
        await asyncio.Event().wait()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
