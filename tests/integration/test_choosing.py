"""Whom an ask goes to, and when it is not sent at all. Real processes."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable
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
    NoRespondersError,
    NotFoundError,
    RemoteError,
)
from bus.events import Event
from bus.mesh import Mesh
from bus.messages import CONTENT_TYPE, MSGPACK
from bus.server import Server
from bus.settings import Settings
from bus.store import Bucket
from revo.cli.events import recent
from revo.cli.ps import row_of
from tests.eventually import PATIENCE, eventually
from tests.office import office
from tests.processes import ActorProcess


@pytest.fixture
def settings(server: Server) -> Settings:
    return Settings(nats_url=server.url, lease_heartbeat=1.0)


async def asked(mesh: Mesh, count: int, **how: Any) -> Counter[str]:
    """Which instances answered so many asks."""
    return Counter([await mesh.ask("desk", "who", **how) for _ in range(count)])


async def test_each_strategy_takes_whom_it_should(
    server: Server, mesh: Mesh, settings: Settings, tmp_path: Path
) -> None:
    async with office(server, mesh, tmp_path, "desk", "desk", "desk") as (_, *desks):
        await strategies(desks, mesh, settings)


async def strategies(desks: list[ActorProcess], mesh: Mesh, settings: Settings) -> None:
    names = {desk.instance for desk in desks}
    first, _, third = sorted(names)
    assert await asked(mesh, 9, choose="round_robin") == dict.fromkeys(names, 3)
    assert set(await asked(mesh, 60, choose="random")) == names
    for name in names:
        assert set(await asked(mesh, 3, instance=name)) == {name}

    assert set(await asked(mesh, 3, choose="resource_based")) <= names

    wait = {"seconds": PATIENCE}
    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(mesh.ask("desk", "wait", wait, instance=first, timeout=PATIENCE))
        await eventually(lambda: _busy(mesh, {first: 2}))
        assert first not in await asked(mesh, 20, choose="least_busy"), "its lease says that it is busy"
        await mesh.ask("desk", "go", instance=first)
    await eventually(lambda: _busy(mesh, {first: 0}))
    async with asyncio.TaskGroup() as group:
        asking = [mesh.ask("desk", "wait", wait, choose="least_busy", timeout=PATIENCE) for _ in range(6)]
        waits = [group.create_task(one) for one in asking]
        await eventually(lambda: _busy(mesh, dict.fromkeys(names, 1), 6))
        await asyncio.gather(*(mesh.ask("desk", "go", instance=name) for name in names))
    assert {wait.result() for wait in waits} == names, "our own asks count at once"

    await mesh.ask("desk", "slow", {"seconds": 0.3}, instance=third)
    mesh.prefer("desk", "who", "performance")
    assert (await asked(mesh, 100))[third] < 10, "by what we have seen"
    await asyncio.gather(*(asked(mesh, 3, instance=third) for _ in range(4)))
    await eventually(lambda: _takes(mesh, third, 0.1))
    async with Mesh.connect(settings=settings) as fresh:
        assert (await asked(fresh, 30, choose="performance"))[third] < 10, "who has just started knows it, too"
    with pytest.raises(ConfigError, match="there are round_robin, random"):
        await mesh.ask("desk", "who", choose="best")


async def _busy(mesh: Mesh, least: dict[str, int], together: int | None = None) -> bool:
    """Whether their leases say that they do so much, each and together."""
    found = {one.instance: one.running + one.waiting for one in await RegistryClient(mesh).instances("desk")}
    enough = all(found[name] >= count and (count or not found[name]) for name, count in least.items())
    return enough and (together is None or sum(found.values()) == together)


async def _takes(mesh: Mesh, name: str, seconds: float) -> bool:
    """Whether its lease says that it takes so long to say who it is."""
    found = {one.instance: one.health for one in await RegistryClient(mesh).instances("desk")}[name]
    return found is not None and found.requests.get("who", 0.0) >= seconds


async def test_who_dies_hangs_or_is_suspected_is_passed_over(
    server: Server, mesh: Mesh, tmp_path: Path, figures: Callable[[str], None]
) -> None:
    async with office(server, mesh, tmp_path, "desk", "desk", "desk") as (registry, *desks):
        await troubles(registry, desks, mesh, figures)


async def troubles(
    registry: ActorProcess, desks: list[ActorProcess], mesh: Mesh, figures: Callable[[str], None]
) -> None:
    by_name = {desk.instance: desk for desk in desks}
    await asked(mesh, 5)  # which has the view opened
    stuck = {f"user-{n}": await mesh.ask("desk", "who", key=f"user-{n}") for n in range(30)}
    assert set(stuck.values()) == set(by_name)
    suspect, killed, hung = sorted(by_name)

    registry.signal(signal.SIGTERM)  # which would take back what it has not found itself
    await registry.wait()
    bucket = Bucket(mesh.connection, subjects.REGISTRY_BUCKET)
    await _suspect(mesh, bucket, suspect)
    assert suspect not in await asked(mesh, 60), "without a word the server chooses, but not among all"
    await _suspect(mesh, bucket, suspect)
    assert suspect not in await asked(mesh, 9, choose="round_robin")
    moved = {one: await mesh.ask("desk", "who", key=one) for one in stuck}
    assert all(moved[one] == name for one, name in stuck.items() if name != suspect)
    assert suspect not in moved.values()
    await bucket.remove(f"suspect.desk.{suspect}")
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


async def _suspect(mesh: Mesh, bucket: Bucket, name: str) -> None:
    """Have everybody hear that something is wrong with an instance; said once it holds for three seconds."""
    body = codec.encode({"reason": "by hand"})
    await bucket.put(f"suspect.desk.{name}", body, {CONTENT_TYPE: MSGPACK}, ttl=30)
    await mesh.connection.flush()


async def _answers(mesh: Mesh, name: str) -> bool:
    return name in await asked(mesh, 3, choose="round_robin")


async def test_an_open_breaker_is_seen_in_the_lease_in_events_and_on_the_trace(
    server: Server, mesh: Mesh, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    async with office(server, mesh, tmp_path, "desk", "back") as (_, desk, back):
        await retries_heal(mesh, mark)
        mark.touch()
        question = {"to": "back", "mark": str(mark)}
        codes = [await _code(mesh, desk.instance, question) for _ in range(6)]
        assert codes == ["connection_refused_error"] * 5 + ["breaker_open"]
        shown = await eventually(lambda: _breaker(mesh, desk.instance))
        assert shown in ({"back/fail": OPEN}, {"back/fail": HALF_OPEN})
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
    last: BusError | None = None
    while not isinstance(last, BreakerOpenError):
        last = await _error(mesh, mark)
    assert (last.agent, last.capability) == ("desk", "fail")
    assert 0 < last.retry_in < 1.5
    assert mesh.breakers.keys() == {"desk/fail"}
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
