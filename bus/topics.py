"""To each agent that subscribes to a topic, or that has a capability: who they are, and what they answer.

Must not know how a task is submitted (`bus.submitting`), nor how an agent subscribes (`actors.registry`).
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import math
import time
from typing import NamedTuple

from bus import replies, rpc, subjects
from bus.cast import Gathered, Reply
from bus.connection import Connection
from bus.errors import CodecError, NoRespondersError, RemoteError, TransportError
from bus.messages import INSTANCE
from bus.telemetry import Telemetry


class Doing(NamedTuple):
    """An agent, and what it does of that. `lives`: an instance of it does."""

    agent: str
    capability: str
    lives: bool


async def agents_of(
    connection: Connection,
    telemetry: Telemetry,
    *,
    topic: str = "",
    capability: str = "",
    timeout: float = math.inf,
) -> list[Doing]:
    """The agents that subscribe to a topic, whether they run or not; or those that run and have a capability.

    It is waited for `timeout` seconds, and no longer than the setting `request_timeout`.

    Raises:
        NoRespondersError: no registry runs.
        TransportError: no answer from one.
        PermissionDeniedError: we may submit to nobody.
    """
    question = {"topic": topic, "capability": capability}
    timeout = min(timeout, connection.settings.request_timeout)
    said = await rpc.call(connection, telemetry, subjects.REGISTRY, "agents", question, timeout=timeout)
    return [Doing(str(one["agent"]), str(one["capability"]), bool(one["lives"])) for one in said["agents"]]


def task_id(topic: str, publish_id: str, secret: bytes = b"") -> str:
    """The id of every task that comes of what is published on a topic under an id."""
    named = f"{subjects.token(topic, 'topic')} {subjects.token(publish_id, 'publish id')}"
    return f"topic-{hashlib.blake2b(named.encode(), digest_size=16, key=secret).hexdigest()}"


async def gather(
    connection: Connection, telemetry: Telemetry, topic: str, message: object, *, timeout: float
) -> Gathered:
    """Ask every agent that subscribes to a topic, one instance of each; return when all have answered, at the latest
    after `timeout` seconds, in which the registry has said, too, who they are. `missing` are agents: those that did
    not answer, and those of which nobody runs.

    Raises:
        NoRespondersError: no registry runs.
        RequestTimeoutError: none said within `timeout` who subscribes.
        EncodeError, InvalidSubjectError, PermissionDeniedError: of the first that could not be asked.
    """
    method, until = subjects.topic_method(topic), time.monotonic() + timeout
    there = await agents_of(connection, telemetry, topic=topic, timeout=timeout)
    left = max(0.0, until - time.monotonic())
    asked = [
        asyncio.ensure_future(_ask(connection, telemetry, one.agent, method, message, timeout=left)) for one in there
    ]
    try:
        found = await asyncio.gather(*asked)  # not a task group, which would wrap the error of the first
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    came = [reply for reply in found if reply is not None]
    missing = [one.agent for one, reply in zip(there, found, strict=True) if reply is None]
    return Gathered(sorted(came, key=lambda reply: reply.instance), missing)


async def _ask(
    connection: Connection, telemetry: Telemetry, agent: str, method: str, message: object, *, timeout: float
) -> Reply | None:
    """What an agent answers; None: nothing, in time."""
    subject = subjects.rpc(agent, method, connection.caller)
    question = rpc.prepare(connection, subject, message, timeout=timeout)
    attributes = functools.partial(rpc.attributes_of, agent, method)
    with telemetry.sending(f"{agent}/{method}", question.headers, attributes, kind="client") as span:
        try:
            reply = await connection.request(*question[:3], timeout=question.timeout)
        except NoRespondersError:
            return None
        except TransportError as error:
            span.fail(error)
            return None
        instance = reply.headers.get(INSTANCE, "")
        try:
            return Reply(instance, replies.read(reply.headers, reply.data, subject))
        except RemoteError as error:
            return Reply(instance, error=error)
        except CodecError as error:
            return Reply(instance, error=RemoteError(error.code, str(error)))
