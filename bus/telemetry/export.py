"""Where finished spans go: to a collector by OTLP, or to the mesh's own stream TRACES."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, Tracer, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import StatusCode

from bus import codec, subjects
from bus.errors import BusError, ConfigError
from bus.messages import CONTENT_TYPE, MSGPACK

log = logging.getLogger(__name__)

Publish = Callable[[str, bytes, dict[str, str]], Awaitable[None]]
"""Subject, body, headers."""

FLUSH_AFTER: Final = 0.2
"""Seconds from the end of a span to its way out."""
MAX_BUFFERED: Final = 8192
MAX_BATCH: Final = 200
"""Spans that are kept, and that go into one message."""
COMPLAIN_EVERY: Final = 60.0

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


class Recorder:
    """A tracer and the processor behind it."""

    def __init__(self, provider: TracerProvider, mesh: MeshProcessor | None) -> None:
        tracer = provider.get_tracer("revo")
        assert isinstance(tracer, Tracer)
        self.tracer = tracer
        self._provider = provider
        self._mesh = mesh

    async def flush(self, timeout: float) -> None:
        """Send what has ended; gives up after `timeout` seconds."""
        if self._mesh is not None:
            await self._mesh.flush(timeout)
        else:
            await _in_daemon(lambda: self._provider.force_flush(int(timeout * 1000)), timeout)

    async def close(self, timeout: float) -> None:
        """Flush, then end."""
        await self.flush(timeout)
        await _in_daemon(self._provider.shutdown, timeout)


def make_recorder(service: str, instance: str, version: str, publish: Publish | None) -> Recorder | None:
    """A recorder as the environment wants it, or None when there is nowhere to send spans.

    Raises:
        ConfigError: the environment names an OTLP protocol that is not spoken.
    """
    endpoint = next((name for name in _ENDPOINTS if os.environ.get(name)), "")
    if not endpoint and publish is None:
        return None
    resource = Resource(
        {
            "service.name": service,
            "service.instance.id": instance,
            "service.version": version,
            "process.pid": os.getpid(),
            "host.name": socket.gethostname(),
        }
    ).merge(OTELResourceDetector().detect())
    provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
    if endpoint:
        provider.add_span_processor(_otlp_processor())
        return Recorder(provider, None)
    assert publish is not None
    mesh = MeshProcessor(service, instance, publish)
    provider.add_span_processor(mesh)
    return Recorder(provider, mesh)


def _otlp_processor() -> SpanProcessor:
    """The SDK's own batching and its gRPC exporter, imported only here: it is the heaviest part of a process."""
    protocol = next((os.environ[name] for name in _PROTOCOLS if os.environ.get(name)), "grpc")
    if protocol != "grpc":
        raise ConfigError(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol}", "only grpc is spoken; set it to grpc")
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    return BatchSpanProcessor(OTLPSpanExporter())


class MeshProcessor(SpanProcessor):
    """Collects finished spans and publishes them in batches, from the event loop: no thread, no polling."""

    def __init__(self, service: str, instance: str, publish: Publish) -> None:
        self._subject = subjects.span(service)
        self._service = service
        self._instance = instance
        self._publish = publish
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._ended: list[ReadableSpan] = []
        self._timer: asyncio.TimerHandle | None = None
        self._sending: asyncio.Task[None] | None = None
        self._dropped = 0
        self._complained = -COMPLAIN_EVERY

    def on_end(self, span: ReadableSpan) -> None:
        """Keep a finished span until it is sent, less than a second later; drop it when too many wait."""
        if len(self._ended) >= MAX_BUFFERED:
            self._dropped += 1
            return
        self._ended.append(span)
        if self._timer is None:
            if threading.get_ident() == self._loop_thread:
                self._arm()
            elif not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._arm)

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(FLUSH_AFTER, self._send_soon)

    def _send_soon(self) -> None:
        self._timer = None
        if self._sending is None or self._sending.done():
            self._sending = self._loop.create_task(self._send())
        else:
            self._arm()

    async def _send(self) -> None:
        while self._ended:
            batch, self._ended = self._ended[:MAX_BATCH], self._ended[MAX_BATCH:]
            body = codec.encode({"spans": [self._record(span) for span in batch]}, subject=self._subject)
            try:
                await self._publish(self._subject, body, {CONTENT_TYPE: MSGPACK})
            except BusError as error:
                self._dropped += len(batch)
                self._complain(str(error))
        if self._dropped:
            self._complain("the buffer was full")

    def _complain(self, reason: str) -> None:
        now = time.monotonic()
        if now - self._complained >= COMPLAIN_EVERY:
            self._complained = now
            log.warning("%s dropped %d spans: %s", self._service, self._dropped, reason)
            self._dropped = 0

    async def flush(self, timeout: float) -> None:
        """Send what has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            async with asyncio.timeout(timeout):
                if self._sending is not None and not self._sending.done():
                    await asyncio.wait((self._sending,))
                await self._send()
        except TimeoutError:
            self._complain(f"not sent within {timeout:g} s")

    def _record(self, span: ReadableSpan) -> dict[str, Any]:
        """The span as `bus.messages.SpanRecord` has it."""
        context = span.get_span_context()
        assert context is not None
        assert span.start_time is not None
        assert span.end_time is not None
        return {
            "trace_id": f"{context.trace_id:032x}",
            "span_id": f"{context.span_id:016x}",
            "parent_id": f"{span.parent.span_id:016x}" if span.parent else "",
            "name": span.name,
            "kind": span.kind.name.lower(),
            "service": self._service,
            "instance": self._instance,
            "start": span.start_time / 1e9,
            "end": span.end_time / 1e9,
            "status": {StatusCode.OK: "ok", StatusCode.ERROR: "error"}.get(span.status.status_code, "unset"),
            "status_message": span.status.description or "",
            "attributes": _plain(span.attributes),
            "events": [
                {"name": event.name, "time": event.timestamp / 1e9, "attributes": _plain(event.attributes)}
                for event in span.events
            ],
        }


def _plain(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in (attributes or {}).items()}


async def _in_daemon(call: Callable[[], object], timeout: float) -> None:
    """Run a blocking call for `timeout` seconds at the most, in a thread that nobody waits for at the end."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def run() -> None:
        try:
            call()
        finally:
            if not loop.is_closed():
                loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, name="telemetry", daemon=True).start()
    try:
        async with asyncio.timeout(timeout):
            await done.wait()
    except TimeoutError:
        log.warning("spans were not sent within %g s; is the collector up?", timeout)
