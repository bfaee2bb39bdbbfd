"""What each role may do, as subjects, and nothing beyond: decided here, and in `bus.trusted` for those with streams.

Must not know how a server is told (`bus.accounts`), nor who has which role (`actors.keyring`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bus import subjects, trusted
from bus.credentials import DEFAULT_INBOX, SHARED_INBOX, TRUSTED
from bus.errors import ConfigError
from bus.grants import Grants, Wish, listings, namespace_of, remembers

AGENT: Final = "agent"
SUBMITTER: Final = "submitter"
GATEWAY: Final = "gateway"
FOREIGN: Final = "foreign"
ROLES: Final = (SUBMITTER, AGENT, GATEWAY, FOREIGN, *trusted.ROLES)

_ANY: Final = ("*",)

OF_CLIENTS: Final = (
    *("cancel", "redrive", "drop", "policy"),
    *("schedules", "unschedule", "pause_schedule", "resume_schedule"),
    *("progress", "estimate", "release"),
)
"""What a client asks of stewards about what is its own."""
OF_AGENTS: Final = ("cancel", "others_die", "policy", "shed", "release", "children", "overspent")
"""What an agent asks of them about the tasks that it does."""


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
    wanted = (wish.submits, wish.asks, wish.broadcasts, wish.prompts, wish.memory)
    if role in (*TRUSTED, FOREIGN) and any(wanted):
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
    for name in wish.memory:
        namespace_of(name)


def grants(role: str, user: str, wish: Wish, foreign: Sequence[str] = ()) -> Grants:
    """What a user of a role may do. `foreign` are the tenant's users of that role: the bridge speaks for them."""
    if role == AGENT:
        return _agent(user, wish)
    if role == SUBMITTER:
        return _client(user, wish)
    if role == GATEWAY:
        all_ = Wish(submits=_ANY, asks=("*.*",), broadcasts=wish.broadcasts, prompts=_ANY, memory=wish.memory)
        return _client(user, all_)
    if role == FOREIGN:
        return _foreign(user)
    return trusted.grants(role, user, foreign)


def _client(user: str, wish: Wish) -> Grants:
    """Submits under its own name, reads its own results, cancels its own tasks."""
    sends = [f"revo.task.{capability}.*.{user}" for capability in wish.submits]
    hears = [subjects.done(user)] if wish.submits else []
    if wish.submits:
        sends += _submitting(user, wish.submits)
        hears.append(subjects.emitted(user, "*", "*"))
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
    sends += [*remembers(user, wish.memory), subjects.span(user)]
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
        finds=tuple(listings("PING", "INFO")) if wish.prompts else (),
    )


def _submitting(user: str, capabilities: Sequence[str]) -> list[str]:
    """What a client publishes besides its tasks: for their payloads, their results and what a steward does for it."""
    blobs = [f"revo.blob.{user}.{capability}.*.*.*" for capability in capabilities]
    return [
        subjects.api("DIRECT.GET", subjects.RESULTS, f"revo.result.{user}.>"),
        subjects.api("DIRECT.GET", subjects.BLOBS, f"revo.blob.{user}.>"),
        *blobs,
        *(subjects.rpc(subjects.STEWARD, method, user) for method in OF_CLIENTS),
        *(subjects.scoped(subjects.STEWARD, "schedule", capability, user) for capability in capabilities),
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
        *(subjects.rpc(subjects.STEWARD, method, user) for method in OF_AGENTS),
        subjects.SPENT_SUBJECTS,
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
        progress, saved = f"revo.progress.*.{address}.*", f"revo.saved.*.{address}.*"
        blob = f"revo.blob.*.{address}.*.*.*"
        sends += [
            *(progress, saved, blob),
            subjects.api("DIRECT.GET", subjects.PROGRESS, progress),
            subjects.api("DIRECT.GET", subjects.CHECKPOINTS, saved),
            subjects.api("DIRECT.GET", subjects.BLOBS, blob),
            result,
            subjects.api("DIRECT.GET", subjects.RESULTS, result),
            attempt,
            subjects.api("DIRECT.GET", subjects.ATTEMPTS, attempt),
            f"revo.dead.*.{address}.*",
        ]
        for priority in subjects.PRIORITIES:
            for consumer in (subjects.consumer(address, priority), subjects.lane_consumer(address, priority)):
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
        listings=tuple(listings("PING", "INFO", "STATS")),
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
