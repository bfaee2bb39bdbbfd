"""Every class of fault provoked for real: its event, what stands on the trace, and what its strategy does."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from actors.registry.client import RegistryClient
from actors.registry.model import Instance
from actors.steward.shedding import Shedder, Shortage
from bus import inspection, traces
from bus.errors import NotFoundError
from bus.events import Event
from bus.faults import CLASSES
from bus.mesh import Handle, Mesh
from bus.messages import Result, SpanRecord
from bus.server import Server
from bus.settings import Settings
from revo.cli.events import line_of, recent
from tests.conftest import StartWorker
from tests.e2e.conftest import Shell
from tests.eventually import eventually
from tests.proxy import proxied

HERE = Path(__file__).with_name("faulty.py")
MESH = f"""
[supervision]
rest = 1.0
backoff = 0.1
[actors.faulty]
target = "{HERE}:Faulty"
[actors.slow]
target = "{HERE}:Slow"
[actors.idler]
target = "{HERE}:Idler"
count = 2
"""


@pytest.fixture
async def shell(tmp_path: Path) -> AsyncIterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    await asyncio.to_thread(shell.revo, "down")


@pytest.fixture
def peer() -> Iterator[int]:
    """A port where connections are taken, and reset as soon as something is said. In a thread: a server of asyncio that
    is closed as somebody comes in forgets him.
    """

    def hang_up(listening: socket.socket) -> None:
        while True:
            try:
                taken, _ = listening.accept()
            except OSError:
                return
            with taken:
                taken.settimeout(5)
                with contextlib.suppress(OSError):
                    taken.recv(5)
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as pool:
        serving = pool.submit(hang_up, listening)
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        serving.result()


class Told:
    """What has been told on a mesh, and what stands on its traces."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.began = time.time() - 60.0

    async def events(self, kind: str, what: str) -> list[Event]:
        found = await recent(self.mesh.connection, self.began)
        return [event for event in found if (event.kind, event.what) == (kind, what)]

    async def of(self, what: str, capability: str = "fail") -> list[tuple[str, str]]:
        """Severity and strategy of a class of fault, as often as it was told."""
        found = [event.details for event in await self.events("fault", what)]
        return [(one["severity"], one["recovery"]) for one in found if one.get("capability") == capability]

    async def once_of(self, kind: str) -> list[tuple[str, str]]:
        """The same, as soon as it has been told at all."""
        found: list[tuple[str, str]] = await eventually(lambda: self.of(kind))
        return found

    async def attempts(self, handle: Handle) -> list[SpanRecord]:
        """The spans of a task's attempts that failed, by time."""
        spans = await traces.read_trace(self.mesh.connection, handle.task_id, since=self.began)
        return [span for span in spans if span.name.startswith("process ") and "revo.fault.class" in span.attributes]

    async def first(self, handle: Handle) -> tuple[dict[str, Any], list[str]]:
        """What stands on the first attempt that failed: attributes without their prefix, and events."""
        span = (await eventually(lambda: self.attempts(handle)))[0]
        prefix = "revo.fault."
        said = {key.removeprefix(prefix): value for key, value in span.attributes.items() if key.startswith(prefix)}
        return said, [event.name for event in span.events]


async def test_each_class_of_fault_is_told_traced_and_dealt_with(shell: Shell, peer: int, tmp_path: Path) -> None:
    mesh_file, healed = tmp_path / "faulty.toml", tmp_path / "healed"
    mesh_file.write_text(MESH)
    shell.env |= {"REVO_MAILBOX": "20", "REVO_LEASE_HEARTBEAT": "0.5"}
    await asyncio.to_thread(shell.json, "up", str(mesh_file), "--detach")
    settings = Settings(home=shell.home)
    async with Mesh.connect(settings=settings) as mesh:
        told = Told(mesh)
        gently = [kind for kind in CLASSES if kind not in ("crash", "communication")]
        handles: dict[str, Handle] = {kind: await mesh.submit("fail", {"what": kind, "port": peer}) for kind in gently}
        results: dict[str, Result] = {kind: await handle.outcome(timeout=20) for kind, handle in handles.items()}
        await _tell_what_each_was(told, handles, results)
        await _resources_were_made_room_for(told, shell)
        await _unreachable_is_left_alone_until_it_is_back(told, healed)
        await _a_death_is_told_and_its_task_done(told, healed.with_name("died"))


async def _tell_what_each_was(told: Told, handles: dict[str, Handle], results: dict[str, Result]) -> None:
    expected = {
        "timeout": ("medium", "back-off"),
        "resource": ("high", "shed"),
        "task": ("low", "give-up"),
        "overload": ("low", "back-off"),
        "network": ("medium", "back-off"),
        "unknown": ("medium", "back-off"),
    }
    for kind, (severity, recovery) in expected.items():
        assert await told.once_of(kind) == [(severity, recovery)]
        said, events = await told.first(handles[kind])
        assert said == {"class": kind, "severity": severity, "recovery": recovery, "count": 1}
        assert ("dead letter" if recovery == "give-up" else "retry") in events
        assert results[kind].value == (None if recovery == "give-up" else "went well")
    letter = await eventually(lambda: inspection.letter(told.mesh.connection, handles["task"].task_id))
    assert (letter.letter.error.fault, letter.letter.attempts) == ("task", 1)
    (event,) = await told.events("fault", "overload")
    assert "overload" in str(line_of(event))
    assert event.details["error"] == "mailbox_full"
    assert "tray" not in str(await recent(told.mesh.connection, told.began)), "no text of a task is told to all"


async def _resources_were_made_room_for(told: Told, shell: Shell) -> None:
    """An idle neighbour leaves, is seen to rest, and is back."""
    (shed,) = await eventually(lambda: told.events("agent", "shed"))
    assert (shed.agent, shed.details["reason"]) == ("idler", "os_error")
    await eventually(lambda: told.events("system", "resting"))
    ready = RegistryClient(told.mesh)

    async def names() -> list[str]:
        return [one.instance for one in await ready.instances("idler") if one.state == "ready"]

    await eventually(lambda: _true_of(names, lambda found: len(found) == 2 and shed.name not in found))
    rows = await asyncio.to_thread(shell.json, "ps", "--agent", "idler")
    assert [row["restarts"] for row in rows] == [0, 0], "who made room has not crashed"


async def _true_of(read: Any, check: Any) -> bool:
    return bool(check(await read()))


async def _unreachable_is_left_alone_until_it_is_back(told: Told, healed: Path) -> None:
    mesh = told.mesh
    message = {"healed": str(healed)}
    handles = [await mesh.submit("reach", message) for _ in range(8)]
    await eventually(lambda: told.events("breaker", "open"))
    other = await mesh.submit("fail", {})
    assert await other.result(timeout=5) == "nothing is wrong", "the agent's other capability goes on"

    async def shown() -> bool:
        return any(one.breakers.get("reach") for one in await RegistryClient(mesh).instances("faulty"))

    await eventually(shown)
    handles.append(await mesh.submit("reach", message, agent="faulty"))  # its consumer is still pulled
    healed.touch()
    tries = [await handle.result(timeout=20) for handle in handles]
    assert sum(tries) < 9 + 5 + 2 + 4, "a breaker that is open burns no attempts"
    await eventually(lambda: told.events("breaker", "half-open"))
    await eventually(lambda: told.events("breaker", "closed"))
    severities = [severity for severity, _ in await eventually(lambda: _twice(told))]
    assert severities[:2] == ["medium", "high"], "repetition makes it graver"
    spans = [span for handle in handles for span in await told.attempts(handle)]
    assert {span.attributes["revo.fault.recovery"] for span in spans} == {"open-breaker"}
    assert any(event.name == "breaker" for span in spans for event in span.events)


async def _twice(told: Told) -> list[tuple[str, str]]:
    found = await told.of("communication", "reach")
    return found if len(found) > 1 else []


async def _a_death_is_told_and_its_task_done(told: Told, healed: Path) -> None:
    handle = await told.mesh.submit("fail", {"what": "crash", "healed": str(healed)})
    assert await handle.result(timeout=20) == "went well"
    (crash,) = await eventually(lambda: told.events("fault", "crash"))
    assert (crash.agent, crash.details["recovery"], crash.details["tasks"]) == ("faulty", "restart", [handle.task_id])
    (restart,) = await eventually(lambda: told.events("system", "restarting"))
    assert (restart.name, restart.details["fault"], restart.details["severity"]) == ("faulty", "crash", "high")
    said, _ = await told.first(handle)
    assert said == {"class": "crash", "severity": "high", "recovery": "restart"}


async def test_a_connection_that_was_cut_is_told_once_it_is_back(
    server: Server, mesh: Mesh, start_worker: StartWorker
) -> None:
    async def echo(message: Any) -> Any:
        return message

    async with proxied(server.url) as wire:
        await start_worker(echo, overrides={"nats_url": wire.url})
        assert await (await mesh.submit("echo", {})).result(timeout=5) == {}
        await wire.cut()
        wire.mend()
        told = Told(mesh)
        (event,) = await eventually(lambda: told.events("fault", "network"))
        assert (event.agent, event.details["severity"], event.details["recovery"]) == ("tester", "medium", "back-off")


class _Registry:
    """Knows three idle instances of one agent on two hosts."""

    async def instances(self) -> list[Instance]:
        hosts = {"pair-1": "here", "pair-2": "here", "pair-3": "there", "busy-1": "here", "busy-2": "there"}
        return [
            Instance(agent=name[:4], instance=name, host=host, state="ready", condition="idle")
            for name, host in hosts.items()
        ]


async def test_however_many_stewards_are_asked_a_host_and_an_agent_lose_one_instance(mesh: Mesh) -> None:
    stewards = [Shedder(mesh.connection, cast("RegistryClient", _Registry()), "test") for _ in range(4)]
    asked = [Shortage(instance=name, reason="memory_error") for name in ("busy-1", "busy-2")]
    done = await asyncio.gather(*(one.shed(shortage, "busy") for one in stewards for shortage in asked))
    left = [one.instance for one in done if one.instance]
    assert len(left) == len({name[:4] for name in left}), f"{left}: an agent lost two at once"
    assert len(left) in (1, 2)
    with pytest.raises(NotFoundError, match="none of this name of pair lives"):
        await stewards[0].shed(asked[0], "pair")
