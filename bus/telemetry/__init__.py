"""Spans and their propagation in headers; with its sibling modules the only importer of OpenTelemetry.

Whether a trace is recorded is decided before anything is built: creating a span that is not recorded costs 20 us in
this SDK, and here next to nothing. Must not know NATS: it is handed the publish function that its exporter needs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Final, Literal

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, StatusCode, TraceFlags

from bus.messages import SpanRecord
from bus.telemetry import ids
from bus.telemetry.export import Exporter, Publish, make_exporter
from bus.telemetry.metrics import NOT_COUNTED, Counted, Metrics
from bus.telemetry.propagation import is_dropped, read_parent, write_parent
from bus.telemetry.recorded import MAX_STACK, MAX_VALUE, Recorded, message_of

__all__ = [
    "MAX_STACK",
    "MAX_VALUE",
    "NOT_COUNTED",
    "Attributes",
    "Metrics",
    "Publish",
    "Span",
    "Telemetry",
    "current_ids",
    "span",
]

Kind = Literal["internal", "producer", "consumer", "client", "server"]
Attribute = str | int | float | bool
Attributes = Mapping[str, Attribute]

_DROPPED: Final = TraceFlags(TraceFlags.DEFAULT)
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_ROOT: Final = Context()
_ACTIVE: ContextVar[Telemetry | None] = ContextVar("revo_telemetry", default=None)


class Span:
    """A span that is not recorded: every call does nothing."""

    recorded: bool = False
    trace_id: str = ""
    """32 hex digits, empty when it is not recorded."""

    @property
    def ids(self) -> tuple[str, str]:
        """Its own id and its parent's, 16 hex digits; empty when it is not recorded, or has no parent."""
        return "", ""

    def set(self, key: str, value: Attribute) -> None:
        """Set an attribute."""

    def event(self, name: str, **attributes: Attribute) -> None:
        """Say that something happened at this moment."""

    def fail(self, error: BaseException | str) -> None:
        """Mark the span as failed."""


class _Dropped(NonRecordingSpan):
    """The current span of a trace that is not recorded. What it is called is made up, or read, when somebody asks."""

    def __init__(self, headers: Mapping[str, str] | None) -> None:
        self._headers = headers
        self._known: SpanContext | None = None

    def get_span_context(self) -> SpanContext:
        if self._known is None:
            if self._headers is None:
                self._known = SpanContext(ids.trace_id(), ids.span_id(), False, _DROPPED)
            else:
                self._known = read_parent(self._headers)
        return self._known


class _RecordedSpan(Span):
    recorded = True

    def __init__(self, inner: Recorded) -> None:
        self._inner = inner
        self.trace_id = f"{inner.get_span_context().trace_id:032x}"

    @property
    def ids(self) -> tuple[str, str]:
        parent = self._inner.parent
        return f"{self._inner.get_span_context().span_id:016x}", f"{parent.span_id:016x}" if parent else ""

    def set(self, key: str, value: Attribute) -> None:
        self._inner.set_attribute(key, value)

    def event(self, name: str, **attributes: Attribute) -> None:
        self._inner.add_event(name, attributes)

    def fail(self, error: BaseException | str) -> None:
        if isinstance(error, str):
            self._inner.set_status(StatusCode.ERROR, error)
            return
        self._inner.set_status(StatusCode.ERROR, f"{type(error).__name__}: {message_of(error)}")
        self._inner.record_exception(error)


_NOTHING: Final = Span()


class Telemetry:
    """Makes the spans of one process (or of one client in it). Records nothing before `start`."""

    def __init__(self, *, service: str, instance: str, version: str = "", sample: float = 1.0) -> None:
        self.service = service
        self.instance = instance
        self._version = version
        self._sample = sample
        self._exporter: Exporter | None = None
        self.metrics: Metrics = NOT_COUNTED

    def count(self) -> Metrics:
        """Count from now on, and return what counts."""
        self.metrics = Counted(self.service, self.instance, self._version)
        return self.metrics

    def start(self, publish: Publish | None, user: str = "") -> None:
        """Record from now on: by OTLP when `OTEL_EXPORTER_OTLP_ENDPOINT` is set, else to the mesh through `publish`, in
        the name of the service, or of the user where the server asks who we are.

        Without either, or with `OTEL_SDK_DISABLED=true`, nothing is recorded. Call it in the event loop.

        Raises:
            ConfigError: when the environment names a protocol that is not spoken, or a value that cannot be used.
        """
        self._exporter = make_exporter(self.service, self.instance, self._version, publish, user)

    def span(
        self,
        name: str,
        *,
        kind: Kind = "internal",
        headers: Mapping[str, str] | None = None,
        attributes: Attributes | Callable[[], Attributes] | None = None,
    ) -> _Scope:
        """A span for the length of a `with` block, which gets it as its target.

        With `headers` its parent is the `traceparent` in them; without, the span that is current. Where there is no
        parent a new trace begins, recorded in the share `sample`. An exception that passes through marks it failed.
        `attributes` may be a function, which is called only when the span is recorded.
        """
        return _Scope(self, name, kind, headers, attributes)

    def sending(
        self, name: str, headers: dict[str, str], attributes: Callable[[], Attributes], *, kind: Kind = "producer"
    ) -> AbstractContextManager[Span]:
        """The sender's span for the length of a `with` block, written into the headers of what is sent in it."""
        parent = trace.get_current_span().get_span_context()
        if self._exporter is None or (parent.is_valid and not parent.trace_flags.sampled):
            write_parent(parent, headers)  # what we do not record is still handed on
            return _NO_SCOPE
        if not parent.is_valid and not ids.recorded(self._sample):
            headers["traceparent"] = ids.dropped_parent()
            return _NO_SCOPE
        return _Scope(self, name, kind, None, attributes, into=headers)

    def inject(self, headers: dict[str, str]) -> None:
        """Write the current span into headers. That a trace is not recorded travels too: nobody decides anew."""
        write_parent(trace.get_current_span().get_span_context(), headers)

    def end_for(self, record: SpanRecord) -> None:
        """Send a span that its own process could not end, as the record has it: that process died."""
        if self._exporter is not None:
            self._exporter.add(record)

    async def flush(self, timeout: float = 2.0) -> None:
        """Send what has ended. Never raises; gives up after `timeout` seconds."""
        if self._exporter is not None:
            await self._exporter.flush(timeout)

    async def close(self, timeout: float = 2.0) -> None:
        """Send what has ended and record no more. Never raises; gives up soon after `timeout` seconds."""
        exporter, self._exporter = self._exporter, None
        if exporter is not None:
            await exporter.close(timeout)


class _Scope(AbstractContextManager[Span]):
    """The `with` block of a span; a class, for a generator costs twice as much."""

    __slots__ = (
        "_active",
        "_attributes",
        "_headers",
        "_into",
        "_kind",
        "_name",
        "_span",
        "_telemetry",
        "_token",
        "_wrapped",
    )

    def __init__(
        self,
        telemetry: Telemetry,
        name: str,
        kind: Kind,
        headers: Mapping[str, str] | None,
        attributes: Attributes | Callable[[], Attributes] | None,
        *,
        into: dict[str, str] | None = None,
    ) -> None:
        self._into = into
        self._telemetry = telemetry
        self._name = name
        self._kind = kind
        self._headers = headers
        self._attributes = attributes
        self._span: Recorded | None = None
        self._wrapped: Span = _NOTHING
        self._token: Token[Context] | None = None
        self._active: Token[Telemetry | None] | None = None

    def __enter__(self) -> Span:
        exporter, headers = self._telemetry._exporter, self._headers  # noqa: SLF001  (two halves of one thing)
        if headers is not None:
            if is_dropped(headers):
                self._attach(_Dropped(headers), _ROOT)  # what we do not record is still handed on
                return _NOTHING
            parent = read_parent(headers)
        elif exporter is not None:
            parent = trace.get_current_span().get_span_context()
        else:
            return _NOTHING
        if exporter is None or (parent.is_valid and not parent.trace_flags.sampled):
            if headers is not None:
                self._attach(NonRecordingSpan(parent))  # what we do not record is still handed on
            return _NOTHING
        if not parent.is_valid:
            # Whether what is sent is recorded has been decided by `sending`.
            if self._into is None and not ids.recorded(self._telemetry._sample):  # noqa: SLF001
                self._attach(_Dropped(None))
                return _NOTHING
            base: Context | None = _ROOT
            trace_id = ids.trace_id()
        else:
            base = None if headers is None else _ROOT
            trace_id = parent.trace_id
        given = self._attributes() if callable(self._attributes) else self._attributes
        valid = parent if parent.is_valid else None
        state = parent.trace_state if valid else None
        context = SpanContext(trace_id, ids.span_id(), False, _SAMPLED, state)
        self._span = Recorded(self._name, self._kind, context, valid, given or {}, exporter.on_end)
        self._attach(self._span, base)
        if self._into is not None:
            write_parent(context, self._into)
        self._active = _ACTIVE.set(self._telemetry)
        self._wrapped = _RecordedSpan(self._span)
        return self._wrapped

    def _attach(self, span: trace.Span, base: Context | None = None) -> None:
        self._token = otel_context.attach(trace.set_span_in_context(span, base))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        if self._token is None:
            return
        try:
            self._token.var.reset(self._token)
            if self._active is not None:
                _ACTIVE.reset(self._active)
        except ValueError:
            # An async generator that is not read to its end is closed in the context of another task, where there
            # is nothing to go back to; OpenTelemetry's own `detach` would log that with its stack.
            self._token = None
        if self._span is None:
            return
        if isinstance(error, asyncio.CancelledError):
            self._wrapped.event("cancelled")
            self._wrapped.fail("cancelled")
        elif error is not None and not isinstance(error, GeneratorExit):  # a generator left early has not failed
            self._wrapped.fail(error)
        self._span.end()


class _NoScope(AbstractContextManager[Span]):
    def __enter__(self) -> Span:
        return _NOTHING

    def __exit__(self, *_: object) -> None:
        return None


_NO_SCOPE: Final = _NoScope()


def span(name: str, **attributes: Attribute) -> _Scope | _NoScope:
    """A child of the current span for the length of a `with` block; nothing where no span is recorded.

    For the code of actors: a step worth seeing, a tool, a call to the world outside.
    """
    telemetry = _ACTIVE.get()
    if telemetry is None or not trace.get_current_span().is_recording():
        return _NO_SCOPE
    return telemetry.span(name, attributes=attributes)


def current_ids() -> tuple[str, str]:
    """The ids of the current trace and span, as hex digits; empty where no span is recorded."""
    context = trace.get_current_span().get_span_context()
    if not context.is_valid or not context.trace_flags.sampled:
        return "", ""
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"
