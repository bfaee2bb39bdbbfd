"""What travels where: every subject of the wire that is not one capability's or one method's, by `bus.subjects`.

`docs/wire.md` says the same to people. Examples are held against their schemas by the tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from actors.registry.model import Definition, Instance, Pause, Subscription, Suspicion
from bus import subjects
from bus.control import EndOrder, LanesOrder, PauseOrder, ShedOrder, TasksQuestion
from bus.events import Event
from bus.messages import Attempts, Beat, Result, SpanBatch
from bus.prompts.envelope import Envelope as Prompt
from bus.prompts.presence import Presence
from revo.spec import bodies, examples
from revo.spec.addresses import address, filled, place, task_address

ANYTHING: Final[dict[str, Any]] = {"description": "the user's own model, as JSON or msgpack"}
BYTES: Final[dict[str, Any]] = {"description": "bytes"}
STATE: Final[dict[str, Any]] = {
    "description": "the handler's own state, as JSON or msgpack; empty: there is none yet, or none any more"
}
MESSAGE: Final[dict[str, Any]] = {"description": "the message of the task that it is to become, as JSON or msgpack"}


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
    "Stored", "the server's word that it is durable, or why it is not", bodies.STORED_SHAPE, bodies.STORED
)
TASK: Final = Said("Task", "a task: its message, and in headers all that Revo knows of it", ANYTHING, headers="task")
RESULT: Final = Said("Result", "the one end of a task", Result, examples.RESULTS, headers="result")
_LETTER: Final = Said("DeadLetter", "the original message of a task that failed for good", ANYTHING, headers="dead")
_EMITTED: Final = Said(
    "Emitted",
    "a handler's word while it runs: how far it is, or a piece of output",
    bodies.EMITTED_SHAPE,
    bodies.EMITTED,
    headers="emitted",
)
_SAVED: Final = Said("Saved", "what a handler has so far, for the next attempt of its task", STATE, headers="saved")
_BEAT: Final = Said("Beat", "a worker lives, and this is what it has in hand", Beat, examples.BEATS)
_LANE: Final = Said("TaskInLane", "a task that was moved past others that wait, stored anew", ANYTHING, headers="lane")
_ACTIVE: Final = Said("Schedule", "a task that falls due later, once or again and again", MESSAGE, headers="schedule")
_RESTS: Final = Said("Making", "a schedule that is paused, or has fallen due", MESSAGE, headers="making")
_OCCURRED: Final = Said(
    "Occurred", "the last occurrence of a schedule", bodies.OCCURRED_SHAPE, bodies.OCCURRED, headers="typed"
)
_PRESENCE: Final = Said("Presence", "an agent that takes prompts lives", Presence, examples.PRESENCES)
_ORDER: Final = {verb: subjects.control(place("agent"), place("instance"), verb) for verb in ("end", "tasks", "pause")}
_NAMED: Final = (place("client"), place("capability"), place("task_id"))


def _tasks() -> list[Way]:
    done = filled(subjects.done(place("client")).replace(">", "*.*"), "capability", "task_id")
    bare = filled(subjects.BARE_TASKS, "capability", "priority")
    agent = task_address(subjects.agent_address(place("agent")))
    lane = subjects.TaskAddress(*map(place, ("capability", "priority", "client"))).subject(lane=True)
    return [
        Way("task", task_address(place("capability")), TASK, "client", subjects.TASKS, STORED),
        Way("bareTask", bare, TASK, "client", subjects.TASKS, STORED),
        Way("agentTask", agent, TASK, "client", subjects.TASKS, STORED),
        Way("laneTask", address(lane), _LANE, "steward", subjects.TASKS),
        Way("result", address(subjects.result(*_NAMED)), RESULT, "worker", subjects.RESULTS),
        Way("done", done, RESULT, "server"),
        Way("dead", address(subjects.dead(*_NAMED)), _LETTER, "worker", subjects.DEAD),
        Way("progress", address(subjects.progress(*_NAMED)), _EMITTED, "worker", subjects.PROGRESS),
        Way("emitted", address(subjects.emitted(*_NAMED)), _EMITTED, "server"),
        Way("saved", address(subjects.saved(*_NAMED)), _SAVED, "worker", subjects.CHECKPOINTS),
        Way("attempts", address(subjects.attempt(*_NAMED)), _said("Attempts", Attempts), "worker", subjects.ATTEMPTS),
        Way(
            "blob",
            address(subjects.blob(*_NAMED, *map(place, ("blob_id", "piece")))),
            _PIECE,
            "client",
            subjects.BLOBS,
            STORED,
        ),
        Way("spent", address(subjects.spent(place("budget_id"), place("unit"))), _SPENT, "worker", subjects.BUDGETS),
        *(
            Way(name, address(built(place("client"), place("schedule_id"))), said, writer, subjects.LATER)
            for name, built, said, writer in (
                ("schedule", subjects.schedule, _ACTIVE, "steward"),
                ("paused", subjects.paused, _RESTS, "steward"),
                ("due", subjects.due, _RESTS, "server"),
                ("occurred", subjects.occurred, _OCCURRED, "steward"),
            )
        ),
    ]


def _workers() -> list[Way]:
    everyone = (subjects.EVERYONE, subjects.EVERYONE)
    ask = Said("WhatIsInHand", "with a task id only who has that one answers", TasksQuestion, ({"task_id": ""},))
    end = Said("End", "the task has ended: whoever runs it stops", EndOrder, (_ENDED,))
    pause = Said("Pause", "take nothing more; with no reason: go on", PauseOrder, ({"reason": "by hand"},))
    shed = Said("Shed", "leave, if you are idle", ShedOrder, ({"reason": "memory"},))
    lanes = Said("Lanes", "these lanes hold something", LanesOrder, ({"lanes": ["code_review.normal"]},))
    own = place("agent"), place("instance")
    return [
        Way("beat", address(subjects.beat(*own)), _BEAT, "worker"),
        Way("endAll", address(subjects.control(*everyone, "end")), end, "steward"),
        Way("lanesToAll", address(subjects.control(*everyone, "lanes")), lanes, "steward"),
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
    ]


def _notes() -> list[Way]:
    """What the audit must know and no other stream says."""
    where = {
        "Anchor": ("steward", subjects.note("anchor")),
        "Restored": ("operator", subjects.note("restored")),
        "Moved": ("steward", subjects.note("moved")),
        "Moving": ("steward", subjects.note("moving")),
        "Double": ("worker", subjects.note("double", place("sequence"))),
        "Lost": ("steward", subjects.note("lost", *_NAMED, place("span_id"))),
        "Redriven": ("steward", subjects.note("redriven", *_NAMED)),
        "Dropped": ("steward", subjects.note("dropped", *_NAMED)),
        "ShedOnHost": ("steward", subjects.note("shed", "host", place("host"))),
        "ShedOfAgent": ("steward", subjects.note("shed", "agent", place("agent"))),
    }
    return [
        Way(
            f"note{what}",
            address(subject),
            Said(f"Note{what}", bodies.NOTES[what][0], *bodies.note(what), headers="typed"),
            writer,
            subjects.AUDIT,
        )
        for what, (writer, subject) in where.items()
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
    chunk = Said("Chunk", "a part of the answer; an empty message ends it", bodies.CHUNK_SHAPE, bodies.CHUNKS)
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


_PIECE: Final = Said("Piece", "a piece of a payload that is too large for a message", BYTES, headers="piece")
_SPENT: Final = Said(
    "Spent", "published with an empty body; this is the counter then", bodies.COUNTER_SHAPE, ({"val": "3"},), "spent"
)
_EVENT: Final = Said("Event", "something that happened", Event, examples.EVENTS)
_ENDED: Final = {"sequence": 42, "status": "cancelled", "task": "anon.echo.mine"}
_SPANS: Final = Said("Spans", "finished spans, in msgpack", SpanBatch, examples.SPANS)


def ways() -> list[Way]:
    """All of them."""
    return [*_tasks(), *_workers(), *_registry(), *_notes(), *_services(), *_memory(), *_prompts()]
