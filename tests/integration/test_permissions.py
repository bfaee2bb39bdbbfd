"""Nobody may do what is another's: every role against all that the others are granted, on a real server."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bus import codec, endings, jetstream, subjects
from bus.connection import Connection
from bus.errors import BusError, NoRespondersError, NotFoundError, PermissionDeniedError, RequestTimeoutError
from bus.grants import Grants
from bus.messages import CONTENT_TYPE, MSGPACK, Result
from tests.eventually import eventually, in_time
from tests.guarded import OTHER, Guarded, guarded

USERS = ("alice", "echo", "gate", "eye", "hermes", "revo-registry", "revo-steward", "revo-bridge", "revo-memory")
"""One of each role but the operator's, who may do everything in its tenant."""

DANGEROUS = (
    "$JS.API.STREAM.CREATE.MINE",
    "$JS.API.STREAM.UPDATE.TASKS",
    "$JS.API.STREAM.DELETE.TASKS",
    "$JS.API.STREAM.PURGE.TASKS",
    "$JS.API.STREAM.SNAPSHOT.RESULTS",
    "$JS.API.STREAM.RESTORE.RESULTS",
    "$JS.SNAPSHOT.RESTORE.RESULTS.x1",
    "$JS.SNAPSHOT.ACK.RESULTS.x1.1.1",
    "$JS.API.STREAM.MSG.DELETE.RESULTS",
    "$JS.API.CONSUMER.DELETE.TASKS.echo-normal",
    "$JS.API.CONSUMER.DURABLE.CREATE.TASKS.mine",
    "$JS.API.CONSUMER.CREATE.TASKS.mine",
    "$JS.API.CONSUMER.CREATE.TASKS",
    "$JS.API.ACCOUNT.PURGE.main",
    "$SYS.REQ.SERVER.PING",
    "$JS.API.DIRECT.GET.DEAD",
    "$JS.ACK.TASKS.other-normal.1.1.1.1.0",
    "revo.done.bob.echo.1",
    "revo.nothing",
)
"""What no role but the operator's is granted."""


_MEMORY = (
    "$KV.MEMORY.entry.notes.x1._",
    "$KV.MEMORY.lock.notes.x1",
    "$KV.MEMORY.namespace.notes",
    "$KV.SESSIONS.x1",
    "$JS.API.STREAM.MSG.GET.KV_MEMORY",
    "$JS.API.STREAM.PURGE.KV_MEMORY",
    "$JS.API.DIRECT.GET.KV_MEMORY",
    "$JS.API.DIRECT.GET.KV_MEMORY.$KV.MEMORY.entry.notes.x1._",
    "$JS.API.CONSUMER.CREATE.KV_MEMORY.x1.$KV.MEMORY.entry.notes.x1._",
)
"""What nobody touches but a coordinator."""

_OTHERS = (
    *_MEMORY,
    "revo.scoped.revo-memory.read.secrets",
    "revo.scoped.revo-memory.read.secrets.echo",
    "revo.scoped.revo-memory.read.secrets.alice",
    "revo.scoped.revo-memory.read.notes",
    "revo.scoped.revo-memory.read.notes.bob",
    "revo.scoped.revo-memory.write.notes.bob",
    "revo.scoped.revo-memory.write.notes.alice",
    "revo.scoped.revo-memory.lock.notes.alice",
    "revo.rpc.revo-memory.open_session.alice",
    "revo.rpc.revo-memory.open_session.bob",
    "revo.task.echo.normal",
    "revo.task.echo.normal.bob",
    "revo.result.bob.other.x1",
    "revo.dead.bob.other.x1",
    "revo.span.bob",
    "revo.beat.other.other-1",
    "revo.event.agent.other.other-1.dead",
    "revo.event.system.mesh.down",
    "revo.audit.lost.bob.echo.x1",
    "revo.ctl.all.all.end",
    "revo.ctl.other.other-1.end",
    "revo.rpc.revo-steward.cancel",
    "revo.rpc.revo-steward.cancel.bob",
    "revo.rpc.revo-registry.register",
    "revo.rpc.revo-registry.register.other",
    "revo.rpc.other.x1.bob",
    "revo.direct.other.x1.x1",
    "revo.direct.other.x1.x1.bob",
    "revo.registry.lease.other.other-1",
    "revo.event.breaker.other.other-1.open",
    "revo.cast.other",
    "revo.cast.other.bob",
    "$KV.ATTEMPTS.bob.other.x1",
    "$KV.REGISTRY.lease.other.other-1",
    "$KV.REGISTRY.capability.other",
    "$JS.API.INFO",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.INFO.RESULTS",
    "$JS.API.STREAM.MSG.GET.RESULTS",
    "$JS.API.DIRECT.GET.RESULTS",
    "$JS.API.DIRECT.GET.RESULTS.revo.result.bob.other.x1",
    "revo.blob.bob.other.x1.b1.0",
    "$JS.API.DIRECT.GET.BLOBS",
    "$JS.API.DIRECT.GET.BLOBS.revo.blob.bob.other.x1.b1.0",
    "$JS.API.STREAM.PURGE.BLOBS",
    "$JS.API.DIRECT.GET.KV_REGISTRY.$KV.REGISTRY.lease.other.other-1",
    "$JS.API.CONSUMER.MSG.NEXT.TASKS.other-normal",
    "$JS.API.CONSUMER.INFO.TASKS.other-normal",
    "$JS.API.CONSUMER.LIST.TASKS",
    "agents.prompt.other.revo.main",
    "agents.status.other.revo.main",
    "agents.hb.other.revo.main",
    "revo.answer.other.other-1.x1",
)
_WORK = ("revo.task.echo.normal.bob", "revo.result.bob.echo.x1", "revo.dead.bob.echo.x1", "$KV.ATTEMPTS.bob.echo.x1")
_ORDERS = ("revo.ctl.all.all.end", "revo.rpc.revo-steward.cancel", "$JS.API.CONSUMER.MSG.NEXT.TASKS.echo-normal")
_PAYLOADS = tuple(f"$JS.API.STREAM.MSG.GET.{stream}" for stream in ("TASKS", "RESULTS", "DEAD", "KV_ATTEMPTS"))
_REGISTERED = ("$KV.REGISTRY.lease.echo.echo-1", "$KV.REGISTRY.capability.echo")
_REGISTER = "revo.rpc.revo-registry.register"
FORBIDDEN = {
    "alice": (
        *_OTHERS,
        "revo.task.other.normal.alice",
        "revo.result.alice.echo.x1",
        "revo.spent.x1.tasks",
        "_INBOX_core.operator.x1",
    ),
    "gate": (
        *(one for one in _OTHERS if not one.startswith(("agents.prompt", "agents.status", "revo.answer"))),
        "revo.result.gate.echo.x1",
        "revo.spent.x1.tasks",
        "_INBOX_core.operator.x1",
    ),
    "echo": (*_OTHERS, "revo.task.other.normal.echo", "revo.done.alice.echo.x1", "$JS.ACK.TASKS.other-low.1.1.1.1.0"),
    "eye": (
        "agents.prompt.echo.revo.main",
        *_MEMORY,
        *_WORK,
        *_ORDERS,
        *_PAYLOADS,
        *_REGISTERED,
        "revo.event.system.mesh.down",
        "revo.rpc.revo-registry.register",
    ),
    "revo-registry": (*_WORK, *_ORDERS, *_PAYLOADS, *_MEMORY),
    "revo-steward": (
        *_MEMORY,
        *_REGISTERED,
        "$JS.API.CONSUMER.MSG.NEXT.TASKS.echo-normal",
        "$JS.ACK.TASKS.echo-low.1.1.1.1.0",
    ),
    "hermes": (*_OTHERS, "agents.prompt.hermes.ana.main", "agents.hb.zeus.ana.main", "revo.task.@hermes.normal.hermes"),
    "revo-bridge": (
        *_MEMORY,
        *_WORK,
        *_ORDERS,
        *_REGISTERED,
        "$JS.API.STREAM.MSG.GET.TASKS",
        "$JS.API.STREAM.MSG.GET.DEAD",
        "$JS.API.CONSUMER.MSG.NEXT.TASKS.@echo-normal",
        "$JS.API.CONSUMER.CREATE.TASKS.@hermes-normal.revo.task.>",
        "$JS.ACK.TASKS.@echo-normal.1.1.1.1.0",
        "agents.prompt.echo.ana.main",
        "revo.result.bob.@echo.x1",
    ),
    "revo-memory": (
        *_WORK,
        *_ORDERS,
        *_PAYLOADS,
        *_REGISTERED,
        "$JS.API.STREAM.PURGE.KV_SESSIONS",
        "$JS.API.STREAM.MSG.DELETE.KV_MEMORY",
        "$JS.API.CONSUMER.CREATE.KV_MEMORY.x1.>",
        "$JS.API.CONSUMER.MSG.NEXT.KV_MEMORY.x1",
        "revo.lock.notes.x1",
    ),
}
"""Said once more by hand, so that a grant that is too wide is not its own excuse."""

_HEARD = (
    "agents.>",
    "agents.prompt.*.*.*",
    "revo.answer.>",
    "revo.scoped.>",
    "revo.task.>",
    "revo.result.>",
    "revo.dead.>",
    "revo.done.bob.>",
    "$KV.>",
    "$JS.API.>",
    ">",
)
_NEWS = ("revo.lock.>", "revo.span.>", "revo.beat.>", "revo.event.>")
_APART = ("_INBOX_core.operator.>", "revo.ctl.>", "revo.direct.>", *_NEWS)
_TOLD = (*_HEARD, *_APART)
UNHEARD = {user: _TOLD if user in ("alice", "gate", "echo", "hermes") else (*_HEARD, "revo.ctl.>") for user in USERS}


@pytest.fixture(params=["own", "shared"])
async def here(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Guarded]:
    async with guarded(tmp_path, isolated=request.param == "own") as running:
        yield running


def literal(pattern: str) -> str:
    """A subject that a pattern matches, and that means nothing to anybody."""
    return ".".join({"*": "x1", ">": "x1.x2"}.get(token, token) for token in pattern.split("."))


def covers(patterns: tuple[str, ...], subject: str) -> bool:
    """Whether one of the patterns matches a subject."""
    tokens = subject.split(".")
    for pattern in patterns:
        parts = pattern.split(".")
        if parts[-1] == ">" and len(tokens) >= len(parts):
            parts, head = parts[:-1], tokens[: len(parts) - 1]
        else:
            head = tokens
        if len(parts) == len(head) and all(part in ("*", token) for part, token in zip(parts, head, strict=True)):
            return True
    return False


def heard_by(granted: Grants) -> tuple[str, ...]:
    listings = (subject for both in granted.listings for subject in both)
    return (*granted.hears, *granted.serves, *granted.streams, *listings)


def of_all(here: Guarded) -> dict[str, Grants]:
    names = (*USERS, "bob", "other")
    return {name: here.keyring.grants(name) for name in names}


async def refusals(connection: Connection, wanted: list[str], *, within: float = 2.0) -> dict[str, str]:
    """What is said to each publish; empty: nothing."""
    calls = {subject: connection.begin(subject, b"{}", timeout=within) for subject in wanted}
    said = await asyncio.gather(*calls.values(), return_exceptions=True)
    return {
        subject: str(answer) if isinstance(answer, PermissionDeniedError) else ""
        for subject, answer in zip(calls, said, strict=True)
    }


@pytest.mark.parametrize("user", USERS)
async def test_a_role_may_publish_nothing_that_is_granted_to_the_others_and_is_told_so_at_once_by_name(
    here: Guarded, user: str
) -> None:
    grants = of_all(here)
    own = (*grants[user].sends, *grants[user].pulls, *(asked for asked, _ in grants[user].finds))
    theirs = {
        literal(one)
        for name, others in grants.items()
        if name != user
        for one in (*others.sends, *others.pulls, *others.serves, *others.streams)
    } | set(DANGEROUS)
    answering = ("_R_.", "_INBOX.") if grants[user].serves else ("_R_.",)
    forbidden = {one for one in theirs if not covers(own, one) and not one.startswith(answering)} | set(FORBIDDEN[user])
    if user in ("alice", "echo"):
        assert len(forbidden) > 80, "they are granted little, so most of it must be forbidden"
    async with await here.connection(user) as connection:
        began = time.perf_counter()
        said = await refusals(connection, sorted(forbidden))
        assert time.perf_counter() - began < 1.0, "refused at once, not by time-outs"
    assert [one for one in sorted(forbidden) if one.lower() not in said[one].lower()] == []


@pytest.mark.parametrize("user", USERS)
async def test_a_role_hears_nothing_that_is_meant_for_the_others(here: Guarded, user: str) -> None:
    grants = of_all(here)
    own = heard_by(grants[user])
    theirs = {literal(one) for name, others in grants.items() if name != user for one in heard_by(others)}
    theirs |= {literal(one) for others in grants.values() for one in others.sends if one.startswith("revo.")}
    theirs |= {">", "revo.>", "revo.result.>", "revo.task.>", "$JS.>", "$KV.>", "$SYS.>", "_INBOX_core.>", "_R_.>"}
    theirs |= {"_INBOX_core.operator.x1", "_INBOX_core.x1", "_CAST.bob.x1"}
    async with await here.connection(user) as connection:
        if connection.credentials is not None and connection.credentials.account == "own":
            own += ("_INBOX.>",)  # of that account
        for subject in sorted({one for one in theirs if not covers(own, one)} | set(UNHEARD[user])):
            with pytest.raises(PermissionDeniedError) as refused:
                await connection.subscribe(subject, lambda _: None)
            assert subject.lower() in str(refused.value).lower()


async def test_what_a_role_is_granted_the_server_does_not_refuse(here: Guarded) -> None:
    for user, grants in of_all(here).items():
        granted = [literal(one) for one in (*grants.sends, *grants.pulls) if not one.startswith(("$JS.ACK", "_R_"))]
        async with await here.connection(user) as connection:
            said = await refusals(connection, granted, within=0.4)
            assert {subject: text for subject, text in said.items() if text} == {}, user


async def test_an_operator_of_another_tenant_sees_and_reaches_nothing(here: Guarded) -> None:
    heard: list[str] = []
    async with here.mesh("alice") as mesh, await here.connection("operator", OTHER) as stranger:
        target = "revo.result.alice.echo.forged"
        with pytest.raises(NoRespondersError):  # it may publish it, in its own tenant, where nobody stores it
            await stranger.request(target, b"{}")
        with pytest.raises(NotFoundError):
            await jetstream.call(stranger, "STREAM.INFO", subjects.TASKS)
        await stranger.subscribe(">", lambda message: heard.append(message.subject))
        await mesh.submit("echo", {"secret": 1})
        await stranger.flush()
        assert [one for one in heard if not one.startswith("_INBOX")] == []
    async with await here.connection("operator") as operator:
        assert await jetstream.last(operator, subjects.RESULTS, target) is None


@pytest.mark.parametrize("user", ["alice", "echo"])
async def test_the_same_name_in_another_tenant_is_somebody_else(here: Guarded, user: str) -> None:
    async with await here.connection("operator") as operator:
        await jetstream.store(operator, "revo.task.echo.normal.alice", b"{}")
        async with await here.connection(user, OTHER) as stranger:
            granted = here.keyring.grants(user, OTHER)
            calls = [
                stranger.begin(literal(one), b"{}", timeout=0.3)
                for one in (*granted.sends, *granted.pulls)
                if not one.startswith("$JS.ACK")
            ]
            for answer in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(answer, NoRespondersError | RequestTimeoutError), answer
        info = await jetstream.call(operator, "STREAM.INFO", subjects.TASKS)
        assert (info["state"]["messages"], info["state"]["last_seq"]) == (1, 1)


# --- attacks, by name -----------------------------------------------------------------------------------------


async def test_a_client_cannot_forge_a_result_neither_of_its_own_nor_of_another(here: Guarded) -> None:
    async with here.mesh("alice") as mesh:
        handle = await mesh.submit("echo", {})
        for client in ("alice", "bob"):
            with pytest.raises(PermissionDeniedError):
                await jetstream.store(mesh.connection, f"revo.result.{client}.echo.{handle.task_id}", b"{}")
        with pytest.raises(PermissionDeniedError):
            await jetstream.store(mesh.connection, "revo.task.echo.normal.bob", b"{}")


async def test_a_client_reads_its_own_result_and_no_other(here: Guarded) -> None:
    async with await here.connection("echo") as agent:
        body = codec.encode(
            {"task_id": "t1", "status": "succeeded", "value": 42, "capability": "echo", "client": "alice"}
        )
        await jetstream.store(agent, "revo.result.alice.echo.t1", body, {CONTENT_TYPE: MSGPACK})
    async with await here.connection("alice") as alice:
        stored = await jetstream.last(alice, subjects.RESULTS, "revo.result.alice.echo.t1")
        assert stored is not None
        assert stored.body == body
        assert await jetstream.last(alice, subjects.RESULTS, "revo.result.alice.echo.t2") is None
    async with await here.connection("bob") as bob:
        with pytest.raises(PermissionDeniedError):
            await jetstream.last(bob, subjects.RESULTS, "revo.result.alice.echo.t1")


async def test_a_schedule_in_a_task_stores_nothing_elsewhere(here: Guarded) -> None:
    target = "revo.result.bob.echo.scheduled"
    headers = {"Nats-Schedule": "@at 2020-01-01T00:00:00Z", "Nats-Schedule-Target": target}
    async with await here.connection("alice") as alice:
        answer = await alice.request("revo.task.echo.normal.alice", b"{}", headers)
        assert "error" in json.loads(answer.data), "TASKS takes no schedules"
    async with await here.connection("operator") as operator:
        assert await jetstream.last(operator, subjects.RESULTS, target) is None


async def test_another_s_inbox_cannot_be_read(here: Guarded) -> None:
    async with await here.connection("alice") as alice, await here.connection("bob") as bob:
        inbox = alice.client.new_inbox()
        if alice.credentials is not None and alice.credentials.account == "shared":
            with pytest.raises(PermissionDeniedError):
                await bob.subscribe(inbox, lambda _: None)
            return
        heard: list[bytes] = []
        await bob.subscribe(inbox, lambda message: heard.append(message.data))
        await bob.subscribe("_INBOX.>", lambda message: heard.append(message.data))
        arrived = asyncio.Event()
        await alice.subscribe(inbox, lambda _: arrived.set())
        await alice.publish("revo.task.echo.normal.alice", b"{}", reply=inbox)
        await in_time(arrived.wait(), 5)
        await bob.flush()
        assert heard == []


async def test_a_lease_cannot_be_stolen(here: Guarded) -> None:
    async with await here.connection("other") as thief:
        with pytest.raises(PermissionDeniedError):
            await jetstream.store(thief, "$KV.REGISTRY.lease.echo.echo-1", b"{}")
        with pytest.raises(PermissionDeniedError):
            await thief.request("revo.rpc.revo-registry.register.echo", b"{}")


async def reply_trick(here: Guarded, subject: str, body: bytes, reply: str) -> None:
    """A hostile agent stores what it may, and has the server send it where it may not: `reply`."""
    async with await here.connection("other") as hostile:
        await jetstream.store(hostile, subject, body)
        await hostile.publish(subjects.api("DIRECT.GET", subjects.RESULTS, subject), b"", reply=reply)
        assert await jetstream.last(hostile, subjects.RESULTS, subject) is not None  # it has been answered by now


async def test_the_server_s_answer_is_no_way_around_the_grants_of_an_account_of_its_own(tmp_path: Path) -> None:
    async with guarded(tmp_path, isolated=True) as here, here.mesh("operator") as operator:
        await operator.submit("echo", {})
        mine = "revo.result.alice.other.mine"
        await reply_trick(here, mine, b"{}", "revo.result.bob.echo.forged")
        await reply_trick(here, mine + "2", b"{}", "$JS.API.STREAM.PURGE.TASKS")
        assert await jetstream.last(operator.connection, subjects.RESULTS, "revo.result.bob.echo.forged") is None
        info = await jetstream.call(operator.connection, "STREAM.INFO", subjects.TASKS)
        assert info["state"]["messages"] == 1


async def test_what_the_threat_model_says_of_shared_accounts_is_true(tmp_path: Path) -> None:
    """There the server's answer is such a way: that is why agents that may be hostile get accounts of their own."""
    async with guarded(tmp_path, isolated=False) as here, here.mesh("operator") as operator:
        await reply_trick(here, "revo.result.alice.other.mine", b"{}", "revo.result.bob.echo.forged")

        async def forged() -> bool:
            stored = await jetstream.last(operator.connection, subjects.RESULTS, "revo.result.bob.echo.forged")
            return stored is not None

        await eventually(forged)


async def test_a_stranger_is_refused(here: Guarded) -> None:
    settings = here.settings("alice").model_copy(update={"credentials": ""})
    with pytest.raises(BusError, match="REVO_CREDENTIALS"):
        await Connection.open(here.server.url, settings=settings)


async def test_a_result_that_a_copy_behind_its_leader_did_not_show_is_found_without_being_told(
    here: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a cluster any copy may answer a client; one that is a moment behind must not leave him waiting for ever."""
    looks: list[str] = []
    really = endings.stored_result

    async def behind(connection: Connection, subject: str) -> Result | None:
        looks.append(subject)
        return None if len(looks) < 3 else await really(connection, subject)

    async with await here.connection("echo") as agent:
        names = {"task_id": "t1", "capability": "echo", "client": "alice", "agent": "echo", "instance": "echo-1"}
        times = {"submitted_at": 1.0, "started_at": 1.0, "finished_at": 1.0}
        counts = {"attempts": 1, "deliveries": 1, "sequence": 1}
        body = codec.encode({**names, **times, **counts, "status": "succeeded", "value": 42})
        await jetstream.store(agent, "revo.result.alice.echo.t1", body, {CONTENT_TYPE: MSGPACK})
    monkeypatch.setattr(endings, "stored_result", behind)
    monkeypatch.setattr(Connection, "clustered", True)
    monkeypatch.setattr("bus.arrivals.LOOK_AGAIN", (0.05,) * 5)
    async with here.mesh("alice") as mesh:
        handle = await mesh.submit("echo", {}, task_id="t1")
        assert await handle.result(timeout=5) == 42
    assert len(looks) == 3


async def test_no_header_of_an_agent_s_own_record_takes_away_another_s(here: Guarded) -> None:
    victim = "$KV.ATTEMPTS.alice.echo.x1"
    async with await here.connection("operator") as operator, await here.connection("other") as hostile:
        await jetstream.store(operator, victim, b"{}")
        for rollup in ("all", "sub"):
            answer = await hostile.request("$KV.ATTEMPTS.alice.other.x1", b"{}", {"Nats-Rollup": rollup})
            assert "error" in json.loads(answer.data)
        assert await jetstream.last(operator, subjects.ATTEMPTS, victim) is not None


async def test_an_inbox_tells_nothing_of_the_next_one(here: Guarded) -> None:
    async with await here.connection("alice") as alice:
        tokens = [alice.client.new_inbox().rpartition(".")[2] for _ in range(3)]
        assert len({token[:8] for token in tokens}) == 3
