"""A version of an entry as it stands in the stream: the value is the body, all else stands in headers.

Where there is a conflict set the body is a map of the value and the set. `docs/memory.md` tells the same to others.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Final

from actors.memory.backend import Author, Write
from actors.memory.errors import InvalidTtlError, NoSuchVersionError
from actors.memory.model import Alternative, Entry, Summary
from bus import codec, subjects
from bus.errors import DecodeError, EncodeError
from bus.jetstream import StoredMessage
from bus.messages import CONTENT_TYPE, MSGPACK, TRACEPARENT

STREAM: Final = subjects.bucket(subjects.MEMORY_BUCKET)

OPERATION: Final = "KV-Operation"
BY: Final = "Revo-By"
TASK: Final = "Revo-Task"
WRITE: Final = "Revo-Write"
"""An id of the write that made this version: whoever has lost the answer finds out by it."""
BASE: Final = "Revo-Base"
MERGED: Final = "Revo-Merged"
RANK: Final = "Revo-Rank"
TTL: Final = "Revo-Ttl"
EXPIRED: Final = "Revo-Expired"
OUTCOME: Final = "Revo-Outcome"
"""What became of the write that made this version, if it is not simply `written`."""
PURGED: Final = "Revo-Purged"
"""Older versions were dropped to make room for this one: how many are kept says nothing then."""
CONFLICTS: Final = "Revo-Conflicts"
"""How many alternatives there are."""

MAX_TTL: Final = 10 * 366 * 86400.0
"""Seconds; who wants more wants no end."""
MAX_VERSION: Final = 2**63

_PREFIX: Final = subjects.entry(subjects.MEMORY_BUCKET, "")


@functools.lru_cache(maxsize=8192)
def subject_of(namespace: str, key: str, kind: str = subjects.ENTRIES) -> str:
    """Where the versions of an entry stand, or the word that it has conflicts.

    Raises:
        InvalidKeyError, InvalidSubjectError: there can be no such key, or namespace.
    """
    return _PREFIX + subjects.kept(kind, namespace, key)


def key_of(subject: str) -> str:
    """The key of what stands on a subject of `subject_of`."""
    return subjects.parse_kept(subject.removeprefix(_PREFIX))[1]


def namespace_of(subject: str) -> str:
    """The namespace of an entry, or of what says how it is used, by their subject."""
    return subject.removeprefix(_PREFIX).split(".")[1]


# --- out --------------------------------------------------------------------------------------------------


def index_of(subject: str) -> str:
    """Where it stands that an entry, by its subject, has conflicts."""
    kind = f"{_PREFIX}{subjects.ENTRIES}."
    return f"{_PREFIX}{subjects.CONFLICTS}.{subject.removeprefix(kind)}"


def is_version(number: object) -> bool:
    """Whether there can be such a version."""
    return isinstance(number, int) and not isinstance(number, bool) and 0 < number < MAX_VERSION


def check(write: Write) -> None:
    """See that a write makes sense.

    Raises:
        InvalidTtlError, NoSuchVersionError: it makes none.
    """
    ttl, base = write.ttl, write.base
    if ttl != 0 and (isinstance(ttl, bool) or not isinstance(ttl, int | float) or not 0 < ttl <= MAX_TTL):
        raise InvalidTtlError(f"{write.key}", f"a ttl of {ttl!r:.40} is none: 0 to {MAX_TTL:.0f} s, 0 for no end")
    if base is not None and base != 0 and not is_version(base):
        raise NoSuchVersionError(write.key, base, "a version is a number, 0 where there is none")


def encode(key: str, value: Any) -> tuple[bytes, Any]:
    """A value as it is stored, and as it will be read: plain.

    Raises:
        EncodeError: it cannot be stored, or could not be read again; the error names the key.
    """
    body = codec.encode(value, subject=key)
    try:
        return body, codec.decode(body, MSGPACK, subject=key)
    except DecodeError as error:
        raise EncodeError(key, f"it could not be read again: {error.reason}") from error


def with_alternatives(key: str, value: Any, alternatives: tuple[Alternative, ...]) -> bytes:
    """The body of a version that has a conflict set."""
    others = [
        {
            "value": one.value,
            "base": one.base,
            "by": one.by,
            "at": one.at,
            "task": one.task,
            "trace_id": one.trace_id,
            "deleted": one.deleted,
            "reason": one.reason,
        }
        for one in alternatives
    ]
    return codec.encode({"value": value, "alternatives": others}, subject=key)


def headers_of(author: Author, write_id: str, traced: Mapping[str, str]) -> dict[str, str]:
    """The headers that all versions of one write have."""
    headers = {CONTENT_TYPE: MSGPACK, BY: author.by, WRITE: write_id, **traced}
    if author.task:
        headers[TASK] = author.task
    return headers


# --- in ---------------------------------------------------------------------------------------------------


def entry_of(stored: StoredMessage, key: str, *, now: float = 0.0) -> Entry:
    """The version in a stored message; `now`, by the server's clock, tells whether its time has run out.

    Raises:
        DecodeError: it is none.
    """
    headers, at = stored.headers, stored.stored_at_ns / 1e9
    get = headers.get
    deleted = get(OPERATION) is not None
    alternatives: tuple[Alternative, ...] = ()
    try:
        ttl = float(get(TTL, 0.0))
        base, merged, rank = int(get(BASE, 0)), int(get(MERGED, 0)), int(get(RANK, 0))
        if CONFLICTS in headers:
            value, alternatives = _conflict(codec.decode(stored.body, MSGPACK, subject=key))
        elif deleted:
            value = None
        else:
            value = codec.decode(stored.body, codec.content_type_of(headers, subject=key), subject=key)
    except (ValueError, TypeError, KeyError) as error:
        raise DecodeError(key, f"version {stored.sequence} is no entry: {error}") from error
    return Entry(
        key,
        stored.sequence,
        value,
        at,
        get(BY, ""),
        get(TASK, ""),
        trace_of(headers),
        base,
        merged,
        rank,
        ttl,
        deleted,
        EXPIRED in headers or (ttl > 0 and now >= at + ttl),
        alternatives,
    )


def summary_of(stored: StoredMessage, *, now: float) -> Summary | None:
    """What a list says of a version; None where nothing stands."""
    headers, ttl = stored.headers, time_to_live(stored.headers)
    if OPERATION in headers or (ttl and now >= stored.stored_at + ttl):
        return None
    return shown(stored)


def shown(stored: StoredMessage) -> Summary:
    """What a list says of a version, whatever it is."""
    get, size = stored.headers.get, len(stored.body)
    ttl, conflicts = time_to_live(stored.headers), conflicts_of(stored.headers)
    return Summary(key_of(stored.subject), stored.sequence, stored.stored_at, get(BY, ""), size, ttl, conflicts)


def time_to_live(headers: Mapping[str, str]) -> float:
    """Seconds for which a version with these headers stands; 0: without end."""
    said = headers.get(TTL)
    try:
        return float(said) if said else 0.0
    except ValueError:
        return 0.0  # none of ours: whoever reads it is told


def conflicts_of(headers: Mapping[str, str]) -> int:
    """How many alternatives a version with these headers has."""
    said = headers.get(CONFLICTS, "")
    return int(said) if said.isdecimal() else 0


def _conflict(body: Any) -> tuple[Any, tuple[Alternative, ...]]:
    return body["value"], tuple(Alternative(**one) for one in body["alternatives"])


def trace_of(headers: Mapping[str, str]) -> str:
    """The id of the trace that the headers name, if it is recorded."""
    said = headers.get(TRACEPARENT, "")
    return said[3:35] if said.endswith("-01") else ""
