"""What those may do who live where the streams are: Revo's own actors, who looks on, and who runs all of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bus import subjects
from bus.credentials import DEFAULT_INBOX, OPERATOR, SHARED_INBOX
from bus.grants import Grants, listings

BRIDGE: Final = "bridge"
MEMORY: Final = "memory"
ROLES: Final = (OPERATOR, "observer", "registry", "steward", BRIDGE, MEMORY)
_BESIDE_TASKS: Final = (subjects.LATER, subjects.PROGRESS, subjects.CHECKPOINTS, subjects.BLOBS, subjects.BUDGETS)


def grants(role: str, user: str, foreign: Sequence[str]) -> Grants:
    """What a user of one of these roles may do; `foreign` are the agents that a bridge speaks for."""
    return _bridge(user, foreign) if role == BRIDGE else _FIXED[role](user)


def _system(user: str, service: str, *sends: str, hears: Sequence[str] = ()) -> Grants:
    """What every system actor needs: to answer, to register, to tell events, to be traced."""
    lease = subjects.entry(subjects.REGISTRY_BUCKET, f"{subjects.LEASES}.{user}.*")
    every = (
        "_R_.>",  # whoever asks from an account of his own
        f"{SHARED_INBOX}.>",
        f"{DEFAULT_INBOX}.>",
        lease,
        subjects.api("STREAM.MSG.GET", subjects.bucket(subjects.REGISTRY_BUCKET)),
        f"revo.rpc.{subjects.REGISTRY}.*",
        subjects.EVENT_SUBJECTS,
        subjects.span(user),
    )
    own = (f"{SHARED_INBOX}.{user}.>", f"revo.rpc.{service}.>", f"revo.direct.{service}.>", "$SRV.>")
    return Grants((*every, *sends), hears=(*own, *hears))


def _registry(user: str) -> Grants:
    bucket = subjects.bucket(subjects.REGISTRY_BUCKET)
    return _system(
        user,
        subjects.REGISTRY,
        subjects.entry(subjects.REGISTRY_BUCKET, ">"),
        subjects.api("STREAM.INFO", bucket),
        subjects.api("CONSUMER.CREATE", bucket, "*", subjects.entry(subjects.REGISTRY_BUCKET, ">")),
        subjects.api("CONSUMER.DELETE", bucket, "*"),
        subjects.PROBE_SUBJECTS,
        subjects.api("CONSUMER.CREATE", subjects.PROBES, "*", subjects.PROBE_SUBJECTS),
        subjects.api("STREAM.CREATE", subjects.PROBES),
        subjects.api("STREAM.INFO", subjects.PROBES),
        hears=(subjects.PROBED,),
    )


def _steward(user: str) -> Grants:
    read = (subjects.TASKS, subjects.RESULTS, subjects.DEAD, subjects.ATTEMPTS, subjects.AUDIT, *_BESIDE_TASKS)
    made = (subjects.ADVISORIES, subjects.ATTEMPTS, subjects.AUDIT, subjects.LATER, subjects.BLOBS)
    looked_at = (subjects.TASKS, subjects.ADVISORIES, subjects.LATER)
    return _system(
        user,
        subjects.STEWARD,
        *(subjects.api("STREAM.INFO", stream) for stream in (*read, subjects.ADVISORIES)),
        *(subjects.api("STREAM.MSG.GET", stream) for stream in read),
        *(subjects.api("STREAM.MSG.DELETE", stream) for stream in (subjects.TASKS, subjects.DEAD)),
        *(subjects.api("DIRECT.GET", stream) for stream in (subjects.TASKS, *_BESIDE_TASKS)),
        subjects.api("DIRECT.GET", subjects.BLOBS, subjects.BLOB_SUBJECTS),
        *(subjects.api("STREAM.PURGE", stream) for stream in (subjects.LATER, subjects.CHECKPOINTS, subjects.BLOBS)),
        *(f"$JS.ACK.{stream}.>" for stream in (subjects.ADVISORIES, subjects.LATER)),
        *(subjects.SCHEDULE_SUBJECTS, subjects.PAUSED_SUBJECTS, subjects.DUE_SUBJECTS, subjects.OCCURRED_SUBJECTS),
        *(subjects.BLOB_SUBJECTS, subjects.SPENT_SUBJECTS),
        *(subjects.api("CONSUMER.CREATE", stream, ">") for stream in made),
        *(subjects.api(f"CONSUMER.{verb}", stream, "*") for verb in ("DELETE", "MSG.NEXT") for stream in made),
        *(subjects.api("CONSUMER.INFO", stream, "*") for stream in looked_at),
        "revo.task.*.*.*",
        subjects.LANE_TASKS,
        subjects.api("CONSUMER.CREATE", subjects.TASKS, "*", subjects.LANE_TASKS),
        subjects.api("CONSUMER.PAUSE", subjects.TASKS, "*"),  # a lane that was made while its queue was paused
        subjects.RESULT_SUBJECTS,
        subjects.DEAD_SUBJECTS,
        subjects.ATTEMPT_SUBJECTS,
        subjects.AUDIT_SUBJECTS,
        "revo.ctl.>",
        hears=(subjects.BEATS, f"revo.scoped.{subjects.STEWARD}.>"),
    )


def _bridge(user: str, foreign: Sequence[str]) -> Grants:
    """Watches the registry and who says that it lives; for each foreign agent of the tenant, and no other: holds its
    leases, does the tasks that are sent to it by name, and prompts it.
    """
    bucket = subjects.bucket(subjects.REGISTRY_BUCKET)
    each = [grant for agent in foreign for grant in _speaks_for(agent)]
    return _system(
        user,
        subjects.BRIDGE,
        subjects.api("STREAM.INFO", bucket),
        subjects.api("CONSUMER.CREATE", bucket, "*", subjects.entry(subjects.REGISTRY_BUCKET, ">")),
        subjects.api("CONSUMER.DELETE", bucket, "*"),
        *(subjects.api("STREAM.MSG.GET", stream) for stream in (subjects.RESULTS, subjects.ATTEMPTS)),
        subjects.api("STREAM.INFO", subjects.ATTEMPTS),
        subjects.api("CONSUMER.CREATE", subjects.ATTEMPTS, ">"),
        *(subjects.api(f"CONSUMER.{verb}", subjects.ATTEMPTS, "*") for verb in ("DELETE", "MSG.NEXT")),
        *(subjects.rpc(subjects.STEWARD, method) for method in ("shed", "release")),
        subjects.beat(subjects.BRIDGE, "*"),
        subjects.note("double", "*"),
        subjects.micro("INFO", subjects.AGENTS),
        subjects.micro("INFO", subjects.AGENTS, "*"),
        subjects.micro("PING", "*", "*"),
        *each,
        hears=(
            subjects.PRESENCE,
            subjects.control(subjects.BRIDGE, "*", "*"),
            subjects.control(subjects.EVERYONE, subjects.EVERYONE, "*"),
        ),
    )


def _speaks_for(agent: str) -> list[str]:
    """What a bridge publishes for one foreign agent."""
    address = subjects.agent_address(agent)
    place = subjects.PromptAddress(agent, "*", "*")
    found = [
        place.prompt,
        place.status,
        subjects.entry(subjects.REGISTRY_BUCKET, f"{subjects.LEASES}.{agent}.*"),
        f"revo.result.*.{address}.*",
        f"revo.dead.*.{address}.*",
        f"$KV.ATTEMPTS.*.{address}.*",
        f"revo.progress.*.{address}.*",
        f"revo.blob.*.{address}.*.*.*",
        subjects.api("DIRECT.GET", subjects.BLOBS, f"revo.blob.*.{address}.*.*.*"),
    ]
    for priority in subjects.PRIORITIES:
        consumer, only = subjects.consumer(address, priority), subjects.consumer_filter(address, priority)
        found += [subjects.api(f"CONSUMER.{verb}", subjects.TASKS, consumer) for verb in ("INFO", "MSG.NEXT")]
        found += [subjects.api("CONSUMER.CREATE", subjects.TASKS, consumer, only)]
        lane = subjects.lane_consumer(address, priority)
        found += [subjects.api("CONSUMER.MSG.NEXT", subjects.TASKS, lane)]
        found += [f"$JS.ACK.{subjects.TASKS}.{one}.>" for one in (consumer, lane)]
    return found


def _memory(user: str) -> Grants:
    """Keeps what agents share on behalf of those who may not touch its streams; who may what stands in the subjects
    that they ask on.
    """
    memory, every = subjects.bucket(subjects.MEMORY_BUCKET), subjects.entry(subjects.MEMORY_BUCKET, ">")
    sessions, leases = subjects.bucket(subjects.SESSIONS_BUCKET), subjects.entry(subjects.SESSIONS_BUCKET, ">")
    return _system(
        user,
        subjects.MEMORY,
        every,
        leases,
        *(subjects.api(f"STREAM.{verb}", stream) for verb in ("INFO", "MSG.GET") for stream in (memory, sessions)),
        subjects.api("STREAM.PURGE", memory),
        subjects.api("DIRECT.GET", memory),
        subjects.api("DIRECT.GET", memory, every),
        subjects.api("CONSUMER.CREATE", memory, "*", every),
        subjects.api("CONSUMER.CREATE", sessions, "*", leases),
        *(subjects.api("CONSUMER.DELETE", stream, "*") for stream in (memory, sessions)),
        hears=(f"revo.scoped.{subjects.MEMORY}.>", subjects.LOCK_NEWS),
    )


def _observer(user: str) -> Grants:
    """Sees who lives, what happens, what waits and where the time goes; no task, no result, no dead letter."""
    seen = (subjects.EVENTS, subjects.TRACES)
    sends = (
        *(subjects.api("STREAM.INFO", stream) for stream in (*seen, subjects.TASKS)),
        subjects.api("CONSUMER.LIST", subjects.TASKS),
        *(subjects.api("STREAM.MSG.GET", stream) for stream in seen),
        *(subjects.api("CONSUMER.CREATE", stream, ">") for stream in seen),
        *(subjects.api(f"CONSUMER.{verb}", stream, "*") for verb in ("DELETE", "MSG.NEXT") for stream in seen),
        *(subjects.rpc(subjects.REGISTRY, method) for method in ("list", "find", "get", "capabilities")),
        *(subjects.micro(verb) for verb in ("PING", "INFO", "STATS")),
        *(asked for asked, _ in listings("PING", "INFO", "STATS")),
        subjects.span(user),
    )
    heard = (subjects.BEATS, subjects.PRESENCE, subjects.EVENT_SUBJECTS)
    return Grants(sends, hears=(f"{SHARED_INBOX}.{user}.>", *heard))


def _operator(_user: str) -> Grants:
    return Grants((">",), hears=(">",))


_FIXED: Final = {
    OPERATOR: _operator,
    "observer": _observer,
    "registry": _registry,
    "steward": _steward,
    MEMORY: _memory,
}
