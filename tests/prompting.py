"""An agent that takes prompts, in this process, and the protocol's own client for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import nats
from nats.aio.client import Client
from synadia_ai.agents import Agent as Remote
from synadia_ai.agents import Agents, Attachment, Query, ResponseChunk

from actors.actor import Agent, check_class, prompted_by
from actors.mailbox import Mailbox
from actors.runtime import Threads, prompt_service
from bus.connection import Connection
from bus.health import Meter
from bus.mesh import Mesh
from bus.messages import SERVICE_ERROR, SERVICE_ERROR_CODE
from bus.prompts import PromptService
from bus.settings import Settings
from bus.telemetry import Telemetry
from bus.wire import Message
from tests.eventually import in_time

A = TypeVar("A", bound=Agent)


@dataclass
class Serving(Generic[A]):
    agent: A
    service: PromptService
    mailbox: Mailbox
    meter: Meter


@contextlib.asynccontextmanager
async def serving(
    kind: type[A], settings: Settings, instance: str = "", *, traced: bool = False
) -> AsyncIterator[Serving[A]]:
    """Have an instance of an agent take prompts, with a connection of its own; it drains at once at the end."""
    check_class(kind)
    method = prompted_by(kind)
    assert method is not None
    instance = instance or f"{kind.name}-1"
    connection = await Connection.open(settings.nats_url, name=instance, settings=settings)
    telemetry = Telemetry(service=kind.name, instance=instance)
    if traced:
        telemetry.start(connection.publish)
    agent = kind()
    agent.settings = kind.Settings() if kind.Settings is not None else None
    agent.mesh = Mesh(connection, telemetry, client=kind.name)
    mailbox = Mailbox(kind.name, concurrency=kind.concurrency, capacity=settings.mailbox)
    threads = Threads(kind.name, kind.concurrency)
    service = prompt_service(agent, method, mailbox, threads, instance, meter=(meter := Meter()))
    try:
        await service.start()
        yield Serving(agent, service, mailbox, meter)
        await service.drain(0.1)
    finally:
        threads.close()
        await agent.mesh.close()


@contextlib.asynccontextmanager
async def calling(url: str, seed: str = "") -> AsyncIterator[Agents]:
    """The protocol's own client, as it is."""
    client = await nats.connect(url, **({"nkeys_seed_str": seed} if seed else {}))
    agents = Agents(nc=client)
    try:
        yield agents
    finally:
        if not client.is_closed:
            await agents.close()
            await client.close()


async def found(agents: Agents, count: int = 1) -> list[Remote]:
    """The agents that it discovers, by their names."""
    remotes = await agents.discover(timeout=0.3)
    assert len(remotes) == count, [remote.instance_id for remote in remotes]
    return sorted(remotes, key=lambda remote: remote.agent)


@dataclass
class Said:
    """A whole answer."""

    text: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    statuses: list[str] = field(default_factory=list)
    chunks: int = 0


async def ask(remote: Remote, text: str, files: Mapping[str, bytes] | None = None, *, reply: str | None = None) -> Said:
    """Prompt an agent by that client, and answer its queries, if there is an answer."""
    said = Said()
    attachments = [Attachment.from_bytes(name, content) for name, content in (files or {}).items()]
    async for message in remote.prompt(text, attachments=attachments or None, timeout=10):
        if isinstance(message, ResponseChunk):
            said.chunks += 1
            said.text += message.text
            said.files |= {file.filename: file.to_bytes() for file in message.attachments or []}
        elif isinstance(message, Query):
            said.statuses.append(f"query {message.prompt}")
            if reply is not None:
                await message.reply(reply)
        else:
            said.statuses.append(message.status)
    return said


@contextlib.asynccontextmanager
async def prompting(remote: Remote, text: str) -> AsyncIterator[AsyncGenerator[Any, None]]:
    """The messages that come for a prompt, one by one; who leaves the block has left the prompt."""
    messages = remote.prompt(text, timeout=10)
    assert isinstance(messages, AsyncGenerator)
    async with contextlib.aclosing(messages):
        yield messages


class Caller:
    """Sends what no client would, and hears what comes back until the end."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def __call__(self, subject: str, body: bytes, headers: Mapping[str, str] | None = None) -> list[Message]:
        inbox, heard = self._connection.client.new_inbox(), asyncio.Queue[Message]()
        subscription = await self._connection.subscribe(inbox, heard.put_nowait)
        await self._connection.publish(subject, body, headers, reply=inbox)
        messages: list[Message] = []
        while not messages or messages[-1].data or messages[-1].headers:
            messages.append(await in_time(heard.get(), 10))
        await subscription.drain()
        return messages

    async def refused(self, subject: str, body: bytes, headers: Mapping[str, str] | None = None) -> tuple[str, str]:
        """The number and the text of the error; the end came after it."""
        *_, error, end = await self(subject, body, headers)
        assert (end.data, end.headers) == (b"", {})
        return error.headers[SERVICE_ERROR_CODE], error.headers[SERVICE_ERROR]


def leave(agents: Agents) -> Client:
    """The connection of a client, for who leaves without a word."""
    return agents._nc
