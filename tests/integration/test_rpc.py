"""Services: every request in hand is answered, errors cross the wire, and the ordinary NATS tools see them."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from bus.connection import Connection
from bus.errors import NoRespondersError, RequestTimeoutError
from bus.rpc import Request, Service, call
from bus.server import Server
from bus.telemetry import Telemetry
from tests.conftest import Gate
from tests.eventually import eventually, in_time


async def test_trap_7_a_service_that_drains_answers_every_request_in_hand(
    server: Server, connection: Connection, gate: Gate
) -> None:
    async with await Connection.open(server.url) as far:
        service = Service(far, Telemetry(service="s", instance="i"), "slow", "slow-1", "1.0.0")

        async def wait(request: Request) -> str:
            await gate(request)
            return "done"

        service.endpoint("wait", wait)
        await service.start()
        asking = [
            asyncio.create_task(call(connection, Telemetry(service="c", instance="c"), "slow", "wait", {"n": n}))
            for n in range(50)
        ]
        for _ in range(50):
            await in_time(gate.begun.get(), 5)
        draining = asyncio.create_task(service.drain(10))

        async def has_left() -> bool:
            try:
                await connection.request("revo.rpc.slow.wait", timeout=0.1)
            except NoRespondersError:
                return True
            except RequestTimeoutError:  # it came before the service had left, and waits as the others do
                return False
            return False

        await eventually(has_left)
        assert not draining.done()
        gate.open.set()
        await draining
        replies = await in_time(asyncio.gather(*asking), 5)
    assert replies == ["done"] * 50
    with pytest.raises(NoRespondersError):
        await connection.request("revo.rpc.slow.wait")


async def test_trap_9_a_reply_does_not_echo_the_requests_headers(connection: Connection) -> None:
    async def answer(_: Any) -> str:
        return "hi"

    service = Service(connection, Telemetry(service="s", instance="i"), "polite", "polite-1", "1.0.0")
    service.endpoint("greet", answer)
    await service.start()
    reply = await connection.request("revo.rpc.polite.greet", b"{}", {"Authorization": "secret"})
    assert "Authorization" not in (reply.headers or {})
    assert reply.data == b'"hi"'
    await service.drain(1)


async def test_the_ordinary_nats_tools_list_and_measure_a_service(connection: Connection) -> None:
    async def answer(_: Any) -> str:
        return "hi"

    service = Service(connection, Telemetry(service="s", instance="i"), "polite", "polite-1", "1.0.0", "says hi")
    service.endpoint("greet", answer)
    await service.start()
    await connection.request("revo.rpc.polite.greet", b"{}")
    ping = json.loads((await connection.request("$SRV.PING")).data)
    info = json.loads((await connection.request("$SRV.INFO.polite")).data)
    stats = json.loads((await connection.request("$SRV.STATS.polite.polite-1")).data)
    assert (ping["type"], ping["name"], ping["id"]) == ("io.nats.micro.v1.ping_response", "polite", "polite-1")
    assert info["endpoints"][0]["subject"] == "revo.rpc.polite.greet"
    assert stats["endpoints"][0]["num_requests"] == 1
    await service.drain(1)


async def test_a_request_that_comes_after_its_deadline_is_answered_by_an_error(connection: Connection) -> None:
    service = Service(connection, Telemetry(service="s", instance="i"), "slow", "slow-1", "1.0.0")

    async def never(_: Any) -> None:
        await asyncio.Event().wait()

    service.endpoint("wait", never)
    await service.start()
    reply = await connection.request("revo.rpc.slow.wait", b"{}", {"Revo-Deadline": f"{time.time() + 0.2}"})
    assert (reply.headers or {})["Nats-Service-Error-Code"] == "504"
    assert json.loads(reply.data)["code"] == "deadline_exceeded"
    await service.drain(1)
