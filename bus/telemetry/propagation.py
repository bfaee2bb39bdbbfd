"""W3C trace context in message headers (https://www.w3.org/TR/trace-context/)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from opentelemetry.trace import INVALID_SPAN_CONTEXT, SpanContext, TraceFlags, TraceState

_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?\Z")
_NO_STATE: Final = TraceState()


def read_parent(headers: Mapping[str, str]) -> SpanContext:
    """The remote parent that the headers name; an invalid one when they name none that makes sense."""
    # Go's OpenTelemetry writes its keys in canonical form, and NATS keeps them as they are.
    match = _TRACEPARENT.match((headers.get("traceparent") or headers.get("Traceparent") or "").strip())
    if match is None:
        return INVALID_SPAN_CONTEXT
    version, trace_id, span_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return INVALID_SPAN_CONTEXT
    state = headers.get("tracestate") or headers.get("Tracestate")
    return SpanContext(
        int(trace_id, 16),
        int(span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(int(flags, 16)),
        trace_state=TraceState.from_header([state]) if state else _NO_STATE,
    )


def is_dropped(headers: Mapping[str, str]) -> bool:
    """Whether the headers name a trace that is not recorded, told without reading the rest. False where in doubt."""
    said = headers.get("traceparent", "")
    return len(said) == 55 and said.startswith("00-") and said.endswith("-00")


def write_parent(context: SpanContext, headers: dict[str, str]) -> None:
    """Make `context` the parent of whoever reads the headers."""
    if not context.is_valid:
        return
    headers["traceparent"] = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    if context.trace_state:
        headers["tracestate"] = context.trace_state.to_header()
    else:
        headers.pop("tracestate", None)  # it would be another trace's
