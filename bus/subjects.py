"""Every subject, stream, bucket and consumer name: built and parsed here, and nowhere else.

Tokens that come from outside keep to `[A-Za-z0-9_-]`, 1 to 64 characters. Must not know what travels on a subject.
It stays one file, however long: it is a list, read and searched as a whole.
"""

from __future__ import annotations

import functools
import re
from typing import Final, NamedTuple

from bus.errors import InvalidKeyError, InvalidSubjectError

TASKS: Final = "TASKS"
RESULTS: Final = "RESULTS"
DEAD: Final = "DEAD"
TRACES: Final = "TRACES"
ATTEMPTS: Final = "KV_ATTEMPTS"
"""The stream under the key-value bucket ATTEMPTS: what is known of tasks that did not end at the first try."""
ADVISORIES: Final = "ADVISORIES"
LATER: Final = "LATER"
"""Tasks that fall due later, once or again and again: the server's own schedules, and what has fallen due."""
PROGRESS: Final = "PROGRESS"
"""What handlers say while they run."""
CHECKPOINTS: Final = "CHECKPOINTS"
"""What handlers have so far, for the next attempt."""
BLOBS: Final = "BLOBS"
"""Payloads too large for a message, in pieces."""
BUDGETS: Final = "BUDGETS"
"""What families of tasks have spent: one counter for each budget and unit."""
AUDIT: Final = "AUDIT"
"""What `bus.audit` must know and no other stream says: notes of doubles, drops, redrives and lost attempts."""

PRIORITIES: Final = ("critical", "urgent", "high", "normal", "low")
"""From the most to the least urgent."""

ANONYMOUS: Final = "anon"
"""The client token of a task that names none."""

UNUSABLE: Final = "unusable"
"""Stands for a client or capability whose token no subject of ours may be built of."""

FAIR: Final = "fair"
"""The last token of the subject of a task, and of the name of a consumer, in the lane beside a queue (`bus.lanes`)."""
TASK_FORMS: Final = tuple(
    form
    for priority in PRIORITIES
    for form in (f"revo.task.*.{priority}", f"revo.task.*.{priority}.*", f"revo.task.*.{priority}.*.{FAIR}")
)
"""All that TASKS stores. Listed one by one: with `revo.task.>` a misspelt priority would be stored for ever."""
LANE_TASKS: Final = f"revo.task.*.*.*.{FAIR}"
"""All that stands in lanes. Whoever may publish there goes past others that wait."""

BARE_TASKS: Final = "revo.task.*.*"
CLIENT_TASKS: Final = f"revo.task.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}.{ANONYMOUS}"
"""The ingest transform: a bare task becomes one of client `anon`, so that one filter a consumer finds them all."""

RESULT_SUBJECTS: Final = "revo.result.>"
DONE_SUBJECTS: Final = "revo.done.>"
DEAD_SUBJECTS: Final = "revo.dead.>"
SPAN_SUBJECTS: Final = "revo.span.>"
ATTEMPT_SUBJECTS: Final = "$KV.ATTEMPTS.>"
AUDIT_SUBJECTS: Final = "revo.audit.>"
SCHEDULE_SUBJECTS: Final = "revo.later.*.*"
PAUSED_SUBJECTS: Final = "revo.paused.*.*"
DUE_SUBJECTS: Final = "revo.due.*.*"
OCCURRED_SUBJECTS: Final = "revo.occurred.*.*"
PROGRESS_SUBJECTS: Final = "revo.progress.>"
EMITTED_SUBJECTS: Final = "revo.emitted.>"
SAVED_SUBJECTS: Final = "revo.saved.*.*.*"
BLOB_SUBJECTS: Final = "revo.blob.*.*.*.*.*"
SPENT_SUBJECTS: Final = "revo.spent.*.*"
ADVISORY_SUBJECTS: Final = f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{TASKS}.>"
BEATS: Final = "revo.beat.>"
REGISTRY_BUCKET: Final = "REGISTRY"
"""Who lives and what the capabilities are: leases that the instances renew, and definitions."""
LEASES: Final = "lease"
"""The first token of the keys of leases in that bucket; an agent and an instance follow."""
SUSPECTS: Final = "suspect"
"""The first token of the keys that say, for as long as it holds, what is wrong with an instance: agent and instance
follow, as in a lease."""
PAUSES: Final = "pause"
"""The first token of the keys that say which capabilities are paused."""
TOPICS: Final = "topic"
"""The first token of the keys of subscriptions: a topic and the agent that subscribes to it follow."""
REGISTRY_NEWS: Final = "revo.registry.>"
"""Where all that is written to that bucket is told, for those who may not read streams."""
PROBES: Final = "PROBES"
"""The stream of what proves that an agent does what it is given."""
PROBE_SUBJECTS: Final = "revo.probe.*"
MEMORY_BUCKET: Final = "MEMORY"
"""What agents share: entries with their versions, conflicts, tables of locks, and what the namespaces are."""
SESSIONS_BUCKET: Final = "SESSIONS"
"""Who holds locks, or waits for some: leases that the holders renew."""
ENTRIES: Final = "entry"
"""The first token of the keys of entries in the bucket MEMORY: namespace and path follow, and `_` at the end."""
CONFLICTS: Final = "conflict"
"""The first token of the keys that say which entries have a set of conflicting values; the rest is as in an entry's."""
NAMESPACES: Final = "namespace"
"""The first token of the keys that say how a namespace is to be used."""
LOCKS: Final = "lock"
"""The first token of the keys of tables of locks: a namespace and the first part of a path follow."""
GUARDS: Final = "guard"
"""The first token of the keys that carry a condition in a batch; what stands there means nothing."""
LOCK_NEWS: Final = "revo.lock.>"
"""Where tables of locks are told as they change: namespace and first part of a path follow."""
EVENTS: Final = "EVENTS"
EVENT_SUBJECTS: Final = "revo.event.>"

STEWARD: Final = "revo-steward"
"""The name of the steward: its service and, on ADVISORIES, its consumer."""
REGISTRY: Final = "revo-registry"
"""The name of the registry's service."""
MEMORY: Final = "revo-memory"
"""The name of the service of the memory's coordinators."""
BRIDGE: Final = "revo-bridge"
"""The name of the bridge to foreign agents: its service."""
EVERYONE: Final = "all"
"""Stands for the instance in an order to all workers."""

AGENTS: Final = "agents"
"""The micro service that every agent of the Synadia Agent Protocol is an instance of, and its queue group."""
PRESENCE: Final = "agents.hb.*.*.*"
"""Where all of them say that they live."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


def token(value: str, what: str = "name") -> str:
    """Return `value` if it may stand as one token of a subject.

    Raises:
        InvalidSubjectError: when it is not 1 to 64 characters of A-Z, a-z, 0-9, `_` and `-`.
    """
    if not isinstance(value, str) or not _TOKEN.match(value):
        shown = value if isinstance(value, str) and len(value) <= 80 else f"{value!r:.80}..."
        raise InvalidSubjectError(shown, f"a {what} is 1 to 64 characters of A-Z, a-z, 0-9, underscore and hyphen")
    return value


def is_token(value: str) -> bool:
    """Whether `value` may stand as one token of a subject."""
    return _TOKEN.match(value) is not None


def address(value: str) -> str:
    """Return `value` if tasks can be sent there: to a capability, or to one agent as `@<agent>`.

    Raises:
        InvalidSubjectError: when it is neither.
    """
    if isinstance(value, str) and value.startswith("@"):
        token(value[1:], "agent name")
        return value
    return token(value, "capability")


def is_address(value: str) -> bool:
    """Whether tasks can be sent there."""
    return is_token(value.removeprefix("@"))


def agent_address(agent: str) -> str:
    """Where tasks for one agent, whichever of its replicas is free, are sent."""
    return f"@{token(agent, 'agent name')}"


def priority(value: str) -> str:
    """Return `value` if it is one of the five priorities.

    Raises:
        InvalidSubjectError: when it is not.
    """
    if value not in PRIORITIES:
        raise InvalidSubjectError(value, f"a priority is one of {', '.join(PRIORITIES)}")
    return value


def topic_method(topic: str) -> str:
    """The method of a service on which an agent is asked that subscribes to a topic.

    Raises:
        InvalidSubjectError: no topic can be called so.
    """
    return token(f"topic-{token(topic, 'topic')}", "topic, which must leave room for 6 more,")


class TaskAddress(NamedTuple):
    """What the subject of a stored task says."""

    capability: str
    """Or `@<agent>`, for a task that is sent to one agent."""
    priority: str
    client: str

    def subject(self, *, lane: bool = False) -> str:
        """Where such a task stands: in its queue, or in the lane beside it."""
        return f"revo.task.{self.capability}.{self.priority}.{self.client}{f'.{FAIR}' if lane else ''}"


def task(capability: str, priority_: str, client: str = ANONYMOUS) -> str:
    """The subject that a task for `capability`, or for one agent as `@<agent>`, is published to.

    Raises:
        InvalidSubjectError: one of them cannot stand in a subject.
    """
    try:
        return _task(capability, priority_, client)
    except TypeError:  # what has no hash is no text either
        shown = next(value for value in (capability, priority_, client) if not isinstance(value, str))
        raise InvalidSubjectError(f"{shown!r:.80}", "a capability, a priority and a client are texts") from None


@functools.lru_cache(maxsize=4096)
def _task(capability: str, priority_: str, client: str) -> str:
    return f"revo.task.{address(capability)}.{priority(priority_)}.{token(client, 'client')}"


@functools.lru_cache(maxsize=4096)
def parse_task(subject: str) -> TaskAddress:
    """Read a task's subject as it stands in TASKS.

    Raises:
        InvalidSubjectError: when it is not a task's subject.
    """
    parts = subject.split(".")
    if len(parts) == 6 and parts[5] == FAIR:
        parts.pop()
    if len(parts) == 5 and parts[0] == "revo" and parts[1] == "task":
        return TaskAddress(parts[2], parts[3], parts[4])
    if len(parts) == 4 and parts[0] == "revo" and parts[1] == "task":
        return TaskAddress(parts[2], parts[3], ANONYMOUS)
    raise InvalidSubjectError(subject, "not the subject of a task")


def consumer(capability: str, priority_: str) -> str:
    """The durable consumer on TASKS that all replicas of a capability share, one for each priority."""
    return f"{address(capability)}-{priority_}"


def consumer_filter(capability: str, priority_: str) -> str:
    """What that consumer delivers: the tasks of every client."""
    return f"revo.task.{address(capability)}.{priority_}.*"


def in_lane(subject: str) -> bool:
    """Whether a task stands in a lane, by its subject."""
    return subject.endswith(f".{FAIR}") and subject.count(".") == 5


def lane_consumer(capability: str, priority_: str) -> str:
    """The durable consumer on TASKS of the lane beside a queue."""
    return f"{consumer(capability, priority_)}-{FAIR}"


def lane_filter(capability: str, priority_: str) -> str:
    """What that consumer delivers."""
    return f"{consumer_filter(capability, priority_)}.{FAIR}"


class ConsumerName(NamedTuple):
    """What the name of a consumer on TASKS says."""

    capability: str
    """Or `@<agent>`."""
    priority: str
    lane: bool


def parse_consumer(name: str) -> ConsumerName | None:
    """Read the name of a consumer on TASKS; None: it is none of ours."""
    rest = name.removesuffix(f"-{FAIR}")
    capability, _, priority_ = rest.rpartition("-")
    return ConsumerName(capability, priority_, rest != name) if priority_ in PRIORITIES and capability else None


def result(client: str, capability: str, task_id: str) -> str:
    """The subject of the one result of a task."""
    return f"revo.result.{client}.{capability}.{task_id}"


def result_of(task_id: str) -> str:
    """A filter that finds a task's result whoever sent it to whichever capability."""
    return f"revo.result.*.*.{token(task_id, 'task id')}"


def dead_of(task_id: str) -> str:
    """A filter that finds a task's dead letter."""
    return f"revo.dead.*.*.{token(task_id, 'task id')}"


def done(client: str) -> str:
    """Where a client hears of its results once they are stored (RESULTS republishes there)."""
    return f"revo.done.{token(client, 'client')}.>"


def parse_done(subject: str) -> tuple[str, str]:
    """The (capability, task id) of a result that was republished."""
    _, _, _, capability, task_id = subject.split(".")
    return capability, task_id


def dead(client: str, capability: str, task_id: str) -> str:
    """The subject of the dead letter of a task that failed for good."""
    return f"revo.dead.{client}.{capability}.{task_id}"


def attempt(client: str, capability: str, task_id: str) -> str:
    """The key that holds what is known of a task's earlier tries."""
    return f"$KV.ATTEMPTS.{client}.{capability}.{task_id}"


def schedule(client: str, schedule_id: str) -> str:
    """Where a schedule stands while it is active. Whoever may publish there can have tasks submitted as any client."""
    return f"revo.later.{token(client, 'client')}.{token(schedule_id, 'schedule id')}"


def paused(client: str, schedule_id: str) -> str:
    """Where a schedule stands while it is paused."""
    return f"revo.paused.{token(client, 'client')}.{token(schedule_id, 'schedule id')}"


def due(client: str, schedule_id: str) -> str:
    """Where the server puts what has fallen due, until a steward has made a task of it."""
    return f"revo.due.{token(client, 'client')}.{token(schedule_id, 'schedule id')}"


def occurred(client: str, schedule_id: str) -> str:
    """Where it stands which occurrence of a schedule was the last."""
    return f"revo.occurred.{token(client, 'client')}.{token(schedule_id, 'schedule id')}"


def parse_schedule(subject: str) -> tuple[str, str]:
    """The (client, schedule id) in any of these four subjects."""
    _, _, client, schedule_id = subject.split(".")
    return client, schedule_id


def progress(client: str, capability: str, task_id: str) -> str:
    """Where a task's handler says how far it is, and streams its output."""
    return f"revo.progress.{client}.{capability}.{task_id}"


def emitted(client: str, capability: str, task_id: str) -> str:
    """Where a client hears what a task's handler says, once it is stored (PROGRESS republishes there)."""
    return f"revo.emitted.{client}.{capability}.{task_id}"


def saved(client: str, capability: str, task_id: str) -> str:
    """Where a task's handler keeps what it has so far."""
    return f"revo.saved.{client}.{capability}.{task_id}"


def blob(client: str, capability: str, task_id: str, blob_id: str, piece: int | str) -> str:
    """One piece, from 0 on, of a payload of a task that is too large for a message; or `*` for all of them."""
    return f"revo.blob.{client}.{capability}.{task_id}.{blob_id}.{piece}"


def parse_blob(subject: str) -> tuple[str, str, str, str]:
    """The (client, capability, task id, blob id) of a piece."""
    _, _, client, capability, task_id, blob_id, _ = subject.split(".")
    return client, capability, task_id, blob_id


def spent(budget_id: str, unit: str) -> str:
    """The counter of what has been spent of a budget. Its id is random: who knows it may spend of it."""
    return f"revo.spent.{token(budget_id, 'budget id')}.{token(unit, 'unit')}"


def note(what: str, *names: str) -> str:
    """Where something is noted for the audit, as in `note("double", "42")`."""
    return ".".join(("revo.audit", what, *names))


def parse_name(subject: str) -> tuple[str, str, str]:
    """The (client, capability, task id) at the end of the subject of a result, a dead letter or a note."""
    client, capability, task_id = subject.split(".")[-3:]
    return client, capability, task_id


def control(agent: str, instance: str, verb: str) -> str:
    """An order to one process of an agent, or with `EVERYONE` twice to all."""
    return f"revo.ctl.{agent}.{instance}.{verb}"


def beat(agent: str, instance: str) -> str:
    """Where a worker says that it lives and what it has in hand."""
    return f"revo.beat.{agent}.{instance}"


def probe(agent: str) -> str:
    """A probe for the instances of an agent, whichever takes it."""
    return f"revo.probe.{token(agent, 'agent name')}"


def probed(agent: str, instance: str) -> str:
    """Where an instance says that it has done a probe."""
    return f"revo.probed.{agent}.{instance}"


PROBED: Final = "revo.probed.*.*"


def lease_news(agent: str, instance: str = "*") -> str:
    """Where the leases of an agent's instances are told as they are renewed."""
    return f"revo.registry.{LEASES}.{agent}.{instance}"


def suspect_news(agent: str, instance: str = "*") -> str:
    """Where it is told that something is wrong with an agent's instances."""
    return f"revo.registry.{SUSPECTS}.{agent}.{instance}"


def broadcast(capability: str, caller: str = "") -> str:
    """Where every instance that has a capability hears what is meant for all of them; `caller` as in `rpc`."""
    return _called(f"revo.cast.{token(capability, 'capability')}", caller)


def answers(caller: str) -> str:
    """What those with an account of their own are answered on, when many may answer."""
    return f"_CAST.{caller}"


def bucket(name: str) -> str:
    """The stream under a key-value bucket (ADR-8)."""
    return f"KV_{name}"


def entry(bucket_: str, key: str) -> str:
    """The subject of one entry of a bucket; the key's tokens may be wildcards."""
    return f"$KV.{bucket_}.{key}"


def event(kind: str, name: str, what: str, *, agent: str = "") -> str:
    """Where it is told that something happened to a part of the system, or to an instance of an agent."""
    owner = f"{token(agent, 'agent name')}." if agent else ""
    return f"revo.event.{token(kind, 'kind of event')}.{owner}{token(name, 'name')}.{token(what, 'event')}"


def span(service: str) -> str:
    """Where a process without a collector sends its spans."""
    return f"revo.span.{token(service, 'service')}"


def rpc(service: str, method: str, caller: str = "") -> str:
    """The subject that a service answers a method on; its queue group is the service's name.

    Those with an account of their own may ask only with their name at the end, so that the service knows who asks;
    without one it is somebody who may ask anything, or a server that knows no users.
    """
    return _called(f"revo.rpc.{token(service, 'service')}.{token(method, 'method')}", caller)


def direct(service: str, instance: str, method: str, caller: str = "") -> str:
    """The subject that one instance of a service answers a method on, as in `rpc`."""
    service, instance = token(service, "service"), token(instance, "instance name")
    return _called(f"revo.direct.{service}.{instance}.{token(method, 'method')}", caller)


def scoped(service: str, method: str, scope: str, caller: str = "") -> str:
    """The subject that a service answers a method on within one scope, as in `rpc`: permissions may grant single
    scopes, so that a handler need not ask who may touch what. A scope is a token, or an agent as `@<agent>`.
    """
    scope = scope if scope == "*" or scope.startswith("@") else token(scope, "scope")
    if scope.startswith("@"):
        address(scope)
    return _called(f"revo.scoped.{token(service, 'service')}.{token(method, 'method')}.{scope}", caller)


def scope_of(subject: str) -> str:
    """The scope in a subject of `scoped`; empty in others."""
    parts = subject.split(".", 5)
    return parts[4] if parts[1] == "scoped" else ""


def is_direct(subject: str) -> bool:
    """Whether it is one of `direct`."""
    return subject.startswith("revo.direct.")


def _called(subject: str, caller: str) -> str:
    return f"{subject}.{caller}" if caller else subject


def caller_of(subject: str) -> str:
    """Who asks on a subject of `rpc` (five tokens), `direct`, `scoped` (six), `broadcast` (four); empty: see `rpc`."""
    parts = subject.split(".")
    return parts[-1] if len(parts) == _WITH_CALLER.get(parts[1], 0) else ""


_WITH_CALLER: Final = {"rpc": 5, "direct": 6, "scoped": 6, "cast": 4}


def micro(verb: str, name: str = "", instance: str = "") -> str:
    """A control subject of the NATS micro service protocol (ADR-32); verb is PING, INFO or STATS."""
    return ".".join(part for part in ("$SRV", verb, name, instance) if part)


# --- shared memory: keys as `project/app/findings` are paths of tokens ----------------------------------------

MAX_PARTS: Final = 16
"""Of one key."""
MAX_KEY: Final = 400
"""Characters of one key as it stands in a subject."""
_UNSAFE: Final = re.compile(rb"[^A-Za-z0-9_-]")
_ESCAPED: Final = re.compile(r"=([0-9A-F]{2})")


@functools.lru_cache(maxsize=4096)
def path(key: str) -> str:
    """A key of shared memory as tokens of a subject: parts between slashes, each of any characters that can be printed.

    Raises:
        InvalidKeyError: an empty part, a character that cannot be printed, or too much of it.
    """
    if not isinstance(key, str) or not key:
        raise InvalidKeyError(f"{key!r:.80}", "a key is a text such as project/app/findings")
    parts = key.split("/")
    if not all(parts):
        raise InvalidKeyError(f"{key:.80}", "a part of it is empty: no slash at its ends, nor two in a row")
    if not key.isprintable():
        raise InvalidKeyError(f"{key!r:.80}", "it has a character in it that cannot be printed")
    if len(parts) > MAX_PARTS:
        raise InvalidKeyError(f"{key:.80}", f"it has {len(parts)} parts, and may have {MAX_PARTS}")
    try:
        found = ".".join(_UNSAFE.sub(_escape, part.encode()).decode() for part in parts)
    except UnicodeEncodeError:
        raise InvalidKeyError(f"{key!r:.80}", "it has a half of a character in it") from None
    if len(found) > MAX_KEY:
        raise InvalidKeyError(f"{key:.80}...", f"it takes {len(found)} characters in a subject, and may take {MAX_KEY}")
    return found


def _escape(match: re.Match[bytes]) -> bytes:
    return b"=%02X" % match[0][0]


def key_of(path_: str) -> str:
    """The key of shared memory that `path` made tokens of.

    Raises:
        InvalidKeyError: it made none such.
    """
    try:
        raw = _ESCAPED.sub(lambda match: chr(int(match[1], 16)), path_.replace(".", "/"))
        key = raw.encode("latin-1").decode()
    except UnicodeError:
        raise InvalidKeyError(f"{path_:.80}", "it is not the name of any key") from None
    if path(key) != path_:
        raise InvalidKeyError(f"{path_:.80}", "another name would be that key's")
    return key


def kept(kind: str, namespace: str, key: str) -> str:
    """The key in the bucket MEMORY of an entry, or of its conflicts. The last token lets one filter take a key and all
    that is under it.

    Raises:
        InvalidKeyError, InvalidSubjectError: there can be no such key, or namespace.
    """
    return f"{kind}.{token(namespace, 'namespace')}.{path(key)}._"


def kept_under(kind: str, namespace: str, prefix: str = "") -> str:
    """A filter for the entries at and under a key, or all of a namespace, or of each (`*`), in the bucket MEMORY."""
    inner = f"{path(prefix.removesuffix('/'))}." if prefix else ""
    return f"{kind}.{namespace if namespace == '*' else token(namespace, 'namespace')}.{inner}>"


def parse_kept(key: str) -> tuple[str, str]:
    """The (namespace, key) of what stands under a key of `kept`.

    Raises:
        InvalidKeyError: somebody else made it up.
    """
    _, _, kept_ = key.partition(".")
    namespace, _, rest = kept_.partition(".")
    if not rest.endswith("._"):
        raise InvalidKeyError(f"{key:.80}", "it does not end as the keys of entries do")
    return namespace, key_of(rest[:-2])


def namespace_record(namespace: str) -> str:
    """The key in the bucket MEMORY of what says how a namespace is to be used."""
    return f"{NAMESPACES}.{namespace if namespace == '*' else token(namespace, 'namespace')}"


def guard(namespace: str) -> str:
    """The key in the bucket MEMORY that carries a condition on something else into a batch."""
    return f"{GUARDS}.{token(namespace, 'namespace')}"


def lock_table(namespace: str, key: str) -> str:
    """The key in the bucket MEMORY of the table that a lock is in: one for all under the first part of a path."""
    return f"{LOCKS}.{token(namespace, 'namespace')}.{path(key).partition('.')[0]}"


def lock_news(table: str) -> str:
    """Where a table of locks, by its key in the bucket MEMORY, is told as it changes."""
    return f"revo.{table}"


# --- the Synadia Agent Protocol, v0.3: its tokens are its own, and in lower case ------------------------------

_PROMPTED = re.compile(r"[a-z0-9-]{1,64}\Z")
_PLACE = re.compile(r"[a-z0-9_-]{1,64}\Z")


class PromptAddress(NamedTuple):
    """Whom a prompt is for: all replicas that share it compete for its prompts."""

    agent: str
    owner: str
    session: str

    @property
    def prompt(self) -> str:
        """Where it is prompted."""
        return self._on("prompt")

    @property
    def status(self) -> str:
        """Where it is asked how it is."""
        return self._on("status")

    @property
    def presence(self) -> str:
        """Where it says that it lives."""
        return self._on("hb")

    def _on(self, verb: str) -> str:
        return f"{AGENTS}.{verb}.{self.agent}.{self.owner}.{self.session}"


def prompt_address(agent: str, owner: str, session: str) -> PromptAddress:
    """The address of an agent that takes prompts.

    Raises:
        InvalidSubjectError: one of them is not what the protocol allows.
    """
    if not _PROMPTED.match(agent):
        raise InvalidSubjectError(f"{agent:.80}", "an agent that takes prompts is 1 to 64 of a-z, 0-9 and hyphen")
    return PromptAddress(agent, place(owner), place(session))


def place(value: str) -> str:
    """Return `value` if it may be the owner or the session of an agent that takes prompts.

    Raises:
        InvalidSubjectError: when it may not.
    """
    if not _PLACE.match(value):
        raise InvalidSubjectError(f"{value:.80}", "an owner or session is 1 to 64 of a-z, 0-9, underscore and hyphen")
    return value


def parse_prompt_address(subject: str) -> PromptAddress:
    """Read any of an agent's three subjects. Others choose their own tokens: any that a subject may hold is taken.

    Raises:
        InvalidSubjectError: when it is none of them.
    """
    parts = subject.split(".")
    if len(parts) != 5 or parts[0] != AGENTS or parts[1] not in ("prompt", "status", "hb") or not all(parts):
        raise InvalidSubjectError(f"{subject:.200}", "not a subject of an agent that takes prompts")
    return PromptAddress(*parts[2:])


def listing(verb: str, instance: str = "") -> str:
    """Where an agent with an account of its own hears `micro(verb, AGENTS, instance)` of others.

    By another name, because it may ask so itself: no account can take a subject from one that takes it back.
    """
    return ".".join(part for part in ("revo.listing", verb, instance) if part)


def answer(agent: str, instance: str, token_: str) -> str:
    """Where an instance hears what belongs to one prompt that it works on: an answer to what it asked in the middle of
    it, or that its caller has left. With `*` for the token: all of them.

    No inbox: callers with an account of their own must be able to answer, and the server knows no inbox across them.
    """
    return f"revo.answer.{agent}.{instance}.{token_}"


def api(operation: str, *names: str) -> str:
    """A subject of the JetStream API, as in `api("STREAM.CREATE", "TASKS")`."""
    return ".".join(("$JS.API", operation, *names))


class AckToken(NamedTuple):
    """What the reply subject of a JetStream delivery says."""

    deliveries: int
    sequence: int
    stored_at_ns: int
    consumer_sequence: int
    """The how manieth delivery of its consumer it is."""
    pending: int
    """How many messages the consumer still has to deliver."""


def parse_ack(reply: str) -> AckToken:
    """Read the reply subject of a delivery, without or with a domain (ADR-15).

    Raises:
        InvalidSubjectError: when the message is not a JetStream delivery.
    """
    parts = reply.split(".")
    if len(parts) == 9 and reply.startswith("$JS.ACK."):
        return AckToken(int(parts[4]), int(parts[5]), int(parts[7]), int(parts[6]), int(parts[8]))
    if len(parts) >= 11 and reply.startswith("$JS.ACK."):
        return AckToken(int(parts[6]), int(parts[7]), int(parts[9]), int(parts[8]), int(parts[10]))
    raise InvalidSubjectError(reply, "not the reply subject of a JetStream delivery")
