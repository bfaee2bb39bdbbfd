"""Whom an ask goes to, when it is not sent at all, and what reaches each agent. Real processes."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from actors.registry.client import RegistryClient
from bus import codec, subjects
from bus.breaker import CLOSED, HALF_OPEN, OPEN
from bus.errors import (
    BreakerOpenError,
    BusError,
    ConfigError,
    InvalidSubjectError,
    NoRespondersError,
    NotFoundError,
    RemoteError,
)
from bus.events import Event
from bus.mesh import Handle, Mesh
from bus.messages import CONTENT_TYPE, MSGPACK
from bus.server import Server
from bus.settings import Settings
from bus.store import Bucket
from revo.cli.events import recent
from revo.cli.ps import row_of
from tests.eventually import eventually
from tests.processes import ActorProcess, actor

REGISTRY = "actors.registry:Registry"
DESK = "tests.integration.agents:Desk"
CHANGED = "tests.integration.agents:Changed"


HEARTBEAT = {"REVO_LEASE_HEARTBEAT": "1"}


@pytest.fixture
def settings(server: Server) -> Settings:
    return Settings(nats_url=server.url, lease_heartbeat=1.0)


@contextlib.asynccontextmanager
async def office(server: Server, mesh: Mesh, folder: Path, *names: str) -> AsyncIterator[list[ActorProcess]]:
    """A registry, and an instance of the agent for each name."""
    async with contextlib.AsyncExitStack() as stack:
        starting = [actor(REGISTRY, server.url, folder / "registry.log", **HEARTBEAT)]
        for number, name in enumerate(names):
            starting.append(actor(DESK, server.url, folder / f"{name}-{number}.log", name=name, **HEARTBEAT))
        _, *desks = await asyncio.gather(*(stack.enter_async_context(one) for one in starting))
        client = RegistryClient(mesh)
        await eventually(lambda: _ready(client, len(names)))
        yield desks


async def _ready(client: RegistryClient, count: int) -> bool:
    found = await client.instances()
    return len([one for one in found if one.kind == "agent" and one.state == "ready"]) == count


async def asked(mesh: Mesh, count: int, **how: Any) -> Counter[str]:
    """Which instances answered so many asks."""
    return Counter([await mesh.ask("desk", "who", **how) for _ in range(count)])


async def test_each_strategy_takes_whom_it_should(
    server: Server, mesh: Mesh, settings: Settings, tmp_path: Path
) -> None:
    async with office(server, mesh, tmp_path, "desk", "desk", "desk") as desks:
        await strategies(desks, mesh, settings)


async def strategies(desks: list[ActorProcess], mesh: Mesh, settings: Settings) -> None:
    names = {desk.instance for desk in desks}
    first, second, third = sorted(names)
    assert await asked(mesh, 9, choose="round_robin") == dict.fromkeys(names, 3)
    assert set(await asked(mesh, 60, choose="random")) == names
    for name in names:
        assert set(await asked(mesh, 3, instance=name)) == {name}

    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(mesh.ask("desk", "wait", {"seconds": 2.5}, instance=first))
        group.create_task(mesh.ask("desk", "burn", {"seconds": 3.0}, instance=second))
        await eventually(lambda: _shows(mesh, first, running=2))
        assert first not in await asked(mesh, 20, choose="least_busy"), "its lease says that it is busy"
        await eventually(lambda: _shows(mesh, second, cpu=0.1))
        assert second not in await asked(mesh, 20, choose="resource_based"), "its lease says that it uses the processor"

    for name in names:
        await eventually(lambda: _shows(mesh, name, at_most=0))  # noqa: B023  (it is awaited here)
    async with asyncio.TaskGroup() as group:
        waits = [group.create_task(mesh.ask("desk", "wait", {"seconds": 0.5}, choose="least_busy")) for _ in range(9)]
    counts = Counter(wait.result() for wait in waits)
    assert min(counts[name] for name in names) >= 2, "our own asks count at once"

    await mesh.ask("desk", "slow", {"seconds": 0.1}, instance=third)
    mesh.prefer("desk", "who", "performance")
    assert (await asked(mesh, 100))[third] < 10, "by what we have seen"
    await asyncio.gather(*(asked(mesh, 3, instance=third) for _ in range(4)))
    await eventually(lambda: _shows(mesh, third, p95=0.05))
    async with Mesh.connect(settings=settings) as fresh:
        assert (await asked(fresh, 30, choose="performance"))[third] < 10, "who has just started knows it, too"
    with pytest.raises(ConfigError, match="there are round_robin, random"):
        await mesh.ask("desk", "who", choose="best")


async def _shows(  # what its lease says
    mesh: Mesh, name: str, *, running: int = 0, at_most: int = 9, cpu: float = 0.0, p95: float = 0.0
) -> bool:
    found = {one.instance: one for one in await RegistryClient(mesh).instances("desk")}[name]
    assert found.health is not None
    return (
        at_most >= found.running >= running and found.health.cpu >= cpu and found.health.latency.get("p95", 0.0) >= p95
    )


async def test_who_dies_hangs_or_is_suspected_is_passed_over(
    server: Server, mesh: Mesh, tmp_path: Path, figures: Callable[[str], None]
) -> None:
    async with office(server, mesh, tmp_path, "desk", "desk", "desk") as desks:
        await troubles(desks, mesh, figures)


async def troubles(desks: list[ActorProcess], mesh: Mesh, figures: Callable[[str], None]) -> None:
    by_name = {desk.instance: desk for desk in desks}
    await asked(mesh, 5)  # which has the view opened
    stuck = {f"user-{n}": await mesh.ask("desk", "who", key=f"user-{n}") for n in range(30)}
    assert set(stuck.values()) == set(by_name)
    suspect, killed, hung = sorted(by_name)

    bucket = Bucket(mesh.connection, subjects.REGISTRY_BUCKET)
    key, packed = f"suspect.desk.{suspect}", {CONTENT_TYPE: MSGPACK}
    await bucket.put(key, codec.encode({"reason": "by hand"}), packed, ttl=3)
    await mesh.connection.flush()
    assert suspect not in await asked(mesh, 60), "without a word the server chooses, but not among all"
    assert suspect not in await asked(mesh, 9, choose="round_robin")
    moved = {one: await mesh.ask("desk", "who", key=one) for one in stuck}
    assert all(moved[one] == name for one, name in stuck.items() if name != suspect)
    assert suspect not in moved.values()
    await bucket.remove(key)
    await mesh.connection.flush()
    assert {one: await mesh.ask("desk", "who", key=one) for one in stuck} == stuck

    by_name[killed].signal(signal.SIGKILL)
    await by_name[killed].wait()
    heirs = {one: await mesh.ask("desk", "who", key=one) for one in stuck}
    assert killed not in heirs.values(), "the next is taken at once, without an error"
    assert all(heirs[one] == name for one, name in stuck.items() if name != killed)
    with pytest.raises(NoRespondersError):
        await mesh.ask("desk", "who", instance=killed)

    by_name[hung].signal(signal.SIGSTOP)
    began = time.monotonic()
    view = mesh._asker._views.there["desk"]
    await eventually(lambda: view.is_troubled("who", time.monotonic()) and hung not in view._fresh)
    figures(f"choosing: who hangs is passed over after {time.monotonic() - began:.1f} s")
    assert await asked(mesh, 30, timeout=1.0) == {suspect: 30}, "though the server still knows its subscription"
    by_name[hung].signal(signal.SIGCONT)
    await eventually(lambda: _answers(mesh, hung))


async def _answers(mesh: Mesh, name: str) -> bool:
    return name in await asked(mesh, 3, choose="round_robin")


async def test_an_open_breaker_is_seen_in_the_lease_in_events_and_on_the_trace(
    server: Server, mesh: Mesh, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    async with office(server, mesh, tmp_path, "desk", "back") as (desk, back):
        await retries_heal(mesh, mark)
        mark.touch()
        question = {"to": "back", "mark": str(mark)}
        codes = [await _code(mesh, desk.instance, question) for _ in range(8)]
        assert codes == ["connection_refused_error"] * 5 + ["breaker_open"] * 3
        assert await eventually(lambda: _breaker(mesh, desk.instance)) == {"back/fail": OPEN}
        assert (desk.instance, OPEN) in {(one.name, one.what) for one in await told(mesh)}
        mark.unlink()
        assert await eventually(lambda: _good(mesh, desk.instance, question)) == back.instance
        await _code(mesh, desk.instance, question)
        await eventually(lambda: _closed(mesh, desk.instance))
        found = [one for one in await told(mesh) if one.name == desk.instance]
        assert [one.what for one in found] == [OPEN, HALF_OPEN, CLOSED]
        assert (found[0].details["asked"], found[0].details["capability"]) == ("back", "fail")
        mark.touch()
        with mesh.telemetry.span("the test") as span:
            while await _code(mesh, desk.instance, question) != "breaker_open":
                pass
        await eventually(lambda: _on_trace(mesh, span.trace_id))
        await refused(mesh, mark)


async def told(mesh: Mesh) -> list[Event]:
    """What was told of breakers."""
    return await recent(mesh.connection, 0.0, "revo.event.breaker.>")


async def retries_heal(mesh: Mesh, mark: Path) -> None:
    """What fails is tried again, if that is wished, until it does not."""
    mark.touch()
    with pytest.raises(RemoteError, match="as told"):
        await mesh.ask("desk", "fail", {"mark": str(mark)})
    failing = asyncio.ensure_future(mesh.ask("desk", "fail", {"mark": str(mark)}, retries=3, timeout=10))
    await asyncio.to_thread(mark.unlink)
    assert (await failing).startswith("desk-")


async def refused(mesh: Mesh, mark: Path) -> None:
    """A client has breakers, too, one for each method; one that tries again waits for them."""
    mark.touch()
    errors = [await _error(mesh, mark) for _ in range(12)]
    last = errors[-1]
    assert isinstance(last, BreakerOpenError)
    assert (last.agent, last.capability) == ("desk", "fail")
    assert 0 < last.retry_in < 1.5
    assert mesh.breakers == {"desk/fail": OPEN}
    assert await mesh.ask("desk", "who"), "another method is another breaker"
    mark.unlink()
    assert await mesh.ask("desk", "fail", {"mark": str(mark)}, retries=3, timeout=10), "it waits as long as it is open"


async def _error(mesh: Mesh, mark: Path) -> BusError:
    with pytest.raises(BusError) as raised:
        await mesh.ask("desk", "fail", {"mark": str(mark)})
    return raised.value


async def _code(mesh: Mesh, name: str, question: dict[str, str]) -> str:
    try:
        return str(await mesh.ask("desk", "fail", question, instance=name))
    except RemoteError as error:
        return error.code


async def _good(mesh: Mesh, name: str, question: dict[str, str]) -> str:
    code = await _code(mesh, name, question)
    return code if code not in ("breaker_open", "connection_refused_error") else ""


async def _breaker(mesh: Mesh, name: str) -> dict[str, str]:
    rows = {one.instance: row_of(one) for one in await RegistryClient(mesh).instances("desk")}
    found: dict[str, str] = rows[name]["breakers"]
    return found


async def _closed(mesh: Mesh, name: str) -> bool:
    return await _breaker(mesh, name) == {}


async def _on_trace(mesh: Mesh, trace_id: str) -> bool:
    """Whether the trace says that a breaker opened, and which ask was not sent because of it."""
    try:
        spans = await mesh.trace(trace_id)
    except NotFoundError:
        return False
    opened = [event.attributes["state"] for one in spans for event in one.events if event.name == "breaker"]
    refused = [
        one for one in spans if one.attributes.get("revo.breaker") == OPEN and "BreakerOpen" in one.status_message
    ]
    return OPEN in opened and bool(refused)


async def test_each_agent_is_reached_and_nobody_works_on_for_who_has_given_up(
    server: Server, mesh: Mesh, tmp_path: Path
) -> None:
    async with office(server, mesh, tmp_path, "desk", "back") as (_, back):
        await deadlines(mesh)
        both = await mesh.publish("news", {}, publish_id="monday")
        assert sorted(both) == ["back", "desk"]
        outcomes = {agent: await _handle(handle).outcome(timeout=10) for agent, handle in both.items()}
        assert outcomes["back"].instance == back.instance
        again = await mesh.publish("news", {}, publish_id="monday")
        assert all(_handle(handle).duplicate for handle in again.values())
        gathered = await mesh.ask_topic("news", {}, timeout=5)
        assert (len(gathered.values), gathered.missing) == (2, [])
        assert sorted(await mesh.submit_each("note", {})) == ["back", "desk"]
        back.signal(signal.SIGTERM)
        await back.wait()

        later = await mesh.publish("news", {})
        assert sorted(later) == ["back", "desk"], "it subscribes also while it does not run"
        assert (await mesh.ask_topic("news", {}, timeout=5)).missing == ["back"]
        assert sorted(await mesh.submit_each("note", {})) == ["desk"]
        async with actor(CHANGED, server.url, tmp_path / "changed.log"):
            assert list(await mesh.publish("news", {})) == ["back"], "a newer version wants none"
            async with actor(DESK, server.url, tmp_path / "back-2.log", name="back") as anew:
                assert (await _handle(later["back"]).outcome(timeout=10)).instance == anew.instance
            async with actor(DESK, server.url, tmp_path / "older.log"):
                assert list(await mesh.publish("news", {})) == ["back"], "and an older one has no say beside it"
        assert await mesh.publish("nobody-listens", {}) == {}
        for name in ("a.b", "x" * 60):
            with pytest.raises(InvalidSubjectError):
                await mesh.publish(name, {})


async def deadlines(mesh: Mesh) -> None:
    """Each has less time than the one that asks it."""
    began = time.monotonic()
    said = await mesh.ask("desk", "wait", {"seconds": 20.0, "to": "back", "timeout": 30.0}, timeout=1.0)
    assert said == "deadline_exceeded", "the one at the end gives up first, and the one between tells of it"
    assert time.monotonic() - began < 1.0
    with pytest.raises(RemoteError) as late:
        await mesh.ask("desk", "wait", {"seconds": 20.0}, timeout=0.5)
    assert late.value.code == "deadline_exceeded", "and no time-out of our own"
    handle = await mesh.submit("note", {"to": "back"}, agent="desk", deadline=20)
    ours, child = await handle.result(timeout=10)
    assert child <= ours


def _handle(one: Handle | BusError) -> Handle:
    assert isinstance(one, Handle)
    return one
