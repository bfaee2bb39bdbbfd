"""Spans and their propagation in headers; with its sibling modules the only importer of OpenTelemetry.

Whether a trace is recorded is decided before anything is built: creating a span that is not recorded costs 20 us in
this SDK, and here next to nothing. Must not know NATS: it is handed the publish function that its exporter needs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Final, Literal

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Tracer
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from bus.messages import SpanRecord
from bus.telemetry import ids
from bus.telemetry.export import Exporter, Publish, make_recorder
from bus.telemetry.propagation import read_parent, write_parent

__all__ = ["Attributes", "Publish", "Span", "Telemetry", "span"]

Kind = Literal["internal", "producer", "consumer", "client", "server"]
Attribute = str | int | float | bool
Attributes = Mapping[str, Attribute]

MAX_STACK: Final = 8192
MAX_VALUE: Final = 4096
MAX_FRAME: Final = 1024
"""Characters of a stack, of any other value, and of one frame of a stack that a span keeps."""
_INT64: Final = 1 << 63

_KINDS: Final = {
    "internal": SpanKind.INTERNAL,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
    "client": SpanKind.CLIENT,
    "server": SpanKind.SERVER,
}
_DROPPED: Final = TraceFlags(TraceFlags.DEFAULT)
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


class _RecordedSpan(Span):
    recorded = True

    def __init__(self, inner: trace.Span) -> None:
        self._inner = inner
        self.trace_id = f"{inner.get_span_context().trace_id:032x}"

    @property
    def ids(self) -> tuple[str, str]:
        parent = getattr(self._inner, "parent", None)
        return f"{self._inner.get_span_context().span_id:016x}", f"{parent.span_id:016x}" if parent else ""

    def set(self, key: str, value: Attribute) -> None:
        self._inner.set_attribute(_text(key), _clean(value))

    def event(self, name: str, **attributes: Attribute) -> None:
        self._inner.add_event(_text(name), _cleaned(attributes))

    def fail(self, error: BaseException | str) -> None:
        if isinstance(error, str):
            self._inner.set_status(Status(StatusCode.ERROR, _text(error)))
            return
        message = _message(error)
        self._inner.set_status(Status(StatusCode.ERROR, _text(f"{type(error).__name__}: {message}")))
        import traceback  # noqa: PLC0415  (only where something failed)

        # Frame by frame, or a message of many lines (the body of a reply) would push out the stack before it.
        stack = "".join(
            line if len(line) <= MAX_FRAME else f"{line[:MAX_FRAME]}...\n" for line in traceback.format_exception(error)
        )
        self._inner.add_event(
            "exception",
            {
                "exception.type": f"{type(error).__module__}.{type(error).__qualname__}",
                "exception.message": _text(message),
                "exception.stacktrace": _text(stack[-MAX_STACK:], MAX_STACK),
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
        self._tracer: Tracer | None = None
        self._exporter: Exporter | None = None

    def start(self, publish: Publish | None) -> None:
        """Record from now on: by OTLP when `OTEL_EXPORTER_OTLP_ENDPOINT` is set, else to the mesh through `publish`.

        Without either, or with `OTEL_SDK_DISABLED=true`, nothing is recorded. Call it in the event loop.

        Raises:
            ConfigError: when the environment names a protocol that is not spoken, or a value that cannot be used.
        """
        made = make_recorder(self.service, self.instance, self._version, publish)
        if made is not None:
            self._tracer, self._exporter = made

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

    def end_for(self, record: SpanRecord) -> None:
        """Send a span that its own process could not end, as the record has it: that process died."""
        if self._exporter is not None:
            from bus.telemetry.lost import readable  # noqa: PLC0415  (only stewards need it)

            self._exporter.add(readable(record))

    async def flush(self, timeout: float = 2.0) -> None:
        """Send what has ended. Never raises; gives up after `timeout` seconds."""
        if self._exporter is not None:
            await self._exporter.flush(timeout)

    async def close(self, timeout: float = 2.0) -> None:
        """Send what has ended and record no more. Never raises; gives up soon after `timeout` seconds."""
        exporter, self._exporter, self._tracer = self._exporter, None, None
        if exporter is not None:
            await exporter.close(timeout)


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
        tracer, headers = self._telemetry._tracer, self._headers  # noqa: SLF001  (two halves of one thing)
        if headers is not None:
            parent = read_parent(headers)
        elif tracer is not None:
            parent = trace.get_current_span().get_span_context()
        else:
            return _NOTHING
        if tracer is None or (parent.is_valid and not parent.trace_flags.sampled):
            if headers is not None:
                self._attach(NonRecordingSpan(parent))  # what we do not record is still handed on
            return _NOTHING
        if not parent.is_valid:
            if not ids.recorded(self._telemetry._sample):  # noqa: SLF001
                self._attach(NonRecordingSpan(SpanContext(ids.trace_id(), ids.span_id(), False, _DROPPED)))
                return _NOTHING
            base = _ROOT
        elif headers is None:
            base = otel_context.get_current()
        else:
            base = trace.set_span_in_context(NonRecordingSpan(parent), _ROOT)
        given = _cleaned(self._attributes) if self._attributes else None
        self._span = tracer.start_span(_text(self._name), context=base, kind=_KINDS[self._kind], attributes=given)
        self._attach(self._span)
        self._active = _ACTIVE.set(self._telemetry)
        self._wrapped = _RecordedSpan(self._span)
        return self._wrapped

    def _attach(self, span: trace.Span) -> None:
        self._token = otel_context.attach(trace.set_span_in_context(span))

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


def _cleaned(attributes: Attributes) -> dict[str, Attribute]:
    return {_text(key): _clean(value) for key, value in attributes.items()}


def _clean(value: Attribute) -> Attribute:
    """The value as any exporter can send it; one that cannot be encoded would take its whole batch along."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        return f"{value:#x}"[:MAX_VALUE]  # not in decimals, which Python refuses for very long ones
    return value


def _text(value: str, most: int = MAX_VALUE) -> str:
    """At most `most` characters, none of them half of a surrogate pair."""
    cut = value[:most]
    return cut if cut.isascii() else cut.encode(errors="replace").decode()


def _message(error: BaseException) -> str:
    """The text of an error, also of one whose own `__str__` fails: the caller must get the first error, not that."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001
        return "(its text cannot be had)"
