"""What the plain worker is given: a task as it is delivered; and which fault it shall have."""

from __future__ import annotations

import asyncio
import hashlib
import sys
import uuid

from nats.aio.msg import Msg

CAPABILITY = "plain"
PRIORITIES = ("critical", "urgent", "high", "normal", "low")
POLICY = {"ack_wait": 0.5, "max_attempts": 3, "time_limit": 30.0, "backoff": 0.1, "backoff_max": 1.0, "max_deaths": 3}
SLOTS = 4
NS = 1_000_000_000
FAULTS = {
    "acknowledges before the result is stored": ("result-first", "before its result was stored"),
    "acknowledges on arrival": ("kill", "no result"),
    "chokes on unknown headers": ("unknown-headers", "status is 'failed'"),
    "counts deliveries as attempts": ("deaths", "times that it ran is 3, wanted 4"),
    "cuts what is too large": ("large-result", "neither in the result nor in a blob"),
    "dies of SIGTERM": ("drain", "exit status after SIGTERM is -15"),
    "does not answer": ("tasks-question", "nobody answered"),
    "does not come back": ("server-restart", "no result"),
    "does not compare before it stores a result": ("first-only", "is None, wanted '0'"),
    "does not extend": ("ack-extension", "nothing was said of it"),
    "does not hear that a task was cancelled": ("end-order", "no word of its handler"),
    "drops what it cannot store": ("full-results", "although RESULTS was full"),
    "forgets who it is": ("result-fields", "agent or instance is empty"),
    "hands back without a word": ("hand-back", "no record says before that it was"),
    "has no heart": ("heartbeat", "no heartbeat"),
    "keeps no record": ("record", "is (0, 0), wanted (1, 1)"),
    "keeps results for ever": ("result-ttl", "no Nats-TTL"),
    "leaves a failed result without its dead letter": ("dead-letter-again", "none was stored before it was settled"),
    "limits deliveries": ("consumers", "max_deliver of consumer plain-critical is 20"),
    "loses the trace": ("trace", "its result's traceparent ''"),
    "makes up ids": ("bare-id", "id of a bare task"),
    "never gives up": ("last-attempt", "no result"),
    "reads everything as text": ("content-types", "value is None"),
    "reads numbers as texts": ("json", "value is"),
    "runs on past the deadline": ("deadline-running", "no result"),
    "runs poison": ("poison", "('succeeded', 1), wanted ('failed', 0)"),
    "runs what has its result": ("ended-before", "ran whose result stands is 1, wanted 0"),
    "runs what is past its deadline": ("deadline-queued", "'succeeded', wanted 'expired'"),
    "runs what it has done under the same id": ("same-id", "of the same id ran is 1, wanted 0"),
    "says nothing of its policy": ("policy", "lacks ack_wait"),
    "sets up its consumers anew": ("consumers-stand", "description of plain-low"),
    "stores its result over another": ("first-stands", "is 'by its handler', wanted 'by another worker'"),
    "takes a blob for an empty body": ("large-task", "'succeeded', wanted 'failed'"),
    "takes any header": ("garbage-headers", "('succeeded', ''), wanted ('failed', 'decode')"),
    "takes the least urgent first": ("priorities", "low tasks began before the critical one"),
    "tries again at once": ("retry", "names no delay"),
    "tries again what no retry cures": ("final", "times that it ran is 3, wanted 1"),
    "tries garbage again": ("garbage", "was tried again"),
    "writes no dead letter": ("dead-letter", "settled before its dead letter was stored"),
    "writes the dead letter last": ("dead-letter", "settled before its dead letter was stored"),
}
"""What may be wrong with it; the check that says so, and what it says."""


def broken(fault: str) -> bool:
    """Whether it has this fault."""
    assert fault in FAULTS
    return fault in sys.argv[1:]


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
        if "Revo-Blob" in self.headers and not broken("takes a blob for an empty body"):
            self.fault = "its body stands in a blob"
        if "My-Own" in self.headers and broken("chokes on unknown headers"):
            self.fault = "an unknown header"
        if self.fault.startswith("no ") and broken("takes any header"):
            self.fault = ""

    @property
    def name(self) -> str:
        return f"{self.client}.{self.capability}.{self.task_id}"
