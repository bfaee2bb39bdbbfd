"""Spans to a collector by OTLP over gRPC: the SDK's own batching and exporter, with an end that is bounded.

Imported only where a collector is named: gRPC takes 55 ms and 17 MB, more than the rest of telemetry.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable
from typing import Final

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from bus.errors import ConfigError
from bus.messages import SpanRecord
from bus.telemetry.recorded import Recorded
from bus.telemetry.sdk import readable, readable_record, resource_of

log = logging.getLogger(__name__)

_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_LOGGERS: Final = (
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.exporter.otlp.proto.common._internal",
    "opentelemetry.sdk._shared_internal",
)
_ABORT: Final = 0.5
"""Seconds that an exporter which did not end in time is given to give up."""


class Collector:
    """The way of finished spans to an OTLP collector."""

    def __init__(self, service: str, instance: str, version: str) -> None:
        """Read the standard `OTEL_*` variables.

        Raises:
            ConfigError: when they name a protocol other than gRPC, or a value that cannot be used.
        """
        name = next((name for name in _PROTOCOLS if os.environ.get(name)), "")
        if name and os.environ[name].strip().lower() != "grpc":
            raise ConfigError(f"{name}={os.environ[name]}", "only grpc is spoken; set it to grpc")
        try:
            self._exporter = OTLPSpanExporter()
            self._processor = BatchSpanProcessor(self._exporter)
            self._resource = resource_of(service, instance, version)
        except ValueError as error:
            raise ConfigError("OTEL_EXPORTER_OTLP_* or OTEL_BSP_*", f"{error}") from error
        for logger in _LOGGERS:
            logging.getLogger(logger).addFilter(_one_line)

    def on_end(self, span: Recorded) -> None:
        """Take a span of this process that has ended."""
        self._processor.on_end(readable(span, self._resource))

    def add(self, record: SpanRecord) -> None:
        """Take a finished span of another process."""
        self._processor.on_end(readable_record(record))

    async def flush(self, timeout: float) -> None:
        """Send what has ended; gives up after `timeout` seconds. Never raises."""
        if not await _in_daemon(self._processor.force_flush, timeout):
            log.warning("spans were not sent within %g s; is the collector up?", timeout)

    async def close(self, timeout: float) -> None:
        """Send what has ended, then end; gives up after `timeout` seconds, and half a second more. Never raises."""
        if await _in_daemon(self._processor.shutdown, timeout):
            return
        log.warning("spans were not sent within %g s and are lost; is the collector up?", timeout)
        await _in_daemon(self._exporter.shutdown, _ABORT)  # ends its retries, which would go on for 10 s a batch


async def _in_daemon(call: Callable[[], object], timeout: float) -> bool:
    """Whether a blocking call ended within `timeout` seconds; it runs in a thread that nobody waits for at the end."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def run() -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001  (the last thing a span may do is to end a process)
            log.warning("the exporter of spans failed: %s: %s", type(error).__name__, error)
        with contextlib.suppress(RuntimeError):  # the loop has ended, so nobody asks any more
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, name="telemetry", daemon=True).start()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            await done.wait()
    return done.is_set()


def _one_line(record: logging.LogRecord) -> bool:
    """Make one warning of one line of what the SDK logs with its stack, and drop what `close` itself has said."""
    text = " ".join(record.getMessage().split())
    if text.startswith(("Exporter already shutdown", "Shutdown in progress")):
        return False
    error = record.exc_info[1] if record.exc_info else None
    if error is not None and str(error) not in text:
        text += f" ({type(error).__name__}: {' '.join(str(error).split())})"
    record.msg, record.args, record.exc_info = text, None, None
    if record.levelno > logging.WARNING:
        record.levelno, record.levelname = logging.WARNING, "WARNING"
    return True
