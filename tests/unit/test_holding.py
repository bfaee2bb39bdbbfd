"""Locks as their holder has them, over a backend that does as it is told."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from actors.memory.backend import Author, Session
from actors.memory.errors import LockLostError, LockTimeoutError
from actors.memory.holding import Holder
from actors.memory.model import Fence, LockState, Mode
from bus.errors import RequestTimeoutError
from tests.eventually import in_time

LEASE = 0.3


class Backend:
    """Grants everything, unless it is told otherwise."""

    def __init__(self) -> None:
        self.sessions = itertools.count(1)
        self.owners: list[str] = []
        self.given_up: list[str] = []
        self.renewals = 0
        self.at: dict[str, Callable[[], Any]] = {}
        """What to do first, by method, and what to answer then; `...`: what is answered without it."""

    async def _do(self, what: str, result: Any) -> Any:
        other = await self.at[what]() if what in self.at else ...
        return result if other is ... else other

    async def open_session(self, author: Author) -> Session:
        session = Session(f"{author.by}-{next(self.sessions)}", 1, LEASE)
        return await self._do("open", session)  # type: ignore[no-any-return]

    async def renew(self, session: Session) -> Session:
        self.renewals += 1
        renewed = dataclasses.replace(session, revision=session.revision + 1)
        return await self._do("renew", renewed)  # type: ignore[no-any-return]

    async def close_session(self, session: Session) -> None:
        await self._do("close", None)

    async def lock(
        self,
        namespace: str,
        key: str,
        mode: Mode,
        *,
        id: str,  # noqa: A002
        owner: str,
        session: Session,
        author: Author,
        wait: float,
    ) -> Fence | None:
        self.owners.append(owner)
        return await self._do("lock", Fence(namespace, key, id, len(self.owners)))  # type: ignore[no-any-return]

    async def unlock(self, namespace: str, key: str, id: str) -> bool:  # noqa: A002
        self.given_up.append(id)
        return await self._do("unlock", True)  # type: ignore[no-any-return]

    async def locks(self, namespace: str = "") -> list[LockState]:
        return []


async def never() -> None:
    await asyncio.Event().wait()


async def refused() -> None:
    raise LockLostError("it", "its session has ended")


async def unanswered() -> None:
    raise RequestTimeoutError("somewhere", 0.0)


async def no() -> bool:
    return False


@pytest.fixture
def backend() -> Backend:
    return Backend()


@pytest.fixture
async def holder(backend: Backend) -> AsyncIterator[Holder]:
    made = Holder(backend, lambda: Author("ann"), patience=0.1)
    yield made
    await made.close()


async def block(holder: Holder) -> None:
    async with holder.lock("yard", "p"):
        await never()


@pytest.mark.parametrize("renewal", [never, refused, unanswered])
async def test_a_block_ends_when_its_lease_is_not_renewed_in_time(
    backend: Backend, holder: Holder, renewal: Callable[[], Any]
) -> None:
    backend.at["renew"] = renewal
    began = asyncio.get_running_loop().time()
    with pytest.raises(LockLostError, match="the lock on p is lost"):
        await in_time(block(holder), 10)
    assert asyncio.get_running_loop().time() - began < LEASE + 1.0
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()
    del backend.at["renew"]
    async with holder.lock("yard", "p") as lock:  # hangs on another
        assert lock.held
    assert backend.owners[-1].startswith("ann-2.")


async def test_who_was_stopped_for_too_long_knows_by_the_clock_before_anybody_says_so(
    backend: Backend, holder: Holder
) -> None:
    lock = await holder.lock("yard", "p").acquire()
    assert holder._lease is not None
    holder._lease.renewed -= LEASE
    assert not lock.held
    with pytest.raises(LockLostError, match="not renewed in time"):
        await lock.release()
    assert not backend.given_up  # it is another's by now, or nobody's

    async def late() -> Any:
        assert holder._lease is not None
        holder._lease.renewed -= LEASE if len(backend.owners) == 2 else 0.0
        return ...

    backend.at["lock"] = late
    async with holder.lock("yard", "p") as lock:  # what was granted too late is asked for once more
        assert lock.held
    assert [owner.partition(".")[0] for owner in backend.owners] == ["ann-1", "ann-2", "ann-3"]


async def test_a_lease_is_renewed_while_there_is_a_lock_and_no_longer(backend: Backend, holder: Holder) -> None:
    for _ in range(5):
        async with holder.lock("yard", "p"):
            pass
    assert not backend.renewals
    renewed = asyncio.Event()

    async def watched() -> Session:
        renewed.set()
        return Session("ann-1", 2, LEASE)

    backend.at["renew"] = watched
    async with holder.lock("yard", "p") as lock:
        for _ in range(5):
            await in_time(renewed.wait(), 5)
            renewed.clear()
        assert lock.held
    known = backend.renewals
    with pytest.raises(TimeoutError):
        await in_time(renewed.wait(), LEASE)
    assert backend.renewals == known


async def test_whoever_cancels_a_block_is_not_told_that_its_lock_is_lost(backend: Backend, holder: Holder) -> None:
    backend.at["renew"] = refused
    both = asyncio.Event()

    async def work() -> None:
        async with holder.lock("yard", "p") as lock:
            await lock.lost.wait()
            both.set()
            await never()

    async def stubborn() -> None:
        async with holder.lock("yard", "p") as lock:
            try:
                await lock.lost.wait()
            finally:
                both.set()
                asyncio.current_task().cancel()  # type: ignore[union-attr]  # somebody else, at the same time

    task = asyncio.create_task(stubborn())
    with pytest.raises(asyncio.CancelledError):
        await task
    task = asyncio.create_task(work())
    with pytest.raises(LockLostError):
        await task


async def test_a_task_is_one_owner_and_each_has_its_own(backend: Backend, holder: Holder) -> None:
    async def take() -> None:
        async with holder.lock("yard", "p"), holder.lock("yard", "p/a"):
            pass

    await asyncio.gather(take(), take())
    assert sorted(backend.owners) == ["ann-1.1", "ann-1.1", "ann-1.2", "ann-1.2"]


async def test_giving_up_hangs_for_nobody_and_says_when_the_lock_was_lost(backend: Backend, holder: Holder) -> None:
    loop = asyncio.get_running_loop()
    for answer in (never, unanswered):
        backend.at["unlock"] = answer
        began = loop.time()
        async with holder.lock("yard", "p"):
            pass
        assert loop.time() - began < LEASE + 1.0
    backend.at["unlock"] = no  # as when an answer was lost: its session lives
    async with holder.lock("yard", "p"):
        pass
    backend.at["renew"] = refused  # and here it does not
    with pytest.raises(LockLostError):
        async with holder.lock("yard", "p"):
            pass
    del backend.at["renew"]
    lock = await holder.lock("yard", "p").acquire()
    backend.at |= {"unlock": never, "close": never}
    began = loop.time()
    await holder.close()
    assert loop.time() - began < 3.0
    assert lock.lost.is_set()


async def test_what_is_not_known_to_be_given_up_is_given_up_again(backend: Backend, holder: Holder) -> None:
    backend.at["unlock"] = unanswered
    keep = await holder.lock("yard", "other").acquire()
    async with holder.lock("yard", "p") as lock:
        id_ = lock.fence.id
    tries = backend.given_up.count(id_)
    again = asyncio.Event()

    async def yes() -> bool:
        again.set()
        return True

    backend.at["unlock"] = yes
    await in_time(again.wait(), 5)
    assert backend.given_up.count(id_) > tries
    assert keep.held


async def test_a_wait_is_as_long_as_it_may_be_also_without_an_answer(backend: Backend, holder: Holder) -> None:
    loop = asyncio.get_running_loop()
    for answer in (never, unanswered):
        backend.at["lock"] = answer
        began = loop.time()
        with pytest.raises((LockTimeoutError, RequestTimeoutError)):
            await holder.lock("yard", "p", timeout=0.1).acquire()
        assert loop.time() - began < 2.0
    assert len(backend.given_up) == 2
