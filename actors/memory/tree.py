"""One table of locks where it stands: read, changed by compare and swap, followed while somebody waits."""

from __future__ import annotations

from typing import NamedTuple

from actors.memory import locktable
from actors.memory.locktable import Table
from bus import jetstream, subjects
from bus.connection import Connection


class Standing(NamedTuple):
    """What stands in the bucket. Revision 0: nothing ever did."""

    table: Table
    revision: int


async def read(connection: Connection, table: str) -> Standing:
    """A table, by its key in the bucket, as the leader has it.

    Raises:
        DecodeError: what stands there is no table.
        TransportError: no answer.
    """
    subject = subjects.entry(subjects.MEMORY_BUCKET, table)
    stored = await jetstream.last(connection, subjects.bucket(subjects.MEMORY_BUCKET), subject, quick=True)
    if stored is None:
        return Standing(locktable.EMPTY, 0)
    return Standing(locktable.decode(stored.body, stored.sequence, subject=subject), stored.sequence)
