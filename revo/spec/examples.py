"""Headers by the kind of message, and examples of messages: what no model says."""

from __future__ import annotations

from typing import Any, Final

from bus import messages, subjects

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
_BLOB: Final = {messages.BLOB: _text("where the body stands that is too large for a message, as JSON")}
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

HEADERS: Final[dict[str, dict[str, Any]]] = {
    "task": _TASK,
    "result": {**_TYPE, **_OF_RESULT, **_BLOB},
    "dead": {**_TASK, messages.DEAD_LETTER: _text("why it died: JSON of the schema DeadLetter")},
    "emitted": {
        **_TYPE,
        messages.CHUNK: _text("its number, from 1 on over the whole task"),
        messages.RUN: _text("which run of the task said it: later ones have higher numbers"),
    },
    "schedule": {**_TYPE, "Nats-Schedule": _text("when: `@at`, `@every`, or six fields as cron has them")},
    "request": {**_TYPE, messages.DEADLINE: _text("unix seconds, until when somebody waits"), **_TRACING},
    "reply": _REPLY,
    "entry": {messages.MOVED: _text("of a table of locks: which are waited for no more"), **_TRACING},
}

STORED_SHAPE: Final[dict[str, Any]] = {
    "title": "Stored",
    "type": "object",
    "properties": {
        "stream": {"type": "string"},
        "seq": {"type": "integer", "description": "where it stands"},
        "duplicate": {"type": "boolean", "description": "an earlier one of this id stands there"},
        "error": {
            "type": "object",
            "description": "it is not stored",
            "properties": {
                "code": {"type": "integer"},
                "err_code": {"type": "integer"},
                "description": {"type": "string"},
            },
        },
    },
}
STORED: Final = (
    {"stream": subjects.TASKS, "seq": 42},
    {"stream": "", "seq": 0, "error": {"code": 503, "err_code": 10077, "description": "maximum bytes exceeded"}},
)
COUNTER_SHAPE: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"val": {"type": "string"}},
    "required": ["val"],
}
CHUNK_SHAPE: Final[dict[str, Any]] = {
    "title": "Chunk",
    "type": "object",
    "properties": {"type": {"type": "string"}, "data": {}},
    "required": ["type"],
}
CHUNKS: Final = ({"type": "status", "data": "ack"}, {"type": "response", "data": "hello"})

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
