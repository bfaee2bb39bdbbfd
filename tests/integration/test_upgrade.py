"""Upgrades while tasks come in: two versions of an agent, two versions of Revo, and every process replaced.

"Version N" of Revo is the wheel built of this tree; `upgrades.trees` says what the next one has more, and what less.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from actors.registry.client import RegistryClient
from bus import codec, jetstream, replies, subjects
from bus.connection import Connection
from bus.inspection import workers
from bus.mesh import Handle, Mesh
from bus.messages import CONTENT_TYPE, INSTANCE, MSGPACK, VERSION, Result
from bus.outcomes import Policy
from bus.server import Server
from bus.stewards import policy_of
from bus.wire import Message
from tests.eventually import eventually
from tests.integration.upgrades import one, two
from tests.integration.upgrades.stage import Stage, all_is_well
from tests.integration.upgrades.trees import HEADER, MARK, Trees, make
from tests.processes import ROOT, ActorProcess

REGISTRY = "actors.registry:Registry"
STEWARD = "actors.steward:Steward"
HERE = ROOT / "tests" / "integration"
TOILER = f"{HERE / 'agents.py'}:Toiler"
ONE, TWO = (f"{HERE / 'upgrades' / name}.py:Painter" for name in ("one", "two"))


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Trees:
    return make(tmp_path_factory.mktemp("revo"))


@pytest.fixture
async def stage(server: Server, mesh: Mesh, tmp_path: Path) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        yield Stage(stack, server.url, tmp_path)


# --- two versions of an agent ---------------------------------------------------------------------------------


async def test_tasks_survive_the_replacement_of_an_agent_by_one_with_another_schema(stage: Stage, mesh: Mesh) -> None:
    """Queued and running ones, and a retry, which waits for its time on the server."""
    gate = stage.journal.with_name("gate")
    os.mkfifo(gate)
    await asyncio.gather(stage.start(REGISTRY), stage.start(STEWARD))

    async def order(number: int, note: str = "") -> Handle:
        return await mesh.submit("paint", one.Order(id=number, old="red", note=note))

    early = await mesh.submit("paint", two.Order(id=0))  # by a submitter that was upgraded before the agent
    scheduled, running = await order(1, "retry"), await order(2, "hold")
    queued = [await order(number) for number in range(3, 9)]  # there is no worker yet
    first = await stage.start(ONE)
    refused = await early.outcome(timeout=10)
    await eventually(lambda: stage.noted("begin 1") and stage.noted("begin 2"))
    second = await stage.start(TWO)  # somebody lives who has the old schema
    first.signal(signal.SIGTERM)
    await eventually(lambda: "drains" in first.log)
    gate.write_bytes(b"")
    assert await first.wait() == 0, first.log
    outcomes = [await handle.outcome(timeout=10) for handle in (scheduled, running, *queued)]
    assert {outcome.status for outcome in outcomes} == {"succeeded"}
    assert [outcome.attempts for outcome in outcomes] == [2, *[1] * 7], "only the retry was an attempt more"
    by = ["two", "one", *["two"] * 6]
    assert [stage.noted(f"end {number}") for number in range(1, 9)] == [[name] for name in by], "each of them once"
    assert [outcome.instance for outcome in outcomes] == [{"one": first, "two": second}[name].instance for name in by]
    answers = [one.Done.model_validate(outcome.value) for outcome in outcomes]  # as the older client reads them
    assert [answer.id for answer in answers] == list(range(1, 9))
    assert outcomes[0].value["shade"] == "blue", "the newer version's result has a field that the older does not know"
    # What came too early for the old version failed, and is done when it is redriven.
    assert refused.error is not None
    assert refused.error.code == "decode"
    again = mesh.handle("paint", (await mesh.redrive(early.task_id)).task_id)
    assert (await again.outcome(timeout=10)).instance == second.instance
    # And back: the older version comes while the newer one lives, and takes over.
    third = await stage.start(ONE)
    await stage.end(second)
    assert (await (await order(9)).outcome(timeout=10)).instance == third.instance
    await all_is_well(mesh.connection)


# --- two versions of Revo -------------------------------------------------------------------------------------


class Beats:
    """All heartbeats, as they were written."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []

    def on_message(self, message: Message) -> None:
        self.heard.append(codec.decode(message.data, MSGPACK))

    def tell_of(self, task_id: str) -> bool:
        return any(task["task_id"] == task_id for beat in self.heard for task in beat["in_hand"])


async def written(connection: Connection, stream: str, subject: str) -> tuple[dict[str, Any], dict[str, str]]:
    """What stands on a subject: body and headers."""
    stored = await jetstream.last(connection, stream, subject)
    assert stored is not None, subject
    return codec.decode(stored.body, codec.content_type_of(stored.headers)), stored.headers


async def nothing_in_hand(connection: Connection) -> bool:
    return not any(beat.in_hand for beat in await workers(connection))


@pytest.mark.parametrize("newer", ["worker", "system"])
async def test_two_versions_of_revo_read_what_the_other_writes(
    newer: str, stage: Stage, mesh: Mesh, trees: Trees
) -> None:
    """Submitter, registry and steward are of one version, the worker is of the other, and the next one, when that is
    killed, of the first again.
    """
    system, work = (trees.now, trees.next) if newer == "worker" else (trees.next, trees.now)
    connection, beats = mesh.connection, Beats()
    await connection.subscribe(subjects.BEATS, beats.on_message)
    _, steward, worker = await asyncio.gather(
        stage.start(REGISTRY, system), stage.start(STEWARD, system), stage.start(TOILER, work)
    )
    done, dead = await asyncio.gather(
        stage.revo(system, "submit", "toil", "what=retry", "--wait"),
        stage.revo(system, "submit", "toil", "what=raise", "--wait"),
    )
    assert (done["status"], done["attempts"], done["instance"]) == ("succeeded", 3, worker.instance)
    assert (dead["status"], dead["attempts"], dead["error"]["code"]) == ("failed", 3, "value_error")
    again = mesh.handle("toil", (await mesh.redrive(dead["task_id"])).task_id)
    assert (await again.outcome(timeout=10)).status == "failed", "the steward has read the other's dead letter"
    endless = await mesh.submit("toil", {"seconds": 60.0})
    await eventually(lambda: beats.tell_of(endless.task_id))
    assert (await endless.cancel()).cancelled
    await eventually(lambda: nothing_in_hand(connection))
    found = await eventually(lambda: RegistryClient(mesh).find("toil"))
    assert [one.instance for one in found] == [worker.instance]
    policy, _ = await policy_of(connection, mesh.telemetry, "toil", Policy(), "somebody")
    assert policy.backoff == 0.05, "by the word of the worker's version, from the steward's"
    await tell_apart(connection, worker, done["task_id"], dead["task_id"], beats.heard[-1], newer)
    orphan = await mesh.submit("toil", {"seconds": 1.0})
    await eventually(lambda: beats.tell_of(orphan.task_id))
    worker.signal(signal.SIGKILL)
    heir = await stage.start(TOILER, system)
    outcome = await orphan.outcome(timeout=15)
    assert (outcome.status, outcome.attempts, outcome.instance) == ("succeeded", 1, heir.instance)
    await eventually(lambda: f"its process died, with attempt 1 of task {orphan.task_id}" in steward.log)
    assert "carries no policy" not in heir.log, "how the capability is run stands, whoever wrote it"
    await all_is_well(connection)
    assert (await stage.revo(trees.next, "verify"))["good"]


async def tell_apart(  # noqa: PLR0917  (what was done, by whom)
    connection: Connection, worker: ActorProcess, done: str, dead: str, beat: dict[str, Any], newer: str
) -> None:
    """If both versions wrote the same this would prove nothing."""
    result, headers = await written(connection, subjects.RESULTS, subjects.result_of(done))
    key = subjects.entry(subjects.REGISTRY_BUCKET, f"lease.toiler.{worker.instance}")
    lease, _ = await written(connection, subjects.bucket(subjects.REGISTRY_BUCKET), key)
    by_worker = (
        (result, MARK, "trace_id"),
        (headers, HEADER, VERSION),
        (lease, MARK, "restarts"),
        (beat, MARK, "leaving"),
    )
    for what, more, less in by_worker:
        assert what.keys() & {more, less} == ({more} if newer == "worker" else {less})
    letter = await jetstream.last(connection, subjects.DEAD, subjects.dead_of(dead))
    assert letter is not None
    by_submitter = HEADER if newer == "system" else VERSION
    assert letter.headers.keys() & {HEADER, VERSION} == {by_submitter}


# --- every process is replaced --------------------------------------------------------------------------------


class Customers:
    """Submit one task after the other, ask the agents, and have errands for the stewards and the registries."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._registry = RegistryClient(mesh)
        self._enough = False
        self.outcomes: list[Result] = []
        self.prices: Counter[str] = Counter()
        self.errands = 0

    def leave(self) -> None:
        self._enough = True

    async def know(self, process: ActorProcess) -> bool:
        """Whether it is ready to the eyes of others, too: where machines are slow it registers a moment later."""
        known = {one.instance: one.state for one in await self._registry.instances()}
        return known.get(process.instance) == "ready"

    async def order(self, number: int) -> None:
        while not self._enough:
            number += 100
            handle = await self._mesh.submit("paint", one.Order(id=number, old="red"))
            self.outcomes.append(await handle.outcome(timeout=20))

    async def ask(self) -> None:
        while not self._enough:
            self.prices[await self._mesh.ask("painter", "price")] += 1

    async def run_errands(self) -> None:
        while not self._enough:
            assert await self._registry.find("paint"), "somebody is always there"
            assert (await (await self._mesh.submit("nobody", {})).cancel()).cancelled
            overdue = await self._mesh.submit("nobody", {}, deadline=0.1)
            assert (await overdue.outcome(timeout=20)).status == "expired"
            self.errands += 1


async def test_every_process_is_replaced_while_tasks_come_in_and_nobody_notices(
    stage: Stage, mesh: Mesh, trees: Trees, figures: Callable[[str], None]
) -> None:
    """Registries, stewards, agents: from this version of Revo to the next, and from version 1 of the agent to 2."""
    customers = Customers(mesh)
    older: list[tuple[ActorProcess, str]] = []
    for old, new in ((REGISTRY, REGISTRY), (STEWARD, STEWARD), (ONE, TWO)):
        both = await asyncio.gather(stage.start(old, trees.now), stage.start(old, trees.now))
        older += [(process, new) for process in both]
    for process, _ in older:
        await eventually(lambda: customers.know(process))  # noqa: B023  (it is awaited here)
    async with asyncio.TaskGroup() as group:
        for number in range(6):
            group.create_task(customers.order(number))
        for _ in range(3):
            group.create_task(customers.ask())
            group.create_task(customers.run_errands())
        for process, new in older:
            newer = await stage.start(new, trees.next)
            await eventually(lambda: customers.know(newer))  # noqa: B023
            if new == REGISTRY:
                await answer_alike(mesh, {process.instance, newer.instance})
            await stage.end(process)
        customers.leave()
    found = await all_is_well(mesh.connection)
    outcomes = customers.outcomes
    figures(
        f"upgrade: {len(older)} processes replaced, {len(outcomes)} tasks, {customers.prices.total()} asks, no error"
    )
    assert {(outcome.status, outcome.attempts) for outcome in outcomes} == {("succeeded", 1)}
    assert {outcome.task_id for outcome in outcomes} <= set(found.results)
    answers = [one.Done.model_validate(outcome.value) for outcome in outcomes]
    begun = Counter(line.split()[2] for line in stage.journal.read_text().splitlines() if " begin " in line)
    assert begun == Counter(str(answer.id) for answer in answers), "each was done once"
    assert {answer.by for answer in answers} == customers.prices.keys() == {"1.0.0", "2.0.0"}
    assert customers.errands >= 3


async def answer_alike(mesh: Mesh, registries: set[str]) -> None:
    """Registries of both versions answer, and soon the same."""
    subject, body = subjects.rpc(subjects.REGISTRY, "list"), codec.encode({})
    answers: dict[str, list[str]] = {}

    async def both() -> bool:
        reply = await mesh.connection.request(subject, body, {CONTENT_TYPE: MSGPACK})
        page = replies.read(reply.headers, reply.data, subject)
        answers[reply.headers[INSTANCE]] = [one["instance"] for one in page["instances"]]
        first, *others = (answers.get(name, []) for name in registries)
        return registries <= set(first) and others == [first]

    await eventually(both)
