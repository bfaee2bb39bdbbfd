"""Locks of shared memory: who may hold what beside whom, in which order, and what becomes of those that die."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from actors.memory import fencing, locktable, tree, unused
from actors.memory.backend import Author, Session
from actors.memory.client import Memory
from actors.memory.errors import (
    DeadlockError,
    LockLostError,
    LockTimeoutError,
    StaleFenceError,
    WrongFenceError,
)
from actors.memory.holding import Holder, Lock
from actors.memory.keeper import Keeper
from actors.memory.locks import Locks
from actors.memory.locktable import EMPTY, Claim, Table
from actors.memory.model import Mode
from bus import jetstream, subjects
from bus.connection import Connection
from bus.errors import (
    ConfigError,
    InvalidKeyError,
    InvalidSubjectError,
    QueueFullError,
    RequestTimeoutError,
    TransportError,
    WrongSequenceError,
)
from bus.mesh import Mesh
from bus.messages import EXPECTED_SUBJECT_SEQUENCE
from bus.server import Server
from bus.settings import Settings
from bus.store import Bucket
from tests.eventually import eventually, in_time
from tests.integration.lockers import locker
from tests.proxy import Proxy

YARD = "yard"
LEASE = 2.0


@pytest.fixture
def settings(server: Server) -> Settings:
    return Settings(nats_url=server.url, memory_lease=LEASE)


class Yard:
    """A server with a keeper, and clients with a connection each."""

    def __init__(self, settings: Settings, stack: AsyncExitStack, keeper: Keeper) -> None:
        self._settings = settings
        self._stack = stack
        self.keeper = keeper
        self.told: list[tuple[str, dict[str, Any]]] = []

    async def client(self, name: str, url: str = "") -> Holder:
        url = url or self._settings.nats_url
        connection = await self._stack.enter_async_context(await Connection.open(url, settings=self._settings))
        locks = Locks(connection)
        self._stack.push_async_callback(locks.close)
        holder = Holder(locks, lambda: Author(name))
        self._stack.push_async_callback(holder.close)
        return holder


@pytest.fixture
async def yard(mesh: Mesh, settings: Settings) -> AsyncIterator[Yard]:
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        own = await stack.enter_async_context(await Connection.open(settings.nats_url, settings=settings))

        async def tell(_: str, what: str, **details: Any) -> None:
            made.told.append((what, details))

        made = Yard(settings, stack, Keeper(own, tell=tell, spawn=group.create_task))
        await made.keeper.open()
        stack.push_async_callback(made.keeper.close)
        yield made
        await stack.aclose()


async def table(mesh: Mesh, key: str) -> Any:
    return (await tree.read(mesh.connection, subjects.lock_table(YARD, key))).table


async def waiting(mesh: Mesh, key: str, number: int) -> None:
    """Return when so many wait in a tree."""
    await eventually(lambda: _waiting(mesh, key, number))


async def _waiting(mesh: Mesh, key: str, number: int) -> bool:
    return len((await table(mesh, key)).waiters) == number


def lock(holder: Holder, key: str, mode: str = "exclusive", timeout: float | None = 20.0) -> Lock:
    return holder.lock(YARD, key, mode, timeout)


async def test_locks_exclude_each_other_by_the_matrix_on_a_key_and_on_those_above_and_below(yard: Yard) -> None:
    ann, bob = await yard.client("ann"), await yard.client("bob")
    modes = ["intent-shared", "intent-exclusive", "shared", "exclusive"]
    intents = {"shared": "intent-shared", "exclusive": "intent-exclusive"}
    beside = {("intent-shared", mode) for mode in modes[:3]} | {("intent-exclusive",) * 2, ("shared",) * 2}
    beside |= {("intent-exclusive", "intent-shared"), ("shared", "intent-shared")}
    places = [("p/a", "p/a"), ("p", "p/a/x"), ("p/a/x", "p"), ("p/a", "p/ab"), ("p/ab", "p/a"), ("p", "q/p")]
    found, wanted = set(), set()
    for (mine, his), (one, other) in itertools.product(places, itertools.product(modes, modes)):
        async with lock(ann, mine, one):
            error = await _error(_hold(lock(bob, his, other, timeout=0)))
            if error is None:
                found.add((mine, his, one, other))
            else:
                assert f"ann holds {mine} ({one})" in str(error)
        first = intents.get(one, one) if mine.startswith(his + "/") else one
        second = intents.get(other, other) if his.startswith(mine + "/") else other
        apart = (mine, his) in places[3:]
        if apart or (first, second) in beside:
            wanted.add((mine, his, one, other))
    assert found == wanted


async def test_waiters_have_their_turn_in_order_and_who_gives_up_is_in_nobodys_way(yard: Yard, mesh: Mesh) -> None:
    ann, bob, cid = [await yard.client(name) for name in ("ann", "bob", "cid")]
    order: list[str] = []

    async def hold(holder: Holder, name: str, key: str, mode: str, timeout: float | None = 20.0) -> None:
        async with lock(holder, key, mode, timeout):
            order.append(name)

    tokens = []
    async with asyncio.TaskGroup() as group, lock(ann, "p/a", "shared") as first:
        tokens.append(first.token)
        writer = group.create_task(hold(bob, "writer", "p", "exclusive"))
        await waiting(mesh, "p", 1)
        quick = group.create_task(_error(hold(cid, "quick", "p/a", "exclusive", 0.2)))
        left = group.create_task(hold(ann, "left", "p/b", "exclusive"))
        await waiting(mesh, "p", 3)
        reader = group.create_task(hold(cid, "reader", "p/a", "shared"))
        await waiting(mesh, "p", 4)
        error = await quick
        assert isinstance(error, LockTimeoutError)
        assert "ann holds p/a (shared)" in str(error)
        assert "bob waits for p (exclusive)" in str(error)
        left.cancel()
        await waiting(mesh, "p", 2)
        async with lock(cid, "q", "exclusive", timeout=0):  # another tree
            assert not order
        async with lock(ann, "p/a/x", "exclusive", timeout=0) as inner:  # whom those wait for waits for none of them
            tokens.append(inner.token)
        states = await cid._backend.locks(YARD)
        assert [(one.by, one.key, one.mode.value, bool(one.token)) for one in states] == [
            ("ann", "p/a", "shared", True),
            ("bob", "p", "exclusive", False),
            ("cid", "p/a", "shared", False),
        ]
        await eventually(lambda: (yard.keeper.held, yard.keeper.waiting) == (1, 2))
        began = time.monotonic()
    await asyncio.gather(writer, reader)
    assert order == ["writer", "reader"]
    assert time.monotonic() - began < 3.0  # they were told, and did not look by chance
    again = [await lock(ann, "p/a").acquire(), lock(ann, "p/b")]
    assert again[0].token > tokens[1] > tokens[0]
    with pytest.raises(ConfigError, match="held already"):
        await again[0].acquire()
    with pytest.raises(ConfigError, match="not held"):
        _ = again[1].fence
    await again[0].release()
    await again[0].release()  # is nothing
    await eventually(lambda: _empty(mesh, "p"))
    for key, mode, timeout in (
        ("", "shared", 1.0),
        ("p", "wild", 1.0),
        ("p", "shared", -1.0),
        ("p", "shared", float("nan")),
    ):
        with pytest.raises((ConfigError, InvalidKeyError)):
            lock(ann, key, mode, timeout)


async def _hold(wanted: Lock) -> None:
    async with wanted:
        pass


async def _error(work: Awaitable[object]) -> BaseException | None:
    try:
        await work
    except Exception as error:  # noqa: BLE001
        return error
    return None


async def _empty(mesh: Mesh, key: str) -> bool:
    return bool((await table(mesh, key)).empty)


async def test_whoever_is_cancelled_while_he_asks_leaves_nothing_behind(
    yard: Yard, mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, bob = await yard.client("ann"), await yard.client("bob")

    async def cancelled_after(turns: int) -> None:
        task = asyncio.create_task(lock(bob, "p/a").acquire())
        for _ in range(turns):
            await asyncio.sleep(0)  # noqa: TID251  (a turn of the loop)
        task.cancel()
        if isinstance(await _result(task), Lock):
            await task.result().release()

    async with lock(ann, "p"):
        for turns in range(0, 60, 2):  # at every step of the asking, and of the waiting
            await cancelled_after(turns)
        assert not (await table(mesh, "p")).waiters
    for turns in range(0, 60, 2):
        await cancelled_after(turns)
    assert (await table(mesh, "p")).empty


async def test_a_request_that_is_on_its_way_as_it_is_given_up_comes_too_late_for_ever(
    yard: Yard, mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob = await yard.client("bob")
    store, held_back = jetstream.store, list[tuple[Any, ...]]()

    async def slow(*message: Any, **how: Any) -> Any:
        if not message[1].endswith(".p"):
            return await store(*message, **how)
        held_back.append(message)
        monkeypatch.setattr(jetstream, "store", store)
        return await asyncio.Event().wait()

    monkeypatch.setattr(jetstream, "store", slow)
    task = asyncio.create_task(lock(bob, "p").acquire())
    await eventually(lambda: held_back)
    task.cancel()
    await _result(task)
    with pytest.raises(WrongSequenceError):
        await store(*held_back[0])
    assert (await table(mesh, "p")).empty


async def _result(task: asyncio.Task[Any]) -> object:
    return (await asyncio.gather(task, return_exceptions=True))[0]


async def test_sixty_four_that_want_one_lock_have_it_one_after_the_other(
    yard: Yard, mesh: Mesh, figures: Callable[[str], None]
) -> None:
    clients = [await yard.client(f"client-{number}") for number in range(16)]
    memory, inside, most, count = Memory(mesh, YARD), 0, 0, 64

    async def add(number: int) -> None:
        nonlocal inside, most
        async with lock(clients[number % len(clients)], "sum", timeout=60.0) as held:
            inside += 1
            most = max(most, inside)
            entry = await memory.get("sum/total")
            await memory.put("sum/total", (entry.value if entry else 0) + 1, fence=held)
            inside -= 1

    began = time.perf_counter()
    await asyncio.gather(*(add(number) for number in range(count)))
    took = time.perf_counter() - began
    entry = await memory.get("sum/total")
    assert entry is not None
    assert entry.value == count
    assert most == 1
    await eventually(lambda: _empty(mesh, "sum"))
    figures(f"{count} tasks of {len(clients)} clients that want one lock: {took * 1000 / count:.1f} ms each")


async def test_the_locks_of_the_dead_go_on_after_their_lease_and_a_stale_holder_writes_nothing(
    yard: Yard, mesh: Mesh, server: Server
) -> None:
    memory = Memory(mesh, YARD)
    env = {"REVO_MEMORY_LEASE": str(int(LEASE))}
    async with locker(server.url, "killed", **env) as killed, locker(server.url, "stopped", **env) as stopped:
        standing = await tree.read(mesh.connection, subjects.lock_table(YARD, "stopped"))
        lives = await memory.lock("lives").acquire()
        killed.signal(signal.SIGKILL)
        stopped.signal(signal.SIGSTOP)
        began = time.monotonic()

        async def take(key: str) -> tuple[Lock, float]:
            return await memory.lock(key).acquire(), time.monotonic() - began

        (first, first_took), (second, second_took) = await asyncio.gather(take("killed"), take("stopped"))
        for took in (first_took, second_took):  # its last renewal is up to a third of a lease old
            assert LEASE * 0.6 < took < LEASE + 1.5
        assert first.token > killed.token
        assert second.token > stopped.token
        await memory.put("stopped/mine", "new", fence=second)
        stopped.signal(signal.SIGCONT)
        assert await stopped.says() == f"refused {stopped.token}"
        entry = await memory.get("stopped/mine")
        assert entry is not None
        assert entry.value == "new"
        # What the store itself says to a write that shows what once was true.
        stale = {
            EXPECTED_SUBJECT_SEQUENCE: str(standing.revision),
            f"{EXPECTED_SUBJECT_SEQUENCE}-Subject": fencing.subject(second.fence),
        }
        raw = subjects.entry(subjects.MEMORY_BUCKET, subjects.kept(subjects.ENTRIES, YARD, "stopped/mine"))
        with pytest.raises(WrongSequenceError):
            await jetstream.store(mesh.connection, raw, b"stale", stale)
        with pytest.raises(WrongFenceError):
            await memory.put("elsewhere", 1, fence=second)
        assert lives.held  # all the while, by its renewals
        assert [what for what, _ in yard.told] == ["evicted"] * 2
        assert {details["key"] for _, details in yard.told} == {"killed", "stopped"}
        fence = second.fence
        for one in (first, second, lives):
            await one.release()
        with pytest.raises(StaleFenceError):
            await memory.put("stopped/mine", "late", fence=fence)
        async with memory.lock("shared", "shared") as held:
            with pytest.raises(WrongFenceError, match="only an exclusive one"):
                await memory.put("shared/it", 1, fence=held)


async def test_what_one_has_spoilt_keeps_nobody_from_the_locks_of_the_dead_nor_from_circles(
    yard: Yard, mesh: Mesh
) -> None:
    ann, bob = await yard.client("ann"), await yard.client("bob")
    locks = ann._backend
    forged = Session("ann-a.b", 0, LEASE)
    asked: dict[str, Any] = {"id": "1", "author": Author("ann"), "wait": 0.0}
    with pytest.raises(InvalidSubjectError):
        await locks.lock(YARD, "p", Mode.EXCLUSIVE, owner="ann-a.b.1", session=forged, **asked)
    true = await locks.open_session(Author("ann"))
    with pytest.raises(ConfigError, match="owner"):
        await locks.lock(YARD, "p", Mode.EXCLUSIVE, owner=f"{true.id}x.1", session=true, **asked)
    # What somebody else has written stands in the way of nobody who does not want it.
    raw = subjects.entry(subjects.MEMORY_BUCKET, subjects.lock_table(YARD, "spoilt"))
    await jetstream.store(mesh.connection, raw, b"\xc1")
    odd = locktable.request(EMPTY, Claim("1", "ann-a.b", "ann-a.b.1", "odd", "X", 1.0))
    raw = subjects.entry(subjects.MEMORY_BUCKET, subjects.lock_table(YARD, "odd"))
    await jetstream.store(mesh.connection, raw, locktable.encode(odd))
    await eventually(lambda: _empty(mesh, "odd"))
    dead = await lock(ann, "dead").acquire()
    (holder,) = (await table(mesh, "dead")).holders
    await Bucket(mesh.connection, subjects.SESSIONS_BUCKET).remove(holder.session)
    async with lock(bob, "dead", timeout=5.0) as held:
        assert held.token > dead.token
    # Nor is it forever what nobody tells: as if the mark of its end had come, and gone, while we were away.
    await locks.lock(YARD, "silent", Mode.EXCLUSIVE, owner=f"{true.id}.1", session=true, **asked)
    await eventually(lambda: yard.keeper.held == 1)
    yard.keeper._leases._on_message = lambda _: None
    yard.keeper._alive[true.id] = asyncio.get_running_loop().time()
    await Bucket(mesh.connection, subjects.SESSIONS_BUCKET).remove(true.id)
    async with lock(bob, "silent", timeout=5 * LEASE):
        pass


async def test_a_lock_that_was_given_up_elsewhere_is_not_granted_by_who_was_slow(
    yard: Yard, mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, quick = [(await yard.client(name))._backend for name in ("slow", "quick")]
    assert isinstance(slow, Locks)
    assert isinstance(quick, Locks)
    session = await quick.open_session(Author("ann"))
    asked: dict[str, Any] = {"owner": f"{session.id}.1", "session": session, "author": Author("ann"), "wait": 1.0}
    for number, key in enumerate(("never", "granted")):
        going, there = asyncio.Event(), asyncio.Event()
        leaf = slow._trees.get(subjects.lock_table(YARD, key))
        fetch = leaf._fetch

        async def held_up(fetch: Any = fetch, going: asyncio.Event = going, there: asyncio.Event = there) -> Any:
            standing = await fetch()
            there.set()
            await going.wait()
            return standing

        monkeypatch.setattr(leaf, "_fetch", held_up)
        request = asyncio.create_task(slow.lock(YARD, key, Mode.EXCLUSIVE, id=str(number), **asked))
        await there.wait()
        if number:
            assert await quick.lock(YARD, key, Mode.EXCLUSIVE, id=str(number), **asked) is not None
        assert await quick.unlock(YARD, key, str(number), mark=True) == bool(number)
        assert await quick.unlock(YARD, key, str(number), mark=True)  # is known to be given up
        going.set()
        with pytest.raises(LockLostError, match="given up elsewhere"):
            await request
        assert (await table(mesh, key)).empty
    # What nobody can be looking for any more goes with the next write.
    long_ago = time.time() - locktable.MARKED
    assert not locktable.swept(locktable.release(EMPTY, "1", long_ago, mark=True), time.time()).marks


async def test_a_full_bucket_lets_go_of_locks_and_a_table_takes_no_more_than_it_may(
    yard: Yard, mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = await yard.client("ann")
    held, left = [await lock(ann, key).acquire() for key in ("p", "q")]
    store = jetstream.store

    async def full(connection: Connection, subject: str, *args: Any, **more: Any) -> Any:
        if ".lock." in subject:
            raise QueueFullError(subject, "maximum bytes exceeded")
        return await store(connection, subject, *args, **more)

    monkeypatch.setattr(jetstream, "store", full)
    await held.release()
    assert (await table(mesh, "p")).empty
    with pytest.raises(QueueFullError):
        await lock(ann, "q/a", "shared").acquire()
    monkeypatch.setattr(jetstream, "store", store)
    await left.release()
    monkeypatch.setattr(locktable, "MOST", 2)
    async with lock(ann, "p"):
        with pytest.raises(LockTimeoutError):
            await lock(ann, "p/a", timeout=0.2).acquire()


async def test_nobody_is_told_of_a_circle_that_is_none_any_more(yard: Yard, mesh: Mesh) -> None:
    ann, bob, cid = [await yard.client(name) for name in ("ann", "bob", "cid")]
    async with lock(cid, "x"):
        waiter = asyncio.create_task(lock(ann, "x").acquire())
        await waiting(mesh, "x", 1)
        await eventually(lambda: yard.keeper.waiting == 1)
        # What a keeper might still believe that has heard nothing for a while.
        real = await table(mesh, "x")
        (wait,) = real.waiters
        other = dataclasses.replace(real.holders[0], owner="bob-1.1", session="bob-1")
        back = dataclasses.replace(other, id="back", key="y", number=1)
        mine = dataclasses.replace(wait, id="mine", key="y", number=1)
        view = {"x": Table((other,), (wait,)), "y": Table((mine,), (back,))}
        for key, believed in view.items():
            yard.keeper._overview.take(subjects.lock_table(YARD, key), believed)
        await yard.keeper._circles.end([subjects.lock_table(YARD, "x")], ())
        assert await _waiting(mesh, "x", 1)
    await (await waiter).release()
    assert not yard.told
    async with lock(bob, "y", timeout=0):
        pass


async def test_a_table_that_nobody_uses_is_forgotten_and_tokens_grow_all_the_same(
    yard: Yard, mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unused, "KEPT", 0.02)
    ann = await yard.client("ann")
    async with lock(ann, "p") as first:
        pass
    await eventually(lambda: _forgotten(mesh, "p"))
    async with lock(ann, "p") as second:  # of which it remembers what is gone
        assert second.token > first.token
        # A keeper that has not heard of it yet takes away no more than it knows of.
        works: list[Any] = []
        late = unused.Unused(mesh.connection, works.append)
        late.add(subjects.lock_table(YARD, "p"), second.token - 1)
        while late._tables:
            await eventually(lambda: works)
            await works.pop()
        assert [one.id for one in (await table(mesh, "p")).holders] == [second.fence.id]


async def _forgotten(mesh: Mesh, key: str) -> bool:
    return (await tree.read(mesh.connection, subjects.lock_table(YARD, key))).revision == 0


async def test_whoever_was_away_as_his_turn_came_hears_of_it_as_soon_as_he_is_back(
    yard: Yard, mesh: Mesh, settings: Settings
) -> None:
    proxy = Proxy(settings.nats_url)
    proxy.mend()
    ann, bob = await yard.client("ann"), await yard.client("bob", proxy.url)
    async with lock(ann, "p"):
        waiter = asyncio.create_task(lock(bob, "p").acquire())
        await waiting(mesh, "p", 1)
        await eventually(lambda: _follows(bob, "p"))
        await proxy.cut()
    await waiting(mesh, "p", 0)
    proxy.mend()
    began = time.monotonic()
    await (await waiter).release()
    assert time.monotonic() - began < 3.0
    assert not yard.told
    await bob.close()
    await proxy.cut()


def _follows(holder: Holder, key: str) -> bool:
    assert isinstance(holder._backend, Locks)
    return holder._backend._trees.get(subjects.lock_table(YARD, key))._current


@pytest.mark.parametrize("number", [2, 3])
async def test_of_those_that_wait_for_each_other_the_last_is_told_and_the_others_go_on(yard: Yard, number: int) -> None:
    clients = [await yard.client(f"client-{one}") for one in range(number)]
    have = [asyncio.Event() for _ in clients]
    ends: list[str] = []

    async def work(one: int) -> str:
        mine, next_ = f"tree-{one}", f"tree-{(one + 1) % number}"
        async with lock(clients[one], mine):
            have[one].set()
            await asyncio.gather(*(event.wait() for event in have))
            if one:  # they join the circle in their order
                await eventually(lambda: yard.keeper.waiting == one)
            try:
                async with lock(clients[one], f"{next_}/below", "shared"):
                    ends.append("done")
            except DeadlockError as error:
                ends.append("deadlock")
                return str(error)
        return ""

    said = await asyncio.gather(*(work(one) for one in range(number)))
    assert [bool(text) for text in said] == [False] * (number - 1) + [True]
    assert ends[0] == "deadlock"
    for one in range(number):
        assert f"client-{one} waits for tree-{(one + 1) % number}/below (shared)" in said[-1]
    assert [what for what, _ in yard.told] == ["deadlock"]


async def test_a_lock_that_is_lost_ends_its_block_and_the_next_hangs_on_a_new_lease(yard: Yard, mesh: Mesh) -> None:
    ann, bob = await yard.client("ann"), await yard.client("bob")
    outer, inner, by_hand = lock(ann, "p"), lock(ann, "p/a"), lock(ann, "q")
    await by_hand.acquire()

    async def work() -> None:
        async with outer, inner:
            (holder, _) = (await table(mesh, "p")).holders
            await Bucket(mesh.connection, subjects.SESSIONS_BUCKET).remove(holder.session)
            async with lock(bob, "p") as next_:
                assert next_.token > outer.token
            await asyncio.Event().wait()

    with pytest.raises(LockLostError, match="the lock on p is lost"):
        await in_time(work(), 20)
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()
    assert by_hand.lost.is_set()
    assert not by_hand.held
    with pytest.raises(LockLostError):
        await by_hand.release()
    await by_hand.release()
    async with lock(ann, "p"), lock(ann, "p/a/x"):
        with pytest.raises(LockTimeoutError):
            await lock(bob, "p", timeout=0).acquire()
    # An error of its own leaves the block as it is, and the lock is given up.
    with pytest.raises(ZeroDivisionError):
        async with lock(ann, "p"):
            _ = 1 / 0
    async with lock(bob, "p", timeout=0):
        pass


async def test_whoever_waits_for_another_lock_when_he_loses_one_is_told_and_does_not_go_on(
    yard: Yard, mesh: Mesh
) -> None:
    ann, bob = await yard.client("ann"), await yard.client("bob")
    went_on: list[Lock] = []

    async def work() -> None:
        async with lock(ann, "p"), lock(ann, "q") as second:
            went_on.append(second)

    async with lock(bob, "q"):
        task = asyncio.create_task(work())
        await waiting(mesh, "q", 1)
        (holder,) = (await table(mesh, "p")).holders
        await Bucket(mesh.connection, subjects.SESSIONS_BUCKET).remove(holder.session)
        async with lock(bob, "p"):
            pass
    with pytest.raises(LockLostError):
        await task
    assert not went_on
    async with lock(ann, "p"), lock(ann, "q"):
        pass


async def test_the_answers_that_are_lost_neither_lose_a_lock_nor_leave_one(
    yard: Yard, mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, bob = await yard.client("ann"), await yard.client("bob")
    store, lost = jetstream.store, itertools.count()

    def forgetful(connection: Connection, subject: str, *args: Any, **more: Any) -> Any:
        async def answer() -> Any:
            stored = await store(connection, subject, *args, **more)
            if more.get("patience") == 0.0 and next(lost) % 2 == 0:  # the first of every two
                raise RequestTimeoutError(subject, 0.0)
            return stored

        return answer()

    monkeypatch.setattr(jetstream, "store", forgetful)
    async with lock(ann, "p") as held:
        found = await table(mesh, "p")
        assert [one.id for one in found.holders] == [held.fence.id]
        assert found.holders[0].number == held.token
        waiter = asyncio.create_task(lock(bob, "p").acquire())
        await waiting(mesh, "p", 1)
        assert len((await table(mesh, "p")).holders) == 1
        assert ann._lease is not None
        await ann._lease.renew()
        assert held.held
    await (await waiter).release()
    assert (await table(mesh, "p")).empty
    assert next(lost) >= 8
    # What is never answered is given up, whether it was done or not.
    take = Locks.lock

    async def mute(self: Locks, *args: Any, **more: Any) -> None:
        await take(self, *args, **more)
        raise RequestTimeoutError("lock", 0.0)

    monkeypatch.setattr(Locks, "lock", mute)
    impatient = Holder(ann._backend, lambda: Author("ann"), patience=0.05)
    with pytest.raises(RequestTimeoutError):
        await lock(impatient, "p").acquire()
    assert (await table(mesh, "p")).empty


async def test_locks_outlive_a_restart_of_the_server_and_so_do_those_that_wait(
    yard: Yard, mesh: Mesh, server: Server
) -> None:
    ann, bob, cid = [await yard.client(name) for name in ("ann", "bob", "cid")]
    async with lock(ann, "p") as held:
        waiter = asyncio.create_task(lock(bob, "p").acquire())
        await waiting(mesh, "p", 1)
        server.kill()
        await server.wait()
        asking = asyncio.create_task(lock(cid, "p/a", "shared").acquire())
        await server.start()
        await waiting(mesh, "p", 2)
        assert held.held
        assert not waiter.done()
        token = held.token
    got = await waiter
    assert got.token > token
    await got.release()
    await (await asking).release()
    # Without a server nothing hangs: who closes leaves the rest to the lease.
    left = await lock(ann, "p").acquire()
    assert left.held
    server.kill()
    await server.wait()
    began = time.monotonic()
    await ann.close()
    assert time.monotonic() - began < 3.0
    assert left.lost.is_set()
    with pytest.raises((LockTimeoutError, TransportError)):
        await lock(bob, "p", timeout=0.1).acquire()
    await server.start()
