"""Connected is not enough: who does not do what it is given is found, shown and routed around. Real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from actors.registry import pausing
from actors.registry.client import RegistryClient
from actors.registry.model import Health, Instance
from bus import jetstream, subjects
from bus.errors import NoRespondersError, NotFoundError, RemoteError
from bus.mesh import Mesh
from bus.server import Server
from bus.wire import Message
from revo.cli.events import recent
from tests.eventually import eventually
from tests.processes import ActorProcess, actor

REGISTRY = "actors.registry:Registry"
LISTENER = "tests.integration.agents:Listener"


def within() -> float:
    """Seconds within which the deaf must be known for what they are; on a machine that has more to do than it can,
    where those who start are slow to say how they are, five times as many.
    """
    return 6.0 if os.getloadavg()[0] <= (os.cpu_count() or 2) else 30.0


LOADED = float(os.environ.get("REVO_LOADED", "4.0"))
"""Seconds of full load, and as many of rest; longer than anybody may be silent."""


async def found(mesh: Mesh, name: str) -> Instance:
    return next(one for one in await RegistryClient(mesh).instances() if one.instance == name)


async def until(mesh: Mesh, name: str, condition: str, says: str = "") -> Instance:
    async def look() -> Instance | None:
        one = await found(mesh, name)
        return one if one.condition == condition and says in one.reason else None

    one: Instance = await eventually(look, timeout=60.0)
    return one


async def told(mesh: Mesh, what: str) -> set[str]:
    return {event.name for event in await recent(mesh.connection, 0.0) if event.what == what}


async def start(stack: AsyncExitStack, server: Server, folder: Path, *targets: str) -> list[ActorProcess]:
    return [
        await stack.enter_async_context(actor(target, server.url, folder / f"{number}-{target.rpartition(':')[2]}.log"))
        for number, target in enumerate(targets)
    ]


async def test_the_deaf_are_found_and_routed_around_also_after_a_restart_of_the_server(
    server: Server, mesh: Mesh, tmp_path: Path, figures: Callable[[str], None]
) -> None:
    async with AsyncExitStack() as stack:
        _, _, deaf, good, blocked = await start(stack, server, tmp_path, REGISTRY, REGISTRY, *[LISTENER] * 3)
        for one in (deaf, good, blocked):
            assert (await until(mesh, one.instance, "idle")).health is not None

        began = time.monotonic()
        deaf.signal(signal.SIGUSR1)
        await until(mesh, deaf.instance, "suspect", "deaf")
        took = time.monotonic() - began
        figures(f"health: found deaf {took:.1f} s after its queue fell silent")
        assert took < within()
        finding = {one.instance for one in await RegistryClient(mesh).find("listen")}
        assert finding == {good.instance, blocked.instance}, "who asks for somebody is not given the deaf"
        done = [await (await mesh.submit("listen", {"id": n})).result(timeout=5) for n in range(6)]
        assert deaf.instance not in done

        # A handler that blocks the loop of an instance with a slot to spare: its heart beats in another thread.
        handle = await mesh.submit("listen", {"what": "block", "seconds": 7.0})
        began = time.monotonic()
        victim = await eventually(lambda: _one_more_suspect(mesh, {deaf.instance}))
        assert time.monotonic() - began < within()
        assert victim in (good.instance, blocked.instance)

        # One that the restart of the server leaves deaf is found, and so is the one that was.
        lost = blocked if victim == good.instance else good
        server.kill()
        lost.signal(signal.SIGUSR1)
        await server.wait()
        await server.start()
        began = time.monotonic()
        await until(mesh, lost.instance, "suspect", "deaf")
        took = time.monotonic() - began
        figures(f"health: found deaf {took:.1f} s after the restart of the server")
        assert took < within()
        await until(mesh, deaf.instance, "suspect", "deaf")
        await handle.result(timeout=20)
        await until(mesh, str(victim), "idle")
        assert await told(mesh, "heard") <= {victim}, "a server's restart is no sign of life"

        # A registry that has just begun takes nothing back; each is well once it hears.
        await start(stack, server, tmp_path, REGISTRY)
        deaf.signal(signal.SIGUSR2)
        await until(mesh, deaf.instance, "idle")
        assert (await found(mesh, lost.instance)).condition == "suspect"
        lost.signal(signal.SIGUSR2)
        await until(mesh, lost.instance, "idle")
        assert await told(mesh, "deaf") == {deaf.instance, victim, lost.instance}

        async def all_told() -> bool:
            return await told(mesh, "heard") == {deaf.instance, victim, lost.instance}

        await eventually(all_told)


async def _one_more_suspect(mesh: Mesh, known: set[str]) -> str | None:
    found = await RegistryClient(mesh).instances("listener")
    return next((one.instance for one in found if one.condition == "suspect" and one.instance not in known), None)


async def test_nobody_is_taken_for_deaf_under_full_load(
    server: Server, mesh: Mesh, tmp_path: Path, figures: Callable[[str], None]
) -> None:
    cores = os.cpu_count() or 2
    burn = [await asyncio.create_subprocess_exec(sys.executable, "-c", "while True: pass") for _ in range(2 * cores)]
    try:
        async with AsyncExitStack() as stack:
            _, *listeners = await start(stack, server, tmp_path, REGISTRY, LISTENER, LISTENER, LISTENER)
            until_then, done = time.monotonic() + LOADED, 0

            async def work() -> None:
                nonlocal done
                while time.monotonic() < until_then:
                    await (await mesh.submit("listen", {})).result(timeout=60)
                    done += 1

            async with asyncio.TaskGroup() as group:
                for _ in range(64):
                    group.create_task(work())
            # Now they have nothing to do but their probes, and the processors have.
            calm = time.monotonic() + LOADED
            worst, found = 0.0, list[Instance]()
            while time.monotonic() < calm:
                found = await RegistryClient(mesh).instances("listener")
                worst = max([worst, *(one.health.idle or 0.0 for one in found if one.health is not None)])
            assert await told(mesh, "deaf") == set()
            assert worst < 3.0, "probes come once a second, and are done at once"
            assert len(found) == len(listeners)
            figures(f"health: {done} tasks and nobody deaf; the longest without a sign, {worst:.1f} s")
    finally:
        for process in burn:
            process.kill()
            await process.wait()


async def test_who_is_paused_takes_nothing_until_resumed(server: Server, mesh: Mesh, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        _, one, other = await start(stack, server, tmp_path, REGISTRY, LISTENER, LISTENER)
        for instance in (one.instance, other.instance):
            await until(mesh, instance, "idle")
        assert (await pausing.pause(mesh, one.instance, "its disk is full")).kind == "instance"
        assert (await until(mesh, one.instance, "paused")).reason == "its disk is full"
        asked = {await mesh.ask("listener", "hear") for _ in range(12)}
        done = [await (await mesh.submit("listen", {"id": n})).result(timeout=5) for n in range(12)]
        assert asked == set(done) == {other.instance}, "tasks and requests go to the other"

        assert (await pausing.pause(mesh, "listen", "the model is down")).kind == "capability"
        waiting = await mesh.submit("listen", {})
        await until(mesh, other.instance, "paused", "listen is paused: the model is down")
        assert await nobody_takes(mesh, waiting.task_id)
        await pausing.resume(mesh, one.instance)
        (newcomer,) = await start(stack, server, tmp_path, LISTENER)
        await until(mesh, newcomer.instance, "paused")
        assert await nobody_takes(mesh, waiting.task_id), "a capability is paused for those that come, too"
        await pausing.resume(mesh, "listen")
        await waiting.result(timeout=5)
        await until(mesh, one.instance, "idle")

        with pytest.raises(NotFoundError, match="there is no instance and no capability of that name"):
            await pausing.pause(mesh, "nobody", "why not")
        assert await told(mesh, "deaf") == set(), "who is paused need not prove anything"
        assert {"listen", one.instance} == await told(mesh, "paused") == await told(mesh, "resumed")


async def test_an_agent_that_only_answers_prompts_is_probed_counted_and_paused_as_others(
    server: Server, mesh: Mesh, tmp_path: Path
) -> None:
    probed: asyncio.Queue[Message] = asyncio.Queue()
    await mesh.connection.subscribe(subjects.PROBED, probed.put_nowait)
    async with AsyncExitStack() as stack:
        _, one = await start(stack, server, tmp_path, REGISTRY, "tests.integration.agents:Host")
        for _ in range(2):
            with pytest.raises(RemoteError, match="as told"):
                await mesh.prompt("host", "fail")
        assert (await mesh.prompt("host", "hi")).text == one.instance
        health = await eventually(lambda: _health_of(mesh, one.instance, 3))
        assert 0.4 < health.error_rate < 0.7
        async with asyncio.timeout(20):
            assert (await probed.get()).subject == subjects.probed("host", one.instance)

        for _ in range(2):
            await pausing.resume(mesh, one.instance)  # it has never been paused
        for _ in range(2):
            await pausing.pause(mesh, one.instance, "why")
            await until(mesh, one.instance, "paused")
            await eventually(lambda: _nobody_answers(mesh, "host"))
        await pausing.resume(mesh, one.instance)
        await until(mesh, one.instance, "idle")
        answer = await mesh.prompt("host", "hi")
        assert (answer.text, answer.chunks) == (one.instance, 1)


async def _nobody_answers(mesh: Mesh, agent: str) -> bool:
    try:
        await mesh.prompt(agent, "hi")
    except NoRespondersError:
        return True
    return False


async def _health_of(mesh: Mesh, name: str, done: int) -> Health | None:
    health = (await found(mesh, name)).health
    return health if health is not None and health.done >= done else None


async def nobody_takes(mesh: Mesh, task_id: str) -> bool:
    """Whether a task has no result after a round of everything that could take it."""
    await mesh.ask("listener", "hear")
    return await jetstream.last(mesh.connection, subjects.RESULTS, subjects.result_of(task_id)) is None
