"""Headers by the kind of message, and examples of messages that have a model: what no model says."""

from __future__ import annotations

from typing import Any, Final

from bus import messages, subjects
from bus.wallet import INCR

_ID: Final = "^[A-Za-z0-9_-]{1,64}$"
_TIME: Final = 1767225600.25
_TRACE: Final = "00-55110d561f2abc5cd77d05f1c50de13a-00f067aa0ba902b7-01"


def _text(about: str, **more: Any) -> dict[str, Any]:
    return {"type": "string", "description": about, **more}


_TYPE: Final = {
    messages.CONTENT_TYPE: _text("what the body is; without it, JSON", enum=[messages.JSON, messages.MSGPACK])
}
_TRACING: Final = {
    messages.TRACEPARENT: _text("W3C trace context: the spans join that trace"),
    messages.TRACESTATE: _text("W3C trace context"),
}
_BLOB: Final = {messages.BLOB: _text("the body is too large and stands beside the message: JSON of the schema Blob")}
_RUN: Final = {messages.RUN: _text("which run of the task said it: later ones have higher numbers")}
_EXPECTED: Final = {
    messages.EXPECTED_SUBJECT_SEQUENCE: _text("where the last message of the subject stands; 0: there is none")
}
_TTL: Final = {messages.MSG_TTL: _text("how long it is kept, as `90s`")}
_TASK: Final = {
    **_TYPE,
    messages.TASK_ID: _text("names the task: the same id is the same task", pattern=_ID),
    messages.DEADLINE: _text("unix seconds, at most 30 days ahead; default: an hour from now"),
    messages.CAPABILITY: _text("of a task for one agent: which of its capabilities", pattern=_ID),
    messages.FRESH: _text("the id is random and was never used", enum=["1"]),
    messages.PARENT: _text("`<client>.<capability>.<task id>` of the task whose handler submits this one"),
    messages.DEPTH: _text("how many generations of tasks stand above it"),
    messages.BUDGET: _text("what the task's family may spend"),
    messages.REDRIVE_OF: _text("the id of the dead task that it was made of", pattern=_ID),
    messages.SCHEDULED: _text("of a task that recurs: the schedule that made it", pattern=_ID),
    messages.VERSION: _text("of the wire", enum=[messages.WIRE_VERSION]),
    messages.MSG_ID: _text("`<client>.<capability>.<task id>`: the server drops a second one within two minutes"),
    **_BLOB,
    **_TRACING,
}
_OF_RESULT: Final = {
    messages.TASK_ID: _text("the task", pattern=_ID),
    messages.STATUS: _text("how it ended", enum=["succeeded", "failed", "expired", "cancelled"]),
}
_REPLY: Final = {
    **_TYPE,
    messages.INSTANCE: _text("whose reply it is"),
    messages.SERVICE_ERROR: _text("why it failed; the body has `code`, `message`, `retryable` and `details`"),
    messages.SERVICE_ERROR_CODE: _text("a number, as in HTTP"),
}
_MAKING: Final = {
    **_TYPE,
    messages.SCHEDULE: _text("what makes a task of it: JSON of the schema Making"),
    messages.CAPABILITY: _TASK[messages.CAPABILITY],
    **_TRACING,
}

HEADERS: Final[dict[str, dict[str, Any]]] = {
    "task": _TASK,
    "result": {**_TYPE, **_OF_RESULT, **_BLOB},
    "dead": {**_TASK, messages.DEAD_LETTER: _text("why it died: JSON of the schema DeadLetter")},
    "lane": {
        **_TASK,
        messages.SUBMITTED: _text("when it was submitted, in unix seconds"),
        messages.FROM: _text("its sequence in TASKS then"),
    },
    "emitted": {
        **_TYPE,
        **_RUN,
        messages.CHUNK: _text("its number, from 1 on over the whole task"),
        messages.MSG_ID: _text("the same again, so that it is stored once"),
        **_EXPECTED,
        "Nats-Sequence": _text("of what is republished: where it stands"),
        "Nats-Last-Sequence": _text("of what is republished: where the one before it for the same task stands"),
    },
    "saved": {
        **_TYPE,
        **_RUN,
        messages.CHILDREN: _text("how often the attempt had submitted what, for a run that goes on from here"),
        messages.MSG_ID: _text("of this one write"),
        **_TTL,
        **_EXPECTED,
    },
    "schedule": {
        **_MAKING,
        messages.WHEN: _text("when: `@at` a time, `@every` so often, `@daily` and its like, or six fields as of cron"),
        messages.WHERE: _text("where the server puts it then"),
        messages.TIME_ZONE: _text("of the fields as of cron; without it, UTC"),
    },
    "making": _MAKING,
    "piece": {**_EXPECTED, **_TTL},
    "spent": {
        INCR: _text("so much is added to the counter", pattern=r"^\+[0-9]+$"),
        messages.MSG_ID: _text("of this one spending, so that it counts once"),
    },
    "typed": _TYPE,
    "request": {**_TYPE, messages.DEADLINE: _text("unix seconds, until when somebody waits"), **_TRACING},
    "reply": _REPLY,
    "entry": {messages.MOVED: _text("of a table of locks: which are waited for no more"), **_TRACING},
}

_END: Final = {
    "task_id": "my-first-task",
    "capability": "code_review",
    "client": subjects.ANONYMOUS,
    "attempts": 1,
    "deliveries": 1,
    "sequence": 42,
    "agent": "code-analyst",
    "instance": "code-analyst-1f2e3d4c",
    "submitted_at": _TIME,
    "started_at": _TIME,
    "finished_at": _TIME,
    "trace_id": "",
}
_ERROR: Final = {
    "code": "decode",
    "message": "source: Field required",
    "retryable": False,
    "type": "DecodeError",
    "details": {},
    "traceback": "",
    "fault": "",
}
RESULTS: Final = (
    {**_END, "status": "succeeded", "value": {"rules": {"F401": 1}}, "error": None},
    {**_END, "status": "failed", "value": None, "error": _ERROR},
)
BEATS: Final = (
    {
        "agent": "code-analyst",
        "instance": "code-analyst-1f2e3d4c",
        "at": _TIME,
        "concurrency": 4,
        "capabilities": ["code_review"],
        "in_hand": [
            {
                "task_id": "my-first-task",
                "capability": "code_review",
                "client": subjects.ANONYMOUS,
                "priority": "normal",
                "sequence": 42,
                "deliveries": 1,
                "attempt": 1,
                "state": "running",
                "since": _TIME,
                "trace_id": _TRACE[3:35],
                "span_id": _TRACE[36:52],
                "parent_id": "",
            }
        ],
        "leaving": False,
    },
)
LEASES: Final = ({"agent": "echo", "instance": "echo-1f2e3d4c", "state": "ready", "capabilities": {"echo": "0a1b"}},)
EVENTS: Final = ({"at": _TIME, "by": "echo-1f2e3d4c", "details": {}},)
SPANS: Final = (
    {
        "spans": [
            {
                "trace_id": _TRACE[3:35],
                "span_id": _TRACE[36:52],
                "name": "process echo",
                "kind": "consumer",
                "service": "echo",
                "instance": "echo-1f2e3d4c",
                "start": _TIME,
                "end": _TIME,
            }
        ]
    },
)
PRESENCES: Final = (
    {
        "agent": "hermes",
        "owner": "revo",
        "session": "main",
        "instance_id": "hermes-1",
        "ts": "2026-01-01T00:00:00Z",
        "interval_s": 10,
    },
)
