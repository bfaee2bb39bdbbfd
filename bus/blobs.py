"""Payloads too large for a message: stored beside it in pieces, named in it, read and checked by who needs the whole.

A blob stands at its task, `revo.blob.<client>.<capability>.<task id>.<blob id>.<piece>`, under a random id of its own.
Its pieces are stored first and the message that names it last, so a message is never without its blob; what dies in
between leaves pieces that nothing names, which a steward's sweep finds. Must not know whose payloads they are, nor when
they may go (`bus.tasks`, `bus.settling`, `actors.steward.storage`).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from bus import jetstream, subjects
from bus.connection import Connection
from bus.errors import (
    ConnectionLostError,
    DamagedBlobError,
    DecodeError,
    PayloadTooLargeError,
    RequestTimeoutError,
    ServerError,
    TransportError,
    WrongSequenceError,
)
from bus.messages import BLOB, EXPECTED_SUBJECT_SEQUENCE, HEADROOM, MSG_TTL, Blob, Envelope, Result

PIECE: Final = 512 * 1024
"""Bytes of a piece, where the server takes as much."""
WINDOW: Final = 4
"""Pieces that are on their way at once: so much is in memory besides the whole, and a slow line is not drowned."""
SMALL: Final = 1024
"""Bytes; the setting `blob_above` is at least that."""
_HEADERS: Final = 4096
"""Bytes of a message that its headers may take."""
_LATE: Final = 5.0
"""Seconds that a copy of the stream may be behind its leader, for who may not ask the leader."""


class Place(NamedTuple):
    """The task that a blob is of."""

    client: str
    capability: str
    task_id: str

    @classmethod
    def of(cls, what: Envelope | Result) -> Place:
        """Where the blobs of a task stand. It is taken from where the task or the result itself stands."""
        return cls(what.client, what.capability, what.task_id)

    def piece(self, blob_id: str, number: int | str) -> str:
        """The subject of one piece, or with `*` of all."""
        return subjects.blob(*self, blob_id, number)


def is_large(connection: Connection, size: int) -> bool:
    """Whether a task's message of so many bytes travels beside it. Up to `SMALL` none does: nobody need ask."""
    return size > connection.settings.blob_above or size + HEADROOM + _HEADERS > connection.max_payload


def new_id() -> str:
    """An id that nobody can guess: who does not know it cannot say that a blob is not needed."""
    return secrets.token_hex(16)


def header(blob: Blob) -> str:
    """A blob as the header of the message that it is of."""
    return json.dumps(blob.model_dump(exclude_defaults=True), separators=(",", ":"))


def named_in(headers: Mapping[str, str], subject: str) -> Blob | None:
    """The blob that a message's headers name, or None.

    Raises:
        DecodeError: the header makes no sense.
    """
    said = headers.get(BLOB)
    if said is None:
        return None
    try:
        return Blob.model_validate_json(said)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise DecodeError(subject, f"header {BLOB}: {f'{where}: ' if where else ''}{fault['msg']}") from None


def id_in(headers: Mapping[str, str]) -> str:
    """The id of the blob that a message's headers name; empty when there is none, or none that makes sense."""
    try:
        found = named_in(headers, "")
    except DecodeError:
        return ""
    return found.id if found is not None else ""


def check_size(connection: Connection, subject: str, size: int) -> None:
    """See that a payload is not beyond what any may have.

    Raises:
        PayloadTooLargeError: it is; names the setting.
    """
    limit = connection.settings.blob_max
    if size > limit:
        raise PayloadTooLargeError(subject, size, limit, "REVO_BLOB_MAX")


# --- storing --------------------------------------------------------------------------------------------------


async def put(
    connection: Connection, place: Place, body: bytes, *, blob_id: str, ttl: float = 0.0, content_type: str = ""
) -> Blob:
    """Store a payload and return what the message is to say of it.

    Done again with the same id, after an error, it goes on where it was. With `ttl` its pieces go by themselves after
    so many seconds.

    Raises:
        PayloadTooLargeError: beyond the setting `blob_max`; nothing was sent.
        QueueFullError: BLOBS is full. Some pieces may stand.
        TransportError: no answer for one of them within the setting `publish_timeout`.
    """
    subject = place.piece(blob_id, "*")
    check_size(connection, subject, len(body))
    headers = {EXPECTED_SUBJECT_SEQUENCE: "0"}
    if ttl:
        headers[MSG_TTL] = f"{int(ttl) + 1}s"
    step = min(PIECE, connection.max_payload - _HEADERS)
    digest, pieces = hashlib.sha256(), 0
    async with _side_by_side() as work:
        for start in range(0, len(body), step):
            piece = body[start : start + step]
            digest.update(piece)  # by the piece: the loop stays free for others
            await work(_store(connection, place.piece(blob_id, pieces), piece, headers))
            pieces += 1
    return Blob(id=blob_id, size=len(body), sha256=digest.hexdigest(), pieces=pieces, content_type=content_type)


async def _store(connection: Connection, subject: str, piece: bytes, headers: Mapping[str, str]) -> None:
    """Store one piece, over lost connections. Whoever has stored it before has stored the same: the id is his own."""
    loop = asyncio.get_running_loop()
    until = loop.time() + connection.settings.publish_timeout
    while True:
        await _connected(connection, subject, until)
        try:
            await jetstream.store(connection, subject, piece, headers)
        except WrongSequenceError:
            return
        except ConnectionLostError:
            if loop.time() > until:
                raise  # otherwise it was lost before anything of it went out
            await asyncio.sleep(0.05)
        else:
            return


async def copy(connection: Connection, blob: Blob, source: Place, target: Place) -> None:
    """Store a task's blob at another task, under the same id. Done again it changes nothing.

    Raises:
        DamagedBlobError: it is not there as a whole.
        QueueFullError, TransportError: as in `put`.
    """
    check_size(connection, source.piece(blob.id, "*"), blob.size)

    async def one(number: int) -> None:  # in memory are no more than are on their way
        piece = await _read(connection, source.piece(blob.id, number))
        if piece is None:
            raise _gone(source, blob, number)
        await _store(connection, target.piece(blob.id, number), piece, {EXPECTED_SUBJECT_SEQUENCE: "0"})

    async with _side_by_side() as work:
        for number in range(blob.pieces):
            await work(one(number))


async def remove(connection: Connection, place: Place, blob_id: str) -> int:
    """Take all pieces of a blob away; returns how many there were. For who may purge the stream. An empty id: none.

    Raises:
        ServerError, TransportError: it may be there still.
    """
    if not blob_id:
        return 0
    body = {"filter": place.piece(blob_id, "*")}
    return int((await jetstream.call(connection, "STREAM.PURGE", subjects.BLOBS, body=body))["purged"])


# --- reading --------------------------------------------------------------------------------------------------


async def get(connection: Connection, place: Place, blob: Blob) -> bytes:
    """The payload, checked: as large as its message says, and of that digest.

    Raises:
        PayloadTooLargeError: beyond our own setting `blob_max`; nothing was read.
        DamagedBlobError: a piece is gone, or it is not what the message says.
        TransportError: the server does not answer, for as long as the setting `publish_timeout`.
    """
    subject = place.piece(blob.id, "*")
    check_size(connection, subject, blob.size)
    digest, size, found = hashlib.sha256(), 0, list[bytes]()

    def take(piece: bytes | None) -> None:
        nonlocal size
        if piece is None:
            raise _gone(place, blob, len(found))
        size += len(piece)
        if size > blob.size:
            raise DamagedBlobError(subject, f"it has more than the {blob.size} bytes that its message says")
        digest.update(piece)
        found.append(piece)

    async with _side_by_side(take) as work:
        for number in range(blob.pieces):
            await work(_read(connection, place.piece(blob.id, number)))
    if size != blob.size:
        raise DamagedBlobError(subject, f"it has {size} bytes where its message says {blob.size}")
    if digest.hexdigest() != blob.sha256:
        raise DamagedBlobError(subject, "its SHA-256 is not the one that its message says")
    return b"".join(found)


async def _read(connection: Connection, subject: str) -> bytes | None:
    """One piece from whichever copy of the stream answers, over lost connections; None when it is not there."""
    loop = asyncio.get_running_loop()
    until, missed_at, pause = loop.time() + connection.settings.publish_timeout, 0.0, 0.05
    request = subjects.api("DIRECT.GET", subjects.BLOBS, subject)
    while True:
        await _connected(connection, subject, until)
        try:
            message = await connection.request(request)
        except TransportError:
            if loop.time() > until:
                raise
        else:
            status = message.headers.get("Status", "")
            if not status:
                return message.data
            if status != "404":
                raise ServerError(subjects.BLOBS, f"direct read refused: {status}")
            missed_at = missed_at or loop.time()
            if not connection.clustered or loop.time() > missed_at + _LATE:
                return None
            if not connection.restricted:
                stored = await jetstream.last(connection, subjects.BLOBS, subject)  # as the leader has it
                return None if stored is None else stored.body
        await asyncio.sleep(pause)
        pause = min(1.0, pause * 2)


async def _connected(connection: Connection, what: str, until: float) -> None:
    if connection.is_connected:
        return
    try:
        async with asyncio.timeout_at(until):
            await connection.connected()
    except TimeoutError:
        raise RequestTimeoutError(what, connection.settings.publish_timeout) from None


def _gone(place: Place, blob: Blob, number: int) -> DamagedBlobError:
    return DamagedBlobError(place.piece(blob.id, "*"), f"piece {number + 1} of {blob.pieces} is gone")


Work = Callable[[Coroutine[Any, Any, bytes | None]], Coroutine[Any, Any, None]]


@asynccontextmanager
async def _side_by_side(take: Callable[[bytes | None], None] | None = None) -> AsyncIterator[Work]:
    """Does what it is given with up to `WINDOW` at once, and has `take` called with what comes of each, in order. All
    are done when the block ends; when one fails none goes on.
    """
    begun: deque[asyncio.Task[bytes | None]] = deque()

    async def end_first() -> None:
        value = await begun.popleft()
        if take is not None:
            take(value)

    async def work(step: Coroutine[Any, Any, bytes | None]) -> None:
        begun.append(asyncio.create_task(step))
        if len(begun) >= WINDOW:
            await end_first()
        else:
            await asyncio.sleep(0)  # what comes next may hash a piece: others have a turn before

    try:
        yield work
        while begun:
            await end_first()
    finally:
        for one in begun:
            one.cancel()
        await asyncio.gather(*begun, return_exceptions=True)
