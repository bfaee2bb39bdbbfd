"""Spans reach a real OTLP receiver from several processes, whole; and a collector that is down holds nobody up."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from pathlib import Path

import pytest

from bus.telemetry import Telemetry, span
from tests.eventually import in_time
from tests.otlp import assert_no_orphans, receiving

ROOT = Path(__file__).parents[2]
CONSUMER = """
import asyncio, json, sys
from bus.telemetry import Telemetry, span

def tool():
    with span("tool", exit_status=0):
        pass

async def main():
    telemetry = Telemetry(service="consumer", instance="consumer-1")
    telemetry.start(None)
    with telemetry.span("process echo", kind="consumer", headers=json.loads(sys.argv[1])) as process:
        await asyncio.to_thread(tool)
        process.fail("said so")
    await telemetry.close(float(sys.argv[2]))

asyncio.run(main())
"""


async def consume(headers: dict[str, str], patience: float = 10.0) -> tuple[int, str]:
    """Run a consumer in a process of its own; returns its pid and what it wrote to stderr."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CONSUMER, json.dumps(headers), str(patience)),
        cwd=ROOT,
        stderr=asyncio.subprocess.PIPE,
    )
    _, complaints = await in_time(process.communicate(), 30)
    assert process.returncode == 0, complaints.decode()
    return process.pid, complaints.decode()


async def test_a_trace_over_two_processes_has_the_right_parents_and_no_orphans(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        producer = Telemetry(service="producer", instance="producer-1")
        producer.start(None)
        headers: dict[str, str] = {}
        with producer.span("send echo", kind="producer", attributes={"messaging.system": "nats"}) as sent:
            producer.inject(headers)
        pid, complaints = await consume(headers)
        await producer.close(10)
        spans = await asyncio.to_thread(receiver.wait_for, lambda spans: len(spans) >= 3)
    assert complaints == ""
    assert_no_orphans(spans)
    send, process, tool = (next(span for span in spans if span.name.startswith(name)) for name in ("send", "pro", "to"))
    assert {span.trace_id for span in spans} == {sent.trace_id}
    assert (send.parent_id, send.service, send.pid) == ("", "producer", os.getpid())
    assert (process.parent_id, process.service, process.pid) == (send.span_id, "consumer", pid)
    assert (tool.parent_id, tool.pid, tool.attributes) == (process.span_id, pid, {"exit_status": 0})
    assert [span.failed for span in (send, process, tool)] == [False, True, False]
    assert send.attributes == {"messaging.system": "nats"}
    assert process.instance == "consumer-1"


async def test_an_unsampled_trace_sends_nothing_from_either_process(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        producer = Telemetry(service="producer", instance="producer-1", sample=0.0)
        producer.start(None)
        headers: dict[str, str] = {}
        with producer.span("send echo", kind="producer"):
            producer.inject(headers)
        await consume(headers)
        with producer.span("marker", headers={"traceparent": headers["traceparent"][:-2] + "01"}):
            pass
        await producer.close(10)
        spans = await asyncio.to_thread(receiver.wait_for, bool)
    assert [span.name for span in spans] == ["marker"]


async def test_a_value_that_otlp_cannot_carry_does_not_cost_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", receiver.endpoint)
        telemetry = Telemetry(service="s", instance="i")
        telemetry.start(None)
        with telemetry.span("outer \ud800", attributes={"big": 2**70}), span("inner", text="\ud800"):
            pass
        await telemetry.flush(10)
        spans = receiver.wait_for(lambda spans: len(spans) >= 2)
        await telemetry.close()
    assert {span.name: span.attributes for span in spans} == {
        "outer ?": {"big": f"{2**70:#x}"},
        "inner": {"text": "?"},
    }


@pytest.mark.parametrize("mute", [False, True], ids=["refuses connections", "accepts them and never answers"])
async def test_closing_is_bounded_and_quiet_when_the_collector_is_down(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, mute: bool
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if mute:
            listener.listen()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{listener.getsockname()[1]}")
        telemetry = Telemetry(service="s", instance="i")
        telemetry.start(None)
        for _ in range(1000):
            with telemetry.span("lost"):
                pass
        began = time.monotonic()
        await telemetry.close(timeout=0.3)
        assert time.monotonic() - began < 1.5
        began = time.monotonic()
        _, complaints = await consume({}, 0.3)
        assert time.monotonic() - began < 5, "nor does it hold up the end of the process"
    assert "is the collector up?" in caplog.text
    assert "is the collector up?" in complaints
    assert "Traceback" not in complaints + caplog.text
    assert all(record.levelname == "WARNING" and "\n" not in record.getMessage() for record in caplog.records)
