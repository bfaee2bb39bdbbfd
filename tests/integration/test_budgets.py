"""What a family of tasks may spend, spent by real processes and counted by a real server."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from actors.actor import Agent, TaskContext, task
from bus import budgets, family, inspection, jetstream, stewards, subjects
from bus.audit import audit
from bus.budgets import Budget
from bus.errors import BudgetExceededError, ConfigError, TaskFailedError
from bus.handle import Handle
from bus.mesh import Mesh
from bus.messages import BUDGET, TASK_ID
from bus.server import Server
from bus.wallet import Wallet
from tests.conftest import Gate, StartWorker, nothing_queued
from tests.eventually import PATIENCE, eventually
from tests.integration.elders import Errand
from tests.integration.streaming import serve
from tests.processes import ActorProcess, actor

SPENDER = "tests.integration.elders:Spender"


@pytest.fixture
async def steward(server: Server, mesh: Mesh, tmp_path: Path) -> AsyncIterator[ActorProcess]:
    async with actor("actors.steward:Steward", server.url, tmp_path / "steward.log") as process:
        yield process


async def test_what_children_and_plain_handlers_spend_is_spent_of_the_family_s_budget_and_of_their_own(
    server: Server, mesh: Mesh, steward: ActorProcess, tmp_path: Path
) -> None:
    async with actor(SPENDER, server.url, tmp_path / "log"):
        then = {"tokens": 20, "money": 0.1, "errands": 2, "then": {"tokens": 5}}
        message = {"tokens": 10, "money": 0.000001, "errands": 3, "then": then}
        handle = await mesh.submit("errand", message, budget=Budget(tokens=1000, money=1.0, tasks=20))
        left = await handle.result(timeout=20)
        assert left == {"tokens": 1000 - 10 - 3 * (20 + 2 * 5), "money": 0.699999, "tasks": 20 - 3 - 6}
        within = await mesh.submit("errand", {"tokens": 3}, budget=Budget(tokens=3))
        assert await within.result(timeout=20) == {"tokens": 0, "money": None, "tasks": None}
        without = await mesh.submit("errand", {"tokens": 3})
        assert await without.result(timeout=20) == {}
        thread = await mesh.submit("thread_errand", {"tokens": 10}, budget=Budget(tokens=10))
        assert await thread.result(timeout=20) == "spent"
        thread = await mesh.submit("thread_errand", {"tokens": 11}, budget=Budget(tokens=10))
        outcome = await thread.outcome(timeout=20)  # it hears of it at once, and so does the steward
        said = outcome.value if outcome.error is None else outcome.error.message
        assert "the budget of 10 tokens is used up: 11 have been spent" in said


async def test_a_budget_that_is_used_up_stops_the_whole_tree_and_nobody_else(
    server: Server, mesh: Mesh, steward: ActorProcess, tmp_path: Path
) -> None:
    async with actor(SPENDER, server.url, tmp_path / "log"):
        leaf = {"tokens": 1, "seconds": 50.0}
        middle = {"tokens": 1, "seconds": 50.0, "errands": 2, "then": leaf}
        message = {"tokens": 1, "seconds": 50.0, "errands": 2, "then": middle}
        beside = await mesh.submit("errand", {"seconds": 50.0})
        handle = await mesh.submit("errand", message, budget=Budget(tokens=6))
        await _uses_up(mesh, handle)
        await eventually(lambda: _ended(mesh, 7))
        ended = await inspection.latest_results(mesh.connection, 100)
        assert sorted(one.status for one in ended) == ["cancelled"] * 6 + ["failed"]
        errors = {one.error.message for one in ended if one.error is not None and one.status == "cancelled"}
        says = f"cancelled by the budget of anon.errand.{handle.task_id}, which is used up"
        assert any(says in error for error in errors), errors
        assert all(says in error or "cancelled by its parent" in error for error in errors), errors
        letters = await inspection.letters(mesh.connection)
        assert [one.letter.task_id for one in letters] == [handle.task_id]
        assert not beside.arrival.done
        redriven = await mesh.redrive(handle.task_id)
        await _uses_up(mesh, mesh.handle("errand", redriven.task_id))  # which begins with a budget of its own
        await beside.cancel()
        await eventually(lambda: nothing_queued(mesh))
    assert (await audit(mesh.connection)).good


async def _uses_up(mesh: Mesh, handle: Handle) -> None:
    outcome = await handle.outcome(timeout=PATIENCE)
    assert outcome.error is not None
    assert (outcome.status, outcome.error.code) == ("failed", "budget_exceeded")
    assert "the budget of 6 tokens is used up: 7 have been spent" in outcome.error.message


async def _ended(mesh: Mesh, count: int) -> bool:
    return len(await inspection.latest_results(mesh.connection, 100)) == count


async def test_a_family_of_as_many_tasks_as_allowed_gets_no_other_and_none_is_sent(
    server: Server, mesh: Mesh, steward: ActorProcess, tmp_path: Path
) -> None:
    async with actor(SPENDER, server.url, tmp_path / "log"):
        handle = await mesh.submit("errand", {"errands": 5, "seconds": 0.0}, budget=Budget(tasks=3))
        outcome = await handle.outcome(timeout=20)
        assert outcome.error is not None
        assert (outcome.status, outcome.error.code) == ("failed", "budget_exceeded")
        assert "the budget of 3 tasks is used up" in outcome.error.message
        await eventually(lambda: nothing_queued(mesh))
    assert (await audit(mesh.connection)).accepted == 4


async def _forgetful(mesh: Mesh) -> None:
    """Let nothing hang on what the server remembers."""
    for stream in (subjects.TASKS, subjects.BUDGETS):
        info = await jetstream.call(mesh.connection, "STREAM.INFO", stream)
        config = {**info["config"], "duplicate_window": 100_000_000}
        await jetstream.call(mesh.connection, "STREAM.UPDATE", stream, body=config)


async def _queued(mesh: Mesh, count: int) -> bool:
    info = await jetstream.call(mesh.connection, "STREAM.INFO", subjects.TASKS)
    return bool(info["state"]["messages"] == count)


async def test_a_child_that_is_submitted_twice_under_one_name_counts_once(mesh: Mesh) -> None:
    await _forgetful(mesh)
    purses = budgets.opened((), Budget(tasks=10**6), "anon.errand.1")
    wallet = Wallet(mesh.connection, mesh.telemetry, purses)

    async def forgotten() -> bool:
        await Wallet(mesh.connection, mesh.telemetry, purses).charge("anon.errand.3")
        return (await wallet.left()).tasks == 10**6 - 3

    await wallet.charge("anon.errand.2")
    await eventually(forgotten)  # that the later one was charged before, and so the earlier one, too
    await wallet.charge("anon.errand.2")
    assert (await wallet.left()).tasks == 10**6 - 3


@pytest.mark.parametrize("named", [False, True])
async def test_what_a_killed_handler_spent_is_spent_and_its_children_count_once(
    server: Server, mesh: Mesh, steward: ActorProcess, tmp_path: Path, named: bool
) -> None:
    journal = tmp_path / "journal"
    await _forgetful(mesh)
    async with actor(SPENDER, server.url, tmp_path / "first.log") as first:
        message = {"tokens": 10, "errands": 3, "seconds": 2.0, "journal": str(journal), "named": named}
        handle = await mesh.submit("errand", message, budget=Budget(tokens=100, tasks=10))
        await eventually(journal.exists)
        await eventually(lambda: _queued(mesh, 1))  # its children have ended, and are in nobody's hands
        first.signal(signal.SIGKILL)
        await first.wait()
    async with actor(SPENDER, server.url, tmp_path / "second.log"):
        assert await handle.result(timeout=20) == {"tokens": 80, "money": None, "tasks": 7}


async def test_a_steward_that_was_away_is_told_by_the_next_spend_and_believes_no_word_but_the_header(
    server: Server, mesh: Mesh, tmp_path: Path
) -> None:
    handle, other = [await mesh.submit("nobody", {}, budget=Budget(tokens=n)) for n in (1, 5)]
    queued = [one async for one in inspection.queued(mesh.connection)]
    (purse,), (others,) = (budgets.read(one.headers, "") for one in queued)
    wallet = Wallet(mesh.connection, mesh.telemetry, (purse, others))
    with pytest.raises(BudgetExceededError, match="1 tokens is used up: 2 have"):
        await wallet.spend(tokens=2)
    await wallet.close()
    async with actor("actors.steward:Steward", server.url, tmp_path / "steward.log"):
        lie = {"budget": others.id, "root": others.root}
        assert await stewards.ask(mesh.connection, mesh.telemetry, "overspent", lie) == {"ended": 0}
        lie = {"budget": purse.id, "root": others.root}
        assert await stewards.ask(mesh.connection, mesh.telemetry, "overspent", lie) == {"ended": 0}
        assert len([one async for one in inspection.queued(mesh.connection)]) == 2
        with pytest.raises(BudgetExceededError, match="1 tokens is used up: 3 have"):
            await wallet.spend(tokens=1)
        outcome = await handle.outcome(timeout=20)
        assert outcome.error is not None
        assert (outcome.status, outcome.error.code, outcome.agent) == ("failed", "budget_exceeded", "revo-steward")
        await wallet.close()
        assert not other.arrival.done


async def test_what_nobody_awaits_is_spent_before_the_task_ends_and_its_error_is_the_task_s(
    mesh: Mesh, start_worker: StartWorker
) -> None:
    async def spends(_: Any) -> str:
        family.spend(tokens=6)
        with contextlib.suppress(BudgetExceededError):
            await family.spend(tokens=5)
        family.spend(money=9.0)  # of which there is no limit
        return "done"

    await start_worker(spends)
    assert await (await mesh.submit("echo", {}, budget=Budget(tokens=20))).result(timeout=20) == "done"
    with pytest.raises(TaskFailedError, match="the budget of 5 tokens is used up: 6 have been spent"):
        await (await mesh.submit("echo", {}, budget=Budget(tokens=5))).result(timeout=20)


class Looped(Agent):
    """A plain handler with a loop of its own."""

    @task("loop")
    def loop(self, errand: Errand, context: TaskContext) -> int | None:
        async def inner() -> int | None:
            await context.spend(tokens=errand.tokens)
            left = await context.budget()
            return left.tokens if left is not None else None

        return asyncio.run(inner())


async def test_a_plain_handler_spends_from_a_loop_of_its_own(mesh: Mesh, start_worker: StartWorker) -> None:
    await serve(start_worker, Looped)
    assert await (await mesh.submit("loop", {"tokens": 4}, budget=Budget(tokens=10))).result(timeout=20) == 6
    assert await (await mesh.submit("loop", {"tokens": 4})).result(timeout=20) is None
    with pytest.raises(TaskFailedError, match="the budget of 5 tokens is used up: 6 have been spent"):
        await (await mesh.submit("loop", {"tokens": 6}, budget=Budget(tokens=5))).result(timeout=20)


async def test_a_header_that_is_no_budget_fails_the_task_and_what_is_no_budget_is_never_sent(
    mesh: Mesh, start_worker: StartWorker, gate: Gate
) -> None:
    await start_worker(gate)
    gate.open.set()
    for number, bad in enumerate(("", "x", "id;a.b.c;tokens=-1", "id;a.b.c;pounds=1", "id;a.b;tokens=1")):
        headers = {TASK_ID: f"bad-{number}", BUDGET: bad}
        await jetstream.store(mesh.connection, f"revo.task.echo.normal.{mesh.client}", b"{}", headers)
        outcome = await mesh.handle("echo", f"bad-{number}").outcome(timeout=20)
        assert outcome.error is not None
        assert (outcome.status, outcome.error.code) == ("failed", "decode")
    assert gate.runs == []
    for unusable, says in (
        (Budget(), "limits nothing"),
        (Budget(tokens=-1), "tokens: -1 is not a whole number"),
        (Budget(money=float("nan")), "money: nan is not an amount"),
    ):
        with pytest.raises(ConfigError, match=says):
            await mesh.submit("echo", {}, budget=unusable)
    await eventually(lambda: nothing_queued(mesh))
