"""Bodies that have no model, for they are written and read as plain maps: their schemas, and examples."""

from __future__ import annotations

from typing import Any, Final

from bus import subjects
from bus.emitting import MAX_TEXT

_TIME: Final = 1767225600.25

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

EMITTED_SHAPE: Final[dict[str, Any]] = {
    "title": "Emitted",
    "anyOf": [
        {
            "title": "Progress",
            "type": "object",
            "properties": {
                "share": {"type": "number", "minimum": 0, "maximum": 1},
                "text": {"type": "string", "maxLength": MAX_TEXT},
            },
            "required": ["share"],
        },
        {
            "title": "Output",
            "type": "object",
            "properties": {"chunk": {"description": "plain data, or text; in msgpack bytes, too"}},
            "required": ["chunk"],
        },
    ],
}
EMITTED: Final = ({"share": 0.4, "text": "page 7"}, {"chunk": "Once upon a time"})
OCCURRED_SHAPE: Final[dict[str, Any]] = {
    "title": "Occurred",
    "type": "object",
    "properties": {
        "sequence": {"type": "integer", "description": "in LATER; the task is `<schedule id>-<sequence>`"},
        "at": {"type": "number", "description": "unix seconds, when it fell due"},
    },
    "required": ["sequence", "at"],
}
OCCURRED: Final = ({"sequence": 42, "at": _TIME},)

# --- notes for the audit --------------------------------------------------------------------------------------

_AT: Final = {"at": _TIME}
NOTES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "Anchor": ("how many tasks there were then, and for how long a result is kept", {**_AT, "last": 42, "ttl": 3600.0}),
    "Restored": ("from a backup: from which sequence on TASKS counts anew", {**_AT, "last": 42, "created": _TIME}),
    "Moved": ("sequences in TASKS that are no task's any more, and those of the copies", {"moved": [[41, 52]]}),
    "Moving": ("who stored the last of these moves tasks; sequences that it begins with", {"begun": [41, 42]}),
    "Double": ("has no result of its own: an earlier one of its id has it", {"task_id": "mine", "ended_by": 42}),
    "Lost": ("an attempt that ended with its process", {"instance": "echo-1f2e", "reason": "it is silent", **_AT}),
    "Redriven": ("a dead task was submitted anew", {"task_id": "5f0c", **_AT}),
    "Dropped": ("a dead letter was taken away", _AT),
    "ShedOnHost": ("somebody was told to leave the host", _AT),
    "ShedOfAgent": ("an instance of the agent was told to leave", _AT),
}
"""What each says, and an example."""
_TYPES: Final = {str: "string", int: "integer", float: "number", list: "array"}


def note(what: str) -> tuple[dict[str, Any], tuple[dict[str, Any]]]:
    """The schema and the example of a note: all of it is there, and nothing is null."""
    _, example = NOTES[what]
    properties: dict[str, dict[str, Any]] = {name: {"type": _TYPES[type(value)]} for name, value in example.items()}
    if "left" in properties:
        properties["left"]["items"] = {"type": "integer"}
    return {"title": f"Note{what}", "type": "object", "properties": properties, "required": list(example)}, (example,)
