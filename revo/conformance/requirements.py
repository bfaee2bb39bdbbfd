"""What is asked of a worker, one by one. `docs/conformance.md` says the same, and a test keeps the two in step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Level = Literal["MUST", "SHOULD"]


@dataclass(frozen=True, slots=True)
class Requirement:
    """One thing that a worker does."""

    number: str
    name: str
    """Of the check, as reports and `--only` name it."""
    level: Level
    says: str


def _must(number: str, name: str, says: str) -> Requirement:
    return Requirement(number, name, "MUST", says)


def _should(number: str, name: str, says: str) -> Requirement:
    return Requirement(number, name, "SHOULD", says)


REQUIREMENTS: Final = (
    _must(
        "1.1",
        "consumers",
        "Pull from five durable consumers on TASKS, `<capability>-<priority>`, each with `filter_subject` "
        "`revo.task.<capability>.<priority>.*`, `ack_policy` `explicit`, `max_deliver` -1, `max_ack_pending` -1.",
    ),
    _must("1.2", "consumers-stand", "Create the consumers that are missing; change none that stands."),
    _should(
        "1.3",
        "policy",
        "Say in the consumers' metadata `revo.policy` how the capability is run: JSON with `ack_wait`, `max_attempts`, "
        "`time_limit`, `backoff`, `backoff_max`, `max_deaths`.",
    ),
    _must("1.4", "priorities", "Start a more urgent task before less urgent ones that wait."),
    _must("1.5", "ack-extension", "Send `+WPI` while a task is in hand, so that it is not delivered to another."),
    _must("1.6", "json", "Read a body that says nothing of its type, or `application/json`, as JSON."),
    _must(
        "1.7",
        "content-types",
        "Do `application/msgpack` and answer in it, or fail the task with code `decode`; fail it of any other type.",
    ),
    _must("1.8", "garbage", "Fail a body that does not decode at once, with code `decode`: no retry can help."),
    _must(
        "1.9",
        "garbage-headers",
        "Fail a task whose `Revo-Task-Id` is no token, or whose `Revo-Deadline` is no time, in the same way.",
    ),
    _must("1.10", "unknown-headers", "Do a task whatever other headers it has."),
    _must(
        "1.11",
        "bare-id",
        "Name a task that has no `Revo-Task-Id` by the BLAKE2b-128 digest, in hex, of "
        "`<sequence>.<stored at, in ns>.` and its body.",
    ),
    _must("2.1", "result-first", "Acknowledge a task (`+ACK`, `+TERM`) only after RESULTS has confirmed its result."),
    _must(
        "2.2",
        "first-only",
        "Store a result on `revo.result.<client>.<capability>.<task id>` with "
        "`Nats-Expected-Last-Subject-Sequence: 0`.",
    ),
    _must(
        "2.3",
        "first-stands",
        "When the server refuses it (10071 or 10164), the task has ended: leave the result that stands, and settle.",
    ),
    _must("2.4", "result-fields", "Write all fields of the result as `docs/wire.md` has them."),
    _must("2.5", "result-ttl", "Set `Nats-TTL` on the result: an hour, or until the deadline if that is later."),
    _must(
        "2.6",
        "ended-before",
        "Of a task that was delivered before, look for the result; where one stands, settle it and run nothing.",
    ),
    _must(
        "2.7",
        "same-id",
        "Look also for that of a task whose id was chosen (`Revo-Task-Id` without `Revo-Fresh`). If it is of another "
        "sequence, note that on `revo.audit.double.<sequence>` before settling: `task_id`, and its sequence in "
        "`ended_by`.",
    ),
    _must(
        "2.8",
        "dead-letter",
        "Store the dead letter of a failed task before settling it: the original body, byte for byte, its headers "
        "without those that start with `Nats-`, and `Revo-Dead-Letter`.",
    ),
    _must(
        "2.9",
        "dead-letter-again",
        "Make sure of it also when a failed result stands already: whoever stored it may have died in between.",
    ),
    _must(
        "2.10",
        "full-results",
        "Keep a task in hand while its result cannot be stored, and try again; or hand it back. Never drop it.",
    ),
    _must(
        "2.11",
        "large-result",
        "Store a result that does not fit in a message as a blob, or fail the task with code `payload_too_large`.",
    ),
    _must("2.12", "large-task", "Read a body that stands in a blob (`Revo-Blob`), or fail the task."),
    _should("2.13", "trace", "Pass the task's `traceparent` on in the header of its result."),
    _must("3.1", "retry", "Retry an error after a pause: `-NAK` with a `delay`, in nanoseconds."),
    _must(
        "3.2",
        "record",
        "Count the errors in `$KV.ATTEMPTS.<client>.<capability>.<task id>` before handing the task back: `errors`, "
        "and `returned`, the delivery that came to an end; by compare-and-swap, with a `Nats-TTL`.",
    ),
    _must("3.3", "last-attempt", "Fail the task when its handler has failed `max_attempts` times (default 3)."),
    _must("3.4", "final", "Fail it at once of an error that no retry cures."),
    _must("3.5", "deaths", "Count no attempt for a process that died, was stopped or handed a task back."),
    _should(
        "3.6",
        "hand-back",
        "Note `returned` also when a task is handed back without an error, or who gets it next takes you for dead.",
    ),
    _should(
        "3.7",
        "poison",
        "Fail a task whose record says that processes died `max_deaths` times while they ran nothing else (`alone`).",
    ),
    _must("4.1", "deadline-queued", "End a task as `expired`, without running it, when its deadline has passed."),
    _must("4.2", "deadline-running", "End it as `expired` when it passes meanwhile, also while the handler runs."),
    _should(
        "4.3",
        "end-order",
        "Stop a handler whose task others have ended (`revo.ctl.all.all.end`, msgpack), by its sequence or its name.",
    ),
    _must("5.1", "kill", "Do the tasks again that a process had in hand when it was killed."),
    _must(
        "5.2",
        "drain",
        "On SIGTERM take no more, finish what runs, hand back what does not, and end with status 0.",
    ),
    _must("5.3", "server-restart", "Go on by yourself when the server was away: nothing is lost, nothing hangs."),
    _should("5.4", "heartbeat", "Say each second on `revo.beat.<agent>.<instance>` what is in hand."),
    _should("5.5", "tasks-question", "Answer `revo.ctl.all.all.tasks` with what heartbeats say."),
)
"""In the order of the document."""

BY_NAME: Final = {requirement.name: requirement for requirement in REQUIREMENTS}
