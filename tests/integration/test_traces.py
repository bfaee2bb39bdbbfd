"""One trace a task, over client, worker and tools: read back from a real collector, and from the mesh's own stream."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from bus.errors import NotFoundError
from bus.mesh import Mesh
from bus.messages import SpanRecord
from bus.server import Server
from bus.settings import Settings
from bus.telemetry import Telemetry
from bus.traces import tree
from tests.eventually import eventually
from tests.otlp import assert_no_orphans, receiving
from tests.processes import actor

ANALYST = "actors.agents.code_analyst:CodeAnalyst"
TOILER = "tests.integration.agents:Toiler"


async def test_a_collector_gets_one_trace_a_task_with_the_right_parents_and_processes(
    server: Server, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        async with actor(ANALYST, server.url, tmp_path / "log") as analyst:
            async with Mesh.connect(settings=settings, service="the-client") as mesh:
                handles = [await mesh.submit("code_review", {"source": f"import os\nx = {n}\n"}) for n in range(3)]
                outcomes = [await handle.outcome(timeout=20) for handle in handles]
            analyst.signal(signal.SIGTERM)
            assert await analyst.wait() == 0
            spans = await asyncio.to_thread(receiver.wait_for, lambda spans: len(spans) >= 12)
    assert_no_orphans(spans)
    for outcome in outcomes:
        mine = {span.name: span for span in spans if span.trace_id == outcome.trace_id}
        assert set(mine) == {"send code_review", "process code_review", "ruff", "complexipy"}
        send, process = mine["send code_review"], mine["process code_review"]
        assert (send.parent_id, send.service, send.pid) == ("", "the-client", os.getpid())
        assert (process.parent_id, process.service, process.pid) == (send.span_id, "code-analyst", analyst.pid)
        assert process.instance == outcome.instance
        assert process.attributes["messaging.message.id"] == outcome.task_id
        assert {mine["ruff"].parent_id, mine["complexipy"].parent_id} == {process.span_id}
        assert not any(span.failed for span in mine.values())


async def test_without_a_collector_the_spans_stand_in_the_mesh_and_are_found_by_the_task(
    server: Server, mesh: Mesh, tmp_path: Path
) -> None:
    async with actor(TOILER, server.url, tmp_path / "log"):
        handle = await mesh.submit("toil", {"id": 1, "what": "retry"})
        other = await mesh.submit("toil", {"id": 2})
        await handle.outcome(timeout=10)
        await other.outcome(timeout=10)

        async def complete() -> list[SpanRecord]:
            try:
                spans = await mesh.trace(handle.task_id)
            except NotFoundError:
                return []
            return spans if len(spans) == 4 else []

        spans = await eventually(complete)
    (root,) = tree(spans)
    assert (root.span.name, root.span.service) == ("send toil", "client")
    tries = [child.span for child in root.children]
    assert [span.attributes["revo.attempt"] for span in tries] == [1, 2, 3]
    assert [span.attributes["revo.outcome"] for span in tries] == ["nak", "nak", "succeeded"]
    assert [event.name for event in tries[0].events] == ["exception", "retry"]
    assert await mesh.trace(spans[0].trace_id) == spans, "the trace's own id finds it too"


async def test_a_request_is_part_of_its_callers_trace(server: Server, mesh: Mesh, tmp_path: Path) -> None:
    async with actor(TOILER, server.url, tmp_path / "log"):
        with mesh.telemetry.span("outer") as outer:
            assert await mesh.ask("toiler", "add", {"a": 1, "b": 2}) == 3

        async def complete() -> list[SpanRecord]:
            try:
                spans = await mesh.trace(outer.trace_id)
            except NotFoundError:
                return []
            return spans if len(spans) == 3 else []

        (root,) = tree(await eventually(complete))
    (client,) = root.children
    (service,) = client.children
    assert [client.span.kind, service.span.kind, service.span.service] == ["client", "server", "toiler"]


async def test_nothing_is_recorded_of_a_trace_that_is_not_sampled(
    server: Server, settings: Settings, tmp_path: Path
) -> None:
    unsampled = settings.model_copy(update={"trace_sample": 0.0})
    async with (
        actor(TOILER, server.url, tmp_path / "log"),
        Mesh.connect(settings=unsampled) as mesh,
    ):
        handle = await mesh.submit("toil", {"id": 1})
        outcome = await handle.outcome(timeout=10)
        assert outcome.trace_id == ""
        with pytest.raises(NotFoundError):
            await mesh.trace(handle.task_id)


async def test_closing_is_bounded_when_the_collector_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    telemetry = Telemetry(service="s", instance="i")
    telemetry.start(None)
    with telemetry.span("lost"):
        pass
    began = time.monotonic()
    await telemetry.close(timeout=0.5)
    assert time.monotonic() - began < 3
