"""A client of shared memory that does random things and writes down each of them: a process of its own.

`python -m tests.chaos.memory_client FOLDER NAME SEED KIND` says `ready`, goes on until its input ends, says `still`,
lets its watchers hear the last word, and exits. KIND is `worker`, `holder` or `stubborn`.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from random import Random
from typing import Any, Final

from actors.memory import fencing
from actors.memory.backend import Author, Session, Written
from actors.memory.doors import doors_of
from actors.memory.errors import ConflictError, DeadlockError, LockLostError, StaleFenceError
from actors.memory.holding import Lock
from actors.memory.model import Entry, Fence
from bus.connection import Connection
from bus.errors import BusError, NotFoundError, TransportError
from bus.mesh import Mesh
from revo import Memory
from tests.history.recording import Recorder

NOTES: Final = "notes"
"""The last writer wins."""
CLAIMS: Final = "claims"
"""The first writer wins: a base must be named, and be the newest."""
KEYS: Final = ("a", "a/b", "a/c", "b", "b/d")
FENCED: Final = "b/fenced"
"""Seldom enough written to that what became of a write can be known for long."""
LOCKS: Final = ("a", "a/b", "b")
END: Final = "a/end"
"""The last word: written in both namespaces when all is over, for those that watch."""
LANES: Final = {"worker": 3, "holder": 2, "stubborn": 1}


class Lane:
    """One caller: what it does, it does one after the other."""

    def __init__(self, mesh: Mesh, recorder: Recorder, dice: Random, stop: asyncio.Event) -> None:
        self._memory = {name: Memory(mesh, name) for name in (NOTES, CLAIMS)}
        self._recorder = recorder
        self._dice = dice
        self._stop = stop
        self._known: dict[str, int] = {}

    async def pause(self, longest: float) -> None:
        """Take some time, less when all is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._dice.uniform(0, longest)):
                await self._stop.wait()

    # --- entries ----------------------------------------------------------------------------------------------

    async def work(self) -> None:
        """Read and write."""
        while not self._stop.is_set():
            namespace, key = self._dice.choice((NOTES, CLAIMS)), self._dice.choice(KEYS)
            if self._dice.random() < 0.5:
                await self.get(namespace, key)
            else:
                await self.write(namespace, key)
            await self.pause(0.05)

    async def get(self, namespace: str, key: str) -> None:
        """Read one entry."""
        call = self._recorder.called("get", f"{namespace}/{key}")
        with contextlib.suppress(TransportError):
            entry = await self._memory[namespace].get(key)
            self._recorder.answered(call, "done", (entry.version, entry.value) if entry else (None, None))
            self._known[f"{namespace}/{key}"] = entry.version if entry else 0

    async def write(self, namespace: str, key: str, lock: Lock | None = None) -> str:
        """Write or delete one entry, on what was seen of it last where that is asked for; return what came of it."""
        memory, name = self._memory[namespace], f"{namespace}/{key}"
        base = self._known.get(name, 0) if namespace == CLAIMS else None
        delete = self._dice.random() < 0.2
        value = None if delete else self._recorder.next()
        shown = (f"{namespace}/{lock.key}", lock.token) if lock else None
        kind = "delete" if delete else "put"
        call = self._recorder.called(kind, name, value=value, base=base, fence=shown)
        storing = memory.delete(key, base, fence=lock) if delete else memory.put(key, value, base, fence=lock)
        outcome, seen = await self._outcome(storing, value)
        self._recorder.answered(call, outcome, seen)
        if seen is not None:
            self._known[name] = seen[0] or 0
        return outcome

    @staticmethod
    async def _outcome(storing: Awaitable[Written], value: str | None) -> tuple[str, tuple[int | None, Any] | None]:
        try:
            written = await storing
        except ConflictError as error:
            return "refused", _seen(error.theirs)
        except (StaleFenceError, NotFoundError):
            return "refused", None
        except BusError as error:
            if not error.retryable:
                raise
            return "unknown", None
        if written.outcome == "absent":
            return "absent", (written.version or None, None)
        return "done", (written.version, value)

    # --- locks ------------------------------------------------------------------------------------------------

    async def hold(self) -> None:
        """Take locks, sometimes two, and write while they are held."""
        while not self._stop.is_set():
            namespace = self._dice.choice((NOTES, CLAIMS))
            first, second = self._dice.sample(LOCKS, 2)
            mode = "exclusive" if self._dice.random() < 0.8 else "shared"
            with contextlib.suppress(TransportError, LockLostError, DeadlockError):
                async with self._held(namespace, first, mode) as lock:
                    await self._write_under(namespace, lock)
                    if self._dice.random() < 0.2:
                        async with self._held(namespace, second, mode) as other:
                            await self._write_under(namespace, other)
            await self.pause(0.1)

    @contextlib.asynccontextmanager
    async def _held(self, namespace: str, key: str, mode: str) -> AsyncIterator[Lock]:
        lock: Lock = self._memory[namespace].lock(key, mode, timeout=3.0)  # type: ignore[arg-type]
        async with lock:
            with self._granted(namespace, lock):
                yield lock

    @contextlib.contextmanager
    def _granted(self, namespace: str, lock: Lock) -> Iterator[None]:
        id_ = self._recorder.next()
        assert lock._grant is not None
        session, where = lock._grant.lease.session.id, f"{namespace}/{lock.key}"
        self._recorder.say("granted", id=id_, session=session, lock=where, mode=str(lock.mode), token=lock.token)
        try:
            yield
        finally:
            self._recorder.say("releasing", id=id_)

    async def _write_under(self, namespace: str, lock: Lock) -> None:
        keys = [key for key in KEYS if key == lock.key or key.startswith(f"{lock.key}/")]
        for _ in range(self._dice.randint(1, 3)):
            await self.pause(0.1)
            if lock.mode == "exclusive":
                await self.write(namespace, self._dice.choice(keys), lock)

    async def insist(self) -> None:
        """Hold a lock and write under it, also when it is lost, until that is refused."""
        while not self._stop.is_set():
            lock: Lock = self._memory[NOTES].lock("b", timeout=3.0)
            with contextlib.suppress(TransportError, LockLostError, DeadlockError):
                await lock.acquire()
                with self._granted(NOTES, lock):
                    until = time.monotonic() + 1.0
                    while await self.write(NOTES, FENCED, lock) != "refused":
                        # Far beyond its time it was stopped, and has to hear that the lock is lost.
                        if self._stop.is_set() or until < time.monotonic() < until + 2.0:
                            break
                        await self.pause(0.3)
                await lock.release()
            await self.pause(0.3)

    # --- watchers ---------------------------------------------------------------------------------------------

    async def watch(self, namespace: str, prefix: str, *, replay: bool) -> None:
        """Write down all that one is told, until the last word."""
        id_ = self._recorder.next()
        where = f"{namespace}/{prefix}".rstrip("/")
        self._recorder.say("watching", id=id_, prefix=where, replay=replay)
        async for entry in self._memory[namespace].watch(prefix, None if replay else 0):
            value = entry.value if entry.live else None
            self._recorder.say("told", id=id_, key=f"{namespace}/{entry.key}", version=entry.version, value=value)
            if entry.key == END:
                break
        self._recorder.say("watched", id=id_)


def _seen(entry: Entry | None) -> tuple[int | None, Any] | None:
    if entry is None:
        return None, None
    if entry.live and entry.value is None:
        return None  # so much was written since that its value is not known
    return entry.version, entry.value if entry.live else None


def be_slow(pause: Callable[[float], Awaitable[None]]) -> None:
    """Have it take long from the look at a lock to the write under it, so that one may be stopped in between."""
    looking = fencing.check

    async def check(connection: Connection, fence: Fence, namespace: str, *keys: str) -> int:
        revision = await looking(connection, fence, namespace, *keys)
        await pause(0.3)
        return revision

    fencing.check = check


def record_leases(mesh: Mesh, recorder: Recorder) -> None:
    """Have each lease, and each renewal, be written down once it is granted, with when it was asked for."""
    locks: Any = doors_of(mesh).locks
    opening, renewing = locks.open_session, locks.renew

    async def open_session(author: Author) -> Session:
        return told(time.monotonic(), await opening(author))

    async def renew(session: Session) -> Session:
        asked = time.monotonic()
        return told(asked, await renewing(session))

    def told(asked: float, session: Session) -> Session:
        recorder.say("renewed", session=session.id, asked=asked, lease=session.lease)
        return session

    locks.open_session, locks.renew = open_session, renew


async def alone(doing: Coroutine[Any, Any, None], recorder: Recorder, stop: asyncio.Event) -> None:
    """Nothing but the end is the end of a lane, be it a cancellation that a lost lock left behind."""
    try:
        await doing
    finally:
        if not stop.is_set():
            recorder.say("broken", why=repr(sys.exc_info()[1]))


async def main(folder: Path, name: str, seed: int, kind: str) -> None:
    """Do it."""
    stop, dice = asyncio.Event(), Random(seed)  # noqa: S311
    recorder = Recorder(folder / name, name)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with Mesh.connect(service=name) as mesh, asyncio.TaskGroup() as watchers:
        record_leases(mesh, recorder)
        if kind == "worker":
            eye = Lane(mesh, recorder, dice, stop)
            for replay in (True, False):
                namespace, prefix = dice.choice((NOTES, CLAIMS)), dice.choice(("", "a"))
                watchers.create_task(eye.watch(namespace, prefix, replay=replay))
        say("ready")
        async with asyncio.TaskGroup() as lanes:
            for number in range(LANES[kind]):
                own = Recorder(folder / f"{name}-{number}", f"{name}-{number}")
                lane = Lane(mesh, own, Random(dice.random()), stop)  # noqa: S311
                if kind == "stubborn":
                    be_slow(lane.pause)
                doing = {"worker": lane.work, "holder": lane.hold, "stubborn": lane.insist}[kind]
                lanes.create_task(alone(doing(), own, stop))
            await reader.read()
            stop.set()
        say("still")


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]))
