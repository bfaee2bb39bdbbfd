"""One table of locks where it stands: read, changed by compare and swap, followed while somebody waits."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

from actors.memory import locktable
from actors.memory.errors import ContendedError
from actors.memory.locktable import Table
from bus import jetstream, subjects
from bus.connection import Connection, Subscription
from bus.errors import BusError, QueueFullError, TransportError, WrongSequenceError
from bus.messages import CONTENT_TYPE, EXPECTED_SUBJECT_SEQUENCE, MOVED, MSGPACK
from bus.wire import Message

log = logging.getLogger(__name__)

_OPERATION: Final = "KV-Operation"
_PAUSE: Final = (0.004, 0.064)
"""Seconds, on average half of them, before the second try of a change that somebody forestalled, and the longest."""
_SHORT: Final = 0.001
"""The same for who gives something up: others wait for that."""
_LINGER: Final = 5.0
"""Seconds for which a table is followed when nobody waits any more: where some have waited, others will."""
_NAMED: Final = 32
"""Locks that one write names in its header; with more of them everybody looks."""
_STREAM: Final = subjects.bucket(subjects.MEMORY_BUCKET)

Background = Callable[[Coroutine[Any, Any, None]], None]


class Standing:
    """What stands in the bucket; it is read when somebody asks. Revision 0: nothing ever did."""

    __slots__ = ("_body", "_subject", "_table", "revision")

    def __init__(self, revision: int, *, table: Table | None = None, body: bytes = b"", subject: str = "") -> None:
        self.revision = revision
        self._table = table
        self._body = body
        self._subject = subject

    @property
    def table(self) -> Table:
        """The table.

        Raises:
            DecodeError: what stands there is none.
        """
        if self._table is None:
            self._table = locktable.decode(self._body, self.revision, subject=self._subject)
        return self._table


class _Pace:
    """How long, and how often, a change is tried."""

    def __init__(self, patience: float, *, gives: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._pause, self._longest = (0.0, _SHORT) if gives else _PAUSE
        self.until = self._loop.time() + patience
        self.tries = 1

    @property
    def over(self) -> bool:
        return self._loop.time() > self.until

    async def rest(self) -> None:
        """Before the next try. Who gives tries once more at once."""
        self.tries += 1
        if self._pause:
            await asyncio.sleep(random.uniform(0, self._pause))  # noqa: S311
        self._pause = min(self._longest, self._pause * 2 or self._longest)


class Change(NamedTuple):
    """What a table was, and what it is. `doubtful`: an earlier try got no answer, and may have been what changed it."""

    before: Standing
    after: Standing
    doubtful: bool


async def read(connection: Connection, table: str) -> Standing:
    """A table, by its key in the bucket, as the leader has it.

    Raises:
        TransportError: no answer.
    """
    subject = subjects.entry(subjects.MEMORY_BUCKET, table)
    stored = await jetstream.last(connection, _STREAM, subject, quick=True)
    if stored is None:
        return Standing(0, table=locktable.EMPTY)
    return Standing(stored.sequence, body=stored.body, subject=subject)


class Tree:
    """One table, as one process knows it. Its changes are made one after the other."""

    def __init__(self, connection: Connection, key: str, background: Background) -> None:
        self.key = key
        self._connection = connection
        self._background = background
        self._subject = subjects.entry(subjects.MEMORY_BUCKET, key)
        self._known: Standing | None = None
        """The newest that we have seen; it may be out of date while nobody follows it."""
        self._turn = asyncio.Lock()
        self._opening = asyncio.Lock()
        self._subscription: Subscription | None = None
        self._current = False
        """Whether nothing was missed since the table was read."""
        self._breaks = 0
        self._heard = 0
        """The revision up to which all have been woken that it concerned."""
        self._waits: defaultdict[str, set[asyncio.Future[None]]] = defaultdict(set)
        """By id; who asked twice waits twice."""
        self._followers = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """Whether nobody would miss it."""
        return not (self._followers or self._turn.locked() or self._subscription)

    # --- to change it -----------------------------------------------------------------------------------------

    async def change(self, alter: Callable[[Table], Table], *, surely: bool = False, gives: bool = True) -> Change:
        """Make of the table what `alter` makes of it. It is called again with what stands there whenever somebody else
        was first, or an answer was lost; then its own doing may stand there already.

        `surely`: write also what does not change, so that whatever we sent before cannot come after. `gives`: others
        wait for it, so it lets nobody go first who only takes.

        Raises:
            ContendedError: others were first for longer than the setting `publish_timeout`.
            TransportError: no answer for as long; whether it was changed is not known.
        """
        pace = _Pace(self._connection.settings.publish_timeout, gives=gives)
        doubtful, room = False, False
        async with self._turn:
            while True:
                before = self._known
                try:
                    before, remembered = before or await self._fetch(), before is not None
                    after = alter(before.table)
                    if after is before.table and remembered:
                        self._known = None  # what is remembered may be out of date
                        continue
                    dropped = room and not before.revision and after.empty
                    if dropped or (after is before.table and not surely):
                        return Change(before, before, doubtful)
                    return Change(before, await self._write(before, after), doubtful)
                except WrongSequenceError:
                    self._forestalled(before, pace)
                except QueueFullError as error:
                    self._known = None
                    if room or before is None or not before.revision:
                        raise
                    doubtful = await self._make_room(before, alter(before.table), error) or doubtful
                    room = True
                    continue
                except TransportError as error:
                    self._known = None
                    if pace.over:
                        raise
                    doubtful = True
                    await self._until_connected(pace.until, error)
                except BaseException:
                    self._known = None  # cancelled: it may have been written
                    raise
                await pace.rest()

    def _forestalled(self, before: Standing | None, pace: _Pace) -> None:
        if self._known is before:  # otherwise we have been told already who was first
            self._known = None
        if pace.over:
            raise ContendedError(self.key, pace.tries) from None

    async def _until_connected(self, until: float, error: TransportError) -> None:
        try:
            async with asyncio.timeout_at(until):
                await self._connection.connected()
        except TimeoutError:
            raise error from None

    async def _make_room(self, before: Standing, after: Table, error: QueueFullError) -> bool:
        """Where the bucket is full: drop what this table was before. One that would be empty is dropped as it is, which
        needs no room; who has written meanwhile stands above it, and is looked at. Return whether that was so.

        Raises:
            QueueFullError: that was not possible, either.
        """
        empty = after.empty and not after.more
        body: dict[str, Any] = {"filter": self._subject} | ({"seq": before.revision + 1} if empty else {"keep": 1})
        try:
            await jetstream.call(self._connection, "STREAM.PURGE", _STREAM, body=body)
        except BusError as other:
            raise error from other
        return empty

    async def _write(self, before: Standing, after: Table) -> Standing:
        after = locktable.swept(after, time.time())
        body = locktable.encode(after)
        moved = locktable.moved(before.table, after)
        headers = {EXPECTED_SUBJECT_SEQUENCE: str(before.revision)}
        headers |= {CONTENT_TYPE: MSGPACK} if body else {_OPERATION: "DEL"}
        if moved:
            headers[MOVED] = " ".join(moved) if len(moved) <= _NAMED else "*"
        # Without patience: what is sent twice unseen could be forestalled by itself.
        stored = await jetstream.store(self._connection, self._subject, body, headers, patience=0.0)
        standing = Standing(stored.sequence, table=locktable.settled(after, stored.sequence))
        self._learn(standing, before.revision, moved)
        return standing

    async def _fetch(self) -> Standing:
        standing = await read(self._connection, self.key)
        self._learn(standing, standing.revision, None)
        return standing if self._known is None else self._known

    def _learn(self, standing: Standing, previous: int, moved: set[str] | None) -> None:
        """Take what stands, after the revision `previous`, and wake whom it concerns; None: that is not known."""
        if self._known is None or standing.revision > self._known.revision:
            self._known = standing
        if standing.revision <= self._heard:
            return
        if moved is None or previous > self._heard:
            self._wake(set(self._waits))
        else:
            self._wake(moved)
        self._heard = standing.revision

    def _wake(self, ids: set[str]) -> None:
        for id_ in ids:
            for waiting in self._waits.get(id_, ()):
                if not waiting.done():
                    waiting.set_result(None)

    # --- to follow it -----------------------------------------------------------------------------------------

    async def wait(self, id_: str, seconds: float) -> Standing:
        """Return what stands once nothing is waited for under an id, or in so many seconds.

        Raises:
            TransportError: the server cannot be asked.
        """
        until = asyncio.get_running_loop().time() + seconds
        async with self._following():
            while True:
                waking = asyncio.get_running_loop().create_future()
                self._waits[id_].add(waking)
                try:
                    async with asyncio.timeout_at(until):
                        if not self._current:
                            await self._catch_up()
                        standing = self._known or await self._fetch()
                        if standing.table.waiter(id_) is None:
                            return standing
                        await waking
                except TimeoutError:
                    return self._known or await self._fetch()
                finally:
                    self._waits[id_].discard(waking)
                    if not self._waits[id_]:
                        del self._waits[id_]

    @asynccontextmanager
    async def _following(self) -> AsyncIterator[None]:
        self._followers += 1
        try:
            yield
        finally:
            self._followers -= 1
            if not self._followers and self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(_LINGER, self._leave)

    async def _catch_up(self) -> None:
        """Subscribe, and read what was told before the subscription stood."""
        async with self._opening:
            if self._current:
                return
            breaks = self._breaks
            if self._subscription is None:
                news = subjects.lock_news(self.key)
                self._subscription = await self._connection.subscribe(news, self._on_news)
            self._known = None
            await self._fetch()
            self._current = breaks == self._breaks

    def _on_news(self, message: Message) -> None:
        try:
            revision, previous = int(message.header("Nats-Sequence")), int(message.header("Nats-Last-Sequence"))
        except ValueError:
            log.warning("something on %s that no stream told is left out", message.subject)
            return
        named = message.header(MOVED)
        moved = None if named == "*" else set(named.split())
        self._learn(Standing(revision, body=message.data, subject=self._subject), previous, moved)

    def broken(self) -> None:
        """The connection was lost, and is back: something may have been missed."""
        self._breaks += 1
        self._current = False
        self._known = None
        self._wake(set(self._waits))

    def _leave(self) -> None:
        self._timer = None
        if self._followers:
            return
        if self._opening.locked():
            self._timer = asyncio.get_running_loop().call_later(_LINGER, self._leave)
            return
        subscription, self._subscription = self._subscription, None
        self._current = False
        if subscription is not None:
            self._background(subscription.drain())

    def close(self) -> None:
        """Follow it no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._followers = 0
        self._leave()
