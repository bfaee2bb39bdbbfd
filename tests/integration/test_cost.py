"""What a task costs, counted in calls of functions, which no other load on the machine changes.

A regression of a third turns this red; `revo bench tasks` says what it means in time. When a change makes a task
cheaper, lower the ceiling with it.
"""

from __future__ import annotations

import cProfile
from collections.abc import Callable
from typing import Any

import pytest

from bus.connection import Connection
from bus.mesh import Mesh
from bus.settings import Settings
from bus.telemetry import Telemetry
from revo.bench.compare import repeat
from tests.conftest import StartWorker

TASKS = 1500
IN_FLIGHT = 64
CEILING = {"untraced": 590.0, "traced": 890.0}
"""Calls per task of client and worker together: what was measured, and a quarter of it."""


@pytest.mark.parametrize("kind", ["untraced", "traced"])
async def test_a_task_takes_no_more_calls_than_it_did(
    kind: str,
    settings: Settings,
    connection: Connection,
    start_worker: StartWorker,
    figures: Callable[[str], None],
) -> None:
    async def echo(message: Any) -> Any:
        return message

    telemetry = Telemetry(service="cost", instance="cost-1", sample=1.0 if kind == "traced" else 0.0)
    telemetry.start(connection.publish)
    mesh = Mesh(connection, telemetry, client="cost")
    await start_worker(echo, concurrency=IN_FLIGHT, traced=kind == "traced")

    async def one() -> None:
        await (await mesh.submit("echo", {"text": "x" * 100})).result(timeout=30)

    await repeat(one, 300, IN_FLIGHT)
    profile = cProfile.Profile()
    profile.enable()
    await repeat(one, TASKS, IN_FLIGHT)
    profile.disable()
    calls = sum(entry.callcount for entry in profile.getstats()) / TASKS
    figures(f"cost: {calls:.0f} calls a task, {kind}")
    await telemetry.close()
    assert calls < CEILING[kind]
