"""Reading spans back from the stream TRACES, and putting them in order."""

from __future__ import annotations

import asyncio
import datetime
import json
import logging
import secrets
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

from nats.aio.msg import Msg

from bus import codec, jetstream, subjects
from bus.connection import Connection
from bus.errors import DecodeError, RequestTimeoutError
from bus.messages import SpanBatch, SpanRecord

log = logging.getLogger(__name__)

_BATCH = 500


@dataclass(slots=True)
class Node:
    """A span and its children, by start. `orphan`: it names a parent that was never sent; its process died."""

    span: SpanRecord
    children: list[Node] = field(default_factory=list)
    orphan: bool = False


def tree(spans: Iterable[SpanRecord]) -> list[Node]:
    """The roots of the trees that the spans make, by start; a span that came twice stands once."""
    nodes = {span.span_id: Node(span) for span in spans}
    roots = []
    for node in sorted(nodes.values(), key=lambda node: node.span.start):
        parent = nodes.get(node.span.parent_id)
        if parent is not None and parent is not node:
            parent.children.append(node)
        else:
            node.orphan = bool(node.span.parent_id)
            roots.append(node)
    return roots


async def read_trace(connection: Connection, trace_id: str, *, since: float) -> list[SpanRecord]:
    """The spans of a trace, or of the task with that id, that were sent after `since` (unix seconds)."""
    spans: list[SpanRecord] = []
    found = trace_id
    async for message in stored_since(connection, subjects.TRACES, since):
        try:
            batch = codec.read(SpanBatch, message.headers or {}, message.data, subject=message.subject)
        except DecodeError as error:
            log.warning("%s", error)
            continue
        for span in batch.spans:
            if span.attributes.get("messaging.message.id") == trace_id:
                found = span.trace_id
        spans += batch.spans
    return [span for span in spans if span.trace_id == found]


async def stored_since(connection: Connection, stream: str, since: float) -> AsyncIterator[Msg]:
    """What a stream has stored from a time on until now, in order. Reads by a consumer that goes by itself."""
    name = f"read-{secrets.token_hex(8)}"
    start = datetime.datetime.fromtimestamp(max(0.0, since), datetime.UTC).isoformat()
    config = {
        "name": name,
        "deliver_policy": "by_start_time",
        "opt_start_time": start,
        "ack_policy": "none",
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": 30_000_000_000,
    }
    body = {"stream_name": stream, "config": config, "action": "create"}
    await jetstream.call(connection, "CONSUMER.CREATE", stream, name, body=body)
    arrived: asyncio.Queue[Msg] = asyncio.Queue()
    inbox = connection.client.new_inbox()
    subscription = await connection.subscribe(inbox, arrived.put)
    request = json.dumps({"batch": _BATCH, "no_wait": True}).encode()
    try:
        more = True
        while more:
            await connection.publish(subjects.api("CONSUMER.MSG.NEXT", stream, name), request, reply=inbox)
            for _ in range(_BATCH):
                try:
                    async with asyncio.timeout(connection.settings.request_timeout):
                        message = await arrived.get()
                except TimeoutError:
                    raise RequestTimeoutError(stream, connection.settings.request_timeout) from None
                if not message.reply:  # 404 or 408: that was all
                    more = False
                    break
                yield message
    finally:
        await subscription.drain()
        await jetstream.call(connection, "CONSUMER.DELETE", stream, name)
