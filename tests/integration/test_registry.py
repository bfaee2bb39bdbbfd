"""The registry: who lives, what they can do, and nobody else. Real processes over a real server."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from actors.registry.client import RegistryClient
from actors.registry.errors import NoRegistryError, RefusedError
from actors.registry.messages import CapabilityInfo, Registration
from actors.registry.model import Instance
from actors.registry.registrar import Registrar
from bus import codec, events, jetstream, replies, subjects
from bus.connection import Connection
from bus.errors import BusError, NotFoundError
from bus.mesh import Mesh
from bus.server import Server
from bus.settings import Settings
from tests.eventually import eventually
from tests.processes import ActorProcess, actor

REGISTRY = "actors.registry:Registry"
TOILER = "tests.integration.agents:Toiler"
BEAT = "0.5"
"""Seconds between two renewals in these tests: a lease lives one second."""
OUTAGE = float(os.environ.get("REVO_OUTAGE", "5"))
"""Seconds without any registry."""


@pytest.fixture
def settings(server: Server) -> Settings:
    return Settings(nats_url=server.url, ack_wait=1.0, lease_heartbeat=float(BEAT))


@pytest.fixture
async def registry(server: Server, mesh: Mesh, tmp_path: Path) -> AsyncIterator[ActorProcess]:
    async with actor(REGISTRY, server.url, tmp_path / "registry.log", REVO_LEASE_HEARTBEAT=BEAT) as process:
        await eventually(lambda: _names(RegistryClient(mesh)))  # itself
        yield process


@pytest.fixture
def client(mesh: Mesh) -> RegistryClient:
    return RegistryClient(mesh)


def toiler(server: Server, tmp_path: Path, number: int = 1, **env: str) -> Any:
    return actor(TOILER, server.url, tmp_path / f"toiler-{number}.log", REVO_LEASE_HEARTBEAT=BEAT, **env)


def registration(name: str = "painter", number: int = 1, **more: Any) -> Registration:
    schema = {"type": "object", "properties": {"colour": {"type": "string"}}}
    capabilities = [CapabilityInfo(name="paint", message=schema, result={"type": "string"})]
    given = {"agent": name, "instance": f"{name}-{number}", "secret": f"secret-of-{name}-{number}"}
    return Registration(**{**given, "capabilities": capabilities, **more})


async def _names(client: RegistryClient, agent: str = "") -> list[str]:
    try:
        return [one.instance for one in await client.instances(agent)]
    except BusError:
        return []


async def _told_last(connection: Connection, name: str, what: str) -> bool:
    return (await _told(connection, name))[-1] == what


async def _is_dead(client: RegistryClient, name: str) -> bool:
    """Whether it is; until then it is shown as something else, but shown."""
    shown = {one.instance: one.condition for one in await client.instances(dead=True)}
    assert name in shown, "he lives no more, and has not died either"
    return shown[name] == "dead"


async def _told(connection: Connection, name: str) -> list[str]:
    found = []
    async with events.follow(connection, since=0.0) as happening:
        last = int((await jetstream.call(connection, "STREAM.INFO", subjects.EVENTS))["state"]["messages"])
        for _ in range(last):
            event = await anext(happening)
            if event.name == name:
                found.append(event.what)
    return found


async def test_an_agent_is_found_with_all_that_it_says_of_itself(
    server: Server, registry: ActorProcess, client: RegistryClient, tmp_path: Path
) -> None:
    async with toiler(server, tmp_path, REVO_LABELS="zone=a, team=x", REVO_RESTARTS="2") as process:
        found = (await eventually(lambda: client.find("toil")))[0]
        assert (found.agent, found.instance, found.pid) == ("toiler", process.instance, process.pid)
        assert (found.kind, found.state, found.concurrency, found.restarts) == ("agent", "ready", 4, 2)
        assert found.labels == {"zone": "a", "team": "x"}
        assert found.host
        assert [one.instance for one in await client.find("toil", {"zone": "a"})] == [process.instance]
        assert await client.find("toil", {"zone": "b"}) == []
        details = await client.get(process.instance)
        assert details.definitions[0].message["properties"]["seconds"]["type"] == "number"
        assert details.definitions[0].result == {"type": "integer"}
        assert {one.capability: one.instances for one in await client.capabilities()} == {"toil": 1}


async def test_who_leaves_in_order_is_gone_at_once_and_it_is_told(
    server: Server, mesh: Mesh, registry: ActorProcess, client: RegistryClient, tmp_path: Path
) -> None:
    async with toiler(server, tmp_path) as process:
        await eventually(lambda: client.find("toil"))
        process.signal(signal.SIGTERM)
        assert await process.wait() == 0
        assert await _names(client, "toiler") == []
        with pytest.raises(NotFoundError, match="none of that name lives"):
            await client.get(process.instance)
    story = await _told(mesh.connection, process.instance)
    assert sorted(story) == ["draining", "left", "ready", "registered"]
    assert story.index("ready") < story.index("draining") < story.index("left")


@pytest.mark.parametrize(("number", "beats"), [(signal.SIGKILL, 2), (signal.SIGSTOP, 3)], ids=["killed", "hangs"])
async def test_who_is_killed_or_hangs_is_gone_within_so_many_heartbeats(  # noqa: PLR0917  (fixtures)
    number: signal.Signals,
    beats: int,
    server: Server,
    mesh: Mesh,
    registry: ActorProcess,
    client: RegistryClient,
    tmp_path: Path,
    figures: Callable[[str], None],
) -> None:
    async with toiler(server, tmp_path) as process:
        await eventually(lambda: client.find("toil"))
        process.signal(number)
        began = time.monotonic()
        await eventually(lambda: _is_gone(client))
        took = time.monotonic() - began
        figures(f"registry: gone {took / float(BEAT):.2f} heartbeats after {number.name}")
        assert took <= beats * float(BEAT) + 0.1  # the look itself
        await eventually(lambda: _is_dead(client, process.instance))
        await eventually(lambda: _was_told(mesh.connection, process.instance, "dead"))
        if number == signal.SIGSTOP:
            process.signal(signal.SIGCONT)
            await eventually(lambda: client.find("toil"))
            await eventually(lambda: "had run out and is taken again" in process.log)  # he is found before he says so
            await eventually(lambda: _told_last(mesh.connection, process.instance, "ready"))


async def _is_gone(client: RegistryClient) -> bool:
    return not await client.find("toil")


async def _was_told(connection: Connection, name: str, what: str) -> bool:
    return what in await _told(connection, name)


async def test_a_handler_that_blocks_the_loop_keeps_its_lease(
    server: Server, mesh: Mesh, registry: ActorProcess, client: RegistryClient, tmp_path: Path
) -> None:
    async with toiler(server, tmp_path) as process:
        await eventually(lambda: client.find("toil"))
        handle = await mesh.submit("toil", {"what": "block", "seconds": 5.0})
        until = time.monotonic() + 4.5
        begun = await eventually(lambda: "has been blocked" in process.log)
        assert begun
        while time.monotonic() < until:
            assert await client.instances("toiler"), "it lives"
        assert await handle.result(timeout=10) == 0
    assert "dead" not in await _told(mesh.connection, process.instance)


async def test_without_a_registry_agents_work_and_register_when_it_is_back(
    server: Server, mesh: Mesh, client: RegistryClient, tmp_path: Path, figures: Callable[[str], None]
) -> None:
    async with toiler(server, tmp_path, 1) as first:
        with pytest.raises(NoRegistryError, match="revo up"):
            await client.instances()
        assert await (await mesh.submit("toil", {"id": 7})).result(timeout=5) == 7
        async with actor(REGISTRY, server.url, tmp_path / "one.log", REVO_LEASE_HEARTBEAT=BEAT) as registry:
            await eventually(lambda: client.find("toil"))
            registry.signal(signal.SIGKILL)
            await registry.wait()
        lease = await _lease(mesh, first.instance)
        async with toiler(server, tmp_path, 2) as second:
            n, until = 0, time.monotonic() + OUTAGE
            while time.monotonic() < until:
                assert await (await mesh.submit("toil", {"id": n})).result(timeout=5) == n
                assert await mesh.ask("toiler", "add", {"a": n, "b": 1}) == n + 1
                n += 1
            figures(f"registry: {OUTAGE:g} s without any, {n} tasks and {n} asks without an error")
            await eventually(lambda: _renewed(mesh, first.instance, lease))
            async with actor(REGISTRY, server.url, tmp_path / "two.log", REVO_LEASE_HEARTBEAT=BEAT):
                await eventually(lambda: _both(client, {first.instance, second.instance}))
    told = await _told(mesh.connection, first.instance)
    assert told.count("registered") == 1
    assert "dead" not in told


async def _lease(mesh: Mesh, instance: str) -> int:
    key = subjects.entry(subjects.REGISTRY_BUCKET, f"lease.toiler.{instance}")
    stored = await jetstream.last(mesh.connection, subjects.bucket(subjects.REGISTRY_BUCKET), key)
    assert stored is not None
    return stored.sequence


async def _renewed(mesh: Mesh, instance: str, since: int) -> bool:
    return await _lease(mesh, instance) > since


async def _both(client: RegistryClient, names: set[str]) -> bool:
    try:
        return {one.instance for one in await client.find("toil")} == names
    except BusError:
        return False  # no registry is back yet


async def test_every_replica_answers_the_same_and_knows_what_its_asker_knows(
    server: Server, mesh: Mesh, registry: ActorProcess, client: RegistryClient, tmp_path: Path
) -> None:
    async with actor(REGISTRY, server.url, tmp_path / "second.log", REVO_LEASE_HEARTBEAT=BEAT) as second:
        await eventually(lambda: _all_there(client, {registry.instance, second.instance}))
        for number in range(40):
            name = registration("painter", number)
            await client.register(name)
            assert name.instance in await _names(client, "painter")
        answers = set()
        asked = set()
        for _ in range(60):
            message = codec.encode({"agent": "painter"})
            subject = subjects.rpc(subjects.REGISTRY, "list")
            reply = await mesh.connection.request(subject, message, {"Content-Type": "application/msgpack"})
            page = replies.read(reply.headers or {}, reply.data, subject)
            answers.add(tuple(one["instance"] for one in page["instances"]))
            asked.add((reply.headers or {})["Revo-Instance"])
            if len(asked) == 2:
                break
        assert asked == {registry.instance, second.instance}
        assert len(answers) == 1
        ahead = await client.register(registration("painter", 40))
        with pytest.raises(BusError, match=f"was asked for {ahead.revision + 1000}; ask again"):
            await mesh.ask(subjects.REGISTRY, "list", {"known": ahead.revision + 1000})


async def _all_there(client: RegistryClient, names: set[str]) -> bool:
    return names <= set(await _names(client))


async def test_what_contradicts_somebody_who_lives_is_refused_and_both_are_named(
    registry: ActorProcess, client: RegistryClient
) -> None:
    await client.register(registration("painter"))
    other = [CapabilityInfo(name="paint", message={"type": "object", "properties": {"colour": {"type": "integer"}}})]
    with pytest.raises(RefusedError, match=r"agents painter and sprayer disagree on the capability paint") as caught:
        await client.register(registration("sprayer", capabilities=other))
    assert caught.value.code == "definition_conflict"
    assert "colour" in str(caught.value)
    assert await _names(client, "sprayer") == []
    described = {"title": "Paint", "type": "object", "properties": {"colour": {"type": "string", "title": "Hue"}}}
    same = [CapabilityInfo(name="paint", message=described, result={"type": "string"})]
    await client.register(registration("sprayer", 2, capabilities=same))
    assert len(await client.find("paint")) == 0, "they have not said that they are ready"
    await eventually(lambda: _nobody(client))
    await client.register(registration("sprayer", 3, capabilities=other))  # nobody lives who means the other thing


async def _nobody(client: RegistryClient) -> bool:
    return not await _names(client, "painter") + await _names(client, "sprayer")


async def test_two_that_contradict_each_other_at_the_same_moment_are_not_both_let_in(
    registry: ActorProcess, client: RegistryClient, server: Server, tmp_path: Path
) -> None:
    async with actor(REGISTRY, server.url, tmp_path / "second.log", REVO_LEASE_HEARTBEAT=BEAT):
        for number in range(30):
            kinds = [
                CapabilityInfo(name=f"race-{number}", message={"type": one}) for one in ("object", "array", "string")
            ]
            ends = await asyncio.gather(
                *(
                    client.register(registration(f"racer-{index}", number, capabilities=[kind]))
                    for index, kind in enumerate(kinds)
                ),
                return_exceptions=True,
            )
            refused = [end for end in ends if isinstance(end, RefusedError)]
            assert len(refused) == 2, ends
            assert all("race-" in str(one) for one in refused)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"agent": "a b"}, "invalid_subject"),
        ({"instance": "x.>"}, "invalid_subject"),
        ({"capabilities": [CapabilityInfo(name="two words")]}, "invalid_subject"),
        ({"capabilities": [CapabilityInfo(name="x", message={"type": "no such type"})]}, "schema"),
        ({"capabilities": [CapabilityInfo(name="x", result={"properties": []})]}, "schema"),
        ({"capabilities": [CapabilityInfo(name="x", message={"d": "x" * 70_000})]}, "schema"),
        ({"capabilities": [CapabilityInfo(name="x"), CapabilityInfo(name="x")]}, "config"),
    ],
)
async def test_bad_input_gets_a_typed_error_and_changes_nothing(
    change: dict[str, Any], code: str, mesh: Mesh, registry: ActorProcess, client: RegistryClient
) -> None:
    before = await _bucket(mesh)
    with pytest.raises(RefusedError) as caught:
        await client.register(registration("painter").model_copy(update=change))
    assert caught.value.code == code
    assert await _bucket(mesh) == before


async def test_a_body_that_is_no_registration_is_refused(mesh: Mesh, registry: ActorProcess) -> None:
    before = await _bucket(mesh)
    for body in (None, {}, {"agent": "x"}, {"agent": "x", "instance": "y", "secret": "short"}, "text", [1]):
        with pytest.raises(BusError, match="decode"):
            await mesh.ask(subjects.REGISTRY, "register", body)
    assert await _bucket(mesh) == before


async def _bucket(mesh: Mesh) -> set[str]:
    """What stands in the bucket, less what the registry renews of its own."""
    body = {"subjects_filter": ">"}
    info = await jetstream.call(mesh.connection, "STREAM.INFO", subjects.bucket(subjects.REGISTRY_BUCKET), body=body)
    return set(info["state"]["subjects"])


async def test_nobody_takes_or_gives_up_the_lease_of_somebody_else(
    mesh: Mesh, registry: ActorProcess, client: RegistryClient
) -> None:
    mine = registration("painter", host="here", pid=7)
    await client.register(mine)
    assert (await client.register(mine)).instance == mine.instance, "the same once more"
    with pytest.raises(RefusedError, match=r"held by painter on here \(process 7\)") as taken:
        await client.register(mine.model_copy(update={"secret": "somebody else's, too"}))
    assert taken.value.code == "lease_taken"
    with pytest.raises(RefusedError, match="not yours") as foreign:
        await client.deregister("painter", mine.instance, "somebody else's")
    assert foreign.value.code == "not_your_lease"
    assert mine.instance in await _names(client)
    shown = (await client.get(mine.instance)).model_dump_json()
    assert mine.secret not in shown
    assert (await client.deregister("painter", mine.instance, mine.secret)).removed
    assert not (await client.deregister("painter", mine.instance, mine.secret)).removed
    assert mine.instance not in await _names(client)


async def test_a_restart_of_the_server_costs_no_lease_and_is_no_death(
    server: Server, mesh: Mesh, registry: ActorProcess, client: RegistryClient, tmp_path: Path
) -> None:
    async with toiler(server, tmp_path) as process:
        await eventually(lambda: client.find("toil"))
        server.kill()
        await server.wait()
        await asyncio.to_thread(time.sleep, 1.5)  # noqa: TID251  (longer than a lease lives)
        await server.start()
        await eventually(lambda: _both(client, {process.instance}))
        assert {"registered", "ready"} <= set(await _told(mesh.connection, process.instance))
        assert "dead" not in await _told(mesh.connection, process.instance)


async def test_a_lease_that_somebody_else_took_ends_the_process(
    server: Server, mesh: Mesh, registry: ActorProcess, client: RegistryClient, tmp_path: Path
) -> None:
    async with toiler(server, tmp_path) as process:
        await eventually(lambda: client.find("toil"))
        theirs = Instance(agent="toiler", instance=process.instance, owner="ab" * 16)
        key = subjects.entry(subjects.REGISTRY_BUCKET, theirs.key)
        await jetstream.store(
            mesh.connection, key, codec.encode(theirs.model_dump()), {"Content-Type": "application/msgpack"}
        )
        assert await process.wait() == 1
        assert "held by somebody else" in process.log


async def test_a_refused_agent_says_why_and_ends(
    server: Server, mesh: Mesh, registry: ActorProcess, client: RegistryClient, tmp_path: Path
) -> None:
    painter = registration("painter", capabilities=[CapabilityInfo(name="toil", message={"type": "null"})])
    registrar = Registrar(mesh.connection, painter, dict)
    await registrar.start()
    keeping = asyncio.create_task(registrar.keep())  # however long the other takes to come
    with pytest.raises(AssertionError, match="agents painter and toiler disagree on the capability toil"):
        async with toiler(server, tmp_path):
            pass
    keeping.cancel()


async def test_the_lease_is_renewed_from_another_thread_only_while_it_must(
    mesh: Mesh, registry: ActorProcess, connection: Connection
) -> None:
    registrar = Registrar(mesh.connection, registration("painter"), dict)
    await registrar.start()
    assert registrar.registered
    stream = subjects.bucket(subjects.REGISTRY_BUCKET)
    key = subjects.entry(subjects.REGISTRY_BUCKET, "lease.painter.painter-1")
    first = await jetstream.last(connection, stream, key)
    await registrar.pulse(connection)
    again = await jetstream.last(connection, stream, key)
    assert first is not None
    assert again is not None
    assert again.sequence == first.sequence, "it has been renewed a moment ago"
