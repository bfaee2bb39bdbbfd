"""Spans and their propagation in headers; with its two sibling modules the only importer of OpenTelemetry.

Whether a trace is recorded is decided before anything is built: creating a span that is not recorded costs 20 us in
this SDK, and here next to nothing. Must not know NATS: it is handed the publish function that its exporter needs.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Final, Literal

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Tracer
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from bus.telemetry.export import Publish, Recorder, make_recorder
from bus.telemetry.propagation import read_parent, write_parent

__all__ = ["Attributes", "Publish", "Span", "Telemetry", "span"]

Kind = Literal["internal", "producer", "consumer", "client", "server"]
Attribute = str | int | float | bool
Attributes = Mapping[str, Attribute]

MAX_STACK: Final = 8192
MAX_VALUE: Final = 4096
"""Characters of a stack, and of any other value, that a span keeps."""

_KINDS: Final = {
    "internal": SpanKind.INTERNAL,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
    "client": SpanKind.CLIENT,
    "server": SpanKind.SERVER,
}
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_DROPPED: Final = TraceFlags(TraceFlags.DEFAULT)
_ROOT: Final = Context()
_ACTIVE: ContextVar[Telemetry | None] = ContextVar("revo_telemetry", default=None)


class Span:
    """A span that is not recorded: every call does nothing."""

    recorded: bool = False
    trace_id: str = ""
    """32 hex digits, empty when it is not recorded."""

    def set(self, key: str, value: Attribute) -> None:
        """Set an attribute."""

    def event(self, name: str, **attributes: Attribute) -> None:
        """Say that something happened at this moment."""

    def fail(self, error: BaseException | str) -> None:
        """Mark the span as failed."""


class _RecordedSpan(Span):
    recorded = True

    def __init__(self, inner: trace.Span) -> None:
        self._inner = inner
        self.trace_id = f"{inner.get_span_context().trace_id:032x}"

    def set(self, key: str, value: Attribute) -> None:
        self._inner.set_attribute(key, _cut(value))

    def event(self, name: str, **attributes: Attribute) -> None:
        self._inner.add_event(name, {key: _cut(value) for key, value in attributes.items()})

    def fail(self, error: BaseException | str) -> None:
        if isinstance(error, str):
            self._inner.set_status(Status(StatusCode.ERROR, error[:MAX_VALUE]))
            return
        text = f"{type(error).__name__}: {error}"[:MAX_VALUE]
        self._inner.set_status(Status(StatusCode.ERROR, text))
        import traceback  # noqa: PLC0415  (only where something failed)

        self._inner.add_event(
            "exception",
            {
                "exception.type": f"{type(error).__module__}.{type(error).__qualname__}",
                "exception.message": str(error)[:MAX_VALUE],
                "exception.stacktrace": "".join(traceback.format_exception(error))[-MAX_STACK:],
            },
        )


_NOTHING: Final = Span()


class Telemetry:
    """Makes the spans of one process (or of one client in it). Records nothing before `start`."""

    def __init__(self, *, service: str, instance: str, version: str = "", sample: float = 1.0) -> None:
        self.service = service
        self.instance = instance
        self._version = version
        self._sample = sample
        self._recorder: Recorder | None = None
        self._tracer: Tracer | None = None

    def start(self, publish: Publish | None) -> None:
        """Record from now on: by OTLP when `OTEL_EXPORTER_OTLP_ENDPOINT` is set, else to the mesh through `publish`.

        Raises:
            ConfigError: when the environment names a protocol that is not spoken.
        """
        self._recorder = make_recorder(self.service, self.instance, self._version, publish)
        self._tracer = self._recorder.tracer if self._recorder else None

    def span(
        self,
        name: str,
        *,
        kind: Kind = "internal",
        headers: Mapping[str, str] | None = None,
        attributes: Attributes | None = None,
    ) -> _Scope:
        """A span for the length of a `with` block, which gets it as its target.

        With `headers` its parent is the `traceparent` in them; without, the span that is current. Where there is no
        parent a new trace begins, recorded in the share `sample`. An exception that passes through marks it failed.
        """
        return _Scope(self, name, kind, headers, attributes)

    def inject(self, headers: dict[str, str]) -> None:
        """Write the current span into headers. That a trace is not recorded travels too: nobody decides anew."""
        write_parent(trace.get_current_span().get_span_context(), headers)

    async def flush(self, timeout: float = 2.0) -> None:
        """Send what has ended. Never raises; gives up after `timeout` seconds."""
        if self._recorder is not None:
            await self._recorder.flush(timeout)

    async def close(self, timeout: float = 2.0) -> None:
        """Send what has ended and record no more. Never raises; gives up after `timeout` seconds."""
        recorder, self._recorder, self._tracer = self._recorder, None, None
        if recorder is not None:
            await recorder.close(timeout)


class _Scope:
    """The `with` block of a span; a class, for a generator costs twice as much."""

    __slots__ = (
        "_active",
        "_attributes",
        "_headers",
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
        attributes: Attributes | None,
    ) -> None:
        self._telemetry = telemetry
        self._name = name
        self._kind = kind
        self._headers = headers
        self._attributes = attributes
        self._span: trace.Span | None = None
        self._wrapped: Span = _NOTHING
        self._token: Token[Context] | None = None
        self._active: Token[Telemetry | None] | None = None

    def __enter__(self) -> Span:
        tracer = self._telemetry._tracer  # noqa: SLF001  (two halves of one thing)
        if tracer is None:
            return _NOTHING
        here = trace.get_current_span
        parent = here().get_span_context() if self._headers is None else read_parent(self._headers)
        if not parent.is_valid:
            sample = self._telemetry._sample  # noqa: SLF001
            if sample < 1.0 and random.random() >= sample:  # noqa: S311
                unrecorded = SpanContext(random.getrandbits(128) or 1, random.getrandbits(64) or 1, False, _DROPPED)
                self._attach(NonRecordingSpan(unrecorded))
                return _NOTHING
            base = _ROOT
        elif not parent.trace_flags.sampled:
            if self._headers is not None:
                self._attach(NonRecordingSpan(parent))
            return _NOTHING
        elif self._headers is None:
            base = otel_context.get_current()
        else:
            base = trace.set_span_in_context(NonRecordingSpan(parent), _ROOT)
        self._span = tracer.start_span(self._name, context=base, kind=_KINDS[self._kind], attributes=self._attributes)
        self._attach(self._span)
        self._active = _ACTIVE.set(self._telemetry)
        self._wrapped = _RecordedSpan(self._span)
        return self._wrapped

    def _attach(self, span: trace.Span) -> None:
        self._token = otel_context.attach(trace.set_span_in_context(span))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        if self._token is not None:
            otel_context.detach(self._token)
        if self._active is not None:
            _ACTIVE.reset(self._active)
        if self._span is None:
            return
        if isinstance(error, asyncio.CancelledError):
            self._wrapped.event("cancelled")
            self._wrapped.fail("cancelled")
        elif error is not None:
            self._wrapped.fail(error)
        self._span.end()


class _NoScope:
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


def _cut(value: Attribute) -> Attribute:
    return value[:MAX_VALUE] if isinstance(value, str) and len(value) > MAX_VALUE else value
