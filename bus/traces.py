"""Reading spans back from the stream TRACES, and putting them in order."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import BaseModel, TypeAdapter

from bus import codec, endings, subjects
from bus.connection import Connection
from bus.errors import DecodeError, NotFoundError
from bus.messages import SpanRecord
from bus.reading import stored_since

log = logging.getLogger(__name__)

_BATCH = 500
_RECORD: Final = TypeAdapter(SpanRecord)


class _Batch(BaseModel):
    """A `SpanBatch` whose spans are looked at before they are validated: most are of other traces."""

    spans: list[dict[str, Any]]


@dataclass(slots=True, eq=False)
class Node:
    """A span and its children, by start. `orphan`: it names a parent that was never sent; its process died."""

    span: SpanRecord
    children: list[Node] = field(default_factory=list)
    orphan: bool = False


def tree(spans: Iterable[SpanRecord]) -> list[Node]:
    """The roots of the trees that the spans make, by start; one that came twice stands once, and none is left out."""
    nodes = {span.span_id: Node(span) for span in sorted(spans, key=lambda span: span.start)}
    roots = []
    for node in nodes.values():
        parent = nodes.get(node.span.parent_id)
        if parent is not None:
            parent.children.append(node)
        else:
            node.orphan = bool(node.span.parent_id)
            roots.append(node)
    reached = _below(roots)
    for node in nodes.values():
        if node.span.span_id not in reached:  # spans that name each other as parents; whoever writes them can do that
            nodes[node.span.parent_id].children.remove(node)
            node.orphan = True
            roots.append(node)
            reached |= _below([node])
    return sorted(roots, key=lambda node: node.span.start)


def _below(nodes: Iterable[Node]) -> set[str]:
    """The ids of the nodes and of all that hangs on them."""
    ids, left = set(), list(nodes)
    while left:
        node = left.pop()
        ids.add(node.span.span_id)
        left += node.children
    return ids


async def spans_of(wanted: str, batches: AsyncIterator[tuple[Mapping[str, str], bytes]]) -> list[SpanRecord]:
    """The spans of the trace with that id, and those that name the task with that id; no other is kept in memory.

    `batches` are headers and bodies. What cannot be read is left out with a warning: others can write them too.
    """
    found = []
    async for headers, body in batches:
        try:
            batch = codec.read(_Batch, headers, body, subject=subjects.TRACES)
        except DecodeError as error:
            log.warning("%s", error)
            continue
        for span in batch.spans:
            if wanted in (span.get("trace_id"), _task_of(span)):
                try:
                    found.append(codec.validate(_RECORD, span, subject=subjects.TRACES))
                except DecodeError as error:
                    log.warning("%s", error)
    return found


def _task_of(span: dict[str, Any]) -> object:
    attributes = span.get("attributes")
    return attributes.get("messaging.message.id") if isinstance(attributes, dict) else None


async def find(connection: Connection, task_or_trace_id: str) -> list[SpanRecord]:
    """The spans of a task; see `bus.mesh.Mesh.trace`."""
    result = None
    if len(task_or_trace_id) <= 64:
        result = await endings.stored_result(connection, subjects.result_of(task_or_trace_id))
    since = result.submitted_at - 60.0 if result else time.time() - connection.settings.traces_max_age
    trace_id = result.trace_id if result and result.trace_id else task_or_trace_id
    spans = await read_trace(connection, trace_id, since=since)
    if not spans:
        raise NotFoundError(f"trace of {task_or_trace_id}", "no span is known; was it sampled, and in the last day?")
    return spans


async def read_trace(connection: Connection, trace_id: str, *, since: float) -> list[SpanRecord]:
    """The spans of a trace, or of the task with that id, that were sent after `since` (unix seconds)."""
    spans = await spans_of(trace_id, _batches(connection, since))
    named = [span for span in spans if span.trace_id != trace_id]
    if named:  # the id is a task's: read again, for most spans of its trace do not name it
        found = max(named, key=lambda span: span.start).trace_id
        spans = await spans_of(found, _batches(connection, since))
    return spans


async def _batches(connection: Connection, since: float) -> AsyncIterator[tuple[Mapping[str, str], bytes]]:
    async for message in stored_since(connection, subjects.TRACES, since):
        yield message.headers, message.data
