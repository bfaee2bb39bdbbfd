"""Where finished spans go: to a collector by OTLP, or to the mesh's own stream TRACES."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, Protocol

from bus import codec, subjects
from bus.errors import EncodeError
from bus.messages import CONTENT_TYPE, MSGPACK, SpanRecord
from bus.telemetry.recorded import Recorded

log = logging.getLogger(__name__)

Publish = Callable[[str, bytes, dict[str, str]], Awaitable[None]]
"""Subject, body, headers."""

FLUSH_AFTER: Final = 0.2
"""Seconds from the end of a span to its way out."""
MAX_BUFFERED: Final = 8192
"""Spans that wait: of a worker that does 11,000 tasks a second, 2,200 end between two flushes."""
MAX_BATCH: Final = 200
MAX_BYTES: Final = 256 * 1024
"""Spans that go into one message, and bytes of it unless it is of one span: servers take 1 MiB."""
COMPLAIN_EVERY: Final = 60.0

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class Exporter(Protocol):
    """What takes finished spans away."""

    def on_end(self, span: Recorded) -> None:
        """Take a span of this process that has ended."""

    def add(self, record: SpanRecord) -> None:
        """Take a finished span of another process."""

    async def flush(self, timeout: float) -> None:
        """Send what has ended; gives up after `timeout` seconds. Never raises."""

    async def close(self, timeout: float) -> None:
        """The same, then take no more. Never raises."""


def make_exporter(
    service: str, instance: str, version: str, publish: Publish | None, user: str = ""
) -> Exporter | None:
    """An exporter as the environment wants it; None when spans have nowhere to go.

    Raises:
        ConfigError: when the environment names an OTLP protocol that is not spoken, or a value that cannot be used.
    """
    endpoint = next((name for name in _ENDPOINTS if os.environ.get(name)), "")
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if endpoint:
        from bus.telemetry.otlp import Collector  # noqa: PLC0415  (the heaviest part of a process)

        return Collector(service, instance, version)
    return MeshExporter(service, instance, publish, user) if publish is not None else None


class MeshExporter:
    """Collects finished spans and publishes them in batches, from the event loop: no thread, no polling."""

    def __init__(self, service: str, instance: str, publish: Publish, user: str = "") -> None:
        self._subject = subjects.span(user or service)
        self._service = service
        self._instance = instance
        self._publish = publish
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._ended: list[Recorded | SpanRecord] = []
        self._timer: asyncio.TimerHandle | None = None
        self._sending: asyncio.Task[None] | None = None
        self._closed = False
        self._dropped = 0
        self._complain_at = 0.0

    def on_end(self, span: Recorded | SpanRecord) -> None:
        """Keep a finished span until it is sent, less than a second later; drop it when too many wait."""
        if self._closed:
            return
        if len(self._ended) >= MAX_BUFFERED:
            self._drop(1, f"{MAX_BUFFERED} wait already")
            return
        self._ended.append(span)
        if self._timer is None:
            try:
                if threading.get_ident() == self._loop_thread:
                    self._arm()
                else:
                    self._loop.call_soon_threadsafe(self._arm)
            except RuntimeError:  # the loop has ended: nothing can be sent any more
                self._closed = True

    def add(self, record: SpanRecord) -> None:
        """Take a finished span of another process."""
        self.on_end(record)

    def _arm(self) -> None:
        if self._timer is None and not self._closed:
            self._timer = self._loop.call_later(FLUSH_AFTER, self._send_soon)

    def _send_soon(self) -> None:
        self._timer = None
        if self._sending is None or self._sending.done():
            self._sending = self._loop.create_task(self._send())
        else:
            self._arm()

    async def _send(self) -> None:
        while self._ended:
            batch = self._ended[:MAX_BATCH]
            del self._ended[: len(batch)]  # other threads append meanwhile, so the list itself stays
            for body, count in self._bodies([self._record(span) for span in batch]):
                try:
                    await self._publish(self._subject, body, {CONTENT_TYPE: MSGPACK})
                except Exception as error:  # noqa: BLE001  (whatever it is, a span is not worth an error)
                    self._drop(count, f"{error}" or type(error).__name__)

    def _bodies(self, records: list[dict[str, Any]]) -> Iterator[tuple[bytes, int]]:
        """The records in as few messages as their size allows, with their number; what does not encode is dropped."""
        try:
            body = codec.encode({"spans": records}, subject=self._subject)
        except EncodeError as error:
            if len(records) == 1:
                self._drop(1, f"{error}")
                return
        else:
            if len(body) <= MAX_BYTES or len(records) == 1:
                yield body, len(records)
                return
        middle = len(records) // 2
        yield from self._bodies(records[:middle])
        yield from self._bodies(records[middle:])

    def _drop(self, count: int, reason: str) -> None:
        """Count what is lost, and say so at once, but only once a minute."""
        self._dropped += count
        now = time.monotonic()
        if now >= self._complain_at:
            self._complain_at = now + COMPLAIN_EVERY
            log.warning("%s dropped %d span(s): %s", self._service, self._dropped, reason)
            self._dropped = 0

    async def flush(self, timeout: float) -> None:
        """Send what has ended; what could not go out within `timeout` seconds stays in hand. Never raises."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        until = self._loop.time() + timeout
        while self._ended or (self._sending is not None and not self._sending.done()):
            if self._sending is None or self._sending.done():
                self._sending = self._loop.create_task(self._send())
            await asyncio.wait((self._sending,), timeout=max(0.0, until - self._loop.time()))
            if self._loop.time() >= until:
                break
        if self._ended:
            self._arm()

    async def close(self, timeout: float) -> None:
        """Send what has ended and take no more; what is not out after `timeout` seconds is lost. Never raises."""
        await self.flush(timeout)
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._sending is not None and not self._sending.done():
            self._sending.cancel()
            await asyncio.wait((self._sending,), timeout=timeout)
            log.warning("%s could not send its last spans within %g s", self._service, timeout)
        if self._dropped:
            log.warning("%s dropped %d more span(s)", self._service, self._dropped)

    def _record(self, span: Recorded | SpanRecord) -> dict[str, Any]:
        if isinstance(span, SpanRecord):
            return span.model_dump()
        return span.record(self._service, self._instance)
