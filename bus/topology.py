"""Streams and consumers on a server: what is missing is created, what differs is reported; it may be repeated.

What stands on a server may hold somebody's work, so nothing of it is changed here but what lets readers do more.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
from collections.abc import Mapping
from typing import Any, Final

from bus import jetstream, subjects
from bus.connection import Connection
from bus.credentials import OPERATOR
from bus.errors import BusError, NotFoundError, PermissionDeniedError, ServerError
from bus.outcomes import Policy
from bus.streams import NS, PROBE_AGE, Config, streams

log = logging.getLogger(__name__)

MAX_WAITING: Final = 10_000
"""Standing pulls on one consumer: one for each idle replica."""

_GRANTS: Final = ("allow_direct", "republish")
"""What only lets readers do more: a stream of an earlier version gets it, and the subjects that it lacks. Nothing else
of a stream is changed."""

_FOR_EVER: Final = "9999-12-31T00:00:00Z"

_NAME_IN_USE: Final = 10058


def is_ours(connection: Connection) -> bool:
    """Whether what a mesh stands on is ours to make: where everybody may do everything, and for an operator."""
    return connection.credentials is None or connection.credentials.role == OPERATOR


async def apply(connection: Connection) -> list[str]:
    """Create the streams that are missing; say, in words, what differs in those that exist.

    Raises:
        ServerError: when the server refuses a stream (no room, no permission).
    """
    found: list[str] = []
    for wanted in streams(connection.settings, connection.max_payload):
        name = wanted["name"]
        try:
            standing = await jetstream.call(connection, "STREAM.INFO", name)
        except NotFoundError:
            standing = await _create_stream(connection, wanted)
        except PermissionDeniedError as error:
            raise ForbiddenTopologyError(f"stream {name}", "look at") from error
        if more := _more(wanted, standing["config"]):
            with contextlib.suppress(PermissionDeniedError):  # then it is a difference like others
                standing = await jetstream.call(connection, "STREAM.UPDATE", name, body={**standing["config"], **more})
        found += [f"stream {name}: {line}" for line in compare(wanted, standing["config"])]
    return found


def _more(wanted: Config, standing: Mapping[str, Any]) -> Config:
    """What a stream of an earlier version gets: it lets readers do more, or is a form of subjects that came since."""
    more = {key: wanted[key] for key in _GRANTS if wanted.get(key) and not standing.get(key)}
    if set(standing.get("subjects") or ()) < set(wanted["subjects"]):
        more["subjects"] = wanted["subjects"]
    return more


async def create_stream(connection: Connection, name: str) -> None:
    """Create one stream; that it exists is no error.

    Raises:
        ForbiddenTopologyError: the credentials do not allow it.
    """
    wanted = next(one for one in streams(connection.settings, connection.max_payload) if one["name"] == name)
    await _create_stream(connection, wanted)


async def _create_stream(connection: Connection, wanted: Config) -> dict[str, Any]:
    try:
        return await jetstream.call(connection, "STREAM.CREATE", wanted["name"], body=wanted)
    except PermissionDeniedError as error:
        raise ForbiddenTopologyError(f"stream {wanted['name']}", "create") from error
    except ServerError as error:
        if error.api_code != _NAME_IN_USE:
            raise
        # Another process created it between our two calls; if from other settings, the comparison says so.
        return await jetstream.call(connection, "STREAM.INFO", wanted["name"])


async def differences(connection: Connection) -> list[str]:
    """What `apply` would create or report, in words, without touching anything."""
    found: list[str] = []
    for wanted in streams(connection.settings, connection.max_payload):
        try:
            standing = await jetstream.call(connection, "STREAM.INFO", wanted["name"])
        except NotFoundError:
            found.append(f"stream {wanted['name']} does not exist")
        else:
            found += [f"stream {wanted['name']}: {line}" for line in compare(wanted, standing["config"])]
    return found


def compare(wanted: Mapping[str, Any], standing: Mapping[str, Any]) -> list[str]:
    """What differs, key by key. What the server adds by itself is no difference."""
    lines = []
    for key, value in wanted.items():
        other = standing.get(key)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            lines += [f"{key}.{line}" for line in compare(value, other)]
        elif value != other and not (value in (False, 0, "") and other is None):
            lines.append(f"{key} is {json.dumps(other)}, wanted {json.dumps(value)}")
    return lines


# --- capabilities -----------------------------------------------------------------------------------------

_POLICY: Final = "revo.policy"
_AGENT: Final = "revo.agent"


class ForbiddenTopologyError(BusError):
    """Something that a mesh stands on is missing, and our credentials may not create it."""

    def __init__(self, what: str, verb: str) -> None:
        super().__init__(what, verb)
        self.what = what
        self.verb = verb

    def __str__(self) -> str:
        missing = "" if self.verb == "look at" else f"{self.what} does not exist, and "
        return (
            f"{missing}these credentials may not {self.verb} {self.what if not missing else 'it'}; "
            "whoever may does it with `revo topology apply`"
        )


class PolicyConflictError(BusError):
    """Two agents want one capability run in two ways. The one that came first stands."""

    def __init__(self, capability: str, ours: str, theirs: str, lines: tuple[str, ...]) -> None:
        super().__init__(capability, ours, theirs, lines)
        self.capability = capability
        self.ours = ours
        self.theirs = theirs
        self.lines = lines

    def __str__(self) -> str:
        return f"agents {self.theirs} and {self.ours} disagree on how {self.capability} is run: {'; '.join(self.lines)}"


def consumers(capability: str, policy: Policy, agent: str, replicas: int) -> list[Config]:
    """The five shared pull consumers of a capability, one for each priority."""
    return [
        {
            "durable_name": subjects.consumer(capability, priority),
            "description": f"{priority} tasks for {capability}",
            "filter_subject": subjects.consumer_filter(capability, priority),
            "ack_policy": "explicit",
            "ack_wait": int(policy.ack_wait * NS),
            "max_deliver": -1,  # the worker that gets a task over its limits ends it (bus.worker)
            "max_ack_pending": -1,  # a retry that waits keeps its slot: it must not stall the others
            "max_waiting": MAX_WAITING,
            "num_replicas": replicas,
            "metadata": {_POLICY: json.dumps(dataclasses.asdict(policy), sort_keys=True), _AGENT: agent},
        }
        for priority in subjects.PRIORITIES
    ]


def lane_of(queue: Mapping[str, Any], capability: str, priority: str) -> Config:
    """The consumer of the lane beside a queue: as the queue's, whose configuration is given."""
    name = subjects.lane_consumer(capability, priority)
    own = {
        "durable_name": name,
        "description": f"{priority} tasks for {capability} that go past the many of others",
        "filter_subject": subjects.lane_filter(capability, priority),
    }
    return {**queue, **own, **({"name": name} if "name" in queue else {})}


def probe_consumer(agent: str, replicas: int) -> Config:
    """The pull consumer that an agent's replicas take their probes from."""
    return {
        "durable_name": agent,
        "description": f"probes of {agent}",
        "filter_subject": subjects.probe(agent),
        "ack_policy": "explicit",
        "ack_wait": int(2 * PROBE_AGE * NS),  # nobody does one twice
        "max_ack_pending": -1,
        "max_waiting": MAX_WAITING,
        "num_replicas": replicas,
    }


def compare_policies(wanted: Mapping[str, Any], standing: Mapping[str, Any]) -> list[str]:
    """In which way two consumers of a capability differ; whose word it is makes no difference."""
    keys = ("ack_wait", "max_deliver", "max_ack_pending", "filter_subject")
    lines = compare({key: wanted[key] for key in keys}, standing)
    ours, theirs = (json.loads(one.get("metadata", {}).get(_POLICY, "{}")) for one in (wanted, standing))
    lines += [f"{key} is {theirs.get(key)}, wanted {ours[key]}" for key in ours if ours[key] != theirs.get(key)]
    return lines


async def ensure_capability(
    connection: Connection, capability: str, policy: Policy, agent: str
) -> tuple[Policy, PolicyConflictError | None]:
    """Create the capability's consumers where they are missing; return the policy that stands.

    How a capability is run belongs to the capability: when another agent, or an earlier version of this one, set
    it up differently, what stands holds, and the second value says what differs and names both.
    """
    standing: dict[str, Any] = {}
    for wanted in consumers(capability, policy, agent, connection.settings.replicas):
        name = wanted["durable_name"]
        try:
            standing = await jetstream.call(connection, "CONSUMER.INFO", subjects.TASKS, name)
        except NotFoundError:
            body = {"stream_name": subjects.TASKS, "config": wanted, "action": "create"}
            try:
                standing = await jetstream.call(
                    connection, "CONSUMER.CREATE", subjects.TASKS, name, wanted["filter_subject"], body=body
                )
            except PermissionDeniedError as error:
                raise ForbiddenTopologyError(f"consumer {name}", "create") from error
            except ServerError as error:
                if error.api_code not in jetstream.CONSUMER_EXISTS:
                    raise
                standing = await jetstream.call(connection, "CONSUMER.INFO", subjects.TASKS, name)
    held, theirs = _held(capability, standing)
    return settle(capability, policy, agent, held, theirs)


async def standing_policy(connection: Connection, capability: str) -> tuple[Policy | None, str]:
    """How a capability is run, and the agent that said so; None where that cannot be read.

    Raises:
        NotFoundError: it has no consumers.
    """
    name = subjects.consumer(capability, subjects.PRIORITIES[-1])  # the last that is made
    return _held(capability, await jetstream.call(connection, "CONSUMER.INFO", subjects.TASKS, name))


def _held(capability: str, standing: Mapping[str, Any]) -> tuple[Policy | None, str]:
    try:
        return Policy.of(json.loads(standing["config"].get("metadata", {})[_POLICY])), agent_of(standing) or "?"
    except (KeyError, ValueError, TypeError):
        log.warning("consumer %s carries no policy that this version reads", capability)
        return None, ""


def agent_of(standing: Mapping[str, Any]) -> str:
    """The agent that set up a consumer, by what the server tells of it; empty where that is not said."""
    return str((standing["config"].get("metadata") or {}).get(_AGENT, ""))


def settle(
    capability: str, policy: Policy, agent: str, held: Policy | None, theirs: str
) -> tuple[Policy, PolicyConflictError | None]:
    """What holds of what we want and what stands; see `ensure_capability`."""
    if held is None or held == policy:
        return policy, None
    ours, other = dataclasses.asdict(policy), dataclasses.asdict(held)
    lines = tuple(f"{key} {other[key]:g} and {ours[key]:g}" for key in ours if ours[key] != other[key])
    return held, PolicyConflictError(capability, agent, theirs, lines)


async def pause_capability(connection: Connection, capability: str, *, paused: bool) -> None:
    """Have the server deliver no more tasks of a capability, or go on. Those that wait stay; it survives restarts.

    Raises:
        NotFoundError: nobody ever had the capability; nothing was changed.
        PermissionDeniedError: the credentials are no operator's.
    """
    body = {"pause_until": _FOR_EVER} if paused else None
    for priority in reversed(subjects.PRIORITIES):  # the last that is made is the first to be missed
        name = subjects.consumer(capability, priority)
        await jetstream.call(connection, "CONSUMER.PAUSE", subjects.TASKS, name, body=body)
        with contextlib.suppress(NotFoundError):  # few queues have a lane
            lane = subjects.lane_consumer(capability, priority)
            await jetstream.call(connection, "CONSUMER.PAUSE", subjects.TASKS, lane, body=body)


async def has_workers(connection: Connection, capability: str) -> bool:
    """Whether any agent ever had the capability: its consumers exist from its first worker on."""
    name = subjects.consumer(capability, "normal")
    try:
        await jetstream.call(connection, "CONSUMER.INFO", subjects.TASKS, name)
    except NotFoundError:
        return False
    return True


async def server_time(connection: Connection, stream: str = subjects.TASKS) -> float:
    """The server's clock, in unix seconds, as it is told with the state of a stream that we may look at."""
    info = await jetstream.call(connection, "STREAM.INFO", stream)
    return jetstream.unix_ns(info["ts"]) / 1e9
