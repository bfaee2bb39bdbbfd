"""Shared memory for those who may touch no stream: the coordinators do it for them, and die without being missed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from actors.agents.findings import Findings
from actors.keyring import Keyring
from actors.memory import asking, recent
from actors.memory.backend import Author, Write, Written
from actors.memory.client import Memory
from actors.memory.errors import (
    ConflictError,
    InvalidTtlError,
    LockTimeoutError,
    NoMemoryError,
    NoSuchVersionError,
    NotYourSessionError,
)
from actors.memory.messages import Writes
from actors.memory.model import Entry, Mode, agent_of
from actors.memory.remote import Remote
from bus import events, subjects
from bus.errors import InvalidKeyError, NotFoundError, PermissionDeniedError
from bus.grants import Wish
from bus.mesh import Mesh
from bus.server import Server
from tests.eventually import eventually
from tests.guarded import Guarded
from tests.processes import ActorProcess, actor

TRACED = {("ana", "revo-memory/write"), ("revo-memory", "revo-memory/write"), ("revo-memory", "memory/put")}
"""Spans of one write, of both sides."""
NAMESPACES = {"notes": {"strategy": "merge"}, "firsts": {"strategy": "first_writer_wins"}}


@dataclass
class Household(Guarded):
    """A guarded server, and coordinators that run."""

    folder: Path
    stack: contextlib.AsyncExitStack
    coordinators: list[ActorProcess] = field(default_factory=list)

    async def start(self, name: str, target: str, **env: str) -> ActorProcess:
        log = self.folder / f"{name}-{len(self.coordinators)}.log"
        return await self.stack.enter_async_context(
            actor(target, self.server.url, log, name=name, **self.env(name), **env)
        )

    async def coordinator(self) -> ActorProcess:
        """One more, which has the namespaces be used as above."""
        env = {"REVO_ACTOR_SETTINGS": json.dumps({"namespaces": NAMESPACES})}
        self.coordinators.append(await self.start(subjects.MEMORY, "actors.memory:Coordinator", **env))
        return self.coordinators[-1]


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Household]:
    """Ana has an account of her own, Ben shares one; Cleo only reads."""
    keyring = Keyring(tmp_path / "keys")
    keyring.init()
    keyring.ensure("ana", "submitter", Wish(memory=("notes", "firsts", "findings", "lasts")))
    keyring.ensure("ben", "submitter", Wish(memory=("notes",)), isolated=False)
    keyring.ensure("cleo", "submitter", Wish(memory=("notes:ro",)))
    async with Server(tmp_path / "nats", accounts=keyring.accounts) as server, contextlib.AsyncExitStack() as stack:
        made = Household(server, keyring, tmp_path, stack)
        async with made.mesh("operator"):
            pass  # which makes the streams
        await made.start(subjects.REGISTRY, "actors.registry:Registry")
        await made.coordinator()
        yield made


async def test_whoever_may_touch_no_stream_has_all_of_it_through_a_coordinator(here: Household) -> None:
    async with here.mesh("ana") as ana_s, here.mesh("ben") as ben_s, here.mesh("cleo") as cleo_s:
        ana, ben, cleo = (Memory(mesh, "notes") for mesh in (ana_s, ben_s, cleo_s))
        assert ana_s.connection.restricted
        first = await ana.put("plan/app", {"by": "ana", "steps": 1})
        entry = await ben.get("plan/app")
        assert entry is not None
        assert (entry.version, entry.value) == (first.version, {"by": "ana", "steps": 1})
        assert (entry.by, agent_of(entry.by)) == (ana_s.telemetry.instance, "ana")
        assert (await ben.put("plan/app", {"by": "ana", "steps": 1, "ben": True}, entry)).outcome == "written"
        merged = await ana.put("plan/app", {"by": "ana", "steps": 2}, entry)
        assert (merged.outcome, merged.value) == ("merged", {"by": "ana", "steps": 2, "ben": True})
        assert [agent_of(one.by) for one in await cleo.history("plan/app")] == ["ana", "ben", "ana"]
        assert (await cleo.get("plan/app", first.version)) == entry
        assert len(await cleo.diff("plan/app", first.version)) == 2

        clash = await ben.put("plan/app", {"by": "ben"}, entry)
        assert clash.outcome == "conflict"
        (summary,) = (await cleo.conflicts()).entries
        seen = await cleo.get("plan/app")
        assert seen is not None
        assert (summary.key, agent_of(seen.alternatives[0].by)) == ("plan/app", "ben")
        resolved = await ana.resolve("plan/app", {"by": "both"}, seen)
        assert (await cleo.conflicts()).entries == ()

        bases = {"plan/app": resolved.version}
        written = await ana.put_all({"a/1": 1, "a/2": 2}, bases, delete=["plan/app"])
        assert [one.key for one in written] == ["a/1", "a/2", "plan/app"]
        assert [one.key for one in (await ben.list("a")).entries] == ["a/1", "a/2"]
        assert await ben.get("plan/app") is None
        await ben.undelete("plan/app")
        assert [one.key async for one in cleo.walk()] == ["a/1", "a/2", "plan/app"]
        assert (await ana.describe()).strategy == "merge"

        async with here.mesh("operator") as operator:

            async def told() -> bool:
                try:
                    spans = await operator.trace(entry.trace_id)
                except NotFoundError:
                    return False  # none of them has come yet
                return {(span.service, span.name) for span in spans} >= TRACED

            await eventually(told)
            async with events.follow(operator.connection, since=0.0, subject="revo.event.memory.>") as news:
                event = await anext(news)
            assert (event.kind, event.name, event.what) == ("memory", "notes", "conflict")
            assert event.details["key"] == "plan/app"

        mine = Memory(ana_s, "firsts")
        await mine.put("k", "one")
        with pytest.raises(ConflictError) as conflict:
            await mine.put("k", "two")
        assert (conflict.value.theirs, conflict.value.ours) == (await mine.get("k"), "two")
        for wrong, error in (
            (mine.put("k", 1, 999_999), NoSuchVersionError),
            (mine.put("a//b", 1), InvalidKeyError),
            (mine.put("k", 1, ttl=-1.0), InvalidTtlError),
            (mine.get("k", 999_999), NoSuchVersionError),
            (mine.configure(await mine.describe()), PermissionDeniedError),
        ):
            with pytest.raises(error):
                await wrong


async def test_what_was_not_granted_is_refused(here: Household) -> None:
    async with here.mesh("ana") as ana, here.mesh("ben") as ben, here.mesh("cleo") as cleo:
        await Memory(ana, "notes").put("k", 1)
        for refused in (
            Memory(ben, "firsts").get("k"),
            Memory(ben, "firsts").put("k", 1),
            Memory(cleo, "notes").put("k", 1),
            Memory(cleo, "notes").delete("k"),
            Memory(cleo, "firsts").get("k"),
        ):
            with pytest.raises(PermissionDeniedError):
                await refused
        (done,) = await Remote(ana).write("notes", [Write("by", 1)], Author("ben-12345678"))
        entry = await Memory(ana, "notes").get("by")
        assert entry is not None
        assert (entry.version, entry.by) == (done.version, "ana"), "nobody writes as another"


async def test_sessions_and_locks_of_one_user_are_of_no_use_to_another(here: Household) -> None:
    async with here.mesh("ana") as ana_s, here.mesh("ben") as ben_s:
        ana, ben = Remote(ana_s), Remote(ben_s)
        session = await ana.open_session(Author("ana"))
        fence = await ana.lock(
            "notes", "a", Mode.EXCLUSIVE, id="l1", owner=session.id, session=session, author=Author("ana"), wait=1.0
        )
        assert fence is not None
        (seen,) = await ben.locks("notes")
        assert (seen.key, seen.by, seen.id, seen.session) == ("a", "ana", "", "")
        for wrong in (
            ben.renew(session),
            ben.close_session(session),
            ben.unlock("notes", "a", "l1"),
            ben.lock(
                "notes", "b", Mode.SHARED, id="l2", owner=session.id, session=session, author=Author("ben"), wait=1.0
            ),
        ):
            with pytest.raises(NotYourSessionError):
                await wrong
        (seen,) = await ana.locks("notes")
        assert (seen.id, seen.token) == ("l1", fence.token)
        assert (await ana.renew(session)).id == session.id
        assert await ana.unlock("notes", "a", "l1")
        assert await ana.locks("notes") == []


async def test_a_write_that_is_asked_for_twice_is_done_once(here: Household) -> None:
    async with here.mesh("ana") as mesh:
        memory = Memory(mesh, "notes")

        async def ask(write: Write, number: int, *, ago: float) -> Written:
            asked = Writes(writes=[write], id=f"{number:032x}", ago=ago)
            (done,) = await asking.ask(mesh, "notes", "write", asked, list[Written])
            return cast("Written", done)

        base = (await memory.put("k", {"a": 1})).version
        plain = Write("k", {"a": 7}, base)
        merges = Write("k", {"a": 1, "b": 1}, base)
        contradicts = Write("k", {"a": 2}, base)
        wanted = (plain, "written"), (merges, "merged"), (contradicts, "conflict")
        for number, (write, outcome) in enumerate(wanted):
            first = await ask(write, number, ago=0.0)
            assert first.outcome == outcome
            assert await ask(write, number, ago=1.0) == first, "the answer was lost"
            assert (await ask(write, number, ago=0.0)).version == first.version, "two coordinators have it at once"
        seen = await memory.get("k")
        assert seen is not None
        assert len(seen.alternatives) == 1
        await memory.resolve("k", {"a": 3}, seen)
        assert (await ask(contradicts, 2, ago=1.0)).outcome == "conflict", "others have written since"
        assert [len(one.alternatives) for one in await memory.history("k")] == [0, 0, 0, 1, 0]

        async with Memory(mesh, "lasts").lock("k") as lock:
            under_lock = Writes(writes=[Write("k", 1)], id=f"{9:032x}", fence=lock.fence)
            stored = await asking.ask(mesh, "lasts", "write", under_lock, list[Written])
        under_lock.ago = 1.0
        again = await asking.ask(mesh, "lasts", "write", under_lock, list[Written])
        assert again == stored, "the lock is given back by now, but it was held as this was written"


async def test_coordinators_are_killed_and_nothing_is_lost_doubled_or_missed(here: Household) -> None:
    await here.coordinator()
    seen: list[Entry] = []
    async with here.mesh("ana") as ana_s, here.mesh("cleo") as cleo_s, here.mesh("ben") as ben_s:
        ana = Memory(ana_s, "firsts")
        notes = Memory(ana_s, "notes")
        await notes.put("k0", "before")

        async def watch() -> None:
            async for entry in Memory(cleo_s, "notes").watch():
                seen.append(entry)  # noqa: PERF401  (it is looked at as it grows)

        watching = asyncio.create_task(watch())
        await eventually(lambda: seen)
        async with notes.lock("held") as lock:
            versions: dict[str, int] = {}
            for number in range(60):
                if number in (15, 40):
                    here.coordinators[number > 15].signal(signal.SIGKILL)
                if number == 30:
                    await here.coordinator()
                key = f"k{number % 8}"
                versions[key] = (await ana.put(key, number, versions.get(key, 0))).version
                latest = (await notes.put(f"held/{number}", number, fence=lock)).version
            with pytest.raises(LockTimeoutError):
                async with Memory(ben_s, "notes").lock("held/x", timeout=0.1):
                    pass
            assert not lock.lost.is_set()
        for key, version in versions.items():
            history = await ana.history(key)
            assert [one.value for one in history] == list(range(int(key[1:]), 60, 8)), "each once"
            assert history[-1].version == version
        await eventually(lambda: seen[-1].version >= latest, timeout=15)
        assert [one.value for one in seen] == ["before", *range(60)], "in order, and none is missing"
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching


async def test_what_changed_is_told_without_a_gap_whatever_is_still_at_hand(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent, "KEPT", 4)
    memory, spawned = Memory(mesh, "notes"), set[asyncio.Task[None]]()

    def spawn(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        spawned.add(task := asyncio.get_running_loop().create_task(work))
        return task

    changes = recent.Recent(mesh.connection, spawn=spawn)
    begin = await changes.position()
    first = [(await memory.put(f"a/{number}", number)).version for number in range(3)]
    waiting = asyncio.ensure_future(changes.after("notes", "b", first[-1], wait=5.0, limit=10))
    assert (await changes.after("notes", "a", begin, wait=0.0, limit=2)).position == first[1], "read from the stream"
    await memory.put("a/0", "not asked for")
    await Memory(mesh, "other").put("b/0", "nor this")
    told = (await memory.put("b/0", "this")).version
    assert [one.sequence for one in (await waiting).changes] == [told]
    more = [(await memory.put("a/x", number)).version for number in range(16)]
    found, since = list[int](), first[1]
    while found[-1:] != more[-1:]:
        some = await changes.after("notes", "a", since, wait=1.0, limit=3)
        assert len(some.changes) <= 3
        found += [one.sequence for one in some.changes]
        since = some.position
    assert found == [first[2], told - 2, *more]
    none = await changes.after("notes", "nothing", since, wait=0.0, limit=3)
    assert (none.changes, none.position, none.anew) == ([], since, False)
    assert (await changes.after("notes", "a", since + 1000, wait=0.0, limit=3)).anew, "of another stream"
    await changes.close()
    for task in spawned:
        task.cancel()
    await asyncio.gather(*spawned, return_exceptions=True)


async def test_without_a_coordinator_that_is_what_is_said_and_no_task_fails_for_it(
    here: Household, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(asking, "PATIENCE", 0.2)
    here.coordinators[0].signal(signal.SIGKILL)
    await here.coordinators[0].wait()
    async with here.mesh("ana") as mesh:
        with pytest.raises(NoMemoryError, match="`revo up` starts one"):
            await Memory(mesh, "notes").put("k", 1)
        findings = Findings(mesh, "analyst")
        await findings.keep("a.py", {"rules": {}})
        await findings.keep("b.py", {"rules": {}})
        assert [one.message for one in caplog.records if "is not kept" in one.message] == [
            "what is found is not kept for the next 30 s: " + str(NoMemoryError())
        ]
