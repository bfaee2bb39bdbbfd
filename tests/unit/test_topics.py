"""Asking each agent that subscribes to a topic: what is raised, and how long it takes. The connection is a fake."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bus import codec, topics
from bus.connection import Connection
from bus.errors import EncodeError, PermissionDeniedError, RequestTimeoutError
from bus.messages import CONTENT_TYPE, MSGPACK
from bus.settings import Settings
from bus.telemetry import Telemetry
from bus.wire import Message
from tests.eventually import eventually

Answer = Callable[[str, float], Awaitable[object]]


def mesh_of(answer: Answer) -> tuple[Connection, Telemetry]:
    """A connection on which a registry knows two agents; `answer` gives what they answer, by subject and time-out."""
    packed = f"NATS/1.0\r\n{CONTENT_TYPE}: {MSGPACK}\r\n\r\n".encode()

    async def request(subject: str, body: bytes, headers: dict[str, str], *, timeout: float) -> Message:
        value = await answer(subject, timeout)
        return Message("", "", codec.encode(value), packed)

    found = SimpleNamespace(settings=Settings(), caller="", request=request)
    return cast("Connection", found), Telemetry(service="test", instance="test-1")


AGENTS = {"agents": [{"agent": name, "capability": "note", "lives": True} for name in ("desk", "back")]}


def is_registry(subject: str) -> bool:
    return subject == "revo.rpc.revo-registry.agents"


async def test_what_cannot_be_asked_is_raised_as_itself() -> None:
    hangs = asyncio.Event()

    async def answer(subject: str, timeout: float) -> object:
        if is_registry(subject):
            return AGENTS
        if ".back." in subject:
            raise PermissionDeniedError("publish to", subject)
        try:
            return await asyncio.Event().wait()
        finally:
            hangs.set()

    with pytest.raises(EncodeError):
        await topics.gather(*mesh_of(answer), "news", {"no": object()}, timeout=5)
    with pytest.raises(PermissionDeniedError, match="back"):
        await topics.gather(*mesh_of(answer), "news", {}, timeout=5)
    assert hangs.is_set(), "nobody waits for the other any more"


async def test_the_time_is_for_the_registry_and_the_agents_together() -> None:
    given: dict[str, float] = {}

    async def answer(subject: str, timeout: float) -> Any:
        given[subject] = timeout
        if is_registry(subject):
            began = time.monotonic()
            await eventually(lambda: time.monotonic() >= began + 0.05)  # it takes its time
            return AGENTS
        raise RequestTimeoutError(subject, timeout)

    gathered = await topics.gather(*mesh_of(answer), "news", {}, timeout=0.5)
    assert (gathered.values, gathered.missing) == ([], ["desk", "back"])
    registry, desk, back = given.values()
    assert registry == 0.5
    assert desk == back <= 0.45
    given.clear()
    await topics.gather(*mesh_of(answer), "news", {}, timeout=600)
    assert next(iter(given.values())) == Settings().request_timeout
