"""Addresses of channels, made by the functions of `bus.subjects`, and what their parameters are."""

from __future__ import annotations

import re
from typing import Final

from bus import subjects

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
    "scope": "within which scope: a namespace of shared memory, a capability, or an agent as `@agent`",
    "kind": "what it happened to",
    "name": "an instance, or a part of the system",
    "what": "what happened",
    "topic": "the topic",
    "namespace": "a namespace of shared memory",
    "path": "a key: its parts with dots between, and every byte that is no letter, digit, `-` or `_` as `=XX`",
    "schedule_id": "the schedule",
    "blob_id": "one payload of the task, by a random name",
    "piece": "from 0 on",
    "budget_id": "a budget, by a random name",
    "unit": "tokens, money (in millionths) or tasks",
    "sequence": "a task, by its sequence in TASKS",
    "span_id": "the span of one attempt",
    "host": "a machine",
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


def filled(pattern: str, *parameters: str) -> str:
    """The address that a subject with wildcards stands for."""
    for parameter in parameters:
        pattern = re.sub(r"[*>]", place(parameter), pattern, count=1)
    return address(pattern)
