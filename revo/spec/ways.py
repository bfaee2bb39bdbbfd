"""What travels where: every subject of the wire that is not one capability's or one method's, by `bus.subjects`.

`docs/wire.md` says the same to people. Examples are held against their schemas by the tests.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from actors.registry.model import Definition, Instance, Pause, Subscription, Suspicion
from bus import subjects
from bus.control import EndOrder, PauseOrder, ShedOrder, TasksQuestion
from bus.events import Event
from bus.messages import Attempts, Beat, Result, SpanBatch
from bus.prompts.envelope import Envelope as Prompt
from bus.prompts.presence import Presence
from revo.spec import examples

ANYTHING: Final[dict[str, Any]] = {"description": "the user's own model, as JSON or msgpack"}
BYTES: Final[dict[str, Any]] = {"description": "bytes"}

PARAMETERS: Final = {
    "capability": "the kind of work; or one agent, as `@agent`",
    "priority": "from the most to the least urgent",
    "client": "who submits: the user's name, or `anon`",
    "task_id": "the task",
    "caller": "who asks: the user's name, held by permissions. Operators, and all where the server knows no users, "
    "leave the token and its dot out",
    "agent": "the agent",
    "instance": "one process of it",
    "service": "an actor's name",
    "method": "what it is asked",
    "scope": "within which scope, as a namespace of shared memory",
    "kind": "what it happened to",
    "name": "an instance, or a part of the system",
    "what": "what happened, or what is noted",
    "topic": "the topic",
    "namespace": "a namespace of shared memory",
    "path": "a key: its parts with dots between, and every byte that is no letter, digit, `-` or `_` as `=XX`",
    "schedule_id": "the schedule",
    "blob_id": "one payload of the task, by a random name",
    "piece": "from 0 on",
    "budget_id": "a budget, by a random name",
    "unit": "as tokens or money",
    "owner": "whose agent it is",
    "session": "which of them; replicas share it",
    "token": "belongs to one prompt",
    "verb": "of the micro protocol: PING, INFO, STATS",
}

_PLACE: Final = re.compile(r"x-([a-z_]+)-x")


def place(parameter: str) -> str:
    """Stands for a parameter where a builder of `bus.subjects` wants a token."""
    assert parameter in PARAMETERS, parameter
    return f"x-{parameter}-x"


def address(subject: str) -> str:
    """The address of a channel: a subject that was built with `place`."""
    return _PLACE.sub(r"{\1}", subject)


def task_address(capability: str) -> str:
    """Where tasks are published, at any priority."""
    normal = subjects.task(capability, "normal", place("client"))
    return address(normal.replace(".normal.", f".{place('priority')}."))


def _filled(pattern: str, *parameters: str) -> str:
    """The address that a subject with wildcards stands for."""
    for parameter in parameters:
        pattern = re.sub(r"[*>]", place(parameter), pattern, count=1)
    return address(pattern)


@dataclass(frozen=True)
class Said:
    """One message."""

    name: str
    about: str
    shape: Any
    """A type, or a JSON schema."""
    examples: tuple[Any, ...] = ()
    headers: str = ""
    """Which set of `revo.spec.examples.HEADERS`."""


@dataclass(frozen=True)
class Way:
    """One channel."""

    name: str
    address: str
    said: Said
    writer: str
    """Who publishes there: a client sends, and receives what all others do."""
    stream: str = ""
    """Where it is kept; empty: it is not."""
    reply: Said | None = None


STORED: Final = Said(
    "Stored", "the server's word that it is durable, or why it is not", examples.STORED_SHAPE, examples.STORED
)
TASK: Final = Said("Task", "a task: its message, and in headers all that Revo knows of it", ANYTHING, headers="task")
RESULT: Final = Said("Result", "the one end of a task", Result, examples.RESULTS, headers="result")
_LETTER: Final = Said("DeadLetter", "the original message of a task that failed for good", ANYTHING, headers="dead")
_EMITTED: Final = Said(
    "Emitted", "a handler's word while it runs: how far it is, or a piece of output", ANYTHING, headers="emitted"
)
_BEAT: Final = Said("Beat", "a worker lives, and this is what it has in hand", Beat, examples.BEATS)
_SCHEDULE: Final = Said("Schedule", "a task that falls due later", ANYTHING, headers="schedule")
_PRESENCE: Final = Said("Presence", "an agent that takes prompts lives", Presence, examples.PRESENCES)
_ORDER: Final = {verb: subjects.control(place("agent"), place("instance"), verb) for verb in ("end", "tasks", "pause")}
_NAMED: Final = (place("client"), place("capability"), place("task_id"))


def _tasks() -> list[Way]:
    done = _filled(subjects.done(place("client")).replace(">", "*.*"), "capability", "task_id")
    bare = _filled(subjects.BARE_TASKS, "capability", "priority")
    agent = task_address(subjects.agent_address(place("agent")))
    return [
        Way("task", task_address(place("capability")), TASK, "client", subjects.TASKS, STORED),
        Way("bareTask", bare, TASK, "client", subjects.TASKS, STORED),
        Way("agentTask", agent, TASK, "client", subjects.TASKS, STORED),
        Way("result", address(subjects.result(*_NAMED)), RESULT, "worker", subjects.RESULTS),
        Way("done", done, RESULT, "server"),
        Way("dead", address(subjects.dead(*_NAMED)), _LETTER, "worker", subjects.DEAD),
        Way("progress", address(subjects.progress(*_NAMED)), _EMITTED, "worker", subjects.PROGRESS),
        Way("emitted", address(subjects.emitted(*_NAMED)), _EMITTED, "server"),
        Way("saved", address(subjects.saved(*_NAMED)), _said("Saved", ANYTHING), "worker", subjects.CHECKPOINTS),
        Way("attempts", address(subjects.attempt(*_NAMED)), _said("Attempts", Attempts), "worker", subjects.ATTEMPTS),
        Way("blob", address(subjects.blob(*_NAMED, *map(place, ("blob_id", "piece")))), _PIECE, "client", "BLOBS"),
        Way("spent", address(subjects.spent(place("budget_id"), place("unit"))), _SPENT, "worker", subjects.BUDGETS),
        *(
            Way(name, address(built(place("client"), place("schedule_id"))), _SCHEDULE, writer, subjects.LATER)
            for name, built, writer in (
                ("schedule", subjects.schedule, "steward"),
                ("paused", subjects.paused, "steward"),
                ("due", subjects.due, "server"),
            )
        ),
    ]


def _workers() -> list[Way]:
    everyone = (subjects.EVERYONE, subjects.EVERYONE)
    ask = Said("WhatIsInHand", "with a task id only who has that one answers", TasksQuestion, ({"task_id": ""},))
    end = Said("End", "the task has ended: whoever runs it stops", EndOrder, ({"sequence": 42, "status": "cancelled"},))
    pause = Said("Pause", "take nothing more; with no reason: go on", PauseOrder, ({"reason": "by hand"},))
    shed = Said("Shed", "leave, if you are idle", ShedOrder, ({"reason": "memory"},))
    own = place("agent"), place("instance")
    return [
        Way("beat", address(subjects.beat(*own)), _BEAT, "worker"),
        Way("endAll", address(subjects.control(*everyone, "end")), end, "steward"),
        Way("tasksOfAll", address(subjects.control(*everyone, "tasks")), ask, "client", reply=_BEAT),
        Way("tasksOfOne", address(_ORDER["tasks"]), ask, "client", reply=_BEAT),
        Way("pauseOne", address(_ORDER["pause"]), pause, "client", reply=pause),
        Way("shedOne", address(subjects.control(*own, "shed")), shed, "steward"),
        Way("probe", address(subjects.probe(place("agent"))), _said("Probe", BYTES), "registry", subjects.PROBES),
        Way("probed", address(subjects.probed(*own)), _said("Probed", BYTES), "worker"),
    ]


def _registry() -> list[Way]:
    own, bucket = (place("agent"), place("instance")), subjects.bucket(subjects.REGISTRY_BUCKET)

    def kept(*key: str) -> str:
        return address(subjects.entry(subjects.REGISTRY_BUCKET, ".".join(key)))

    lease = Said("Lease", "an instance lives", Instance, examples.LEASES)
    suspicion = Said("Suspicion", "what others have found of an instance", Suspicion, ({"reason": "does nothing"},))
    topic = kept(subjects.TOPICS, place("topic"), place("agent"))
    return [
        Way("lease", kept(subjects.LEASES, *own), lease, "worker", bucket),
        Way("leaseNews", address(subjects.lease_news(*own)), lease, "server"),
        Way("suspicion", kept(subjects.SUSPECTS, *own), suspicion, "registry", bucket),
        Way("suspicionNews", address(subjects.suspect_news(*own)), suspicion, "server"),
        Way("definition", kept("def", place("capability")), _said("Definition", Definition), "registry", bucket),
        Way(
            "capabilityPause",
            kept(subjects.PAUSES, place("capability")),
            _said("PausedCapability", Pause),
            "registry",
            bucket,
        ),
        Way("subscription", topic, _said("Subscription", Subscription), "registry", bucket),
        Way(
            "agentEvent",
            address(subjects.event(place("kind"), place("name"), place("what"), agent=place("agent"))),
            _EVENT,
            "worker",
            subjects.EVENTS,
        ),
        Way(
            "systemEvent",
            address(subjects.event(place("kind"), place("name"), place("what"))),
            _EVENT,
            "worker",
            subjects.EVENTS,
        ),
        Way("spans", address(subjects.span(place("service"))), _SPANS, "worker", subjects.TRACES),
        Way("note", address(subjects.note(place("what"))), _NOTE, "steward", subjects.AUDIT),
        Way("noteOfTask", address(subjects.note(place("what"), *_NAMED)), _NOTE, "worker", subjects.AUDIT),
    ]


def _services() -> list[Way]:
    caller, scope = place("caller"), place("scope")
    service, method, instance = place("service"), place("method"), place("instance")
    ask = Said("Question", "a request: what the method takes", ANYTHING, headers="request")
    answer = Said("Answer", "what it answers, or why it does not", ANYTHING, headers="reply")
    return [
        Way("rpc", address(subjects.rpc(service, method, caller)), ask, "client", reply=answer),
        Way("direct", address(subjects.direct(service, instance, method, caller)), ask, "client", reply=answer),
        Way("scoped", address(subjects.scoped(service, method, scope, caller)), ask, "client", reply=answer),
        Way("cast", address(subjects.broadcast(place("capability"), caller)), TASK, "client", reply=answer),
        Way("listing", address(subjects.listing(place("verb"), instance)), _said("Listing", BYTES), "client"),
    ]


def _memory() -> list[Way]:
    bucket = subjects.bucket(subjects.MEMORY_BUCKET)

    def kept(kind: str) -> str:
        key = subjects.kept(kind, place("namespace"), place("path"))
        return address(subjects.entry(subjects.MEMORY_BUCKET, key))

    table = subjects.lock_table(place("namespace"), place("path"))
    value = Said("Value", "a value of shared memory, in msgpack", ANYTHING, headers="entry")
    return [
        Way("entry", kept(subjects.ENTRIES), value, "memory", bucket),
        Way("conflict", kept(subjects.CONFLICTS), _said("Conflict", BYTES), "memory", bucket),
        Way("lockNews", address(subjects.lock_news(table)), _said("LockTable", BYTES), "server"),
    ]


def _prompts() -> list[Way]:
    whom = subjects.PromptAddress(*map(place, ("agent", "owner", "session")))
    prompt = Said("Prompt", "text, or this as JSON; the answer comes in chunks", Prompt, ({"prompt": "hi"},))
    chunk = Said("Chunk", "a part of the answer; an empty message ends it", examples.CHUNK_SHAPE, examples.CHUNKS)
    answer = Said("AnswerToQuery", "the caller's answer to what the agent asked", Prompt, ({"prompt": "yes"},))
    there = subjects.answer(place("agent"), place("instance"), place("token"))
    return [
        Way("prompt", address(whom.prompt), prompt, "client", reply=chunk),
        Way("status", address(whom.status), _said("StatusQuestion", BYTES), "client", reply=_PRESENCE),
        Way("presence", address(whom.presence), _PRESENCE, "worker"),
        Way("answer", address(there), answer, "client"),
    ]


def _said(name: str, shape: Any) -> Said:
    about = (getattr(shape, "__doc__", "") or "").partition("\n")[0] if isinstance(shape, type) else ""
    return Said(name, about, shape)


_PIECE: Final = Said("Piece", "a piece of a payload that is too large for a message", BYTES)
_SPENT: Final = Said("Spent", "the server's counter of what has been spent", examples.COUNTER_SHAPE, ({"val": "3"},))
_EVENT: Final = Said("Event", "something that happened", Event, examples.EVENTS)
_SPANS: Final = Said("Spans", "finished spans, in msgpack", SpanBatch, examples.SPANS)
_NOTE: Final = Said("Note", "what the audit must know and no other stream says", ANYTHING)


def ways() -> list[Way]:
    """All of them."""
    return [*_tasks(), *_workers(), *_registry(), *_services(), *_memory(), *_prompts()]
