"""Rolling restarts and full streams: pressure travels back, and nothing is lost or done twice."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from bus import jetstream, subjects
from bus.errors import QueueFullError
from bus.mesh import Handle
from tests.chaos.fleet import AGENT, STEWARD, at_rest, count, executions
from tests.eventually import eventually
from tests.guarded import Guarded
from tests.integration.test_guarantees import limit
from tests.processes import actor

pytestmark = pytest.mark.xdist_group("chaos")


async def test_a_rolling_restart_under_load_costs_no_redelivery_by_time_out(here: Guarded, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    async with here.mesh("operator") as mesh, AsyncExitStack() as stack:
        server, env = here.server, here.env("chaotic")
        steward = actor(STEWARD, server.url, tmp_path / "steward", **here.env(subjects.STEWARD))
        await stack.enter_async_context(steward)
        started = [actor(AGENT, server.url, tmp_path / f"old-{number}", **env) for number in range(3)]
        workers = [await stack.enter_async_context(one) for one in started]
        stop = asyncio.Event()
        handles: list[Handle] = []

        async def load() -> None:
            while not stop.is_set():
                message = {"id": len(handles), "seconds": 0.1, "journal": str(journal)}
                handles.append(await mesh.submit("chaos", message))
                if len(handles) > 40:
                    await handles[-40].outcome(timeout=20)

        loading = asyncio.create_task(load())
        await eventually(lambda: len(handles) > 60)
        for number, worker in enumerate(workers):
            worker.signal(signal.SIGTERM)
            assert await worker.wait() == 0, worker.log
            await stack.enter_async_context(actor(AGENT, server.url, tmp_path / f"new-{number}", **env))
        stop.set()
        await loading
        outcomes = [await handle.outcome(timeout=20) for handle in handles]
        assert {outcome.status for outcome in outcomes} == {"succeeded"}
        assert {outcome.attempts for outcome in outcomes} == {1}
        assert set(executions(journal).values()) == {1}, "nothing ran twice"
        slow = [outcome for outcome in outcomes if outcome.finished_at - outcome.submitted_at > 4.5]
        assert slow == [], "nobody waited for an ack deadline of 5 s"


async def test_full_results_stop_the_workers_and_work_goes_on_when_there_is_room(here: Guarded, tmp_path: Path) -> None:
    journal, server = tmp_path / "journal", here.server
    async with (
        here.mesh("operator") as mesh,
        actor(STEWARD, server.url, tmp_path / "steward", **here.env(subjects.STEWARD)),
        actor(AGENT, server.url, tmp_path / "1", **here.env("chaotic")) as first,
        actor(AGENT, server.url, tmp_path / "2", **here.env("chaotic")) as second,
    ):
        await limit(mesh.connection, subjects.RESULTS, 3000)
        messages = [{"id": number, "seconds": 0.01, "journal": str(journal)} for number in range(60)]
        handles = [await mesh.submit("chaos", message) for message in messages]

        await eventually(lambda: "trying again" in first.log and "trying again" in second.log)
        await eventually(lambda: sum(executions(journal).values()) <= 8 + 8, timeout=1)
        ended = sum(handle._arrival.done for handle in handles)
        assert ended < 20, "the workers pull no more than what they can hold"
        await limit(mesh.connection, subjects.RESULTS, 10_000_000)
        assert sorted([await handle.result(timeout=20) for handle in handles]) == list(range(60))
        assert set(executions(journal).values()) == {1}, "what was held was not done again"
        await eventually(lambda: at_rest(mesh.connection))
        assert (await count(mesh.connection)).audit.good


async def test_a_full_queue_refuses_submitters_and_what_it_took_all_ends(here: Guarded, tmp_path: Path) -> None:
    server = here.server
    steward = actor(STEWARD, server.url, tmp_path / "steward", **here.env(subjects.STEWARD))
    async with here.mesh("operator") as mesh, steward:
        await limit(mesh.connection, subjects.TASKS, 20_000)
        handles: list[Handle] = []

        async def fill() -> None:
            while True:
                handles.append(await mesh.submit("chaos", {"id": len(handles), "seconds": 0.0}))

        with pytest.raises(QueueFullError, match="try again when the queue has drained"):
            await fill()
        assert len(handles) > 10
        info = await jetstream.call(mesh.connection, "STREAM.INFO", subjects.TASKS)
        assert info["state"]["messages"] == len(handles)
        async with actor(AGENT, server.url, tmp_path / "log", **here.env("chaotic")):
            done = sorted([await handle.result(timeout=20) for handle in handles])
            assert done == list(range(len(handles)))
            await eventually(lambda: at_rest(mesh.connection))
            assert await (await mesh.submit("chaos", {"id": 7})).result(timeout=10) == 7
