"""Spans are decided before they are built, travel in headers, and reach the mesh in batches."""

from __future__ import annotations

import asyncio
import os
import random
import re
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from opentelemetry import trace

import bus.telemetry
from bus import codec
from bus import telemetry as module
from bus.errors import ConfigError, ConnectionLostError
from bus.messages import SpanBatch, SpanRecord
from bus.telemetry import MAX_STACK, MAX_VALUE, Telemetry, span
from bus.telemetry.export import MAX_BUFFERED, MAX_BYTES
from bus.telemetry.propagation import read_parent
from bus.telemetry.sdk import resource_of
from bus.traces import tree
from tests.eventually import in_time

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
UNSAMPLED = PARENT[:-2] + "00"


class Sink:
    """Takes what is published."""

    def __init__(self) -> None:
        self.spans: list[SpanRecord] = []
        self.sizes: list[int] = []
        self._more = asyncio.Condition()

    async def __call__(self, subject: str, body: bytes, headers: dict[str, str]) -> None:
        assert subject.startswith("revo.span.")
        self.sizes.append(len(body))
        self.spans += codec.read(SpanBatch, headers, body).spans
        async with self._more:
            self._more.notify_all()

    async def full(self, count: int) -> None:
        async with self._more:
            await self._more.wait_for(lambda: len(self.spans) >= count)


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

    monkeypatch.setattr(bus.telemetry, "Recorded", refuse)
    headers: dict[str, str] = {}
    with telemetry.span("root") as root, telemetry.span("child"), span("grandchild"):
        telemetry.inject(headers)
    assert not root.recorded
    assert headers["traceparent"].endswith("-00")
    with telemetry.span("far side", headers=headers) as far:
        assert not far.recorded
    await telemetry.close()
    assert sink.spans == []


async def test_whether_what_is_sent_is_recorded_is_decided_once_and_always_said() -> None:
    sink = Sink()
    telemetry = made(sink, sample=0.5)
    said = {"00": 0, "01": 0}
    for _ in range(400):
        headers: dict[str, str] = {}
        with telemetry.sending("send", headers, dict) as sent:
            pass
        assert sent.recorded == headers["traceparent"].endswith("-01")
        said[headers["traceparent"][-2:]] += 1
    await telemetry.close()
    assert len(sink.spans) == said["01"]
    assert 140 < said["01"] < 260, "half of them, not a quarter"


async def test_who_records_nothing_hands_on_what_is_sent() -> None:
    telemetry = Telemetry(service="tester", instance="tester-1")
    headers: dict[str, str] = {}
    with telemetry.span("x", headers={"traceparent": PARENT}), telemetry.sending("send", headers, dict):
        pass
    assert headers == {"traceparent": PARENT}


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
    sink = Sink()
    telemetry = made(sink, sample=0.3)
    for _ in range(1000):
        with telemetry.span("x"):
            pass
    await telemetry.close()
    assert 200 < len(sink.spans) < 400  # six standard deviations and more


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
    assert sink.spans == [], "not at once"
    await in_time(sink.full(450), 5)
    assert (len(sink.spans), len(sink.sizes)) == (450, 3)
    await telemetry.close()


async def test_a_message_is_bounded_in_bytes_too() -> None:
    sink = Sink()
    telemetry = made(sink)
    for number in range(200):
        with telemetry.span("x", attributes={"a": "z" * 100_000, "b": "z" * MAX_VALUE}) as wide:
            wide.set("number", number)
            wide.event("y", text="z" * 100_000)
    await telemetry.close()
    assert [record.attributes["number"] for record in sink.spans] == list(range(200))
    assert max(sink.sizes) <= MAX_BYTES
    (record, *_) = sink.spans
    assert {len(record.attributes["a"]), len(record.events[0].attributes["text"])} == {MAX_VALUE}


async def test_a_span_that_ends_in_another_thread_goes_out_by_itself() -> None:
    sink = Sink()
    telemetry = made(sink)

    def work() -> None:
        for _ in range(300):
            with telemetry.span("x"):
                pass

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    await in_time(sink.full(900), 5)
    for thread in threads:
        thread.join()
    await telemetry.close()
    assert len({record.span_id for record in sink.spans}) == len(sink.spans) == 900


@pytest.mark.parametrize("error", [ConnectionLostError("revo.span.tester"), OSError("no route")])
async def test_the_buffer_is_bounded_and_what_publish_raises_never_reaches_the_caller(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: Any) -> None:
        raise error

    telemetry = Telemetry(service="tester", instance="tester-1")
    telemetry.start(fail)
    for _ in range(MAX_BUFFERED + 10):
        with telemetry.span("x"):
            pass
    await telemetry.close()
    said = [int(number) for number in re.findall(r"dropped (\d+)", caplog.text)]
    assert (sum(said), len(said)) == (MAX_BUFFERED + 10, 2), "the first at once, the rest at the end"
    assert all("\n" not in line.getMessage() and line.exc_info is None for line in caplog.records)


async def test_closing_is_bounded_when_publish_hangs_and_leaves_no_task() -> None:
    began = asyncio.Event()

    async def hang(*_: Any) -> None:
        began.set()
        await asyncio.Event().wait()

    before = asyncio.all_tasks()
    telemetry = Telemetry(service="tester", instance="tester-1")
    telemetry.start(hang)
    with telemetry.span("x"):
        pass
    await in_time(began.wait(), 5)
    async with asyncio.timeout(2):
        await telemetry.close(0.05)
    assert asyncio.all_tasks() == before


async def test_a_flush_that_gives_up_loses_nothing() -> None:
    sink, gate = Sink(), asyncio.Event()

    async def slow(subject: str, body: bytes, headers: dict[str, str]) -> None:
        await gate.wait()
        await sink(subject, body, headers)

    telemetry = Telemetry(service="tester", instance="tester-1")
    telemetry.start(slow)
    with telemetry.span("x"):
        pass
    await telemetry.flush(0.01)
    assert sink.spans == []
    gate.set()
    await telemetry.close()
    assert len(sink.spans) == 1


async def test_nothing_is_published_after_the_end() -> None:
    sink = Sink()
    telemetry = made(sink)
    with telemetry.span("open at the end"):
        await telemetry.close()
        with telemetry.span("begun after it") as after:
            assert not after.recorded
    await telemetry.flush()
    assert sink.spans == []


async def test_a_value_that_no_exporter_can_send_takes_no_other_span_along() -> None:
    sink = Sink()
    telemetry = made(sink)
    with telemetry.span("hostile \ud800", attributes={"a": 10**5000, "b": "\udfff"}) as hostile:
        hostile.set("c", -(2**63))
        hostile.set("d", 2**63)
        hostile.event("e \ud800", **{"\ud800": "\ud800"})
        hostile.fail("\ud800")
    with telemetry.span("innocent"):
        pass
    await telemetry.close()
    assert [record.name for record in sink.spans] == ["hostile ?", "innocent"]
    assert sink.spans[0].attributes["c"] == -(2**63)
    assert sink.spans[0].attributes["d"] == "0x8000000000000000"


async def test_an_error_without_a_text_is_still_the_error_that_the_caller_gets() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    sink = Sink()
    telemetry = made(sink)

    def fail() -> None:
        with telemetry.span("x"):
            raise MuteError

    with pytest.raises(MuteError):
        fail()
    await telemetry.close()
    assert sink.spans[0].status == "error"


async def test_the_stack_is_kept_beside_a_very_long_message() -> None:
    sink = Sink()
    telemetry = made(sink)

    def fail_deep_inside() -> None:
        with telemetry.span("x"):
            raise ValueError("y" * 100_000)

    with pytest.raises(ValueError, match="yyy"):
        fail_deep_inside()
    await telemetry.close()
    stack = sink.spans[0].events[0].attributes["exception.stacktrace"]
    assert "in fail_deep_inside" in stack
    assert len(stack) <= MAX_STACK


async def test_a_handler_that_seeds_random_does_not_repeat_the_ids_of_its_replicas() -> None:
    sink = Sink()
    for _ in range(2):
        telemetry = made(sink)
        random.seed(42)
        with telemetry.span("x"):
            pass
        await telemetry.close()
    assert len({record.span_id for record in sink.spans}) == len({record.trace_id for record in sink.spans}) == 2


async def test_a_generator_that_is_closed_in_another_task_ends_its_span(caplog: pytest.LogCaptureFixture) -> None:
    sink = Sink()
    telemetry = made(sink)

    async def numbers() -> AsyncIterator[int]:
        with telemetry.span("x"):
            yield 1
            yield 2

    async def leave(left: AsyncIterator[int]) -> None:
        await left.aclose()  # type: ignore[attr-defined]

    left = numbers()
    assert await anext(left) == 1
    await asyncio.create_task(leave(left))
    await telemetry.close()
    assert [(record.name, record.status) for record in sink.spans] == [("x", "unset")]
    assert caplog.text == ""


async def test_several_in_one_process_keep_apart() -> None:
    here, there = Sink(), Sink()
    one, two = made(here, service="one"), made(there, service="two")
    with one.span("a"), two.span("b"), span("c"):
        pass
    with one.span("d"), span("e"):
        pass
    await one.close()
    await two.close()
    assert {record.name for record in here.spans} == {"a", "d", "e"}
    assert {record.name for record in there.spans} == {"b", "c"}
    assert {record.service for record in there.spans} == {"two"}
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider), "no global one is set"


async def test_what_is_not_recorded_here_is_still_handed_on() -> None:
    telemetry = Telemetry(service="tester", instance="tester-1")
    headers: dict[str, str] = {"tracestate": "stale=1"}
    with telemetry.span("x", headers={"traceparent": PARENT}):
        telemetry.inject(headers)
    assert headers == {"traceparent": PARENT}


async def test_state_travels_with_its_trace() -> None:
    sink = Sink()
    telemetry = made(sink)
    headers: dict[str, str] = {}
    with telemetry.span("x", headers={"Traceparent": PARENT, "Tracestate": "vendor=1"}):
        telemetry.inject(headers)
    await telemetry.close()
    assert headers["tracestate"] == "vendor=1"
    assert headers["traceparent"][:36] == PARENT[:36]
    assert sink.spans[0].parent_id == PARENT[36:52]


def test_the_environment_adds_to_who_a_process_is_but_does_not_rename_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "everything")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=prod,process.pid=7,nonsense")
    assert dict(resource_of("tester", "tester-1", "1.2").attributes) == {
        "service.name": "tester",
        "service.instance.id": "tester-1",
        "service.version": "1.2",
        "process.pid": os.getpid(),
        "host.name": socket.gethostname(),
        "deployment.environment": "prod",
    }


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "carrier-pigeon"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
    ],
)
async def test_an_otlp_setting_that_cannot_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=value):
        Telemetry(service="tester", instance="tester-1").start(None)


async def test_nothing_is_recorded_where_the_sdk_is_disabled_or_there_is_nowhere_to_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nowhere = Telemetry(service="tester", instance="tester-1")
    nowhere.start(None)
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    for telemetry in (nowhere, made(Sink())):
        with telemetry.span("x") as unrecorded:
            assert not unrecorded.recorded
        await telemetry.close()


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
