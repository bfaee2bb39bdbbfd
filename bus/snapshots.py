"""One stream as a file: taken from a server that goes on working, and put back. The bytes are the server's own.

What stood in the stream when its snapshot began is in the file, unless it left before the server came to it; its
consumers are as they were then. What came later may be in it or not. Must not know which streams there are
(`bus.backup`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from bus import jetstream, subjects
from bus.connection import Connection
from bus.errors import BusError, ConfigError, RequestTimeoutError, ServerError
from bus.wire import Message

CHUNK: Final = 128 * 1024
"""Bytes of one message with a part of a snapshot; the server has 64 of them on their way at once."""
QUIET: Final = 30.0
"""Seconds without such a message after which nothing more is expected; the server itself gives up after 5."""
WORK: Final = 600.0
"""Seconds for an answer before which the server may read (2.14 does), or make, a whole stream."""

OnBytes = Callable[[int], object]
"""Is told how many more bytes have been written or read."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a server must be told to take a stream's file back, and what the file must be."""

    config: Mapping[str, Any]
    state: Mapping[str, Any]
    """When the snapshot began: messages, sequences, consumers."""
    size: int
    """Bytes of the file."""
    sha256: str


async def snapshot(connection: Connection, stream: str, path: Path, on_bytes: OnBytes) -> Snapshot:
    """Write a stream, with its consumers, to a file that only its owner may read. It stands there whole or not at all.

    Raises:
        NotFoundError: there is no such stream.
        PermissionDeniedError: the credentials do not allow it; an operator's do.
        ServerError: the server broke it off; says why.
        ConnectionLostError, RequestTimeoutError: what came is not all; take it anew.
        ConfigError: the file cannot be written.
    """
    what = subjects.api("STREAM.SNAPSHOT", stream)
    arrived: asyncio.Queue[Message | None] = asyncio.Queue()
    inbox = connection.client.new_inbox()
    with connection.unbroken(what) as lost, writing(path) as file:
        lost.add_done_callback(lambda _: arrived.put_nowait(None))
        subscription = await connection.subscribe(inbox, arrived.put_nowait)
        try:
            body = {"deliver_subject": inbox, "no_consumers": False, "jsck": True, "chunk_size": _chunk(connection)}
            answer = await jetstream.call(connection, "STREAM.SNAPSHOT", stream, body=body, timeout=WORK)
            size, digest = 0, hashlib.sha256()
            while True:
                message = await _arrival(arrived, what)
                if lost.done():
                    lost.result()  # a part may be missing, and the server would not know
                if message is None or not message.data:
                    break
                await asyncio.to_thread(_keep, file, digest.update, message.data)
                if message.reply:
                    await connection.publish(message.reply)  # only now: so the server is never far ahead of the disk
                size += len(message.data)
                on_bytes(len(message.data))
            _check_end(message, f"snapshot of {stream}")
            await asyncio.to_thread(_sync, file)
        finally:
            await subscription.drain()
    return Snapshot(answer["config"], answer["state"], size, digest.hexdigest())


def _chunk(connection: Connection) -> int:
    return min(CHUNK, connection.max_payload)


async def _arrival(arrived: asyncio.Queue[Message | None], what: str) -> Message | None:
    try:
        async with asyncio.timeout(QUIET):
            return await arrived.get()
    except TimeoutError:
        raise RequestTimeoutError(what, QUIET) from None


def _check_end(message: Message | None, what: str) -> None:
    """A snapshot ends with an empty message; one that was broken off says so in its status."""
    headers = message.headers if message is not None else {}
    status = headers.get("Status", "204")
    if status != "204":
        raise ServerError(what, f"the server broke it off: {status} {headers.get('Description', '')}".strip())


async def restore(connection: Connection, path: Path, taken: Snapshot, on_bytes: OnBytes) -> dict[str, Any]:
    """Make a stream, with its consumers, of the file of its snapshot; returns what the server says of it then.

    It is made whole or not at all, as far as the server can still be reached when something goes wrong.

    Raises:
        ServerError: there is a stream of that name, or the server does not take the file; says why.
        QueueFullError: the server has no room for it.
        PermissionDeniedError: the credentials do not allow it; an operator's do.
        TransportError: the connection was lost, or there was no answer.
        ConfigError: the file cannot be read.
    """
    stream = str(taken.config["name"])
    body = {"config": taken.config, "state": taken.state}
    answer = await jetstream.call(connection, "STREAM.RESTORE", stream, body=body, timeout=QUIET)
    target = str(answer["deliver_subject"])
    try:
        with reading(path) as file:
            while piece := await asyncio.to_thread(file.read, _chunk(connection)):
                told = await connection.request(target, piece, timeout=QUIET)
                if told.data:  # an error: of all that is well the answer is empty
                    jetstream.checked(told, f"restore of {stream}")
                on_bytes(len(piece))
        return jetstream.checked(await connection.request(target, timeout=WORK), f"restore of {stream}")
    except BaseException:
        await _undo(connection, stream, target)
        raise


async def _undo(connection: Connection, stream: str, target: str) -> None:
    """Take away what the server made of a part: since 2.15 it lets that stand, and it looks like a stream of ours."""
    with contextlib.suppress(BusError):
        await connection.request(target)  # its end: before that the server would go on making it
    with contextlib.suppress(BusError):
        await jetstream.call(connection, "STREAM.DELETE", stream)


# --- files ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """A file for its owner alone. It gets its name when the block ends well, and otherwise is gone.

    Raises:
        ConfigError: it cannot be written.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            yield file
        temporary.replace(path)
    except OSError as error:
        raise _unusable(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[IO[bytes]]:
    """A file to read from.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(str(path), (error.strerror or "cannot be used").lower())


def _keep(file: IO[bytes], digest: Callable[[bytes], object], data: bytes) -> None:
    file.write(data)
    digest(data)


def _sync(file: IO[bytes]) -> None:
    """Have all of it on the disk: a name that survives a power failure shall not stand for less than the whole."""
    file.flush()
    os.fsync(file.fileno())
