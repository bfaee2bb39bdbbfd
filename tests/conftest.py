"""What every test may ask for: a real server of its own, a client, a worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from bus import codec, jetstream, subjects, topology
from bus.connection import Connection
from bus.mesh import Mesh
from bus.messages import Envelope
from bus.outcomes import Policy
from bus.server import Server
from bus.settings import Settings
from bus.telemetry import Telemetry
from bus.worker import Capability, Worker

hypothesis.settings.register_profile("revo", deadline=None)  # on a busy machine anything may take 200 ms
hypothesis.settings.load_profile("revo")

QUICK = Policy(ack_wait=1.0, max_attempts=3, time_limit=10.0, backoff=0.05, backoff_max=0.1, max_deaths=3)
"""A policy that makes tests short; its shape is the shipped one's."""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with Server(tmp_path / "nats") as running:
        yield running


@pytest.fixture
def settings(server: Server) -> Settings:
    return Settings(nats_url=server.url, ack_wait=1.0)


@pytest.fixture
async def connection(server: Server, settings: Settings) -> AsyncIterator[Connection]:
    async with await Connection.open(server.url, settings=settings) as opened:
        yield opened


@pytest.fixture
async def mesh(settings: Settings) -> AsyncIterator[Mesh]:
    async with Mesh.connect(settings=settings) as connected:
        yield connected


StartWorker = Callable[..., Awaitable[Worker]]


@pytest.fixture
async def start_worker(settings: Settings, mesh: Mesh) -> AsyncIterator[StartWorker]:
    """Start a worker, in this process but with a connection of its own, that drains when the test ends."""
    async with AsyncExitStack() as stack:

        async def start(
            handler: Callable[[Any], Awaitable[object]],
            *,
            capability: str = "echo",
            policy: Policy = QUICK,
            concurrency: int = 1,
            overrides: dict[str, Any] | None = None,
            raw: bool = False,
            saves: bool = False,
            traced: bool = False,
        ) -> Worker:
            own = settings.model_copy(update=overrides or {})
            connection = await stack.enter_async_context(await Connection.open(own.nats_url, settings=own))
            held, _ = await topology.ensure_capability(connection, capability, policy, "tester")

            async def decode(envelope: Envelope) -> object:
                return await handler(codec.decode(envelope.body, envelope.content_type, subject=envelope.subject))

            telemetry = Telemetry(service="tester", instance="tester-1")
            if traced:
                telemetry.start(connection.publish)
                stack.push_async_callback(telemetry.close)
            worker = Worker(
                connection,
                telemetry,
                [Capability(capability, handler if raw else decode, held, saves)],
                agent="tester",
                instance=f"tester-{id(connection):x}",
                concurrency=concurrency,
            )
            worker.start()
            stack.push_async_callback(worker.drain, 0.1)
            return worker

        yield start


async def nothing_queued(mesh: Mesh) -> bool:
    """Whether every task has left the queue."""
    info = await jetstream.call(mesh.connection, "STREAM.INFO", subjects.TASKS)
    return int(info["state"]["messages"]) == 0


class Gate:
    """A handler that says when it has begun and waits until it is let go: order without sleeping."""

    def __init__(self) -> None:
        self.begun: asyncio.Queue[Any] = asyncio.Queue()
        self.open = asyncio.Event()
        self.runs: list[Any] = []

    async def __call__(self, message: Any) -> Any:
        self.runs.append(message)
        self.begun.put_nowait(message)
        await self.open.wait()
        return message


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def figures(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Say a line of figures; it stands at the end of the report, also when the tests run side by side."""

    def say(line: str) -> None:
        record_property("figures", line)

    return say


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    lines = [str(line) for report in reports for name, line in report.user_properties if name == "figures"]
    if lines:
        terminalreporter.section("figures")
        for line in lines:
            terminalreporter.write_line(line)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of one `xdist_group` on one worker.

    xdist 3.8 writes the group into `_nodeid`, which pytest 9.2 no longer reads: its own mark has no effect there.
    """
    if not getattr(config.option, "loadgroup", False):
        return
    for item in items:
        mark = item.get_closest_marker("xdist_group")
        if mark is not None and not item.nodeid.endswith(f"@{mark.args[0]}"):
            item._id = type(item._id).parse(f"{item.nodeid}@{mark.args[0]}")
