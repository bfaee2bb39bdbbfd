"""Blocked, cut off, killed: what a worker's time away does to the task that it runs, and what others see of it."""

from __future__ import annotations

import itertools
import signal
import time
from pathlib import Path

import pytest

from bus import inspection, subjects
from bus.connection import Connection
from bus.events import Event
from bus.mesh import Mesh
from bus.messages import SpanRecord
from bus.server import Server
from bus.traces import tree
from bus.wire import Message
from revo.cli.events import recent
from tests.eventually import eventually, pause
from tests.integration.test_processes import TOILER, begun, lines, toil
from tests.processes import actor
from tests.proxy import proxied

STEWARD = "actors.steward:Steward"


@pytest.mark.xdist_group("slow")
async def test_an_async_handler_that_blocks_the_loop_for_15_s_runs_once_and_goes_on_beating(
    server: Server, mesh: Mesh, connection: Connection, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    beats: dict[str, list[float]] = {}

    def hear(message: Message) -> None:
        beats.setdefault(message.subject.rpartition(".")[2], []).append(time.monotonic())

    await connection.subscribe(subjects.BEATS, hear)
    async with (
        actor(TOILER, server.url, tmp_path / "1") as first,
        actor(TOILER, server.url, tmp_path / "2") as second,
    ):
        handle = await toil(mesh, journal, 1, "block", seconds=15.0)
        outcome = await handle.outcome(timeout=40)
        assert (outcome.status, outcome.deliveries) == ("succeeded", 1)
        assert begun(journal) == [1]
        holder = first if outcome.instance == first.instance else second
        assert holder.log.count("has been blocked") == 1
        assert "time.sleep(work.seconds)" in holder.log
        times = beats[holder.instance]
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert max(gaps) < 3.0, "within its lease"


@pytest.mark.xdist_group("slow")
async def test_a_worker_cut_off_for_15_s_stores_its_result_when_it_is_back(
    server: Server, mesh: Mesh, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    async with proxied(server.url) as wire, actor(TOILER, wire.url, tmp_path / "log") as worker:
        handle = await toil(mesh, journal, 1, seconds=2.0)
        await eventually(lambda: begun(journal))
        await wire.cut()
        await pause(15.0)
        assert [line[0] for line in lines(journal)] == ["begin", "end"], "it ran on"
        wire.mend()
        outcome = await handle.outcome(timeout=20)
        assert (outcome.status, outcome.instance) == ("succeeded", worker.instance)
        assert begun(journal) == [1]


async def test_a_cut_off_worker_whose_task_was_cancelled_stops_when_it_is_back(
    server: Server, mesh: Mesh, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    async with (
        actor(STEWARD, server.url, tmp_path / "steward"),
        proxied(server.url) as wire,
        actor(TOILER, wire.url, tmp_path / "log"),
    ):
        handle = await toil(mesh, journal, 1, seconds=30.0)
        await eventually(lambda: begun(journal))
        await wire.cut()
        assert (await handle.cancel()).cancelled
        wire.mend()

        async def let_go() -> bool:
            beats = await inspection.workers(mesh.connection)
            return len(beats) == 1 and not beats[0].in_hand

        await eventually(let_go)


@pytest.mark.parametrize(
    ("number", "reason", "fault", "recovery"),
    [
        (signal.SIGKILL, "its process died", "crash", "restart"),
        (signal.SIGSTOP, "its process hangs for 3 s", "timeout", "back-off"),
    ],
)
async def test_the_attempt_that_died_with_its_process_is_a_span_with_its_instance_and_an_error(  # noqa: PLR0917
    server: Server, mesh: Mesh, tmp_path: Path, number: signal.Signals, reason: str, fault: str, recovery: str
) -> None:
    journal = tmp_path / "journal"
    async with (
        actor(STEWARD, server.url, tmp_path / "s1"),
        actor(STEWARD, server.url, tmp_path / "s2"),
        actor(TOILER, server.url, tmp_path / "1") as first,
        actor(TOILER, server.url, tmp_path / "2") as second,
    ):
        handle = await toil(mesh, journal, 1, seconds=1.0)
        await eventually(lambda: begun(journal))
        holder, other = (first, second) if lines(journal)[0][2] == str(first.pid) else (second, first)
        await pause(0.3)  # the heartbeat that tells of the task comes 30 ms after its start
        holder.signal(number)
        outcome = await handle.outcome(timeout=15)
        assert outcome.instance == other.instance

        async def lost() -> list[SpanRecord]:
            spans = await mesh.trace(handle.task_id)
            return [span for span in spans if span.attributes.get("revo.outcome") == "lost"]

        (span,) = await eventually(lost, timeout=10)
        assert (span.instance, span.status, span.status_message) == (holder.instance, "error", reason)
        assert (span.name, span.service, span.attributes["revo.attempt"]) == ("process toil", "toiler", 1)

        async def told() -> bool:
            (root,) = tree(await mesh.trace(handle.task_id))
            assert root.span.name == "send toil"
            return [child.span.instance for child in root.children] == [holder.instance, other.instance]

        await eventually(told)
        assert (span.attributes["revo.fault.class"], span.attributes["revo.fault.recovery"]) == (fault, recovery)
        (event,) = await eventually(lambda: faults_of(mesh, holder.instance))
        assert (event.what, event.details["recovery"], event.details["count"]) == (fault, recovery, 1)
        if number is signal.SIGSTOP:
            holder.signal(signal.SIGCONT)


async def faults_of(mesh: Mesh, instance: str) -> list[Event]:
    return [one for one in await recent(mesh.connection, 0.0) if (one.kind, one.name) == ("fault", instance)]


async def test_an_attempt_that_came_to_an_end_of_its_own_is_not_called_lost(
    server: Server, mesh: Mesh, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    async with actor(STEWARD, server.url, tmp_path / "s1") as steward:
        # No heartbeat may come between the end of the first task and the death.
        async with actor(TOILER, server.url, tmp_path / "1", REVO_HEARTBEAT="5") as worker:
            done = await toil(mesh, journal, 1, seconds=0.5)
            drained = await toil(mesh, journal, 2, seconds=20.0)
            await done.outcome(timeout=5)
            worker.signal(signal.SIGKILL)
            # The task told of last: by then the steward has judged both.
            await eventually(lambda: f"its process died, with attempt 1 of task {drained.task_id}" in steward.log)
        assert done.task_id not in steward.log
