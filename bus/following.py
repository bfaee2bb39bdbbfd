"""What a task's handler says, to who submitted the task: from any number on, in order, each once.

It is heard as it is stored, and what was not heard is read from PROGRESS: what was said before, while the connection
was lost, and while the reader was slower than the handler. What is gone for good is said, too.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from bus import codec, jetstream, reading, stewards, subjects
from bus.connection import Connection
from bus.emitting import WINDOW, number_of, run_of
from bus.errors import ConfigError, DecodeError, TransportError
from bus.messages import CHUNK, CONTENT_TYPE, RUN, Result
from bus.telemetry import Telemetry
from bus.wire import Message

log = logging.getLogger(__name__)

BUFFERED: Final = 1000
"""Messages that wait for a reader; what comes then he reads from the stream."""
BUFFERED_BYTES: Final = 8 * 1024 * 1024
_LINK: Final = "Nats-Last-Sequence"
"""Where the message before stands that was stored for the same task."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a task is: a share from 0 to 1, and a text. `at` is when it was stored, in unix seconds."""

    number: int
    run: int
    share: float
    text: str
    at: float


@dataclass(frozen=True, slots=True)
class Chunk:
    """Something that a task's handler has shown. `run` grows with each attempt that was made."""

    number: int
    run: int
    value: Any
    at: float


@dataclass(frozen=True, slots=True)
class Lost:
    """These numbers, both included, are gone for good: too old, too many, or their worker died before they stood."""

    first: int
    last: int


Item = Progress | Chunk | Lost


class Sorter:
    """Puts what is stored in the order of its numbers. Pure.

    Messages come in the order in which they are stored. That is the order of their numbers but for two cases: what an
    attempt says that was thought dead, of a lower run than others, is left out; and what is sent again after a lost
    connection may stand behind what was sent after it, so a number that is missing is waited for as long as that may
    take.
    """

    def __init__(self, after: int, patience: float) -> None:
        """What has numbers up to `after` is left out. `patience`: seconds in which something is sent again."""
        self.given = after
        self._patience = patience
        self._run = 0
        self._seen = 0
        self._held: dict[int, tuple[float, Item]] = {}

    def put(self, stored: jetstream.StoredMessage) -> list[Item]:
        """What can be given, now that this one is there."""
        run, number = run_of(stored), number_of(stored)
        if run < self._run or not number:
            return []
        found: list[Item] = []
        if run > self._run:
            found = self.give_up()  # what the run before has not stored by now it never will
            if number <= self._seen:
                self.given = number - 1  # so much was forgotten that numbers began anew
            self._run, self._seen = run, 0
        self._seen = max(self._seen, number)
        if number > self.given and number not in self._held:
            self._held[number] = (stored.stored_at + self._patience, _item(stored, number, run))
        return [*found, *self._next(), *(self.give_up() if len(self._held) > WINDOW else ())]

    @property
    def due(self) -> float | None:
        """When what is missing is waited for no more, in unix seconds; None: nothing is."""
        return min(until for until, _ in self._held.values()) if self._held else None

    def give_up(self) -> list[Item]:
        """What is held, and what is missing before it."""
        found: list[Item] = []
        while self._held:
            first = min(self._held)
            found.append(Lost(self.given + 1, first - 1))
            self.given = first - 1
            found += self._next()
        return found

    def end(self, last: int) -> list[Item]:
        """The rest, of a task that has said so much."""
        found = self.give_up()
        if self.given < last:
            found.append(Lost(self.given + 1, last))
            self.given = last
        return found

    def _next(self) -> list[Item]:
        found: list[Item] = []
        while (entry := self._held.pop(self.given + 1, None)) is not None:
            self.given += 1
            found.append(entry[1])
        return found


def _item(stored: jetstream.StoredMessage, number: int, run: int) -> Item:
    try:
        body = codec.read(dict, stored.headers, stored.body, subject=stored.subject)
        if "chunk" in body:
            return Chunk(number, run, body["chunk"], stored.stored_at)
        return Progress(number, run, float(body["share"]), str(body.get("text", "")), stored.stored_at)
    except (DecodeError, KeyError, TypeError, ValueError) as error:
        log.warning("what task %s says in number %d cannot be read: %s", stored.subject, number, error)
        return Lost(number, number)


def follow(
    connection: Connection,
    telemetry: Telemetry,
    name: tuple[str, str, str],
    outcome: Callable[[], Coroutine[Any, Any, Result]],
    after: int,
) -> AsyncGenerator[Item, None]:
    """See `bus.handle.Handle.follow`. `name` is (client, capability, task id).

    Raises:
        ConfigError: `after` is no number from 0 on.
    """
    if isinstance(after, bool) or not isinstance(after, int) or after < 0:
        raise ConfigError("follow: after", f"{after!r:.40} is not a whole number from 0 on")
    return _Follower(connection, telemetry, name, after).items(outcome)


class _Follower:
    def __init__(self, connection: Connection, telemetry: Telemetry, name: tuple[str, str, str], after: int) -> None:
        self._connection = connection
        self._telemetry = telemetry
        self._name = name
        self._subject = subjects.progress(*name)
        self._sorter = Sorter(after, connection.settings.publish_timeout)
        self._heard: deque[tuple[int, jetstream.StoredMessage]] = deque()
        self._heard_bytes = 0
        self._news = asyncio.Event()
        self._behind = True
        self._position = 0  # where the last one stands that was put in order

    def _on_message(self, message: Message) -> None:
        if len(self._heard) >= BUFFERED or self._heard_bytes >= BUFFERED_BYTES or self._behind:
            self._behind = True
        else:
            try:
                self._heard.append((int(message.header(_LINK) or 0), jetstream.direct(message)))
                self._heard_bytes += len(message.data)
            except (KeyError, ValueError) as error:  # nobody but the server says anything here
                log.warning("%s: a message that no server sends: %s", self._subject, error)
                self._behind = True
        self._news.set()

    async def _on_back(self) -> None:
        self._behind = True  # who knows what was said meanwhile
        self._news.set()

    async def items(self, outcome: Callable[[], Coroutine[Any, Any, Result]]) -> AsyncGenerator[Item, None]:
        connection = self._connection
        subscription = await connection.subscribe(subjects.emitted(*self._name), self._on_message)
        connection.on_reconnect(self._on_back)
        ending = asyncio.ensure_future(outcome())
        ending.add_done_callback(lambda _: self._news.set())
        try:
            while True:
                self._news.clear()
                over = ending.done()
                if over and self._sorter.given < (ending.result().chunks or self._sorter.given + 1):
                    self._behind = True  # a last look, for what is heard may come behind the result
                async with aclosing(self._there_is()) as some:
                    async for item in some:
                        yield item
                if over:
                    break
                if not self._behind and not self._heard:
                    for item in await self._wait():
                        yield item
            for item in self._sorter.end(ending.result().chunks):
                yield item
        finally:
            connection.forget(self._on_back)
            subscription.forget()
            ending.cancel()
            await asyncio.wait((ending,))
            if not ending.cancelled():
                ending.exception()  # read once: who leaves before the end does not care how it came
            await subscription.drain()

    async def _wait(self) -> list[Item]:
        """Wait for news, or until what is missing is waited for no more; then it is said that it is lost."""
        due = self._sorter.due
        try:
            async with asyncio.timeout(None if due is None else max(0.0, due - time.time())):
                await self._news.wait()
        except TimeoutError:
            return self._sorter.give_up()
        return []

    async def _there_is(self) -> AsyncGenerator[Item, None]:
        """What has been heard, and what must be read."""
        if self._behind:
            self._behind = False
            self._heard.clear()
            self._heard_bytes = 0
            async with aclosing(self._read()) as missed:
                async for stored in missed:
                    self._position = stored.sequence
                    for item in self._sorter.put(stored):
                        yield item
        while self._heard:
            link, stored = self._heard.popleft()
            self._heard_bytes -= len(stored.body)
            if stored.sequence <= self._position:
                continue
            if link != self._position:
                self._behind = True  # something between was not heard
                return
            self._position = stored.sequence
            for item in self._sorter.put(stored):
                yield item

    async def _read(self) -> AsyncGenerator[jetstream.StoredMessage, None]:
        """What stands behind our position, whatever it takes."""
        connection, loop, at = self._connection, asyncio.get_running_loop(), self._position
        until, pause = loop.time() + connection.settings.publish_timeout, 0.05
        while True:
            try:
                some = self._pages(at) if connection.restricted else stored_after(connection, self._subject, at)
                async with aclosing(some):
                    async for stored in some:
                        yield stored
                        at, until = stored.sequence, loop.time() + connection.settings.publish_timeout
            except TransportError as error:
                if not connection.is_connected:
                    await connection.connected()  # it is as with the result: we wait for as long as it takes
                    until = loop.time() + connection.settings.publish_timeout
                elif loop.time() > until:
                    raise
                log.debug("what task %s says: %s", self._name[2], error)
                await asyncio.sleep(random.uniform(0, pause))  # noqa: S311
                pause = min(1.0, pause * 2)
            else:
                return

    async def _pages(self, after: int) -> AsyncGenerator[jetstream.StoredMessage, None]:
        """The same, asked of a steward by who may not read the stream."""
        client, capability, task_id = self._name
        while True:
            question = {"client": client, "capability": capability, "task_id": task_id, "after": after}
            said = await stewards.ask(self._connection, self._telemetry, "progress", question)
            for one in said["messages"]:
                stored = from_page(one, self._subject)
                after = stored.sequence
                yield stored
            if not said["more"]:
                return


async def stored_after(
    connection: Connection, subject: str, after: int
) -> AsyncGenerator[jetstream.StoredMessage, None]:
    """What PROGRESS holds on a subject behind a sequence, until now, in order; for who may read the stream.

    Raises:
        TransportError: it cannot be read now.
    """
    last = await jetstream.last(connection, subjects.PROGRESS, subject)
    if last is None or last.sequence <= after:
        return
    if last.sequence == after + 1:
        yield last
        return
    some = reading.scan(connection, subjects.PROGRESS, after + 1, last.sequence, subject=subject)
    async with aclosing(some):
        async for stored in some:
            yield stored


def to_page(stored: jetstream.StoredMessage) -> dict[str, Any]:
    """A stored message as a steward's answer carries it; see `from_page`."""
    return {
        "sequence": stored.sequence,
        "at_ns": stored.stored_at_ns,
        "run": run_of(stored),
        "number": number_of(stored),
        "content_type": stored.headers.get(CONTENT_TYPE, ""),
        "body": stored.body,
    }


def from_page(one: dict[str, Any], subject: str) -> jetstream.StoredMessage:
    """The stored message in a steward's answer."""
    headers = {RUN: str(one["run"]), CHUNK: str(one["number"]), CONTENT_TYPE: one["content_type"]}
    return jetstream.StoredMessage(subject, one["sequence"], headers, one["body"], one["at_ns"])
