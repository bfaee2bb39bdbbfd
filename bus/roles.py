"""What each role may do, as subjects, and nothing beyond: the one place where it is decided.

Must not know how a server is told (`bus.accounts`), nor who has which role (`actors.keyring`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bus import subjects
from bus.credentials import DEFAULT_INBOX, SHARED_INBOX, TRUSTED
from bus.errors import ConfigError

AGENT: Final = "agent"
SUBMITTER: Final = "submitter"
GATEWAY: Final = "gateway"
MEMORY: Final = "revo-memory"
"""The name of the memory's service."""
FOREIGN: Final = "foreign"
BRIDGE: Final = "bridge"
ROLES: Final = (SUBMITTER, AGENT, GATEWAY, FOREIGN, "operator", "observer", "registry", "steward", BRIDGE, "memory")

_ANY: Final = ("*",)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a user is to do: the capabilities whose tasks it does, and what it wants of others.

    `submits` are capabilities, or agents as `@name`; `asks` are `service.method`; `broadcasts` are capabilities;
    `prompts` are agents that take prompts, Revo's or others, or `*` for all.
    """

    does: Sequence[str] = ()
    submits: Sequence[str] = ()
    asks: Sequence[str] = ()
    broadcasts: Sequence[str] = ()
    prompts: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Grants:
    """What comes of it. Each list holds subjects, with wildcards where many are meant."""

    sends: tuple[str, ...] = ()
    """What it may publish, and be answered once."""
    pulls: tuple[str, ...] = ()
    """What it may publish, and be answered many times."""
    hears: tuple[str, ...] = ()
    """What it may subscribe."""
    serves: tuple[str, ...] = ()
    """What it answers to others, under its own name."""
    casts: tuple[str, ...] = ()
    """The capabilities to all instances of which it may speak."""
    does: tuple[str, ...] = ()
    """The capabilities whose tasks it does."""
    streams: tuple[str, ...] = ()
    """What it answers to others with many messages."""
    listings: tuple[tuple[str, str], ...] = ()
    """What many answer, it among them: how others call it, and where it hears it in an account of its own."""
    prompts: tuple[str, ...] = ()
    """The agents that it may prompt, by name."""
    finds: tuple[tuple[str, str], ...] = ()
    """What it asks many to find them, as in `listings`."""


def check(role: str, user: str, wish: Wish) -> None:
    """See that a user can be made.

    Raises:
        ConfigError: there is no such role, or the role does not take what is wished.
        InvalidSubjectError: a name that cannot stand in a subject.
    """
    if role not in ROLES:
        raise ConfigError(f"role {role}", f"is none; there are {', '.join(ROLES)}")
    subjects.token(user, "user name")
    _check_names(wish)
    if role == AGENT and not {"*", user}.isdisjoint(wish.prompts):
        raise ConfigError(f"agent {user}", "names the agents that it prompts, and is none of them")
    if wish.does and role != AGENT:
        raise ConfigError(f"role {role}", "does no tasks; only an agent does")
    if role in (*TRUSTED, FOREIGN) and (wish.submits or wish.asks or wish.broadcasts or wish.prompts):
        raise ConfigError(f"role {role}", "takes no grants: what it may do is fixed")


def _check_names(wish: Wish) -> None:
    for name in (*wish.does, *wish.broadcasts):
        subjects.token(name, "capability")
    for name in wish.submits:
        if name != "*":
            subjects.address(name)
    for name in wish.asks:
        service, dot, method = name.partition(".")
        if not dot:
            raise ConfigError(f"asks {name}", "is written as service.method")
        subjects.token(service, "service")
        subjects.token(method, "method")
    for name in wish.prompts:
        if name != "*":
            subjects.prompt_address(name, subjects.ANONYMOUS, subjects.ANONYMOUS)


def grants(role: str, user: str, wish: Wish, foreign: Sequence[str] = ()) -> Grants:
    """What a user of a role may do. `foreign` are the tenant's users of that role: the bridge speaks for them."""
    if role == AGENT:
        return _agent(user, wish)
    if role == SUBMITTER:
        return _client(user, wish)
    if role == GATEWAY:
        return _client(user, Wish(submits=_ANY, asks=("*.*",), broadcasts=wish.broadcasts, prompts=_ANY))
    if role == FOREIGN:
        return _foreign(user)
    if role == BRIDGE:
        return _bridge(user, foreign)
    return _TRUSTED[role](user)


def _client(user: str, wish: Wish) -> Grants:
    """Submits under its own name, reads its own results, cancels its own tasks."""
    sends = [f"revo.task.{capability}.*.{user}" for capability in wish.submits]
    hears = [subjects.done(user)] if wish.submits else []
    if wish.submits:
        sends.append(subjects.api("DIRECT.GET", subjects.RESULTS, f"revo.result.{user}.>"))
        sends += [subjects.rpc(subjects.STEWARD, method, user) for method in ("cancel", "redrive", "drop", "policy")]
    if wish.broadcasts:
        sends.append(subjects.rpc(subjects.REGISTRY, "find", user))
    for name in wish.asks:
        service, _, method = name.partition(".")
        sends += [f"revo.rpc.{service}.{method}.{user}", f"revo.direct.{service}.*.{method}.{user}"]
        hears += [subjects.lease_news(service), subjects.suspect_news(service)]  # who may be asked, and how it is
    if wish.asks:
        sends.append(subjects.rpc(subjects.REGISTRY, "list", user))
    if wish.asks or wish.submits:
        sends.append(subjects.rpc(subjects.REGISTRY, "agents", user))
    sends.append(subjects.span(user))
    pulls: list[str] = []
    for agent in wish.prompts:
        address = subjects.PromptAddress(agent, "*", "*")
        sends += [address.status, subjects.answer(agent, "*", "*")]
        pulls.append(address.prompt)
    if wish.prompts:
        hears.append(subjects.PRESENCE)
    return Grants(
        tuple(dict.fromkeys(sends)),
        tuple(pulls),
        tuple(dict.fromkeys(hears)),
        casts=tuple(wish.broadcasts),
        prompts=tuple(wish.prompts),
        finds=tuple(_listings("PING", "INFO")) if wish.prompts else (),
    )


def _listings(*verbs: str) -> list[tuple[str, str]]:
    """Where agents that take prompts are found."""
    return [
        (subjects.micro(verb, subjects.AGENTS, one), subjects.listing(verb, one)) for verb in verbs for one in ("", "*")
    ]


def _agent(user: str, wish: Wish) -> Grants:
    """Does the tasks of its capabilities and those sent to it by name; what it wants of others is as for a client."""
    own = _client(user, wish)
    prompted = subjects.PromptAddress(user, "*", "*")
    lease = subjects.entry(subjects.REGISTRY_BUCKET, f"{subjects.LEASES}.{user}.*")
    sends = [
        *own.sends,
        lease,
        subjects.api("DIRECT.GET", subjects.bucket(subjects.REGISTRY_BUCKET), lease),
        subjects.rpc(subjects.REGISTRY, "register", user),
        subjects.rpc(subjects.REGISTRY, "deregister", user),
        subjects.rpc(subjects.STEWARD, "cancel", user),
        subjects.rpc(subjects.STEWARD, "others_die", user),
        subjects.rpc(subjects.STEWARD, "policy", user),
        subjects.rpc(subjects.STEWARD, "shed", user),
        subjects.beat(user, "*"),
        subjects.probed(user, "*"),
        f"$JS.ACK.{subjects.PROBES}.{user}.>",
        *(f"revo.event.{kind}.{user}.*.*" for kind in ("agent", "fault", "breaker")),
        subjects.note("double", "*"),
        f"{SHARED_INBOX}.>",
        prompted.presence,
    ]
    pulls = [*own.pulls, subjects.api("CONSUMER.MSG.NEXT", subjects.PROBES, user)]
    for address in (*wish.does, subjects.agent_address(user)):
        result, attempt = f"revo.result.*.{address}.*", f"$KV.ATTEMPTS.*.{address}.*"
        sends += [
            result,
            subjects.api("DIRECT.GET", subjects.RESULTS, result),
            attempt,
            subjects.api("DIRECT.GET", subjects.ATTEMPTS, attempt),
            f"revo.dead.*.{address}.*",
        ]
        for priority in subjects.PRIORITIES:
            consumer = subjects.consumer(address, priority)
            pulls.append(subjects.api("CONSUMER.MSG.NEXT", subjects.TASKS, consumer))
            sends.append(f"$JS.ACK.{subjects.TASKS}.{consumer}.>")
    hears = [
        *own.hears,
        subjects.control(user, "*", "*"),
        subjects.control(subjects.EVERYONE, subjects.EVERYONE, "*"),
        *(subjects.broadcast(capability) for capability in wish.does),
        *(subjects.micro(verb) for verb in ("PING", "INFO", "STATS")),
        subjects.micro("*", user),
        subjects.micro("*", user, "*"),
    ]
    return Grants(
        tuple(dict.fromkeys(sends)),
        tuple(pulls),
        tuple(hears),
        serves=(f"revo.rpc.{user}.>", f"revo.direct.{user}.>", prompted.status, subjects.answer(user, "*", "*")),
        casts=own.casts,
        does=tuple(wish.does),
        streams=(prompted.prompt,),
        listings=tuple(_listings("PING", "INFO", "STATS")),
        prompts=own.prompts,
        finds=own.finds,
    )


def _foreign(user: str) -> Grants:
    """Takes prompts under its own name, by software that is not ours, and nothing else. It lives in the account of its
    tenant, or nobody could answer what it asks, but may not ask JetStream for anything.
    """
    address = subjects.PromptAddress(user, "*", "*")
    sends = (address.presence, "_R_.>", f"{SHARED_INBOX}.>", f"{DEFAULT_INBOX}.>")
    verbs = [subjects.micro(verb) for verb in ("PING", "INFO", "STATS")]
    named = (subjects.micro("*", subjects.AGENTS), subjects.micro("*", subjects.AGENTS, "*"))
    own_inbox = f"{DEFAULT_INBOX}.{subjects.AGENTS}.>"  # the protocol's own packages know no other
    return Grants(sends, hears=(address.prompt, address.status, *verbs, *named, own_inbox))


# --- those who live where the streams are ---------------------------------------------------------------------


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
    read = (subjects.TASKS, subjects.RESULTS, subjects.DEAD, subjects.ATTEMPTS, subjects.AUDIT)
    made = (subjects.ADVISORIES, subjects.ATTEMPTS, subjects.AUDIT)
    looked_at = (subjects.TASKS, subjects.ADVISORIES)
    return _system(
        user,
        subjects.STEWARD,
        *(subjects.api("STREAM.INFO", stream) for stream in (*read, subjects.ADVISORIES)),
        *(subjects.api("STREAM.MSG.GET", stream) for stream in read),
        *(subjects.api("STREAM.MSG.DELETE", stream) for stream in (subjects.TASKS, subjects.DEAD)),
        subjects.api("DIRECT.GET", subjects.TASKS),
        *(subjects.api("CONSUMER.CREATE", stream, ">") for stream in made),
        *(subjects.api(f"CONSUMER.{verb}", stream, "*") for verb in ("DELETE", "MSG.NEXT") for stream in made),
        *(subjects.api("CONSUMER.INFO", stream, "*") for stream in looked_at),
        f"$JS.ACK.{subjects.ADVISORIES}.>",
        "revo.task.*.*.*",
        subjects.RESULT_SUBJECTS,
        subjects.DEAD_SUBJECTS,
        subjects.ATTEMPT_SUBJECTS,
        subjects.AUDIT_SUBJECTS,
        "revo.ctl.>",
        hears=(subjects.BEATS,),
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
        subjects.rpc(subjects.STEWARD, "shed"),
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
    ]
    for priority in subjects.PRIORITIES:
        consumer, only = subjects.consumer(address, priority), subjects.consumer_filter(address, priority)
        found += [subjects.api(f"CONSUMER.{verb}", subjects.TASKS, consumer) for verb in ("INFO", "MSG.NEXT")]
        found += [subjects.api("CONSUMER.CREATE", subjects.TASKS, consumer, only)]
        found += [f"$JS.ACK.{subjects.TASKS}.{consumer}.>"]
    return found


def _memory(user: str) -> Grants:
    return _system(user, MEMORY)


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
        *(asked for asked, _ in _listings("PING", "INFO", "STATS")),
        subjects.span(user),
    )
    heard = (subjects.BEATS, subjects.PRESENCE, subjects.EVENT_SUBJECTS)
    return Grants(sends, hears=(f"{SHARED_INBOX}.{user}.>", *heard))


def _operator(_user: str) -> Grants:
    return Grants((">",), hears=(">",))


_TRUSTED: Final = {
    "operator": _operator,
    "observer": _observer,
    "registry": _registry,
    "steward": _steward,
    "memory": _memory,
}
