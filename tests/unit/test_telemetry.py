"""Spans are decided before they are built, travel in headers, and reach the mesh in batches."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from bus import codec
from bus import telemetry as module
from bus.errors import ConnectionLostError
from bus.messages import SpanBatch, SpanRecord
from bus.telemetry import Telemetry, span
from bus.telemetry.export import MAX_BUFFERED
from bus.telemetry.propagation import read_parent
from bus.traces import tree

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
UNSAMPLED = PARENT[:-2] + "00"


class Sink:
    """Takes what is published."""

    def __init__(self) -> None:
        self.spans: list[SpanRecord] = []
        self.batches = 0

    async def __call__(self, subject: str, body: bytes, headers: dict[str, str]) -> None:
        assert subject.startswith("revo.span.")
        self.batches += 1
        self.spans += codec.read(SpanBatch, headers, body).spans


def made(sink: Sink, *, sample: float = 1.0, service: str = "tester") -> Telemetry:
    telemetry = Telemetry(service=service, instance=f"{service}-1", sample=sample)
    telemetry.start(sink)
    return telemetry


async def test_children_parents_and_times_are_right() -> None:
    sink = Sink()
    telemetry = made(sink)
    with telemetry.span("outer", kind="producer", attributes={"a": 1}) as outer, span("inner", b=2) as inner:
        inner.event("something", c=3)
        assert inner.trace_id == outer.trace_id
    await telemetry.close()
    (root,) = tree(sink.spans)
    (child,) = root.children
    assert (root.span.name, root.span.kind, root.span.attributes) == ("outer", "producer", {"a": 1})
    assert (child.span.name, child.span.attributes, child.span.events[0].name) == ("inner", {"b": 2}, "something")
    assert root.span.start <= child.span.start <= child.span.end <= root.span.end


async def test_a_trace_crosses_processes_in_headers() -> None:
    sink = Sink()
    one, two = made(sink, service="one"), made(sink, service="two")
    headers: dict[str, str] = {}
    with one.span("send"):
        one.inject(headers)
    with two.span("process", headers=headers):
        pass
    await one.close()
    await two.close()
    (root,) = tree(sink.spans)
    assert [root.span.service, root.children[0].span.service] == ["one", "two"]


async def test_what_is_not_sampled_is_never_built(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Sink()
    telemetry = made(sink, sample=0.0)

    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("a span was built")

    assert telemetry._tracer is not None
    monkeypatch.setattr(telemetry._tracer, "start_span", refuse)
    headers: dict[str, str] = {}
    with telemetry.span("root") as root, telemetry.span("child"), span("grandchild"):
        telemetry.inject(headers)
    assert not root.recorded
    assert headers["traceparent"].endswith("-00")
    with telemetry.span("far side", headers=headers) as far:
        assert not far.recorded
    await telemetry.close()
    assert sink.spans == []


async def test_the_far_side_keeps_to_what_was_decided() -> None:
    sink = Sink()
    never, always = made(sink, sample=0.0), made(sink, sample=1.0)
    with never.span("recorded", headers={"traceparent": PARENT}) as recorded:
        assert recorded.trace_id == PARENT[3:35]
    with always.span("dropped", headers={"traceparent": UNSAMPLED}) as dropped:
        assert not dropped.recorded
    await never.close()
    await always.close()
    assert [record.name for record in sink.spans] == ["recorded"]


@pytest.mark.parametrize(
    "header",
    [
        "",
        "nonsense",
        PARENT[:-3],
        PARENT.upper(),
        PARENT.replace("00-", "ff-", 1),
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01",
        PARENT + "-extra",
    ],
)
async def test_a_header_that_makes_no_sense_begins_a_new_trace(header: str) -> None:
    assert not read_parent({"traceparent": header}).is_valid
    sink = Sink()
    telemetry = made(sink)
    with telemetry.span("root", headers={"traceparent": header}) as root:
        assert root.recorded
    await telemetry.close()
    assert sink.spans[0].parent_id == ""


def test_a_later_version_of_the_header_is_read() -> None:
    assert read_parent({"traceparent": "01" + PARENT[2:] + "-more"}).is_valid


async def test_the_share_that_is_sampled_is_the_share_that_was_asked_for() -> None:
    random.seed(7)
    sink = Sink()
    telemetry = made(sink, sample=0.3)
    for _ in range(1000):
        with telemetry.span("x"):
            pass
    await telemetry.close()
    assert 230 < len(sink.spans) < 370


async def test_an_exception_marks_the_span_and_goes_on() -> None:
    sink = Sink()
    telemetry = made(sink)

    def fail() -> None:
        with telemetry.span("x"):
            raise ValueError("y" * 10_000)

    with pytest.raises(ValueError, match="yyy"):
        fail()
    await telemetry.close()
    (record,) = sink.spans
    assert record.status == "error"
    assert len(record.status_message) <= 4096
    assert record.events[0].attributes["exception.type"] == "builtins.ValueError"


async def test_a_cancelled_span_says_so() -> None:
    sink = Sink()
    telemetry = made(sink)
    entered = asyncio.Event()

    async def wait() -> None:
        with telemetry.span("x"):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await telemetry.close()
    assert [event.name for event in sink.spans[0].events] == ["cancelled"]


async def test_a_span_of_another_thread_joins_the_trace() -> None:
    sink = Sink()
    telemetry = made(sink)

    def work() -> None:
        with span("in a thread"):
            pass

    with telemetry.span("outer"):
        await asyncio.to_thread(work)
    await telemetry.close()
    (root,) = tree(sink.spans)
    assert root.children[0].span.name == "in a thread"


async def test_spans_go_out_by_themselves_and_in_batches() -> None:
    sink = Sink()
    telemetry = made(sink)
    for _ in range(450):
        with telemetry.span("x"):
            pass
    assert telemetry._recorder is not None
    assert telemetry._recorder._mesh is not None
    while telemetry._recorder._mesh._ended:
        sending = telemetry._recorder._mesh._timer
        assert sending is not None
        sending.cancel()
        telemetry._recorder._mesh._send_soon()
        assert telemetry._recorder._mesh._sending is not None
        await telemetry._recorder._mesh._sending
    assert (len(sink.spans), sink.batches) == (450, 3)
    await telemetry.close()


async def test_the_buffer_is_bounded_and_a_lost_connection_never_reaches_the_caller(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(*_: Any) -> None:
        raise ConnectionLostError("revo.span.tester")

    telemetry = Telemetry(service="tester", instance="tester-1")
    telemetry.start(fail)
    for _ in range(MAX_BUFFERED + 10):
        with telemetry.span("x"):
            pass
    await telemetry.close()
    assert "dropped" in caplog.text
    assert caplog.text.count("dropped") <= 2


async def test_before_start_and_outside_of_spans_nothing_happens() -> None:
    telemetry = Telemetry(service="tester", instance="tester-1")
    with telemetry.span("x") as unrecorded, span("y") as nothing:
        assert not unrecorded.recorded
        assert not nothing.recorded
        nothing.set("a", 1)
        nothing.event("b")
        nothing.fail("c")
    await telemetry.close()
    assert module._ACTIVE.get() is None


def test_a_span_without_its_parent_is_an_orphan_and_a_double_stands_once() -> None:
    def record(span_id: str, parent: str, start: float) -> SpanRecord:
        return SpanRecord(
            trace_id="t", span_id=span_id, parent_id=parent, name=span_id, kind="internal", service="s",
            instance="i", start=start, end=start + 1,
        )  # fmt: skip

    roots = tree([record("b", "gone", 2), record("a", "", 1), record("c", "a", 3), record("c", "a", 3)])
    assert [(root.span.span_id, root.orphan, len(root.children)) for root in roots] == [("a", False, 1), ("b", True, 0)]
