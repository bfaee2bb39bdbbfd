"""What a running handler says: how far it is, and what it has to show; numbered and stored in PROGRESS, in order.

Numbers run from 1 on over all runs of a task. A run that is not the first one goes on behind what it finds, by compare
and swap; one that was thought dead and still speaks is told apart by its lower run, and left out by whoever reads.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import secrets
from collections import deque
from typing import Any, Final

from bus import codec, jetstream, subjects
from bus.connection import Connection
from bus.errors import (
    AttemptEndedError,
    ConfigError,
    PayloadTooLargeError,
    QueueFullError,
    RequestTimeoutError,
    TransportError,
    WrongSequenceError,
)
from bus.messages import (
    CHUNK,
    CONTENT_TYPE,
    EXPECTED_SUBJECT_SEQUENCE,
    HEADROOM,
    MSG_ID,
    MSGPACK,
    RUN,
    Envelope,
)
from bus.pending import Pending

log = logging.getLogger(__name__)

WINDOW: Final = 256
"""Messages of one attempt that are on their way to the server at once."""
WINDOW_BYTES: Final = 8 * 1024 * 1024
BACKLOG: Final = 10_000
"""Messages that wait to be sent, of a handler that does not await them."""
BACKLOG_BYTES: Final = 64 * 1024 * 1024
MAX_TEXT: Final = 1000
"""Characters of a text beside a share."""


class _Said:
    """One message that is to be stored."""

    __slots__ = ("body", "content_type", "headers", "pending", "replaceable", "storing")

    def __init__(self, body: bytes, content_type: str, *, replaceable: bool) -> None:
        self.body = body
        self.content_type = content_type
        self.replaceable = replaceable
        """Whether a newer one of its kind says all that it says."""
        self.pending = Pending()
        self.headers: dict[str, str] = {}
        self.storing: jetstream.Storing | None = None


class Emitter:
    """Stores what one attempt says. `number` is that of its last message, 0: it has said nothing."""

    def __init__(self, connection: Connection, envelope: Envelope, run: int) -> None:
        self._connection = connection
        self._envelope = envelope
        self._run = str(run)
        self._subject = subjects.progress(envelope.client, envelope.capability, envelope.task_id)
        self._by = secrets.token_hex(6)
        self._sent_bytes = self._waiting_bytes = 0
        self._open = envelope.deliveries == 1 and not envelope.named  # then nobody can have said anything before
        self._waiting: deque[_Said] = deque()
        self._sent: deque[_Said] = deque()
        self._room: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[None] | None = None
        self._tried: set[str] = set()
        self._failure: BaseException | None = None
        self.number = 0
        self.last: Pending | None = None

    # --- what a handler says ------------------------------------------------------------------------------

    def progress(self, share: float, text: str) -> Pending:
        """Say how far it is: a share from 0 to 1. Of several that wait to be sent only the last one is.

        Raises:
            ConfigError: the share is no number from 0 to 1, or the text none, or too long.
        """
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise ConfigError("progress", f"{share!r:.40} is not a share from 0 to 1")
        if not isinstance(text, str) or len(text) > MAX_TEXT:
            raise ConfigError("progress", f"its text must be text of at most {MAX_TEXT} characters")
        content_type = self._envelope.content_type
        body = codec.encode({"share": float(share), "text": text}, content_type, subject=self._subject)
        return self._say(_Said(body, content_type, replaceable=True))

    def emit(self, chunk: Any) -> Pending:
        """Show something: plain data, text or bytes.

        Raises:
            EncodeError, PayloadTooLargeError: it cannot be sent.
            ConfigError: too much waits already.
        """
        content_type = MSGPACK if isinstance(chunk, bytes) else self._envelope.content_type  # JSON has no bytes
        body = codec.encode({"chunk": chunk}, content_type, subject=self._subject)
        limit = self._connection.max_payload - HEADROOM
        if len(body) > limit:
            raise PayloadTooLargeError(self._subject, len(body), limit)
        return self._say(_Said(body, content_type, replaceable=False))

    def _say(self, said: _Said) -> Pending:
        if self._failure is not None:
            raise self._failure
        if self._open and not self._waiting and self._has_window:
            self._send(said)
        elif said.replaceable and self._waiting and self._waiting[-1].replaceable:
            standing = self._waiting[-1]
            self._waiting_bytes += len(said.body) - len(standing.body)
            standing.body = said.body
            return standing.pending
        elif len(self._waiting) >= BACKLOG or self._waiting_bytes >= BACKLOG_BYTES:
            waits = f"{len(self._waiting)} chunks of {self._waiting_bytes} bytes wait to be sent"
            raise ConfigError("emit", f"{waits}; write `await context.emit(...)`")
        else:
            self._waiting.append(said)
            self._waiting_bytes += len(said.body)
        self.last = said.pending
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._pump())
        return said.pending

    @property
    def _has_window(self) -> bool:
        return len(self._sent) < WINDOW and self._sent_bytes < WINDOW_BYTES

    async def room(self) -> None:
        """Return once what is said next is sent at once: for who blocks until it is."""
        while (self._waiting or not self._has_window) and self._failure is None:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._room.append(turn)
            await turn

    async def flush(self) -> None:
        """Return once all is stored. What could not be, and nobody was told, is sent again first.

        Raises:
            TransportError: something could not be stored, and nobody has awaited that; call it again.
            BusError: the same, for good.
        """
        if self._task is None:
            return
        if self._task.done() and self._untold and isinstance(self._failure, TransportError):
            self._failure = None
            self._begin_again()
            self._task = asyncio.get_running_loop().create_task(self._pump())
        await asyncio.wait((self._task,))
        if self._failure is not None and self._untold:
            raise self._failure

    @property
    def _untold(self) -> bool:
        return any(not said.pending.seen for said in (*self._sent, *self._waiting))

    def close(self) -> None:
        """Say no more."""
        if self._failure is None:
            self._fail(AttemptEndedError(self._envelope.task_id))
        if self._task is not None:
            self._task.cancel()

    # --- how it gets to the server ------------------------------------------------------------------------

    def _number(self, said: _Said, number: int) -> None:
        """Give it its number: what it is stored as, and known again by."""
        said.headers = {
            CHUNK: str(number),
            RUN: self._run,
            CONTENT_TYPE: said.content_type,
            MSG_ID: f"{self._envelope.task_id}.{self._by}.{number}",
        }

    def _send(self, said: _Said) -> None:
        self.number += 1
        self._number(said, self.number)
        self._begin(said)
        self._sent.append(said)
        self._sent_bytes += len(said.body)

    def _begin(self, said: _Said) -> None:
        try:
            said.storing = jetstream.begin(self._connection, self._subject, said.body, said.headers)
        except TransportError as error:
            answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            answer.set_exception(error)
            said.storing = jetstream.Storing(self._subject, said.body, said.headers, answer)

    async def _pump(self) -> None:
        """See that what was sent is stored, and send what waits."""
        try:
            if not self._open:
                await self._go_on()
                self._wake()
            while True:
                while self._waiting and self._has_window:
                    self._send(self._next())
                if not self._sent:
                    return
                await self._stored(self._sent[0])
                said = self._sent.popleft()
                self._sent_bytes -= len(said.body)
                said.pending.succeed()
                self._wake()
        except Exception as error:  # noqa: BLE001  (it is the error of each that waits)
            self._fail(error)

    def _next(self) -> _Said:
        said = self._waiting.popleft()
        self._waiting_bytes -= len(said.body)
        return said

    async def _stored(self, said: _Said) -> None:
        """Return once it is stored. What broke with it is sent again with it, so that all stays in order."""
        connection, loop = self._connection, asyncio.get_running_loop()
        until, pause = loop.time() + connection.settings.publish_timeout, 0.05
        while True:
            assert said.storing is not None
            try:
                await jetstream.finish(connection, said.storing, patience=0)
            except QueueFullError:
                raise
            except TransportError as error:
                try:
                    async with asyncio.timeout_at(until):
                        await asyncio.sleep(random.uniform(0, pause))  # noqa: S311
                        await connection.connected()
                except TimeoutError:
                    raise error from None
                pause = min(2.0, pause * 2)
                self._begin_again()
            else:
                return

    def _begin_again(self) -> None:
        """Send what was sent and refused once more, in its order: the server knows what it has already."""
        for one in self._sent:
            assert one.storing is not None
            if one.storing.answer.done() and one.storing.answer.exception() is not None:
                self._begin(one)

    async def _go_on(self) -> None:
        """Store the first message of a run that others may have been before: behind what they have said."""
        connection, loop, said = self._connection, asyncio.get_running_loop(), self._waiting[0]
        said.replaceable = False
        until, pause = loop.time() + connection.settings.publish_timeout, 0.01
        while True:
            standing = await self._last(until)
            if standing is not None and standing.headers.get(MSG_ID) in self._tried:
                break  # only the answer was lost
            self.number = 1 + (number_of(standing) if standing is not None else 0)
            self._number(said, self.number)
            self._tried.add(said.headers[MSG_ID])
            expected = {EXPECTED_SUBJECT_SEQUENCE: str(standing.sequence if standing is not None else 0)}
            try:
                await jetstream.store(connection, self._subject, said.body, said.headers | expected)
            except WrongSequenceError:
                if loop.time() > until:
                    raise RequestTimeoutError(self._subject, connection.settings.publish_timeout) from None
                await asyncio.sleep(random.uniform(0, pause))  # noqa: S311
                pause = min(0.5, pause * 2)
            else:
                break
        self._next().pending.succeed()
        self._open = True

    async def _last(self, until: float) -> jetstream.StoredMessage | None:
        while True:
            try:
                return await jetstream.last(self._connection, subjects.PROGRESS, self._subject)
            except TransportError as error:
                log.debug("what task %s has said: %s", self._envelope.task_id, error)
                if asyncio.get_running_loop().time() > until:
                    raise
                await asyncio.sleep(random.uniform(0, 0.2))  # noqa: S311

    def _wake(self) -> None:
        for turn in self._room:
            if not turn.done():
                turn.set_result(None)
        self._room.clear()

    def _fail(self, error: BaseException) -> None:
        """Who awaits something is told, and who says more; what nobody awaits is kept for `flush`."""
        self._failure = error
        for said in (*self._sent, *self._waiting):
            said.pending.fail(error)
        self._wake()


def number_of(stored: jetstream.StoredMessage) -> int:
    """The number of a stored message; 0: it has none that makes sense."""
    return _whole(stored.headers.get(CHUNK, ""))


def run_of(stored: jetstream.StoredMessage) -> int:
    """The run that a stored message is of; 0: it does not say."""
    return _whole(stored.headers.get(RUN, ""))


def _whole(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= int(math.log10(2**53)) else 0
