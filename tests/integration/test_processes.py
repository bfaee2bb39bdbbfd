"""Real processes over a real server: killed, stopped, drained. Nothing is lost and nothing runs for nothing."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from bus import endings, jetstream, subjects
from bus.errors import NoRespondersError, RemoteError
from bus.mesh import Handle, Mesh
from bus.server import Server
from tests.eventually import eventually
from tests.processes import ActorProcess, actor

TOILER = "tests.integration.agents:Toiler"
THREADED = "tests.integration.agents:Threaded"


def lines(journal: Path) -> list[list[str]]:
    return [line.split() for line in journal.read_text().splitlines()] if journal.exists() else []


def begun(journal: Path) -> list[int]:
    return [int(line[1]) for line in lines(journal) if line[0] == "begin"]


async def toil(mesh: Mesh, journal: Path, task: int = 0, what: str = "sleep", seconds: float = 0.0) -> Handle:
    return await mesh.submit("toil", {"id": task, "journal": str(journal), "what": what, "seconds": seconds})


async def test_an_actor_process_does_a_task_and_answers_a_request(server: Server, mesh: Mesh, tmp_path: Path) -> None:
    async with actor(TOILER, server.url, tmp_path / "log"):
        assert await (await mesh.submit("toil", {"id": 7})).result(timeout=10) == 7
        assert await mesh.ask("toiler", "add", {"a": 1, "b": 2}) == 3
        with pytest.raises(RemoteError, match="b: Field required") as caught:
            await mesh.ask("toiler", "add", {"a": 1})
        assert caught.value.code == "decode"
        assert await mesh.ask("toiler", "add", {"a": 2, "b": 2}) == 4, "the actor outlives a bad question"
    with pytest.raises(NoRespondersError):
        await mesh.ask("toiler", "add", {"a": 1, "b": 2})


async def test_a_killed_workers_task_runs_elsewhere_within_the_ack_deadline(
    server: Server, mesh: Mesh, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    async with (
        actor(TOILER, server.url, tmp_path / "1") as first,
        actor(TOILER, server.url, tmp_path / "2") as second,
    ):
        handle = await toil(mesh, journal, 1, seconds=1.5)
        await eventually(lambda: begun(journal))
        holder = first if lines(journal)[0][2] == str(first.pid) else second
        killed_at = time.time()
        holder.signal(signal.SIGKILL)
        outcome = await handle.outcome(timeout=15)
        assert (outcome.status, outcome.deliveries, outcome.attempts) == ("succeeded", 2, 1)
        again = float(lines(journal)[1][3])
        assert again - killed_at < 1.0 + 0.5, "ack deadline 1 s plus half a second"


async def test_a_poison_task_dies_after_three_deaths_alone_and_takes_no_innocent_with_it(
    server: Server, mesh: Mesh, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    innocents = [await toil(mesh, journal, n, seconds=0.05) for n in range(1, 20)]
    poison = await toil(mesh, journal, 99, "die")
    innocents += [await toil(mesh, journal, n, seconds=0.05) for n in range(20, 40)]

    async def keep_alive() -> None:
        run = 0
        while True:
            async with actor(TOILER, server.url, tmp_path / f"log-{run}") as process:
                await process.wait(60)
            run += 1

    supervisor = asyncio.create_task(keep_alive())
    try:
        outcome = await poison.outcome(timeout=60)
        assert outcome.status == "failed"
        assert outcome.error is not None
        assert outcome.error.code == "worker_died"
        assert sorted([await handle.result(timeout=30) for handle in innocents]) == list(range(1, 40))
    finally:
        supervisor.cancel()
        await asyncio.gather(supervisor, return_exceptions=True)
    assert begun(journal).count(99) == 4, "once in company, three times alone"
    last_death = max(float(line[3]) for line in lines(journal) if line[1] == "99")
    assert outcome.finished_at - last_death < 1.0 + 1.0, "the ack deadline, by which a death is known, and a second"
    # The last process may have been killed between result and dead letter: the next one makes sure of it.
    async with actor(TOILER, server.url, tmp_path / "log-last"):
        subject = subjects.dead_of(poison.task_id)
        await eventually(lambda: jetstream.last(mesh.connection, subjects.DEAD, subject))
        assert await _drained(mesh)


async def test_sigterm_hands_back_what_waits_finishes_what_runs_and_loses_nothing(
    server: Server, mesh: Mesh, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    async with actor(TOILER, server.url, tmp_path / "1") as first:
        handles = [await toil(mesh, journal, n, seconds=0.3) for n in range(12)]
        await eventually(lambda: len(begun(journal)) >= 4)
        first.signal(signal.SIGTERM)
        assert await first.wait() == 0, first.log
        finished = [line for line in lines(journal) if line[0] == "end"]
        assert len(finished) == len(begun(journal)), "what had begun was finished"
    async with actor(TOILER, server.url, tmp_path / "2"):
        outcomes = [await handle.outcome(timeout=10) for handle in handles]
    assert {outcome.status for outcome in outcomes} == {"succeeded"}
    assert sorted(begun(journal)) == list(range(12)), "nothing ran twice"
    assert {outcome.attempts for outcome in outcomes} == {1}


async def test_a_drain_out_of_patience_hands_back_at_once(server: Server, mesh: Mesh, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    async with actor(TOILER, server.url, tmp_path / "1", REVO_DRAIN_TIMEOUT="0.2") as first:
        handle = await toil(mesh, journal, 1, seconds=1.0)
        await eventually(lambda: begun(journal))
        first.signal(signal.SIGTERM)
        assert await first.wait() == 0
        async with actor(TOILER, server.url, tmp_path / "2"):
            outcome = await handle.outcome(timeout=10)
    assert (outcome.status, outcome.attempts) == ("succeeded", 1)
    assert begun(journal) == [1, 1]


async def test_who_has_a_supervisor_drains_also_when_told_twice(server: Server, mesh: Mesh, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    async with actor(TOILER, server.url, tmp_path / "1") as process:
        handle = await toil(mesh, journal, 1, seconds=1.0)
        await eventually(lambda: begun(journal))
        process.signal(signal.SIGTERM)
        await eventually(lambda: "drains" in process.log)
        process.signal(signal.SIGTERM)
        assert await process.wait() == 0, process.log
    outcome = await handle.outcome(timeout=5)
    assert (outcome.status, outcome.attempts) == ("succeeded", 1)
    assert begun(journal) == [1]


async def test_without_a_supervisor_a_second_sigterm_stops_at_once(server: Server, mesh: Mesh, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    async with actor(TOILER, server.url, tmp_path / "1", REVO_TEST_NO_FORKS="1") as process:
        await toil(mesh, journal, 1, seconds=30)
        await eventually(lambda: begun(journal))
        process.signal(signal.SIGTERM)
        await eventually(lambda: "drains" in process.log)
        process.signal(signal.SIGTERM)
        assert await process.wait(5) == 1


async def test_a_handler_that_blocks_the_loop_runs_once_and_is_reported_with_its_stack(
    server: Server, mesh: Mesh, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    async with (
        actor(TOILER, server.url, tmp_path / "1") as first,
        actor(TOILER, server.url, tmp_path / "2") as second,
    ):
        handle = await toil(mesh, journal, 1, "block", seconds=4.0)
        outcome = await handle.outcome(timeout=15)
        assert (outcome.status, outcome.deliveries) == ("succeeded", 1)
        assert begun(journal) == [1]
        log = first.log + second.log
        assert "has been blocked" in log
        assert "time.sleep(work.seconds)" in log


async def test_a_stopped_worker_that_wakes_up_late_changes_nothing(server: Server, mesh: Mesh, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    async with (
        actor(TOILER, server.url, tmp_path / "1") as first,
        actor(TOILER, server.url, tmp_path / "2") as second,
    ):
        handle = await toil(mesh, journal, 1, seconds=0.5)
        await eventually(lambda: begun(journal))
        holder, other = (first, second) if lines(journal)[0][2] == str(first.pid) else (second, first)
        holder.signal(signal.SIGSTOP)
        outcome = await handle.outcome(timeout=10)
        assert outcome.instance == other.instance
        holder.signal(signal.SIGCONT)
        await eventually(lambda: len([line for line in lines(journal) if line[0] == "end"]) == 2)
        assert await _drained(mesh)
        standing = await endings.stored_result(mesh.connection, subjects.result_of(handle.task_id))
        assert standing == outcome, "the first result stands"


async def _drained(mesh: Mesh) -> bool:
    async def empty() -> bool:
        info = await jetstream.call(mesh.connection, "STREAM.INFO", subjects.TASKS)
        return bool(info["state"]["messages"] == 0)

    return bool(await eventually(empty))


async def test_a_thread_is_told_to_stop_when_its_task_expires(server: Server, mesh: Mesh, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    async with actor(THREADED, server.url, tmp_path / "1"):
        handle = await mesh.submit("thread", {"id": 1, "seconds": 30, "journal": str(journal)}, deadline=0.5)
        assert (await handle.outcome(timeout=5)).status == "expired"
        await eventually(lambda: [line[0] for line in lines(journal)][1:] == ["stopped"])
        assert await (await mesh.submit("thread", {"id": 2})).result(timeout=5) == "slept"


async def test_work_goes_on_across_a_killed_server(server: Server, mesh: Mesh, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    async with actor(TOILER, server.url, tmp_path / "1"):
        handles = [await toil(mesh, journal, n, seconds=0.4) for n in range(12)]
        await eventually(lambda: begun(journal))
        server.kill()
        await server.wait()
        await server.start()
        assert sorted([await handle.result(timeout=20) for handle in handles]) == list(range(12))
        assert await _drained(mesh)


async def test_a_worker_killed_with_a_result_that_could_not_be_stored_loses_nothing(
    server: Server, mesh: Mesh, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    info = await jetstream.call(mesh.connection, "STREAM.INFO", subjects.RESULTS)
    full = {**info["config"], "max_bytes": 10}
    await jetstream.call(mesh.connection, "STREAM.UPDATE", subjects.RESULTS, body=full)
    async with actor(TOILER, server.url, tmp_path / "1") as first:
        handle = await toil(mesh, journal, 1)
        await eventually(lambda: [line[0] for line in lines(journal)] == ["begin", "end"])
        await eventually(lambda: "trying again" in first.log)
        first.signal(signal.SIGKILL)
        await first.wait()
    await jetstream.call(mesh.connection, "STREAM.UPDATE", subjects.RESULTS, body=info["config"])
    async with actor(TOILER, server.url, tmp_path / "2"):
        assert await handle.result(timeout=15) == 1


async def test_two_replicas_share_the_load(server: Server, mesh: Mesh, tmp_path: Path) -> None:
    async with (
        actor(TOILER, server.url, tmp_path / "1"),
        actor(TOILER, server.url, tmp_path / "2"),
    ):
        handles = [await toil(mesh, tmp_path / "journal", n, seconds=0.05) for n in range(60)]
        outcomes = [await handle.outcome(timeout=15) for handle in handles]
    shares = [sum(outcome.instance == who for outcome in outcomes) for who in {o.instance for o in outcomes}]
    assert len(shares) == 2
    assert min(shares) >= 15


async def test_on_start_comes_before_the_first_message_and_on_stop_after_the_last(
    server: Server, mesh: Mesh, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    async with actor("tests.integration.agents:Living", server.url, tmp_path / "log", JOURNAL=str(journal)) as living:
        handle = await mesh.submit("toil", {"id": 1, "journal": str(journal), "seconds": 0.3})
        await eventually(lambda: begun(journal))
        living.signal(signal.SIGTERM)
        assert await living.wait() == 0
        assert (await handle.outcome(timeout=5)).status == "succeeded"
    assert [line[0] for line in lines(journal)] == ["start", "begin", "end", "stop"]


async def test_an_actor_whose_on_start_fails_says_so_in_one_line(server: Server, tmp_path: Path) -> None:
    says = "stillborn did not start: ValueError: no model to load"
    with pytest.raises(AssertionError, match=says) as caught:
        async with actor("tests.integration.agents:Stillborn", server.url, tmp_path / "log"):
            pass
    assert "Traceback" not in str(caught.value)


async def test_an_actor_whose_settings_are_wrong_does_not_start(server: Server, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="this actor takes none"):
        async with actor(TOILER, server.url, tmp_path / "log", REVO_ACTOR_SETTINGS='{"x": 1}'):
            pass


async def test_work_beside_the_handlers_that_fails_ends_the_process(server: Server, tmp_path: Path) -> None:
    async with actor("tests.integration.agents:Faltering", server.url, tmp_path / "log") as process:
        assert await process.wait(10) == 1
        assert "ends: ValueError: it fell over" in process.log


__all__ = ["ActorProcess"]


@pytest.mark.parametrize("target", [TOILER, "actors.registry:Registry", "actors.steward:Steward"])
async def test_an_actor_that_is_told_to_end_while_its_server_is_away_does_so_at_once_and_in_order(
    server: Server, mesh: Mesh, tmp_path: Path, target: str
) -> None:
    async with actor(target, server.url, tmp_path / "log") as process:
        server.kill()
        await server.wait()
        process.signal(signal.SIGTERM)
        began = time.monotonic()
        assert await process.wait() == 0, process.log
        assert time.monotonic() - began < 3.0
        assert "Traceback" not in process.log
