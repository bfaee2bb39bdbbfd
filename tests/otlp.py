"""A real OTLP gRPC receiver, for tests: the collector's side of the protocol, built on `opentelemetry-proto`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as messages
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as services


@dataclass(frozen=True)
class Received:
    """One span as it came over the wire, with its process's resource."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    service: str
    pid: int
    instance: str
    attributes: dict[str, Any]
    failed: bool


class Receiver(services.TraceServiceServicer):
    """Keeps every span that it is sent."""

    def __init__(self) -> None:
        self.endpoint = ""
        self._spans: list[Received] = []
        self._changed = threading.Condition()

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802  (the protocol's name)
        """What an exporter calls."""
        with self._changed:
            for group in request.resource_spans:
                resource = {item.key: _value(item.value) for item in group.resource.attributes}
                for scope in group.scope_spans:
                    self._spans += [_received(span, resource) for span in scope.spans]
            self._changed.notify_all()
        return messages.ExportTraceServiceResponse()

    def wait_for(self, enough: Callable[[list[Received]], bool], timeout: float = 15.0) -> list[Received]:
        """Block until `enough(spans)`; returns them."""
        until = time.monotonic() + timeout
        with self._changed:
            while not enough(self._spans):
                assert self._changed.wait(until - time.monotonic()), f"not enough: {[s.name for s in self._spans]}"
            return list(self._spans)


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver on a free port of loopback for the length of a block."""
    receiver = Receiver()
    server = grpc.server(ThreadPoolExecutor(2))
    services.add_TraceServiceServicer_to_server(receiver, server)
    port = server.add_insecure_port("127.0.0.1:0")
    receiver.endpoint = f"http://127.0.0.1:{port}"
    server.start()
    try:
        yield receiver
    finally:
        server.stop(None).wait()


def assert_no_orphans(spans: list[Received]) -> None:
    """Every span's parent is there, in the same trace."""
    ids = {(span.trace_id, span.span_id) for span in spans}
    orphans = [span.name for span in spans if span.parent_id and (span.trace_id, span.parent_id) not in ids]
    assert not orphans


def _received(span: Any, resource: dict[str, Any]) -> Received:
    return Received(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        name=span.name,
        service=resource["service.name"],
        pid=resource["process.pid"],
        instance=resource["service.instance.id"],
        attributes={item.key: _value(item.value) for item in span.attributes},
        failed=span.status.code == span.status.STATUS_CODE_ERROR,
    )


def _value(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))
