"""What the plain worker is given: a task as it is delivered; and which fault it shall have."""

from __future__ import annotations

import asyncio
import hashlib
import sys
import uuid

from nats.aio.msg import Msg

CAPABILITY = "plain"
PRIORITIES = ("critical", "urgent", "high", "normal", "low")
POLICY = {"ack_wait": 1.0, "max_attempts": 3, "time_limit": 30.0, "backoff": 0.1, "backoff_max": 1.0, "max_deaths": 3}
SLOTS = 4
NS = 1_000_000_000
FAULTS = {
    "acknowledges before the result is stored": "result-first",
    "stores its result over another": "first-stands",
    "does not compare before it stores a result": "first-only",
    "keeps results for ever": "result-ttl",
    "runs what has its result": "ended-before",
    "runs what it has done under the same id": "same-id",
    "drops what it cannot store": "full-results",
    "writes no dead letter": "dead-letter",
    "writes the dead letter last": "dead-letter",
    "leaves a failed result without its dead letter": "dead-letter-again",
    "counts deliveries as attempts": "deaths",
    "tries again at once": "retry",
    "keeps no record": "record",
    "tries again what no retry cures": "final",
    "never gives up": "last-attempt",
    "runs what is past its deadline": "deadline-queued",
    "runs on past the deadline": "deadline-running",
    "does not hear that a task was cancelled": "end-order",
    "does not extend": "ack-extension",
    "takes the least urgent first": "priorities",
    "makes up ids": "bare-id",
    "sets up its consumers anew": "consumers-stand",
    "limits deliveries": "consumers",
    "reads everything as text": "content-types",
    "tries garbage again": "garbage",
    "dies of SIGTERM": "drain",
    "hands back without a word": "hand-back",
    "does not come back": "server-restart",
}
"""What may be wrong with it, and the check that says so."""
FAULT = sys.argv[1] if len(sys.argv) > 1 else ""


def broken(fault: str) -> bool:
    assert fault in FAULTS
    return fault == FAULT


class Failed(Exception):  # noqa: N818
    def __init__(self, code: str, *, retryable: bool) -> None:
        super().__init__(code)
        self.code = code
        self.retryable = retryable


class Refused(Exception):  # noqa: N818
    """The server did not store a message; its code."""


class Task:
    """One delivery, read."""

    def __init__(self, message: Msg) -> None:
        self.message = message
        self.headers = dict(message.headers or {})
        _, _, self.capability, self.priority, self.client = message.subject.split(".")
        parts = message.reply.split(".")
        self.deliveries, self.sequence, stored = int(parts[4]), int(parts[5]), int(parts[7])
        self.stored_at = stored / NS
        self.fault = ""
        self.attempt = 1
        self.work: asyncio.Task[None] | None = None
        self.task_id = self.headers.get("Revo-Task-Id", "")
        if self.task_id and not self.task_id.replace("-", "_").isidentifier() and not self.task_id.isalnum():
            self.fault, self.task_id = "no id", ""
        self.named = bool(self.task_id) and "Revo-Fresh" not in self.headers
        if not self.task_id:
            digest = hashlib.blake2b(f"{self.sequence}.{stored}.".encode(), digest_size=16)
            digest.update(message.data)
            self.task_id = uuid.uuid4().hex if broken("makes up ids") else digest.hexdigest()
        self.deadline = self.stored_at + 3600
        try:
            said = float(self.headers.get("Revo-Deadline", self.deadline))
            if not 0 < said < self.stored_at + 31 * 86400:
                raise ValueError("beyond all bounds")
            self.deadline = said
        except ValueError:
            self.fault = "no deadline"
        if self.headers.get("Content-Type", "application/json").partition(";")[0] != "application/json":
            self.fault = "" if broken("reads everything as text") else "a type that is not read here"

    @property
    def name(self) -> str:
        return f"{self.client}.{self.capability}.{self.task_id}"
