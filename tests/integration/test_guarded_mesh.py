"""Everything that a mesh does, by users who may do no more than that: in accounts of their own, and sharing one."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from actors.admission import prepare
from actors.keyring import Keyring, wish_of
from actors.registry import pausing
from actors.registry.client import RegistryClient
from actors.registry.model import Health
from bus import attempts, codec, jetstream, subjects
from bus.errors import NotFoundError, PermissionDeniedError, RemoteError
from bus.grants import Wish
from bus.inspection import queued
from bus.mesh import Handle, Mesh
from bus.messages import CONTENT_TYPE, MSGPACK
from bus.server import Server
from bus.stewards import ask
from bus.store import Bucket
from bus.wire import Message
from tests.eventually import eventually, in_time
from tests.guarded import Guarded
from tests.integration import agents
from tests.integration.test_processes import begun, lines
from tests.processes import ActorProcess, actor

AGENTS = {"toiler": agents.Toiler, "parent": agents.Parent, "relay": agents.Relay, "pair": agents.Pair}
CLIENT = Wish(submits=("*",), asks=("toiler.add",), broadcasts=("where",))


@dataclass
class Household(Guarded):
    """A guarded server, and processes that are its users."""

    folder: Path
    stack: contextlib.AsyncExitStack
    started: list[ActorProcess] = field(default_factory=list)

    async def start(self, name: str, target: str, number: int = 1) -> ActorProcess:
        """A process that is the user of that name."""
        log = self.folder / f"{name}-{number}.log"
        process = await self.stack.enter_async_context(
            actor(target, self.server.url, log, name=name, REVO_ACK_WAIT="1", **self.env(name))
        )
        self.started.append(process)
        return process

    async def agent(self, name: str, number: int = 1) -> ActorProcess:
        """One of the agents above."""
        return await self.start(name, f"tests.integration.agents:{AGENTS[name].__name__}", number)


@pytest.fixture(params=["own", "shared"])
async def here(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Household]:
    keyring, isolated = Keyring(tmp_path / "keys"), request.param == "own"
    keyring.init()
    for name, kind in AGENTS.items():
        keyring.ensure(name, "agent", wish_of(kind), isolated=isolated)
    for name in ("alice", "bob"):
        keyring.ensure(name, "submitter", CLIENT, isolated=isolated)
    async with Server(tmp_path / "nats", accounts=keyring.accounts) as server, contextlib.AsyncExitStack() as stack:
        made = Household(server, keyring, tmp_path, stack)
        async with made.mesh("operator") as mesh:
            await prepare(mesh.connection, dict(AGENTS))
        await made.start(subjects.REGISTRY, "actors.registry:Registry")
        await made.start(subjects.STEWARD, "actors.steward:Steward")
        yield made


async def test_tasks_requests_and_broadcasts_reach_who_is_granted(here: Household) -> None:
    toiler, first, second = await here.agent("toiler"), await here.agent("pair", 1), await here.agent("pair", 2)
    async with here.mesh("alice") as mesh:
        assert mesh.client == "alice"
        assert await (await mesh.submit("toil", {"id": 7})).result(timeout=10) == 7
        named = await (await mesh.submit("@toiler", {"id": 8})).outcome(timeout=10)
        assert (named.value, named.instance) == (8, toiler.instance)
        assert await mesh.ask("toiler", "add", {"a": 1, "b": 2}) == 3
        gathered = await mesh.broadcast("where", {"n": 5}, timeout=10)
        assert {reply.instance for reply in gathered.replies} == {first.instance, second.instance}
        assert gathered.missing == []
        assert await probed(here, {toiler.instance, first.instance, second.instance}), "probes reach their accounts"
        with pytest.raises(PermissionDeniedError, match=r"revo\.rpc\.parent\.x\.alice"):
            await mesh.ask("parent", "x")
        sums = {"a": 1, "b": 2}
        other = await here.agent("toiler", 2)
        assert await mesh.ask("toiler", "add", sums, instance=other.instance) == 3
        await eventually(lambda: _both(mesh, toiler, other))
        other.signal(signal.SIGKILL)
        await other.wait()
        assert [await mesh.ask("toiler", "add", sums, choose="round_robin") for _ in range(4)] == [3] * 4
        with pytest.raises(PermissionDeniedError, match=r"revo\.direct\.toiler\..*\.x\.alice"):
            await mesh.ask("toiler", "x", instance=toiler.instance)
        assert list(await mesh.submit_each("where", {"n": 5})) == ["pair"]
        assert await mesh.publish("nobody-listens", {}) == {}
        with pytest.raises(PermissionDeniedError, match="may not"):
            await mesh.broadcast("toil", {}, timeout=1)


async def probed(here: Household, names: set[str]) -> bool:
    """Whether the registry hears of probes that all of these have done."""
    async with here.mesh("operator") as mesh:
        left, all_did = set(names), asyncio.Event()

        def hear(message: Message) -> None:
            left.discard(message.subject.rpartition(".")[2])
            if not left:
                all_did.set()

        await mesh.connection.subscribe(subjects.PROBED, hear)
        await in_time(all_did.wait(), 20)
        return not any(one.condition == "suspect" for one in await RegistryClient(mesh).instances())


async def _both(mesh: Mesh, *processes: ActorProcess) -> bool:
    """Whether the client hears of them all."""
    await mesh.ask("toiler", "add", {"a": 1, "b": 2}, choose="random")
    view = mesh._asker._views.there["toiler"]
    return {process.instance for process in processes} <= view._fresh.keys()


async def test_with_grants_of_an_earlier_version_an_agent_works_and_nobody_takes_it_for_deaf(tmp_path: Path) -> None:
    keyring, old = Keyring(tmp_path / "keys"), tmp_path / "old.conf"
    keyring.init()
    keyring.ensure("toiler", "agent", wish_of(agents.Toiler))
    old.write_text(re.sub(r'"[^"]*MSG\.NEXT\.PROBES[^"]*"', '"nothing.at.all"', keyring.accounts.read_text()))
    async with Server(tmp_path / "nats", accounts=old) as server, contextlib.AsyncExitStack() as stack:
        here = Household(server, keyring, tmp_path, stack)
        async with here.mesh("operator") as mesh:
            await prepare(mesh.connection, {"toiler": agents.Toiler})
            await here.start(subjects.REGISTRY, "actors.registry:Registry")
            await here.start(subjects.STEWARD, "actors.steward:Steward")
            toiler = await here.agent("toiler")
            await eventually(lambda: "consumer toiler on PROBES may not be pulled from" in toiler.log)
            await pausing.pause(mesh, toiler.instance, "to try")
            await pausing.resume(mesh, toiler.instance)
            assert await (await mesh.submit("toil", {"id": 7})).result(timeout=10) == 7

            async def goes_on() -> Health | None:
                (found,) = await RegistryClient(mesh).instances("toiler")
                health = found.health
                return health if found.condition == "idle" and health is not None and health.done else None

            health = await eventually(goes_on)
            assert health.idle is None, "it is expected to prove nothing"


async def test_an_agent_does_what_it_declares_and_is_refused_the_rest(here: Household) -> None:
    for name in ("toiler", "pair", "relay"):
        await here.agent(name)
    async with here.mesh("alice") as mesh:
        assert await (await mesh.submit("relay", {"id": 3})).result(timeout=15) == [3, 3, 3, 1]
        outcome = await (await mesh.submit("stray", {"id": 3})).outcome(timeout=15)
        assert outcome.error is not None
        assert (outcome.status, outcome.error.code) == ("failed", "permission_denied")
        assert "revo.task.relay.normal.relay" in outcome.error.message


async def test_the_same_key_is_one_task_also_when_somebody_looks_late(here: Household) -> None:
    await here.agent("toiler")
    async with here.mesh("alice") as mesh:
        first = await mesh.submit("toil", {"id": 1}, idempotency_key="order 42")
        assert await first.result(timeout=10) == 1
    async with here.mesh("alice") as mesh, here.mesh("bob") as other:
        again = await mesh.submit("toil", {"id": 2}, idempotency_key="order 42")
        assert again.task_id == first.task_id
        assert again.duplicate
        assert await again.result(timeout=10) == 1
        theirs = await other.submit("toil", {"id": 3}, idempotency_key="order 42")
        assert theirs.task_id != first.task_id, "nobody can guess what another's key stands for"
        assert await theirs.result(timeout=10) == 3


async def test_a_task_whose_worker_is_killed_runs_elsewhere_and_poison_ends(here: Household, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    first = await here.agent("toiler", 1)
    async with here.mesh("alice") as mesh:
        handle = await mesh.submit("toil", {"id": 1, "seconds": 2.0, "journal": str(journal)})
        await eventually(lambda: begun(journal))
        first.signal(signal.SIGKILL)
        second = await here.agent("toiler", 2)
        outcome = await handle.outcome(timeout=20)
        assert (outcome.value, outcome.instance) == (1, second.instance)
        assert outcome.deliveries >= 2, "more on a machine so busy that a second passes without an extension"

        tried = await mesh.submit("toil", {"id": 2, "what": "retry", "journal": str(journal)})
        assert (await tried.outcome(timeout=20)).attempts == 3
        async with here.mesh("operator") as operator:
            bad = await mesh.submit("toil", {"id": 3, "seconds": 10.0, "journal": str(journal)})
            await eventually(lambda: len([line for line in lines(journal) if line[1] == "3"]) == 1)
            (envelope,) = [one async for one in queued(operator.connection) if one.task_id == bad.task_id]
            await attempts.change(
                operator.connection, envelope, lambda record: record.model_copy(update={"suspect": True, "alone": 3})
            )
            second.signal(signal.SIGKILL)
            await here.agent("toiler", 3)
            ended = await bad.outcome(timeout=20)
            assert ended.error is not None
            assert (ended.status, ended.error.code) == ("failed", "worker_died"), "the steward says that no other died"


async def test_a_cancel_reaches_the_children_and_nobody_cancels_what_is_another_s(
    here: Household, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    await here.agent("toiler")
    await here.agent("parent")
    async with here.mesh("alice") as mesh, here.mesh("bob") as bob:
        handle = await mesh.submit("raise_family", {"children": 2, "journal": str(journal)})
        await eventually(lambda: len(begun(journal)) == 3)
        for how in ("cancel", "redrive", "drop"):
            for client in ("", "alice"):
                message = {"task_id": handle.task_id, "client": client, "by": "alice"}
                with pytest.raises(NotFoundError):
                    await ask(bob.connection, bob.telemetry, how, message)
        assert not handle._arrival.done
        cancelled = await handle.cancel()
        assert cancelled.cancelled
        assert cancelled.children >= 2
        assert (await handle.outcome(timeout=10)).status == "cancelled"


async def test_a_dead_letter_is_redriven_and_dropped_by_its_client_and_by_no_other(here: Household) -> None:
    await here.agent("toiler")
    async with here.mesh("alice") as mesh, here.mesh("bob") as bob:
        handle: Handle = await mesh.submit("toil", {"id": 1, "what": "raise"})
        assert (await handle.outcome(timeout=20)).status == "failed"
        for other in (bob.redrive, bob.drop_dead):
            with pytest.raises(NotFoundError):
                await other(handle.task_id, client="alice")
        redriven = await mesh.redrive(handle.task_id)
        assert redriven.client == "alice"
        dropped = await mesh.drop_dead(handle.task_id)
        assert dropped.task_id == handle.task_id


async def test_an_agent_cannot_register_as_another(here: Household) -> None:
    async with here.mesh("relay") as mesh:
        registration = {"agent": "toiler", "instance": "toiler-1", "secret": "x" * 32, "capabilities": []}
        with pytest.raises(RemoteError, match="may not speak for toiler"):
            await mesh.ask(subjects.REGISTRY, "register", registration)


async def test_an_agent_cannot_take_the_name_of_another_s_instance(here: Household) -> None:
    toiler = await here.agent("toiler")
    async with here.mesh("relay") as hostile, here.mesh("operator") as mesh:
        client = RegistryClient(mesh)
        assert [one.instance for one in await client.find("toil")] == [toiler.instance]
        key = f"$KV.REGISTRY.lease.relay.{toiler.instance}"
        for headers in ({"KV-Operation": "DEL"}, {"KV-Operation": "PURGE"}, {}):
            await jetstream.store(hostile.connection, key, b"{}", headers)
        registration = {"agent": "relay", "instance": toiler.instance, "secret": "x" * 32, "capabilities": []}
        with pytest.raises(RemoteError, match="an instance of relay is called relay-"):
            await hostile.ask(subjects.REGISTRY, "register", registration)
        assert [one.instance for one in await client.find("toil")] == [toiler.instance]


async def test_a_registry_that_an_agent_has_wiped_is_whole_again_within_seconds(here: Household) -> None:
    """The server's markers want rollups, so whoever may renew a lease can wipe the bucket; that must not matter."""
    toiler = await here.agent("toiler")
    async with here.mesh("relay") as hostile, here.mesh("operator") as mesh:
        client = RegistryClient(mesh)
        await jetstream.store(hostile.connection, "$KV.REGISTRY.lease.relay.relay-1", b"{}", {"Nats-Rollup": "all"})
        bucket = Bucket(mesh.connection, subjects.REGISTRY_BUCKET)

        async def whole() -> bool:
            entry = await bucket.get(f"lease.toiler.{toiler.instance}")
            return entry is not None and entry.live

        await eventually(whole, timeout=8)
        assert [one.instance for one in await client.find("toil")] == [toiler.instance]
        assert await (await mesh.submit("toil", {"id": 5})).result(timeout=10) == 5


async def test_an_agent_cannot_cancel_another_s_children_by_a_result_that_speaks_of_them(
    here: Household, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    await here.agent("toiler")
    await here.agent("parent")
    async with here.mesh("alice") as mesh, here.mesh("relay") as hostile:
        handle = await mesh.submit("raise_family", {"children": 2, "journal": str(journal)})
        await eventually(lambda: len(begun(journal)) == 3)
        lie = {"task_id": handle.task_id, "capability": "raise_family", "client": "alice", "status": "cancelled"}
        times = {"submitted_at": 1.0, "started_at": 1.0, "finished_at": 1.0, "agent": "x", "instance": "x-1"}
        body = codec.encode({**lie, **times, "attempts": 1, "deliveries": 1, "sequence": 1})
        await jetstream.store(hostile.connection, "revo.result.alice.relay.lie", body, {CONTENT_TYPE: MSGPACK})
        for message in (
            {"task_id": "lie", "client": "alice", "capability": "relay"},
            {"task_id": handle.task_id, "client": "alice", "capability": "raise_family"},
        ):
            with pytest.raises(NotFoundError, match="neither waits nor runs"):
                await ask(hostile.connection, hostile.telemetry, "cancel", message)
        with pytest.raises(RemoteError):
            await hostile.ask(subjects.STEWARD, "cancel", {"task_id": "*", "client": "alice", "capability": "relay"})
        assert not handle._arrival.done
        assert (await handle.cancel()).children >= 2


async def test_a_client_of_another_name_is_refused_before_anything_is_sent(here: Household) -> None:
    with pytest.raises(Exception, match="who is no other client"):
        async with Mesh.connect(settings=here.settings("alice"), client="bob"):
            pass
