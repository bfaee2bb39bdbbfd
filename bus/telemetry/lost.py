"""Spans that are ended by others than their own process, because it died."""

from __future__ import annotations

from typing import Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from bus.messages import SpanRecord

_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)


def readable(record: SpanRecord) -> ReadableSpan:
    """The record as the SDK's exporters take it: a failed span of the process that the record names."""
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
    )
