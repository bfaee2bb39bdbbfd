"""Registries die again and again while instances come and go: no ghost, no gap, and no work is disturbed."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from actors.registry.client import RegistryClient
from actors.registry.messages import CapabilityInfo, Registration
from actors.registry.registrar import Registrar
from bus import subjects
from bus.errors import BusError
from bus.mesh import Mesh
from bus.settings import Settings
from tests.eventually import eventually
from tests.guarded import Guarded
from tests.processes import actor

SECONDS = 12.0
LASTING = 60
PASSING = 40
BEAT = 1.0


@pytest.fixture
def settings(here: Guarded) -> Settings:
    return here.settings("operator").model_copy(update={"lease_heartbeat": BEAT})


class Instance:
    """One simulated process: registers, keeps its lease, and leaves in order or not at all."""

    def __init__(self, mesh: Mesh, number: int) -> None:
        self.name = f"worker-{number:04}"
        registration = Registration(
            agent="worker",
            instance=self.name,
            secret=f"secret of {self.name}",
            capabilities=[CapabilityInfo(name="work", message={"type": "object"})],
        )
        self.registrar = Registrar(mesh.connection, registration, dict)
        self._keeping: asyncio.Task[None] | None = None

    async def come(self) -> None:
        await self.registrar.start()
        self._keeping = asyncio.create_task(self.registrar.keep())
        await eventually(lambda: self.registrar.registered, timeout=30)
        await self.registrar.enter("ready")

    async def stop(self) -> None:
        assert self._keeping is not None
        self._keeping.cancel()
        await asyncio.gather(self._keeping, return_exceptions=True)


@contextlib.asynccontextmanager
async def killed_again_and_again(here: Guarded, tmp_path: Path, kills: list[str]) -> AsyncIterator[None]:
    """Two places for a registry; whoever is in one dies at a random moment, and another comes."""
    chance = random.Random(4)  # noqa: S311

    env = {**here.env(subjects.REGISTRY), "REVO_LEASE_HEARTBEAT": str(BEAT)}

    async def place(which: int) -> None:
        number = 0
        while True:
            number += 1
            log = tmp_path / f"registry-{which}-{number}.log"
            async with actor("actors.registry:Registry", here.server.url, log, **env) as process:
                await asyncio.sleep(chance.uniform(0.0, 1.2))  # noqa: TID251  (the moment is chance's)
                process.signal(signal.SIGKILL)
                await process.wait()
                kills.append(process.instance)

    places = [asyncio.create_task(place(which)) for which in range(2)]
    try:
        yield
    finally:
        for one in places:
            one.cancel()
        ends = await asyncio.gather(*places, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ends), ends


@pytest.mark.xdist_group("chaos")
async def test_registries_that_die_at_any_moment_leave_no_ghost_and_no_gap(
    here: Guarded, mesh: Mesh, tmp_path: Path, figures: Callable[[str], None]
) -> None:
    kills: list[str] = []
    client = RegistryClient(mesh)
    lasting = [Instance(mesh, number) for number in range(LASTING)]
    passing = [Instance(mesh, LASTING + number) for number in range(PASSING)]
    gone: dict[str, float] = {}
    answers = unanswered = 0

    async def come_and_go() -> None:
        for number, instance in enumerate(passing):
            await instance.come()
            await instance.stop()
            if number % 2:
                await instance.registrar.leave()
                gone[instance.name] = time.monotonic() + 0.5
            else:
                gone[instance.name] = time.monotonic() + 2 * BEAT + 0.5  # it just falls silent

    async with killed_again_and_again(here, tmp_path, kills):
        async with asyncio.TaskGroup() as group:
            for instance in lasting:
                group.create_task(instance.come())
        seen = {instance.name for instance in lasting}
        await eventually(lambda: _exactly(client, seen))  # from here on whoever is found stays found
        coming = asyncio.create_task(come_and_go())
        until = time.monotonic() + SECONDS
        while time.monotonic() < until or not coming.done():
            asked = time.monotonic()
            try:
                found = {one.instance for one in await client.find("work")}
            except BusError:
                unanswered += 1  # both places were empty for a moment
                continue
            answers += 1
            assert seen <= found, f"a gap: {sorted(seen - found)}"
            ghosts = {name for name in found if gone.get(name, asked) < asked}
            assert not ghosts, f"ghosts: {sorted(ghosts)}"
            await asyncio.sleep(0.01)  # noqa: TID251  (as fast as people look)
        await coming
    env = {**here.env(subjects.REGISTRY), "REVO_LEASE_HEARTBEAT": str(BEAT)}
    async with actor("actors.registry:Registry", here.server.url, tmp_path / "last.log", **env):
        await eventually(lambda: _exactly(client, seen))
    for instance in lasting:
        await instance.stop()
    figures(
        f"registry: {len(kills)} registries killed, {LASTING + PASSING} instances, {answers} answers, "
        f"{unanswered} unanswered, no ghost, no gap"
    )
    assert len(kills) >= 8
    assert answers > 15


async def _exactly(client: RegistryClient, names: set[str]) -> bool:
    try:
        return {one.instance for one in await client.find("work")} == names
    except BusError:
        return False  # none is there at this moment
