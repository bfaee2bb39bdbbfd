"""Writes on their way: looked through, encoded, and as the messages that they become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from actors.memory import versions
from actors.memory.backend import Author, Write
from actors.memory.model import Entry, Namespace
from actors.memory.strategies import Decision
from bus import batch, subjects
from bus.batch import Part
from bus.errors import BatchTooLargeError, ConfigError, PayloadTooLargeError
from bus.messages import EXPECTED_SUBJECT_SEQUENCE

DELETE = "DEL"
"""What the header `KV-Operation` says of a version that is a delete; `nats kv` reads it."""


class Order(NamedTuple):
    """One write that can be carried out."""

    write: Write
    subject: str
    body: bytes
    value: Any = None
    """As it will be read: plain."""


class Job(NamedTuple):
    """What all writes of one call share."""

    namespace: str
    how: Namespace
    author: Author
    id: str
    headers: Mapping[str, str]
    """Of every version that it makes."""
    shared: bool = False
    """Whether others may have been asked for the same."""
    asked: float = 0.0
    """When one was for the first time, or a bit later, by the monotonic clock; 0: none was."""


def order(namespace: str, write: Write, max_payload: int) -> Order:
    """Look a write through and encode it.

    Raises:
        InvalidKeyError, InvalidSubjectError, InvalidTtlError, NoSuchVersionError, EncodeError, PayloadTooLargeError: it
            cannot be carried out.
    """
    subject = versions.subject_of(namespace, write.key)
    versions.check(write)
    if write.delete:
        return Order(write, subject, b"")
    body, plain = versions.encode(write.key, write.value)
    if len(body) > max_payload:
        raise PayloadTooLargeError(write.key, len(body), max_payload)
    return Order(write, subject, body, plain)


def check_together(orders: Sequence[Order]) -> None:
    """See that writes can be carried out all at once.

    Raises:
        BatchTooLargeError, ConfigError: they cannot.
    """
    if not 0 < len(orders) <= batch.MAX:
        raise BatchTooLargeError(len(orders), batch.MAX)
    seen: set[str] = set()
    for one in orders:
        if one.subject in seen:
            raise ConfigError(one.write.key, "it is to be written twice at once")
        seen.add(one.subject)


def plain_part(job: Job, one: Order, condition: Mapping[str, str]) -> Part:
    """The message of a write that becomes the next version as it is."""
    write = one.write
    headers = {**job.headers, **condition}
    if write.base:
        headers[versions.BASE] = f"{write.base}"
    if write.delete:
        headers[versions.OPERATION] = DELETE
    elif write.ttl:
        headers[versions.TTL] = repr(float(write.ttl))
    if job.how.ranks:
        headers[versions.RANK] = str(job.how.rank_of(job.author.by, job.author.agent))
    return Part(one.subject, one.body, headers)


def decided_parts(
    job: Job, one: Order, decision: Decision, standing: Entry | None, max_payload: int
) -> tuple[Part, ...]:
    """The messages of what was decided on a write; the first is the next version, and is stored only if what stood
    there still does.

    Raises:
        PayloadTooLargeError: with what it is to stand beside, it is too large.
    """
    write = one.write
    headers = {**job.headers, EXPECTED_SUBJECT_SEQUENCE: str(standing.version if standing is not None else 0)}
    said: dict[str, Any] = {
        versions.BASE: write.base,
        versions.MERGED: decision.merged,
        versions.RANK: decision.rank,
        versions.TTL: float(decision.ttl),
        versions.OPERATION: DELETE if decision.deleted else "",
        versions.CONFLICTS: len(decision.alternatives),
        versions.OUTCOME: decision.outcome if decision.outcome != "written" else "",
    }
    if decision.outcome == "conflict" and standing is not None:  # what stands there is still his who wrote it
        headers.pop(versions.TASK, None)
        said |= {versions.BY: standing.by, versions.TASK: standing.task}
    headers.update({name: str(value) for name, value in said.items() if value})
    if decision.alternatives:
        body = versions.with_alternatives(write.key, decision.value, decision.alternatives)
    elif decision.deleted:
        body = b""
    elif decision.value is one.value:
        body = one.body
    else:
        body = versions.encode(write.key, decision.value)[0]
    if len(body) > max_payload:
        raise PayloadTooLargeError(write.key, len(body), max_payload)
    part = Part(one.subject, body, headers)
    if len(decision.alternatives) <= (len(standing.alternatives) if standing is not None else 0):
        return (part,)  # that it has some was said when it got them
    return part, Part(versions.subject_of(job.namespace, write.key, subjects.CONFLICTS), b"", dict(job.headers))
