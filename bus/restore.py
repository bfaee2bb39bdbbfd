"""Puts a backup back (`bus.backup`), where none of its streams stands.

TASKS comes last: nobody finds work before all that it needs stands again. What ran when the backup was taken is taken
for what a worker died with, once.

Of the tasks that were accepted while the backup was taken, some have a result in it and never stood in its copy of
TASKS, and the sequences that they had are given to others now. A note in AUDIT says from which sequence on that is, and
since when the queue has been there: the server takes a restored stream for a new one.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

from bus import codec, jetstream, snapshots, subjects, topology
from bus.backup import Backup, Kept, OnBytes, data_file
from bus.connection import Connection
from bus.errors import BusError, NotFoundError
from bus.messages import CONTENT_TYPE, MSGPACK
from bus.snapshots import Snapshot


class StreamsStandError(BusError):
    """A restore would overwrite what stands."""

    def __init__(self, streams: tuple[str, ...]) -> None:
        super().__init__(streams)
        self.streams = streams

    def __str__(self) -> str:
        return (
            f"{', '.join(self.streams)} stand on this server already, and nothing was changed; "
            "--replace deletes and restores them"
        )


class AtWorkError(BusError):
    """Streams are not replaced while somebody works with them."""

    def __init__(self, consumers: tuple[str, ...]) -> None:
        super().__init__(consumers)
        self.consumers = consumers

    def __str__(self) -> str:
        shown = ", ".join(self.consumers[:5]) + (" and others" if len(self.consumers) > 5 else "")
        return f"somebody waits for work on {shown}, and nothing was changed; end all actors first, stewards too"


class Restored(NamedTuple):
    """A stream that stands again."""

    stream: str
    messages: int
    consumers: int
    size: int
    """Bytes of its file."""


async def restore(
    connection: Connection, folder: Path, backup: Backup, *, replace: bool, on_bytes: OnBytes
) -> list[Restored]:
    """Make the streams of a backup that `backup.load` has checked. Actors are to be started afterwards.

    Where one of them stands already nothing is changed; with `replace` those are deleted first, unless somebody works
    with them. What was begun and fails is to be repeated with `replace`.

    Raises:
        StreamsStandError, AtWorkError: nothing was changed.
        PermissionDeniedError: the credentials are no operator's.
        ServerError, QueueFullError, TransportError: not all streams stand again.
        ConfigError: a file cannot be read.
    """
    standing = [kept.stream for kept in backup.streams if await _stands(connection, kept.stream)]
    if standing and not replace:
        raise StreamsStandError(tuple(standing))
    at_work = [one for stream in standing for one in await _waited_on(connection, stream)]
    if at_work:
        raise AtWorkError(tuple(at_work))
    for stream in standing:
        await jetstream.call(connection, "STREAM.DELETE", stream)
    done = []
    for kept in sorted(backup.streams, key=lambda kept: kept.stream == subjects.TASKS):
        if kept.stream == subjects.TASKS:
            await _note(connection, kept)
        taken = Snapshot(kept.config, kept.state, kept.size, kept.sha256)
        path = data_file(folder, kept.stream)
        told = await snapshots.restore(connection, path, taken, functools.partial(on_bytes, kept.stream))
        state = told["state"]
        done.append(Restored(kept.stream, int(state["messages"]), int(state.get("consumer_count", 0)), kept.size))
    await topology.apply(connection)  # what is of the moment is in no backup
    return done


async def _stands(connection: Connection, stream: str) -> bool:
    try:
        await jetstream.call(connection, "STREAM.INFO", stream)
    except NotFoundError:
        return False
    return True


async def _waited_on(connection: Connection, stream: str) -> list[str]:
    """The consumers on which a pull stands: there is somebody who waits for work."""
    found: list[str] = []
    offset, total = 0, 1
    while offset < total:
        page = await jetstream.call(connection, "CONSUMER.LIST", stream, body={"offset": offset})
        consumers = page["consumers"] or []
        found += [one["name"] for one in consumers if one.get("num_waiting")]
        offset, total = offset + max(1, len(consumers)), int(page["total"])
    return found


async def _note(connection: Connection, tasks: Kept) -> None:
    """Say from which sequence on the queue counts anew, and since when it has been there (`bus.audit`)."""
    if not await _stands(connection, subjects.AUDIT):
        return
    at = await topology.server_time(connection, subjects.AUDIT)
    body = {"at": at, "last": int(tasks.state["last_seq"]), "created": tasks.created}
    await jetstream.store(connection, subjects.note("restored"), codec.encode(body), {CONTENT_TYPE: MSGPACK})
