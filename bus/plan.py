"""What would have to be done to a server so that a mesh can live there, and the doing of it, for people who may.

`bus.topology` creates what is missing when an actor starts, if it may. This also changes what differs, and is for those
whose NATS is run by others: actors then need no right to create a stream.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from bus import jetstream, streams, subjects, topology
from bus.connection import Connection
from bus.errors import BusError, NotFoundError
from bus.outcomes import Policy

_FIXED: Final = frozenset({"retention", "storage"})
"""What a server does not change once a stream stands."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A capability, or an agent's own address, how it is run and who says so."""

    capability: str
    policy: Policy
    agent: str


@dataclass(frozen=True, slots=True)
class Change:
    """One thing to do."""

    action: Literal["create", "update", "impossible"]
    what: str
    """As in `stream TASKS`."""
    lines: tuple[str, ...] = ()
    """What differs."""
    operation: str = ""
    names: tuple[str, ...] = ()
    body: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a change; `error` is empty when it was made."""

    change: Change
    error: str = ""


async def plan(connection: Connection, wanted: list[Wanted]) -> list[Change]:
    """What is to be created or changed, without touching anything.

    Raises:
        TransportError, ServerError: the server does not answer, or not to us.
    """
    found = []
    for config in streams.streams(connection.settings, connection.max_payload):
        change = await _stream(connection, config)
        if change is not None:
            found.append(change)
    for one in wanted:
        configs = topology.consumers(one.capability, one.policy, one.agent, connection.settings.replicas)
        for config in configs:
            change = await _consumer(connection, config)
            if change is not None:
                found.append(change)
        for priority, config in zip(subjects.PRIORITIES, configs, strict=True):
            lane = topology.lane_of(config, one.capability, priority)
            change = await _consumer(connection, lane)
            if change is not None and change.action != "create":  # stewards make those that are needed
                found.append(change)
    return found


async def _stream(connection: Connection, wanted: streams.Config) -> Change | None:
    name = wanted["name"]
    try:
        standing = (await jetstream.call(connection, "STREAM.INFO", name))["config"]
    except NotFoundError:
        return Change("create", f"stream {name}", (), "STREAM.CREATE", (name,), wanted)
    lines = tuple(topology.compare(wanted, standing))
    if not lines:
        return None
    if any(wanted.get(key) != standing.get(key) for key in _FIXED):
        return Change("impossible", f"stream {name}", lines)
    return Change("update", f"stream {name}", lines, "STREAM.UPDATE", (name,), {**standing, **wanted})


async def _consumer(connection: Connection, wanted: streams.Config) -> Change | None:
    name, subject = wanted["durable_name"], wanted["filter_subject"]
    names = (subjects.TASKS, name, subject)
    body = {"stream_name": subjects.TASKS, "config": wanted}
    try:
        standing = (await jetstream.call(connection, "CONSUMER.INFO", subjects.TASKS, name))["config"]
    except NotFoundError:
        return Change("create", f"consumer {name}", (), "CONSUMER.CREATE", names, {**body, "action": "create"})
    lines = tuple(topology.compare_policies(wanted, standing))
    if not lines:
        return None
    return Change("update", f"consumer {name}", lines, "CONSUMER.CREATE", names, {**body, "action": "update"})


async def carry_out(connection: Connection, changes: list[Change], on_done: Callable[[Done], None]) -> bool:
    """Make the changes one by one and tell of each; whether all of them were made. May be repeated.

    Raises:
        TransportError: the server does not answer; what was told of is done.
    """
    good = True
    for change in changes:
        error = "it stands with another one, which cannot be changed; its content must go to a new stream"
        if change.operation:
            try:
                await jetstream.call(connection, change.operation, *change.names, body=change.body)
                error = ""
            except BusError as failure:
                if failure.retryable:
                    raise
                error = str(failure)
        good = good and not error
        on_done(Done(change, error))
    return good
