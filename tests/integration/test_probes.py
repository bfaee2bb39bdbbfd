"""What an actor's HTTP port says: alive, ready, and the counts. Real processes over a real server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import urllib.error
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from actors.probes import MAX_CONNECTIONS
from bus.errors import ConfigError
from bus.mesh import Mesh
from bus.server import Server
from bus.settings import Settings
from bus.telemetry.metrics import MAX_NAMES, Counted
from tests.cluster import free_ports
from tests.eventually import eventually
from tests.integration.test_processes import begun
from tests.probing import get, ready, samples, talk
from tests.processes import ROOT, ActorProcess, actor

TOILER = "tests.integration.agents:Toiler"
REGISTRY = "actors.registry:Registry"
STEWARD = "actors.steward:Steward"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@dataclass
class Watched:
    process: ActorProcess
    port: int


@pytest.fixture
async def registry(server: Server, mesh: Mesh, tmp_path: Path) -> AsyncIterator[ActorProcess]:
    async with actor(REGISTRY, server.url, tmp_path / "registry.log") as process:
        yield process


@pytest.fixture
async def toiler(server: Server, registry: ActorProcess, tmp_path: Path) -> AsyncIterator[Watched]:
    port = free_ports(1)[0]
    log = tmp_path / "toiler.log"
    env = {"REVO_HTTP": f"127.0.0.1:{port}", "REVO_LEASE_HEARTBEAT": "0.5"}
    async with actor(TOILER, server.url, log, output="json", **env) as process:
        yield Watched(process, port)


async def test_an_actor_counts_what_became_of_its_tasks(mesh: Mesh, toiler: Watched) -> None:
    for number in range(3):
        await (await mesh.submit("toil", {"id": number, "seconds": 0.02}, priority="high")).result(timeout=10)
    await (await mesh.submit("toil", {"what": "retry"})).result(timeout=10)
    await (await mesh.submit("toil", {"what": "raise"})).outcome(timeout=10)
    dead = 'revo_dead_letters_total{capability="toil",reason="value_error"}'
    await eventually(lambda: _shows(toiler.port, dead, 1))
    shown = await samples(toiler.port)

    def tasks(priority: str, outcome: str) -> float | None:
        return shown.get(f'revo_tasks_total{{capability="toil",outcome="{outcome}",priority="{priority}"}}')

    assert (tasks("high", "succeeded"), tasks("normal", "succeeded"), tasks("normal", "failed")) == (3, 1, 1)
    assert tasks("normal", "retried") == 4, "two of the one that asked for it, two of the one that raised"
    assert shown['revo_task_redeliveries_total{capability="toil"}'] == 4
    assert shown['revo_task_queue_seconds_count{capability="toil",priority="normal"}'] == 2, "first deliveries"
    assert shown['revo_task_run_seconds_count{capability="toil",priority="high"}'] == 3
    assert 0.05 <= shown['revo_task_run_seconds_sum{capability="toil",priority="high"}'] < 1
    assert 0 <= shown["revo_lease_age_seconds"] < 2
    assert (shown["revo_nats_connected"], shown["revo_tasks_in_hand"], shown["revo_mailbox_waiting"]) == (1, 0, 0)
    if sys.platform == "linux":
        assert shown["process_resident_memory_bytes"] > 10e6


async def _shows(port: int, name: str, value: float) -> bool:
    return (await samples(port)).get(name) == value


async def test_a_slow_task_can_be_found_by_its_trace(mesh: Mesh, toiler: Watched) -> None:
    handle = await mesh.submit("toil", {"id": 1})
    outcome = await handle.outcome(timeout=10)
    assert outcome.trace_id

    async def shown() -> bool:
        _, text = await get(toiler.port, "/metrics", OPENMETRICS)
        assert text.endswith("# EOF\n")
        found = [line for line in text.splitlines() if line.startswith("revo_task_run_seconds_bucket")]
        return any(f'# {{trace_id="{outcome.trace_id}"}}' in line for line in found)

    await eventually(shown)


async def test_the_steward_counts_what_it_ends(server: Server, mesh: Mesh, tmp_path: Path) -> None:
    port = free_ports(1)[0]
    async with actor(STEWARD, server.url, tmp_path / "steward.log", REVO_HTTP=f"127.0.0.1:{port}"):
        assert (await (await mesh.submit("nobody", {}, deadline=0.2)).outcome(timeout=10)).status == "expired"
        assert (await (await mesh.submit("nobody", {})).cancel()).cancelled
        shown = await samples(port)
    for outcome in ("expired", "cancelled"):
        assert shown[f'revo_tasks_total{{capability="nobody",outcome="{outcome}",priority="normal"}}'] == 1


async def test_an_actor_is_ready_while_it_is_connected_and_registered_and_stays(
    server: Server, mesh: Mesh, toiler: Watched, tmp_path: Path
) -> None:
    await eventually(lambda: ready(toiler.port))
    await server.stop()

    async def missing() -> list[str]:
        status, body = await get(toiler.port, "/readyz")
        found: list[str] = json.loads(body)["missing"]
        assert status == (503 if found else 200)
        return found

    assert "connected" in await eventually(missing)
    assert (await get(toiler.port, "/healthz"))[0] == 200, "the process is well, and to restart it helps nobody"
    await server.start()
    await eventually(lambda: ready(toiler.port))

    journal = tmp_path / "journal"
    handle = await mesh.submit("toil", {"id": 7, "seconds": 0.7, "journal": str(journal)})
    await eventually(lambda: begun(journal))
    toiler.process.signal(signal.SIGTERM)

    assert "it is draining" in await eventually(missing)
    assert await toiler.process.wait() == 0
    assert await handle.result(timeout=5) == 7
    with pytest.raises(urllib.error.URLError):
        await get(toiler.port, "/healthz")


async def test_an_actor_that_no_registry_knows_is_not_ready(server: Server, mesh: Mesh, tmp_path: Path) -> None:
    port = free_ports(1)[0]
    async with actor(TOILER, server.url, tmp_path / "toiler.log", REVO_HTTP=f"127.0.0.1:{port}"):
        status, body = await get(port, "/readyz")
        assert (status, json.loads(body)["missing"]) == (503, ["registered"])
        async with actor(REGISTRY, server.url, tmp_path / "registry.log"):
            await eventually(lambda: ready(port))


async def test_an_actor_whose_loop_is_blocked_is_not_alive(mesh: Mesh, toiler: Watched, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    handle = await mesh.submit("toil", {"id": 1, "what": "block", "seconds": 3.0, "journal": str(journal)})
    await eventually(lambda: begun(journal))
    with pytest.raises(TimeoutError):
        await get(toiler.port, "/healthz", patience=1.5)
    assert await handle.result(timeout=10) == 1
    shown = await samples(toiler.port)
    assert shown["revo_loop_lag_seconds_sum"] > 1.5


async def test_hostile_requests_are_refused_and_the_next_is_answered(toiler: Watched) -> None:
    port = toiler.port
    assert b"400" in (await talk(port, b"\x00\x01garbage\r\n\r\n")).splitlines()[0]
    assert b"431" in (await talk(port, b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000)).splitlines()[0]
    assert (
        b"405" in (await talk(port, b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")).splitlines()[0]
    )
    assert b"404" in (await talk(port, b"GET /../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n")).splitlines()[0]
    head = await talk(port, b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert head.endswith(b"\r\n\r\n")
    twice = await talk(port, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
    assert twice.count(b"HTTP/1.1 200") == 2, "one connection for many requests"
    assert await talk(port, b"GET /hea", b"lthz HTTP/1.1\r\nHo") == b""
    assert (await get(port, "/healthz?verbose"))[0] == 200
    assert "Traceback" not in toiler.process.log


async def test_slow_and_deaf_clients_keep_nobody_from_asking_and_the_actor_from_no_end(toiler: Watched) -> None:
    slow = [await asyncio.open_connection("127.0.0.1", toiler.port) for _ in range(MAX_CONNECTIONS + 8)]
    for _, writer in slow:
        writer.write(b"GET /healthz HT")
    assert (await get(toiler.port, "/healthz"))[0] == 200
    _, deaf = await asyncio.open_connection("127.0.0.1", toiler.port)
    deaf.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 2000)  # and reads no answer
    assert (await get(toiler.port, "/healthz"))[0] == 200
    toiler.process.signal(signal.SIGTERM)
    assert await toiler.process.wait(10) == 0
    assert "Traceback" not in toiler.process.log
    for _, writer in [*slow, (None, deaf)]:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_lines_of_a_log_name_their_actor_task_and_trace(mesh: Mesh, toiler: Watched) -> None:
    handle = await mesh.submit("toil", {"id": 5, "what": "log"})
    outcome = await handle.outcome(timeout=10)
    lines = [json.loads(line) for line in toiler.process.log.splitlines()]
    assert {line["actor"] for line in lines} == {"toiler"}
    (said,) = [line for line in lines if line["message"] == "said in task 5"]
    assert said["instance"] == toiler.process.instance
    assert (said["task_id"], said["capability"], said["client"]) == (handle.task_id, "toil", "anon")
    assert said["trace_id"] == outcome.trace_id
    assert len(said["span_id"]) == 16


def test_names_that_somebody_makes_up_do_not_fill_the_memory() -> None:
    counted = Counted("a", "a-1", "1")
    for number in range(2000):
        counted.ended(f"made-up-{number}", "low", "expired")
        counted.died("echo", f"reason-{number}")
    text = counted.text("")[0].decode()
    assert text.count("\nrevo_tasks_total{") <= MAX_NAMES + 1
    assert text.count("\nrevo_dead_letters_total{") <= MAX_NAMES + 1
    assert 'revo_tasks_total{capability="other",outcome="expired",priority="low"} 1501.0' in text


@pytest.mark.parametrize("value", ["9464", "nobody:port", "127.0.0.1", ":9464", "127.0.0.1:99999", "u@h:1", "h:1/x"])
def test_an_address_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match=r"REVO_HTTP.*must look like"):
        Settings.from_env({"REVO_HTTP": value})


def test_a_port_that_is_taken_is_named(server: Server) -> None:
    command = [sys.executable, "-m", "revo", "run", TOILER, "--url", server.url]
    address = server.url.removeprefix("nats://")
    ended = subprocess.run(
        command,
        cwd=ROOT,
        env={"REVO_HTTP": address, "PATH": ""},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 2
    assert f"revo: REVO_HTTP={address}: address already in use" in ended.stderr
    assert "Traceback" not in ended.stderr
