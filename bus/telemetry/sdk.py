"""Spans in the form of OpenTelemetry's SDK, as its exporters take them."""

from __future__ import annotations

import os
import socket
from typing import Final

from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from bus.messages import SpanRecord
from bus.telemetry.recorded import Recorded

_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_SCOPE: Final = InstrumentationScope("revo")


def resource_of(service: str, instance: str, version: str) -> Resource:
    """Who this process is. The environment adds to it, but cannot give all actors of `revo up` one name."""
    ours: dict[str, str | int] = {
        "service.name": service,
        "service.instance.id": instance,
        "process.pid": os.getpid(),
        "host.name": socket.gethostname(),
    }
    if version:
        ours["service.version"] = version
    return OTELResourceDetector().detect().merge(Resource(ours))


def readable(span: Recorded, resource: Resource) -> ReadableSpan:
    """A span of this process."""
    return ReadableSpan(
        name=span.name,
        context=span.get_span_context(),
        parent=span.parent,
        resource=resource,
        attributes=span.attributes,
        events=[Event(name, attributes, moment) for name, moment, attributes in span.events],
        kind=SpanKind[span.kind.upper()],
        status=Status(StatusCode[span.status.upper()], span.status_message or None),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=_SCOPE,
    )


def readable_record(record: SpanRecord) -> ReadableSpan:
    """A failed span of another process, the one that the record names: it died, and others end its spans."""
    trace_id = int(record.trace_id, 16)
    parent = int(record.parent_id, 16) if record.parent_id else 0
    return ReadableSpan(
        name=record.name,
        context=SpanContext(trace_id, int(record.span_id, 16), is_remote=True, trace_flags=_SAMPLED),
        parent=SpanContext(trace_id, parent, is_remote=True, trace_flags=_SAMPLED) if parent else None,
        resource=Resource({"service.name": record.service, "service.instance.id": record.instance}),
        attributes=record.attributes,
        kind=SpanKind[record.kind.upper()],
        status=Status(StatusCode.ERROR, record.status_message),
        start_time=int(record.start * 1e9),
        end_time=int(record.end * 1e9),
        instrumentation_scope=_SCOPE,
    )
