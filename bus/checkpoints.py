"""What a handler has so far, kept for the next attempt, and fenced: who was thought dead cannot overwrite it.

One message a task, in CHECKPOINTS, written by compare and swap alone. A run that may have had one before it *claims*
first: it writes what stands once more, in its own name. Whoever wrote before finds another sequence than his own at his
next save, and knows that he has been superseded.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Callable
from typing import Any, Final

from bus import codec, jetstream, subjects
from bus.connection import Connection
from bus.emitting import run_of
from bus.errors import (
    AttemptEndedError,
    PayloadTooLargeError,
    QueueFullError,
    RequestTimeoutError,
    SupersededError,
    TransportError,
    WrongSequenceError,
)
from bus.messages import (
    CHILDREN,
    CONTENT_TYPE,
    EXPECTED_SUBJECT_SEQUENCE,
    HEADROOM,
    MSG_ID,
    MSG_TTL,
    RUN,
    Envelope,
)
from bus.pending import Pending

log = logging.getLogger(__name__)

STALE: Final = 2.0
"""Seconds for which a copy of the stream may be behind, where a leader cannot be asked."""
_HEADER: Final = 60_000
"""Bytes that may say what was submitted: a server takes 64 KiB of headers."""


class _Save:
    """A state that is to be stored, once all that was said before it is."""

    __slots__ = ("body", "children", "mark", "pending")

    def __init__(self, body: bytes, mark: Pending | None, children: str) -> None:
        self.body = body
        self.mark = mark
        self.children = children
        self.pending = Pending()


class Checkpoint:
    """The checkpoint of one attempt."""

    def __init__(
        self, connection: Connection, envelope: Envelope, run: int, on_superseded: Callable[[Pending], None]
    ) -> None:
        """`on_superseded` is called with the save that found out that a later run has claimed the task."""
        self._connection = connection
        self._envelope = envelope
        self._run = run
        self._on_superseded = on_superseded
        self._subject = subjects.saved(envelope.client, envelope.capability, envelope.task_id)
        self._by = secrets.token_hex(6)
        self._writes = 0
        self._sequence = 0
        self._found: jetstream.StoredMessage | None = None
        self._next: _Save | None = None
        self._task: asyncio.Task[None] | None = None
        self._failed: tuple[_Save, BaseException] | None = None
        self._closed = False
        self.superseded: SupersededError | None = None

    @property
    def stands(self) -> bool:
        """Whether something of this attempt is stored."""
        return self._sequence > 0

    @property
    def children(self) -> str:
        """What an earlier attempt had submitted when it saved what is found."""
        return self._found.headers.get(CHILDREN, "") if self._found is not None else ""

    def found(self) -> tuple[bool, Any]:
        """Whether an earlier attempt has saved something, and what, as plain data.

        Raises:
            DecodeError: it cannot be read.
        """
        if self._found is None or not self._found.body:
            return False, None
        content_type = codec.content_type_of(self._found.headers, subject=self._subject)
        return True, codec.decode(self._found.body, content_type, subject=self._subject)

    async def claim(self) -> None:
        """Take over what stands: whoever saves after this and is not us is refused. May be called again.

        Raises:
            SupersededError: a later run has claimed it.
            QueueFullError: there is no room to write what stands once more. Where nothing stands that is no error.
            TransportError: it could not be claimed now.
        """
        connection, loop = self._connection, asyncio.get_running_loop()
        until, pause = loop.time() + connection.settings.publish_timeout, 0.01
        while True:
            standing = await jetstream.last(connection, subjects.CHECKPOINTS, self._subject)
            if standing is not None and self._is_ours(standing):
                self._sequence = standing.sequence  # only the answer was lost
                return
            if standing is not None and run_of(standing) > self._run:
                raise self._lose()
            self._found = standing
            body, content_type = b"", self._envelope.content_type
            if standing is not None:
                body, content_type = standing.body, standing.headers.get(CONTENT_TYPE, content_type)
            headers = self._headers(standing.sequence if standing is not None else 0, content_type, self.children)
            try:
                self._sequence = (await jetstream.store(connection, self._subject, body, headers)).sequence
            except QueueFullError:
                if standing is not None:
                    raise
                return  # the first save says so, and takes over what an earlier run has saved by then
            except WrongSequenceError:
                if loop.time() > until:
                    raise RequestTimeoutError(self._subject, connection.settings.publish_timeout) from None
                await asyncio.sleep(random.uniform(0, pause))  # noqa: S311
                pause = min(0.5, pause * 2)
            else:
                return

    def save(self, state: Any, mark: Pending | None, children: str = "") -> Pending:
        """Store a state (plain data) once `mark` is over, and what was submitted so far. Of several that wait only the
        last one is stored.

        Raises:
            EncodeError, PayloadTooLargeError: it cannot be stored.
            SupersededError: a later run goes on with the task.
        """
        if self.superseded is not None:
            raise self.superseded
        if self._closed:
            raise AttemptEndedError(self._envelope.task_id)
        body = codec.encode(state, self._envelope.content_type, subject=self._subject)
        limit = self._connection.max_payload - HEADROOM
        if len(body) > limit:
            raise PayloadTooLargeError(self._subject, len(body), limit)
        if len(children) > _HEADER:
            raise PayloadTooLargeError(f"{self._subject}: header {CHILDREN}", len(children), _HEADER)
        if self._next is not None:
            self._next.body, self._next.mark, self._next.children = body, mark, children
            return self._next.pending
        self._next = save = _Save(body, mark, children)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._pump())
        return save.pending

    async def flush(self) -> None:
        """Return once the last state is stored. One that could not be, and nobody was told, is stored anew first.

        Raises:
            TransportError: it could not be stored, and nobody has awaited that; call it again.
            BusError: the same, for good.
        """
        if self._task is None:
            return
        failed = self._untold()
        if self._task.done() and failed is not None and isinstance(failed[1], TransportError):
            self._next, self._failed = failed[0], None
            self._task = asyncio.get_running_loop().create_task(self._pump())
        await asyncio.wait((self._task,))
        failed = self._untold()
        if failed is not None:
            raise failed[1]

    def _untold(self) -> tuple[_Save, BaseException] | None:
        """The last save and its error, if it failed and nobody was told."""
        return None if self._failed is None or self._failed[0].pending.seen else self._failed

    def close(self) -> None:
        """Save no more."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
        if self._next is not None:
            self._next.pending.fail(AttemptEndedError(self._envelope.task_id))

    # --- how it gets to the server ------------------------------------------------------------------------

    def _headers(self, expected: int, content_type: str, children: str) -> dict[str, str]:
        self._writes += 1
        headers = {
            EXPECTED_SUBJECT_SEQUENCE: str(expected),
            MSG_ID: f"{self._by}.{self._writes}",
            # The result stands for longer: a task of the same id begins anew, and not with what this one had.
            MSG_TTL: f"{max(1, int(self._envelope.deadline - time.time()) + 1)}s",
            RUN: str(self._run),
            CONTENT_TYPE: content_type,
        }
        if children:
            headers[CHILDREN] = children
        return headers

    def _is_ours(self, standing: jetstream.StoredMessage) -> bool:
        return standing.headers.get(MSG_ID, "").startswith(f"{self._by}.")

    def _lose(self) -> SupersededError:
        self.superseded = SupersededError(self._envelope.task_id, self._run)
        return self.superseded

    async def _pump(self) -> None:
        while self._next is not None:
            save = self._next
            while save.mark is not None and not save.mark.done:  # a newer state may have a later one
                await save.mark.over()  # what is saved must not say that something was said that never was
            self._next = None
            error: BaseException | None = save.mark.error if save.mark is not None else None
            try:
                if error is None:
                    await self._store(save)
            except asyncio.CancelledError:
                save.pending.fail(AttemptEndedError(self._envelope.task_id))
                raise
            except Exception as why:  # noqa: BLE001  (it is the error of the save)
                error = why
            self._failed = None if error is None else (save, error)
            if error is None:
                save.pending.succeed()
            else:
                save.pending.fail(error)
                if error is self.superseded:
                    self._on_superseded(save.pending)

    async def _store(self, save: _Save) -> None:
        """Store a state where our last one stands.

        Raises:
            SupersededError: something else stands there.
        """
        while True:
            headers = self._headers(self._sequence, self._envelope.content_type, save.children)
            try:
                stored = await jetstream.store(self._connection, self._subject, save.body, headers)
            except WrongSequenceError:
                standing = await self._standing()
                if standing is not None and not self._sequence and run_of(standing) < self._run:
                    self._sequence = standing.sequence  # there was no room to claim it
                    continue
                if standing is None or not self._is_ours(standing):
                    raise self._lose() from None
                self._sequence = standing.sequence
                if standing.headers[MSG_ID] == headers[MSG_ID]:
                    return  # only the answer was lost
            else:
                self._sequence = stored.sequence
                return

    async def _standing(self) -> jetstream.StoredMessage | None:
        """What stands now that our last write is not the last one. A copy that still has that is behind."""
        connection, loop = self._connection, asyncio.get_running_loop()
        until = loop.time() + connection.settings.publish_timeout
        stale_until = loop.time() + (STALE if connection.restricted and connection.clustered else 0.0)
        while True:
            try:
                standing = await jetstream.last(connection, subjects.CHECKPOINTS, self._subject)
            except TransportError as error:
                log.debug("the checkpoint of %s: %s", self._envelope.task_id, error)
                if loop.time() > until:
                    raise
            else:
                if (standing is not None and standing.sequence > self._sequence) or loop.time() >= stale_until:
                    return standing
            await asyncio.sleep(random.uniform(0, 0.2))  # noqa: S311


def forget(connection: Connection, envelope: Envelope) -> None:
    """Let the checkpoint of a task go that has its result. Should this be lost, it goes with its time."""
    subject = subjects.saved(envelope.client, envelope.capability, envelope.task_id)
    connection.send(subject, b"", {MSG_TTL: "1s"}, lazy=True)
