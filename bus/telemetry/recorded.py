"""A span that is recorded: OpenTelemetry's to whoever asks for the current one, and cheap.

The SDK's own span takes 12 us to start and end, for its samplers, locks, limits and links; of a task's time that is a
tenth at either side. This one keeps what a span says and hands itself to the exporter, which gives it the SDK's form
where a collector wants that (`bus.telemetry.otlp`).
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.trace import SpanContext, Status, StatusCode
from opentelemetry.util import types

Value = str | int | float | bool | list[Any]

MAX_STACK: Final = 8192
MAX_VALUE: Final = 4096
MAX_FRAME: Final = 1024
"""Characters of a stack, of any other value, and of one frame of a stack that a span keeps."""
MOST: Final = 128
"""Attributes, and events, that a span keeps: what OpenTelemetry's specification has as its default."""
_INT64: Final = 1 << 63


class Recorded(trace.Span):
    """A span that goes to `on_end` when it ends. Times are unix nanoseconds."""

    __slots__ = (
        "_context",
        "_on_end",
        "attributes",
        "end_time",
        "events",
        "kind",
        "name",
        "parent",
        "start_time",
        "status",
        "status_message",
    )

    def __init__(  # noqa: PLR0917  (made in one place, once for each span)
        self,
        name: str,
        kind: str,
        context: SpanContext,
        parent: SpanContext | None,
        attributes: Mapping[str, Any],
        on_end: Callable[[Recorded], None],
    ) -> None:
        self.name = text(name)
        self.kind = kind
        self._context = context
        self.parent = parent
        self._on_end = on_end
        self.attributes: dict[str, Value] = {text(key): clean(value) for key, value in attributes.items()}
        self.events: list[tuple[str, int, dict[str, Value]]] = []
        """Name, time, attributes."""
        self.status = "unset"
        """Or `ok`, or `error`."""
        self.status_message = ""
        self.start_time = time.time_ns()
        self.end_time = 0
        """0 until it has ended; from then on nothing changes it."""

    def get_span_context(self) -> SpanContext:
        """What its children name as their parent."""
        return self._context

    def is_recording(self) -> bool:
        """Whether it has not ended."""
        return not self.end_time

    def set_attribute(self, key: str, value: types.AttributeValue) -> None:
        """Set an attribute."""
        if not self.end_time and (len(self.attributes) < MOST or key in self.attributes):
            self.attributes[text(key)] = clean(value)

    def set_attributes(self, attributes: Mapping[str, types.AttributeValue]) -> None:
        """Set attributes."""
        for key, value in attributes.items():
            self.set_attribute(key, value)

    def add_event(self, name: str, attributes: types.Attributes = None, timestamp: int | None = None) -> None:
        """Say that something happened, at this moment unless a time is given."""
        if not self.end_time and len(self.events) < MOST:
            kept = {text(key): clean(value) for key, value in (attributes or {}).items()}
            self.events.append((text(name), timestamp or time.time_ns(), kept))

    def update_name(self, name: str) -> None:
        """Call it something else."""
        if not self.end_time:
            self.name = text(name)

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Say how it went. What is `ok` stays so."""
        if self.end_time or self.status == "ok":
            return
        if isinstance(status, Status):
            description, status = status.description, status.status_code
        self.status = status.name.lower()
        self.status_message = text(description or "") if status is StatusCode.ERROR else ""

    def record_exception(
        self,
        exception: BaseException,
        attributes: types.Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,  # noqa: ARG002, FBT001, FBT002  (the interface's)
    ) -> None:
        """Say that an exception was raised, with its stack."""
        # Frame by frame, or a message of many lines (the body of a reply) would push out the stack before it.
        stack = "".join(
            line if len(line) <= MAX_FRAME else f"{line[:MAX_FRAME]}...\n"
            for line in traceback.format_exception(exception)
        )
        said: dict[str, Value] = {
            "exception.type": f"{type(exception).__module__}.{type(exception).__qualname__}",
            "exception.message": text(message_of(exception)),
            "exception.stacktrace": text(stack[-MAX_STACK:], MAX_STACK),
        }
        if not self.end_time and len(self.events) < MOST:
            more = {text(key): clean(value) for key, value in (attributes or {}).items()}
            self.events.append(("exception", timestamp or time.time_ns(), {**said, **more}))

    def end(self, end_time: int | None = None) -> None:
        """End it, once."""
        if not self.end_time:
            self.end_time = end_time or time.time_ns()
            self._on_end(self)

    def record(self, service: str, instance: str) -> dict[str, Any]:
        """The span as `bus.messages.SpanRecord` has it."""
        return {
            "trace_id": f"{self._context.trace_id:032x}",
            "span_id": f"{self._context.span_id:016x}",
            "parent_id": f"{self.parent.span_id:016x}" if self.parent else "",
            "name": self.name,
            "kind": self.kind,
            "service": service,
            "instance": instance,
            "start": self.start_time / 1e9,
            "end": self.end_time / 1e9,
            "status": self.status,
            "status_message": self.status_message,
            "attributes": self.attributes,
            "events": [
                {"name": name, "time": moment / 1e9, "attributes": given} for name, moment, given in self.events
            ],
        }


def clean(value: object) -> Value:
    """The value as any exporter can send it; one that cannot be encoded would take its whole batch along."""
    if isinstance(value, str):
        return text(value)
    if isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        # Not in decimals, which Python refuses for very long ones.
        return value if -_INT64 <= value < _INT64 else f"{value:#x}"[:MAX_VALUE]
    if isinstance(value, list | tuple):
        return [clean(one) for one in value[:MOST]]
    return text(f"{value}")


def text(value: str, most: int = MAX_VALUE) -> str:
    """At most `most` characters, none of them half of a surrogate pair."""
    if len(value) > most:
        value = value[:most]
    return value if value.isascii() else value.encode(errors="replace").decode()


def message_of(error: BaseException) -> str:
    """The text of an error, also of one whose own `__str__` fails: the caller must get the first error, not that."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001
        return "(its text cannot be had)"
