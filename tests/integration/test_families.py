"""Tasks that submit tasks: found again after a death, bounded in depth and number, seen as a tree."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from bus import jetstream, subjects, tasks, traces
from bus.audit import audit
from bus.budgets import Budget
from bus.errors import BusError, DecodeError, QueueFullError, TaskFailedError, TooDeepError, TooManyChildrenError
from bus.family import FAMILY, Family
from bus.mesh import Handle, Mesh
from bus.server import Server
from bus.settings import Settings
from tests.conftest import StartWorker, nothing_queued
from tests.eventually import eventually, in_time
from tests.processes import ROOT, ActorProcess, actor
from tests.proxy import proxied

ELDER = "tests.integration.elders:Elder"


@pytest.fixture
async def steward(server: Server, mesh: Mesh, tmp_path: Path) -> AsyncIterator[ActorProcess]:
    async with actor("actors.steward:Steward", server.url, tmp_path / "steward.log") as process:
        yield process


@contextlib.asynccontextmanager
async def within(family: Family) -> AsyncIterator[None]:
    """As in the handler of a task."""
    token = FAMILY.set(family)
    try:
        yield
    finally:
        FAMILY.reset(token)


class Held:
    """A worker's handler: messages whose `n` is even are done at once, the others when it is let go."""

    def __init__(self) -> None:
        self.runs: list[int] = []
        self.open = asyncio.Event()

    async def __call__(self, message: dict[str, int]) -> int:
        self.runs.append(message["n"])
        if message["n"] % 2:
            await self.open.wait()
        return message["n"]


# --- found again ------------------------------------------------------------------------------------------


async def test_children_of_a_handler_that_was_killed_are_found_again_and_run_once(
    server: Server, mesh: Mesh, steward: ActorProcess, start_worker: StartWorker, tmp_path: Path
) -> None:
    """Those that ended, those that run and those that wait; also when the server has forgotten their ids by then."""
    journal, held = tmp_path / "journal", Held()
    info = await jetstream.call(mesh.connection, "STREAM.INFO", subjects.TASKS)
    config = {**info["config"], "duplicate_window": 100_000_000}
    await jetstream.call(mesh.connection, "STREAM.UPDATE", subjects.TASKS, body=config)
    await start_worker(held, concurrency=3)
    async with actor(ELDER, server.url, tmp_path / "first.log") as first:
        handle = await mesh.submit("lead", {"children": 10, "journal": str(journal)})
        await eventually(lambda: journal.exists() and "waits" in journal.read_text() and len(held.runs) >= 4)
        first.signal(signal.SIGKILL)
        await first.wait()
    async with actor(ELDER, server.url, tmp_path / "second.log"):
        await eventually(lambda: journal.read_text().count("waits") == 2)
        assert journal.read_text().count("begin 1") == 2, "it is the same attempt"
        held.open.set()
        assert await handle.result(timeout=20) == list(range(10))
        await eventually(lambda: nothing_queued(mesh))
    report = await audit(mesh.connection)
    assert (report.accepted, report.doubles, report.good) == (11, 0, True), report
    assert sorted(held.runs) == list(range(10)), "none was submitted, or run, twice"


async def test_another_attempt_after_an_error_has_children_of_its_own(
    mesh: Mesh, steward: ActorProcess, start_worker: StartWorker
) -> None:
    runs: list[Any] = []

    async def child(message: Any) -> Any:
        runs.append(message)
        return message

    async def parent(_: Any) -> str:
        handle = await mesh.submit("echo", {"n": 1})
        await handle.result()
        if len(runs) < 2:
            raise ValueError("once more")
        return handle.task_id

    await start_worker(child)
    await start_worker(parent, capability="lead")
    handle = await mesh.submit("lead", {})
    assert (await handle.outcome(timeout=20)).attempts == 2
    assert len(runs) == 2


async def test_what_says_the_same_twice_are_two_children_and_one_that_was_not_stored_is_still_the_same(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with within(Family("a.lead.1")):
        first, second = await mesh.submit("echo", {"n": 1}), await mesh.submit("echo", {"n": 1})
        assert first.task_id != second.task_id
        with monkeypatch.context() as patch:
            patch.setattr("bus.jetstream.store", _full)
            with pytest.raises(QueueFullError):
                await mesh.submit("echo", {"n": 2})
        third = await mesh.submit("echo", {"n": 2})
    async with within(Family("a.lead.1", again=True)):
        again = [await mesh.submit("echo", {"n": n}) for n in (1, 1, 2)]
    assert [one.task_id for one in again] == [first.task_id, second.task_id, third.task_id]
    assert all(one.duplicate for one in again)
    for other in (Family("a.lead.2"), Family("a.lead.1", attempt=2)):
        async with within(other):
            assert (await mesh.submit("echo", {"n": 2})).task_id != third.task_id
            assert (await mesh.submit("echo", {"n": 2}, detached=True)).task_id != third.task_id


async def test_a_handler_that_goes_on_from_what_it_saved_submits_the_next_child_and_not_an_earlier_one(
    server: Server, mesh: Mesh, steward: ActorProcess, start_worker: StartWorker, tmp_path: Path
) -> None:
    """They say the same, and only how often it was said before tells them apart. What it submits before it looks at
    what it saved, and what it had submitted since the last save, is found again.
    """
    runs: list[Any] = []

    async def count(message: Any) -> int:
        runs.append(message)
        return len(runs)

    await start_worker(count)
    journal = tmp_path / "journal"
    async with actor("tests.integration.elders:Stepper", server.url, tmp_path / "first.log") as first:
        handle = await mesh.submit("step", {"children": 4, "journal": str(journal)})
        await eventually(journal.exists)
        first.signal(signal.SIGKILL)
        await first.wait()
    async with actor("tests.integration.elders:Stepper", server.url, tmp_path / "second.log"):
        assert await handle.result(timeout=20) == [4, 5, 6, 7]
    assert len(runs) == 3 + 4, "none was submitted twice"


def test_how_often_a_handler_has_said_what_is_kept_for_all_that_it_may_submit_and_nothing_else_is_read() -> None:
    family = Family("a.lead.1")
    many = [str(n).encode() for n in range(Settings().max_children)]
    for body in [*many, *many[:3], many[0]]:
        family.name("echo", "", body, b"")
    so_far = family.so_far()
    assert len(so_far) < 60_000, "it is a header"
    resumed = Family("a.lead.1")
    resumed.name("echo", "", many[0], b"")  # said before it goes on: the first again
    resumed.go_on(so_far)
    assert [resumed.name("echo", "", body, b"")[0] for body in many] == [
        family.name("echo", "", body, b"")[0] for body in many
    ]
    Family("a.lead.1").go_on("")
    for bad in ("x:AAAA", "1:A", "1:!!!!"):
        with pytest.raises(DecodeError, match="Revo-Children"):
            Family("a.lead.1").go_on(bad)


async def _full(*_: Any, **__: Any) -> Any:
    raise QueueFullError("revo.task.echo.normal.anon", "maximum messages per subject exceeded")


async def test_what_is_refused_before_it_is_sent_is_no_child_and_takes_no_place(mesh: Mesh) -> None:
    """So that the same, put right, is the child that a repeated run finds."""
    family = Family("a.lead.1")
    async with within(family):
        for order in (
            tasks.Order("echo", "anon", budget=Budget()),
            tasks.Order("echo", "anon", deadline=-1.0),
            tasks.Order("@echo", "anon", work="not one"),
        ):
            with pytest.raises(BusError):
                tasks.seal(mesh.connection, order, {"n": 1})
        assert (family.children, family.sent, family.so_far()) == (0, False, "")


# --- bounds -----------------------------------------------------------------------------------------------


async def test_tasks_that_submit_one_another_without_end_are_stopped_by_their_depth(
    settings: Settings, start_worker: StartWorker
) -> None:
    runs: list[Any] = []
    async with Mesh.connect(settings=settings.model_copy(update={"max_depth": 3})) as mesh:

        async def loop(message: Any) -> Any:
            runs.append(message)
            return await (await mesh.submit("echo", message)).result()

        await start_worker(loop, concurrency=10)
        handle = await mesh.submit("echo", {})
        with pytest.raises(TaskFailedError, match=r"4 generations deep, and 3 are allowed.*REVO_MAX_DEPTH") as caught:
            await handle.result(timeout=20)
    assert caught.value.code == "too_deep"
    assert str(caught.value).count("failed: too_deep:") == 2, "its own end, and of those below the innermost alone"
    assert caught.value.details["failed_task"] in str(caught.value)
    assert len(runs) == 4, "it is no use trying again"


async def test_an_attempt_submits_no_more_tasks_than_allowed_and_says_so_for_each(settings: Settings) -> None:
    async with Mesh.connect(settings=settings.model_copy(update={"max_children": 5})) as mesh:
        async with within(Family("a.lead.1")):
            ends = await mesh.submit_many("echo", ({"n": n} for n in range(8)))
            assert [type(end) for end in ends] == [Handle] * 5 + [TooManyChildrenError] * 3
            with pytest.raises(TooManyChildrenError, match=r"submitted 5 tasks in this attempt.*REVO_MAX_CHILDREN"):
                await mesh.submit("echo", {"n": 9})
            await mesh.submit("echo", {"n": 10}, detached=True)
        async with within(Family("a.lead.1", depth=16)):
            with pytest.raises(TooDeepError):
                await mesh.submit("echo", {"n": 11})


async def test_a_child_lives_no_longer_than_its_parent(mesh: Mesh, start_worker: StartWorker) -> None:
    statuses: list[str] = []

    async def parent(_: Any) -> None:
        statuses.append((await (await mesh.submit("nobody", {}, deadline=600.0)).outcome()).status)

    await start_worker(parent, capability="lead")
    handle = await mesh.submit("lead", {}, deadline=0.5)
    assert (await handle.outcome(timeout=10)).status == "expired"


# --- gathered ---------------------------------------------------------------------------------------------


async def test_values_are_gathered_in_order_and_handles_given_as_they_end(
    mesh: Mesh, start_worker: StartWorker
) -> None:
    held = Held()
    await start_worker(held, concurrency=4)
    handles = [await mesh.submit("echo", {"n": n}) for n in (1, 2, 4)]
    seen = []
    async for handle in mesh.as_completed([*handles, handles[0]], timeout=20):
        seen.append(await handle.result())
        if len(seen) == 2:
            held.open.set()
    assert (set(seen[:2]), seen[2:]) == ({2, 4}, [1, 1])
    assert await mesh.gather(*handles, handles[1], timeout=20) == [1, 2, 4, 2]
    assert await mesh.gather() == []
    again = [mesh.handle("echo", handle.task_id) for handle in handles]
    async with Mesh.connect(mesh.connection.url) as other:  # which has heard of none of them
        assert await other.gather(*(other.handle("echo", one.task_id) for one in again), timeout=20) == [1, 2, 4]


async def test_the_first_that_fails_is_raised_while_the_others_go_on(mesh: Mesh, start_worker: StartWorker) -> None:
    held = Held()

    async def fails(message: dict[str, int]) -> int:
        if message["n"] < 0:
            raise BusErrorOfOurs
        return await held(message)

    await start_worker(fails, concurrency=4)
    handles = await mesh.submit_many("echo", [{"n": 1}, {"n": -1}, {"n": 2}])
    with pytest.raises(TaskFailedError, match="as told"):
        await mesh.gather(*handles, timeout=20)
    with pytest.raises(BusError, match=r"1 of 2 tasks have no result after 0\.1 s"):
        await mesh.gather(handles[0], handles[2], timeout=0.1)
    held.open.set()
    refused = QueueFullError("x", "full")
    found = await mesh.gather(*handles, refused, return_exceptions=True, timeout=20)
    assert (found[0], found[2], found[3]) == (1, 2, refused)
    assert isinstance(found[1], TaskFailedError)
    with pytest.raises(QueueFullError):
        await mesh.gather(*handles, refused)


class BusErrorOfOurs(Exception):  # noqa: N818
    retryable = False

    def __str__(self) -> str:
        return "as told"


async def test_five_thousand_results_that_were_stored_while_nobody_listened_are_gathered_after_the_server_was_killed(
    server: Server, settings: Settings, start_worker: StartWorker, figures: Callable[[str], None]
) -> None:
    async def double(message: dict[str, int]) -> int:
        return 2 * message["n"]

    async with (
        proxied(server.url) as wire,
        Mesh.connect(settings=settings.model_copy(update={"nats_url": wire.url})) as mesh,
    ):
        handles = await mesh.submit_many("echo", ({"n": n} for n in range(5000)))
        gathering = asyncio.create_task(mesh.gather(*handles, timeout=90))
        await wire.cut()
        async with Mesh.connect(settings=settings) as here:
            await start_worker(double, concurrency=50)
            await eventually(lambda: nothing_queued(here), timeout=60)
        server.kill()
        await server.wait()
        await server.start()
        assert not gathering.done()
        began = time.monotonic()
        wire.mend()
        assert await gathering == [2 * n for n in range(5000)]
        figures(f"5,000 results found in {time.monotonic() - began:.1f} s after the connection was back")


# --- seen as a tree ---------------------------------------------------------------------------------------


async def test_the_trace_of_a_family_of_three_generations_is_one_tree(
    server: Server, mesh: Mesh, tmp_path: Path
) -> None:
    async with actor("tests.integration.elders:Spender", server.url, tmp_path / "log"):
        handle = await mesh.submit("errand", {"errands": 2, "then": {"errands": 1, "then": {}}})
        await handle.result(timeout=20)

        async def found() -> list[traces.Node]:
            spans = [span for span in await mesh.trace(handle.task_id) if span.name.startswith(("process", "send"))]
            return traces.tree(spans) if len(spans) == 10 else []

        (root,) = await eventually(found)
        assert _shape(root) == "send(process(send(process(send(process)))send(process(send(process)))))"
        command = [sys.executable, "-m", "revo", "trace", handle.task_id, "--url", server.url]
        shown = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
        text = (await in_time(shown.communicate(), 30))[0].decode()
        assert [text.count(f"{verb} errand") for verb in ("send", "process")] == [5, 5], text


def _shape(node: traces.Node) -> str:
    below = "".join(_shape(child) for child in node.children)
    return node.span.name.partition(" ")[0] + (f"({below})" if below else "")
