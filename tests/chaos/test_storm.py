"""2,000 tasks, every tenth of them due a second later, under fire: workers killed, one stopped, the server killed, one
poison. All end, once, as they should.

A storm lasts 15 s, and then the poison has time to be found out: while others die too, nobody is condemned easily.
`REVO_CHAOS_ROUNDS` repeats storm and calm.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import pytest

from actors.steward.storage import Storage
from bus import reading, subjects
from bus.backlog import Backlog
from bus.connection import Connection
from bus.following import Chunk
from bus.mesh import Mesh
from bus.server import Server
from tests.chaos.fleet import STEWARD, Fleet, at_rest, count, executions, submit
from tests.eventually import eventually, pause
from tests.guarded import Guarded
from tests.processes import actor

TASKS = 2000
STORM = 15.0
ROUNDS = int(os.environ.get("REVO_CHAOS_ROUNDS", "1"))
POISON, RAISING = 500, 700
LARGE_EVERY = 99
"""One of so many has a message, and a value, that is too large for one."""
LARGE = bytes(range(256)) * 4096
STEPS_EVERY = 10
"""One of so many tasks has steps, saves each and says so."""
LATER = 7
"""The last digit of those that are scheduled."""


async def storm(fleet: Fleet, server: Server) -> None:
    """One worker killed every 0.3 s, the server three times, one worker stopped beyond the ack deadline."""
    stopped = asyncio.create_task(fleet.stop_one(6.0))
    until = time.monotonic() + STORM
    server_dies = [until - STORM * share for share in (0.8, 0.5, 0.2)]
    while time.monotonic() < until:
        await pause(0.3)
        fleet.kill_one()
        if server_dies and time.monotonic() > server_dies[0]:
            server_dies.pop(0)
            server.kill()
            await server.wait()
            await server.start()
    await stopped


def is_large(number: int) -> bool:
    return number % LARGE_EVERY == 0


def has_steps(number: int) -> bool:
    return number % STEPS_EVERY == 1 and not is_large(number)


def is_later(number: int) -> bool:
    """What is large cannot wait for its time."""
    return number % 10 == LATER and not is_large(number)


def message(number: int, journal: Path) -> dict[str, object]:
    what = {POISON: "die", RAISING: "raise"}.get(number, "steps" if has_steps(number) else "work")
    data = LARGE if is_large(number) else b""
    saves = str(journal.with_name("saves"))
    return {"id": number, "what": what, "journal": str(journal), "saves": saves, "seconds": 0.12, "data": data}


async def payloads_left(connection: Connection) -> list[str]:
    """Of which tasks large payloads stand when all are done and a steward has looked through them."""
    await Storage(connection, Backlog(connection)).sweep(older_than=0)
    firsts = await reading.subjects_in(connection, subjects.BLOBS, subjects.blob("*", "*", "*", "*", 0))
    return [subjects.parse_blob(subject)[2] for subject in firsts]


async def check_steps(client: Mesh, journal: Path) -> int:
    """See that no step was saved twice and that all was said that is shown; returns how many said something twice."""
    saved = Counter(journal.with_name("saves").read_text().splitlines())
    assert max(saved.values()) == 1, "who was thought dead saved what his successor had"
    again = 0
    for number in filter(has_steps, range(ROUNDS * TASKS)):
        said = [item async for item in client.handle("chaos", f"task-{number}").follow()]
        chunks = [item for item in said if isinstance(item, Chunk)]
        assert [item.number for item in chunks] == list(range(1, len(said) + 1)), said
        assert [value for value, _ in groupby(item.value for item in chunks)] == [0, 1, 2], chunks
        again += len(chunks) > 3
    return again


@pytest.mark.xdist_group("chaos")
@pytest.mark.timeout(100 + 60 * ROUNDS)
async def test_nothing_is_lost_or_doubled_in_a_storm(
    tmp_path: Path, here: Guarded, mesh: Mesh, figures: Callable[[str], None]
) -> None:
    server = here.server
    journal = tmp_path / "journal"
    began = time.monotonic()
    async with (
        here.mesh("alice") as client,
        actor(STEWARD, server.url, tmp_path / "steward.log", **here.env(subjects.STEWARD)),
        Fleet(server.url, tmp_path, 4, **here.env("chaotic")) as fleet,
    ):

        async def submit_all() -> None:
            async with asyncio.TaskGroup() as scheduling:
                for number in range(ROUNDS * TASKS):
                    if is_later(number):  # by way of the steward, which may be away: the others do not wait for it
                        later = submit(client, f"task-{number}", message(number, journal), after=1.0)
                        scheduling.create_task(later)
                    else:
                        await submit(client, f"task-{number}", message(number, journal))

        submitting = asyncio.create_task(submit_all())
        for _ in range(ROUNDS):
            await storm(fleet, server)
            if ROUNDS > 1:
                await pause(20.0)
        await submitting
        await eventually(lambda: at_rest(mesh.connection), timeout=90)
        found = await count(mesh.connection)
        large = [f"task-{number}" for number in filter(is_large, range(ROUNDS * TASKS))]
        for task_id in large:
            assert await client.handle("chaos", task_id).result(timeout=30) == LARGE
        left = await payloads_left(mesh.connection)
        kills = fleet.kills
        resumed = await check_steps(client, journal)
    wrong = {f"task-{POISON}", f"task-{RAISING}"}
    began_often = executions(journal)
    again = sum(times - 1 for number, times in began_often.items() if number not in (POISON, RAISING))
    figures(
        f"storm: {ROUNDS * TASKS} tasks, {kills} workers killed, server killed {3 * ROUNDS} times, "
        f"{found.redelivered} redelivered (at most {found.max_deliveries} deliveries), "
        f"{again} executions repeated, {resumed} went on from a checkpoint, "
        f"lost {found.audit.lost}, doubled {found.audit.doubled}, "
        f"{time.monotonic() - began:.1f} s"
    )
    assert found.dead == wrong
    assert sorted(left) == sorted(large), "of each the value stands, once, and nothing else"
    assert set(found.results) == {f"task-{number}" for number in range(ROUNDS * TASKS)}
    assert set(found.results.values()) == {1}
    assert {task_id for task_id, status in found.statuses.items() if status != "succeeded"} == wrong
    assert kills >= 3
    assert found.redelivered >= kills, "each had up to four tasks in hand"
    assert found.audit.good, found.audit
    assert found.audit.accepted == found.audit.ended
    assert began_often[RAISING] >= 3
    assert began_often[POISON] >= 3, (
        "three times alone; and once in company, unless its first worker died before it began"
    )
