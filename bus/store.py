"""Values by key in a bucket: read, put, compare and swap, lease. A bucket is a stream (ADR-8), read from its leader.

Not by nats-py's own key-value store, which mistakes the mark of an expired lease for an entry (trap 6).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bus import jetstream, subjects
from bus.connection import Connection
from bus.errors import WrongSequenceError
from bus.jetstream import StoredMessage
from bus.messages import EXPECTED_SUBJECT_SEQUENCE, MSG_TTL
from bus.streams import MARKER_TTL

_OPERATION: Final = "KV-Operation"
_MARKER: Final = "Nats-Marker-Reason"


@dataclass(frozen=True, slots=True)
class Entry:
    """What stands, or last stood, under a key."""

    key: str
    body: bytes
    headers: dict[str, str]
    revision: int
    """Its sequence in the stream; grows with every write to the bucket."""
    stored_at: float
    """Unix seconds, by the server's clock."""
    expired: bool = False
    """Its time ran out: nobody took it away."""
    removed: bool = False
    """Somebody took it away."""

    @property
    def live(self) -> bool:
        """Whether there is a value."""
        return not (self.expired or self.removed)


def entry_of(bucket: str, stored: StoredMessage) -> Entry:
    """The entry in a message of the bucket's stream."""
    return Entry(
        key=stored.subject.removeprefix(subjects.entry(bucket, "")),
        body=stored.body,
        headers=stored.headers,
        revision=stored.sequence,
        stored_at=stored.stored_at,
        expired=_MARKER in stored.headers,
        removed=stored.headers.get(_OPERATION) in ("DEL", "PURGE"),
    )


class Bucket:
    """One key-value bucket that `bus.topology` made. Keys keep to subject tokens, with dots between."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self.name = name

    async def get(self, key: str) -> Entry | None:
        """What stands under a key, or the mark of what did, as the leader has it; None when there is neither."""
        stored = await jetstream.last(self._connection, subjects.bucket(self.name), subjects.entry(self.name, key))
        return entry_of(self.name, stored) if stored is not None else None

    async def put(
        self,
        key: str,
        body: bytes,
        headers: dict[str, str] | None = None,
        *,
        expect: int | None = None,
        ttl: float = 0.0,
        patience: float | None = None,
    ) -> int:
        """Write a value and return its revision.

        With `expect` only if that revision, or mark, is what stands there (0: nothing). `ttl` is whole seconds, from 1;
        0 keeps it for ever.

        Raises:
            WrongSequenceError: something else stands there.
            TransportError: whether it was written is not known.
        """
        more = dict(headers or {})
        if expect is not None:
            more[EXPECTED_SUBJECT_SEQUENCE] = str(expect)
        if ttl:
            more[MSG_TTL] = f"{int(ttl)}s"
        subject = subjects.entry(self.name, key)
        return (await jetstream.store(self._connection, subject, body, more, patience=patience)).sequence

    async def create(self, key: str, body: bytes, headers: dict[str, str] | None = None, *, ttl: float = 0.0) -> int:
        """Write a value where there is none; an expired or removed one is none.

        Raises:
            WrongSequenceError: there is one.
        """
        try:
            return await self.put(key, body, headers, expect=0, ttl=ttl)
        except WrongSequenceError:
            standing = await self.get(key)
            if standing is not None and standing.live:
                raise
            return await self.put(key, body, headers, expect=standing.revision if standing else 0, ttl=ttl)

    async def remove(
        self, key: str, *, expect: int | None = None, ttl: float = MARKER_TTL, patience: float | None = None
    ) -> int:
        """Take a value away. The mark that it leaves for those who watch goes by itself after `ttl` seconds.

        Raises:
            WrongSequenceError: something else stands there than was expected.
        """
        mark = {_OPERATION: "PURGE"}  # each key holds one message, so nothing is left to roll up
        return await self.put(key, b"", mark, expect=expect, ttl=ttl, patience=patience)
