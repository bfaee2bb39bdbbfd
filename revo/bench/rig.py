"""What all measurements share: a server and processes of their own, what these use, and figures of many times."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from actors.admission import let_in, prepare
from actors.keyring import Keyring
from actors.loading import load
from actors.meshfile import STEWARD
from actors.process import ActorProcess
from bus import subjects
from bus.credentials import OPERATOR
from bus.grants import Wish
from bus.mesh import Mesh
from bus.roles import GATEWAY, SUBMITTER
from bus.server import Server
from bus.settings import KEYS, Settings


class Rig:
    """A server, and whatever is started in it; all of it ends with the block of `rig()`."""

    def __init__(
        self, stack: AsyncExitStack, folder: Path, server: Server, keyring: Keyring | None, *, isolated: bool
    ) -> None:
        self._stack = stack
        self._isolated = isolated
        self._keyring = keyring
        self.folder = folder
        self.server = server
        given = {"nats_url": server.url, "credentials": str(keyring.path(OPERATOR)) if keyring else ""}
        self.settings = Settings.from_env().model_copy(update=given)
        """An operator's."""
        self.system: list[ActorProcess] = []
        """What runs beside the measured, because it always does."""

    async def start(self, name: str, target: str, **settings: Any) -> ActorProcess:
        """An actor in a process of its own, ready."""
        process = ActorProcess(name, target, on_line=lambda _: None)
        credentials = await self.credentials_of(name, target)
        await process.start(url=self.server.url, cwd=self.folder, settings=settings, credentials=credentials)
        self._stack.push_async_callback(end, process)
        return process

    async def credentials_of(self, name: str, target: str) -> str:
        """The file of an actor's credentials, whom the server knows then; empty where it knows nobody."""
        if self._keyring is None:
            return ""
        actors = {name: load(target)}
        if let_in(self._keyring, actors, isolated=self._isolated):
            await self.server.reload()
        async with Mesh.connect(settings=self.settings, service="bench") as mesh:
            await prepare(mesh.connection, actors)
        return str(self._keyring.path(name))

    async def mesh(self, *, sample: float = 0.0, client: str = "bench", operator: bool = False) -> Mesh:
        """A client of the mesh that records the share `sample` of its traces: an operator, as on a laptop, or somebody
        with an account of his own where the rig is `isolated`.
        """
        settings = self.settings.model_copy(update={"trace_sample": sample})
        if self._keyring is not None and self._isolated and not operator:
            if self._keyring.ensure(client, GATEWAY, Wish()):
                await self.server.reload()
            settings = settings.model_copy(update={"credentials": str(self._keyring.path(client))})
        connecting = Mesh.connect(client=client, settings=settings, service="bench")
        return await self._stack.enter_async_context(connecting)

    async def credentials_for(self, client: str, wish: Wish) -> str:
        """The file of a client who may do what he wishes and no more, in the account of the others."""
        if self._keyring is None:
            return ""
        if self._keyring.ensure(client, SUBMITTER, wish, isolated=False):
            await self.server.reload()
        return str(self._keyring.path(client))

    async def unguarded(self) -> str:
        """The URL of another server, which knows no users, for what is compared with."""
        if self._keyring is None:
            return self.server.url
        other = Server(self.folder / "plain", binary=self.settings.nats_server)
        return (await self._stack.enter_async_context(other)).url


@asynccontextmanager
async def rig(*, guarded: bool = True, isolated: bool = False) -> AsyncIterator[Rig]:
    """A server with nothing in it but, where it is `guarded` by users and grants, as shipped, a steward. With
    `isolated` agents and clients have accounts of their own.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="revo-bench-")))
        keyring = Keyring(folder / KEYS) if guarded else None
        if keyring is not None:
            keyring.init()
        accounts = keyring.accounts if keyring else None
        binary = Settings.from_env().nats_server
        server = await stack.enter_async_context(Server(folder / "nats", binary=binary, accounts=accounts))
        here = Rig(stack, folder, server, keyring, isolated=isolated)
        if keyring is not None:
            here.system.append(await here.start(subjects.STEWARD, STEWARD))
        yield here


async def end(process: ActorProcess) -> None:
    """Let an actor drain, and wait for its end."""
    process.terminate()
    await process.wait()


def percentile(times: Sequence[float], percent: int) -> float:
    """A percentile of some times, in milliseconds; 0 without any."""
    if len(times) < 2:
        return sum(times) * 1e3
    return statistics.quantiles(times, n=100)[percent - 1] * 1e3


def machine() -> dict[str, Any]:
    """What was measured on, so that figures of different machines are not compared."""
    return {"system": platform.system(), "cpus": os.cpu_count(), "python": platform.python_version()}


def resident_bytes(pid: int) -> int:
    """The memory that a process holds, as `ps` tells it on Linux and macOS."""
    said = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=True).stdout
    return int(said) * 1024


def cpu_seconds(pid: int) -> float:
    """The CPU time that a process has used, by /proc where there is one, else by `ps`, which counts whole seconds."""
    stat = Path(f"/proc/{pid}/stat")
    if stat.exists():
        fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    said = subprocess.run(["ps", "-o", "time=", "-p", str(pid)], capture_output=True, text=True, check=True).stdout
    total = 0.0
    for part in said.strip().replace("-", ":").split(":"):
        total = total * 60 + float(part)
    return total


def rounded(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Figures as JSON should show them."""
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in figures.items()}
