"""What travels on the wire: header names, envelopes and the documents that Revo itself writes.

The body of a message is the user's model; all that Revo knows of it stands in headers, where every NATS tool
sees it. `docs/wire.md` tells the same to somebody with a NATS client in another language.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from bus.errors import BusError

WIRE_VERSION: Final = "1"

MSGPACK: Final = "application/msgpack"
JSON: Final = "application/json"

CONTENT_TYPE: Final = "Content-Type"
TASK_ID: Final = "Revo-Task-Id"
DEADLINE: Final = "Revo-Deadline"
VERSION: Final = "Revo-Version"
CAPABILITY: Final = "Revo-Capability"
"""What an agent is to do with a task that was sent to it by name; one that has one capability needs no word."""
FRESH: Final = "Revo-Fresh"
"""Says that the task id is random and was never used before: no worker needs to look for an earlier result."""
PARENT: Final = "Revo-Parent"
"""The task whose handler submitted this one, as `<client>.<capability>.<task id>`: it is cancelled with it."""
DEPTH: Final = "Revo-Depth"
"""How many generations of tasks were submitted by one another before this one; without it, none."""
BUDGET: Final = "Revo-Budget"
"""What a task's family may spend: `<budget id>;<name of the task that opened it>;tokens=1000;money=0.5;tasks=20`."""
BLOB: Final = "Revo-Blob"
"""Where the body of a message stands that was too large for it, and what it must be, as JSON (`bus.blobs`)."""
RUN: Final = "Revo-Run"
"""Which run of a task emitted or saved something: later runs have higher numbers."""
CHILDREN: Final = "Revo-Children"
"""What a handler had submitted when it saved, as `bus.family.Family.so_far` writes it."""
CHUNK: Final = "Revo-Chunk"
"""The number of something that a handler emitted, from 1 on, over all runs of its task."""
SUBMITTED: Final = "Revo-Submitted"
"""When a task in a lane was submitted, in unix seconds: what stands there was stored later."""
FROM: Final = "Revo-From"
"""The sequence in TASKS that a task in a lane had in its queue."""
REDRIVE_OF: Final = "Revo-Redrive-Of"
"""The id of the dead task that this one was made from; client and capability are the same."""
SCHEDULE: Final = "Revo-Schedule"
"""All that makes a task of what falls due, as JSON (`bus.schedules`)."""
SCHEDULED: Final = "Revo-Scheduled"
"""The id of the schedule that a task is an occurrence of, where it occurs again and again."""
STATUS: Final = "Revo-Status"
MOVED: Final = "Revo-Moved"
"""Which locks, by their ids, are waited for no more since a write to a table of locks; `*`: many."""
INSTANCE: Final = "Revo-Instance"
"""Which instance of a service sent a reply."""
DEAD_LETTER: Final = "Revo-Dead-Letter"
TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"

MSG_ID: Final = "Nats-Msg-Id"
MSG_TTL: Final = "Nats-TTL"
EXPECTED_SUBJECT_SEQUENCE: Final = "Nats-Expected-Last-Subject-Sequence"
EXPECTED_SUBJECT: Final = "Nats-Expected-Last-Subject-Sequence-Subject"
"""On which other subject that sequence is to be the last one."""
WHEN: Final = "Nats-Schedule"
"""When the server puts a message on its target: `@at` a time, `@every` so often, or a cron pattern."""
WHERE: Final = "Nats-Schedule-Target"
TIME_ZONE: Final = "Nats-Schedule-Time-Zone"
SERVICE_ERROR: Final = "Nats-Service-Error"
SERVICE_ERROR_CODE: Final = "Nats-Service-Error-Code"

MAX_DEADLINE: Final = 30 * 86400.0
"""Seconds that a deadline may lie ahead: a result is kept until then, and no task waits for ever."""

HEADROOM: Final = 64 * 1024
"""Bytes of the server's `max_payload` that a task leaves free, so that its dead letter fits in a message too."""

_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}\Z")  # RFC 9110, token

Headers = dict[str, str]
Status = Literal["succeeded", "failed", "expired", "cancelled"]


@dataclass(slots=True)
class Envelope:
    """A task as a worker holds it: the undecoded body plus all that subject, headers and server say of it."""

    subject: str
    capability: str
    priority: str
    client: str
    task_id: str
    body: bytes
    headers: Headers
    content_type: str
    sequence: int
    stored_at: float
    deadline: float
    deliveries: int
    reply: str
    named: bool
    """Whether the publisher chose the id; then an earlier task may have had it."""
    fault: BusError | None = None
    """Why the task cannot be run at all: a header that makes no sense."""
    attempt: int = 1

    @property
    def name(self) -> str:
        """The task's full name, `<client>.<capability>.<task id>`: what children name as their parent."""
        return f"{self.client}.{self.capability}.{self.task_id}"


class Blob(BaseModel):
    """A payload that was too large for its message: what stands beside it, in pieces, and what they must be together.

    Where it stands is not said here: at the client, capability and id of the task that the message is of, and nowhere
    else (`bus.blobs`). So nobody can be made to read, or to remove, what is not of that task.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    size: Annotated[int, Field(gt=0)]
    """Bytes of all pieces together."""
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    pieces: Annotated[int, Field(gt=0)]
    content_type: str = ""
    """Of a result's value; that of a task's message stands in its header."""


class ErrorInfo(BaseModel):
    """An error as it crosses the wire."""

    code: str
    message: str
    retryable: bool = False
    type: str = ""
    details: dict[str, Any] = {}
    traceback: str = ""
    fault: str = ""
    """Its class, as in `bus.faults`; empty: of a version that does not say."""


class Result(BaseModel):
    """The one end of a task, as stored in RESULTS. Times are unix seconds."""

    model_config = ConfigDict(extra="ignore")

    task_id: str
    capability: str
    client: str
    status: Status
    value: Any = None
    error: ErrorInfo | None = None
    attempts: int
    deliveries: int
    sequence: int
    """The task's sequence in TASKS: which stored message this result ends."""
    agent: str
    instance: str
    submitted_at: float
    started_at: float
    finished_at: float
    trace_id: str = ""
    blob: Blob | None = None
    """Where the value stands while it is not in here: it is too large for a message."""
    chunks: int = 0
    """The number of the last thing that its handler emitted; on the wire only where there is one."""


class DeadLetter(BaseModel):
    """Why a task failed for good: the header `Revo-Dead-Letter` of the original message, stored in DEAD."""

    task_id: str
    capability: str
    client: str
    subject: str
    sequence: int
    reason: str
    error: ErrorInfo
    attempts: int
    deliveries: int
    agent: str
    instance: str
    submitted_at: float
    died_at: float


class Attempts(BaseModel):
    """What is known of a task's earlier tries; kept in the bucket ATTEMPTS from the first trouble on."""

    model_config = ConfigDict(frozen=True, extra="allow")  # what a newer version notes outlives our changes

    errors: int = 0
    """Handler errors so far: the only thing that counts as an attempt."""
    returned: int = 0
    """The last delivery that ended by a deliberate nak. One more recent that did not was lost with its worker."""
    suspect: bool = False
    """Whether a worker vanished with the task in hand since a handler last ended it: it runs alone."""
    alone: int = 0
    """Runs with nothing else in the process that never came back: deaths that nothing else can explain."""


Token = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
"""What may stand in a subject: others publish heartbeats too, and subjects are built of what these say."""
Address = Annotated[str, StringConstraints(pattern=r"^@?[A-Za-z0-9_-]{1,64}$")]
"""A capability, or `@<agent>`."""
Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{0,32}$")]
UnixSeconds = Annotated[float, Field(ge=0, le=1e10)]


class InHand(BaseModel):
    """One task that a worker has in hand, as its heartbeats and its answers carry it."""

    model_config = ConfigDict(extra="ignore")

    task_id: Token
    capability: Address
    client: Token
    priority: Token
    sequence: int
    deliveries: int
    attempt: int
    state: Literal["held", "secluded", "running"]
    since: UnixSeconds
    """When this state began."""
    trace_id: Hex = ""
    span_id: Hex = ""
    """Of the span of this attempt, empty when it is not recorded: should the process die, others end it."""
    parent_id: Hex = ""


class Beat(BaseModel):
    """A worker lives, and this is what it has in hand. Published on `revo.beat.<agent>.<instance>`."""

    model_config = ConfigDict(extra="ignore")

    agent: Token
    instance: Token
    at: UnixSeconds
    concurrency: int
    capabilities: list[str]
    in_hand: list[InHand]
    leaving: bool = False
    """The last one: whoever leaves in order has nothing in hand."""
    lanes: bool = False
    """Whether it serves the lanes beside its queues that it is told of."""
    took: dict[str, Annotated[float, Field(ge=0, le=1e7)]] = {}
    """Seconds that its last tasks of each capability occupied a slot, where that is known: a mean of the last few."""


class Cancelled(BaseModel):
    """What became of a cancel. The first result wins: `cancelled` is whether it is the cancel's."""

    task_id: str
    capability: str
    client: str
    status: Status
    cancelled: bool
    children: int = 0
    """How many of its children, and theirs, this cancel ended; some may have been ended by one before."""


class Redriven(BaseModel):
    """A dead task was submitted anew. Done again it is the same new task."""

    task_id: str
    redrive_of: str
    capability: str
    client: str
    sequence: int
    duplicate: bool
    """Whether it had been redriven before."""


class SpanEvent(BaseModel):
    """Something that happened inside a span, at `time` (unix seconds)."""

    name: str
    time: float
    attributes: dict[str, Any] = {}


class SpanRecord(BaseModel):
    """One finished span, as stored in TRACES. Ids are lower-case hex as in W3C trace context."""

    trace_id: str
    span_id: str
    parent_id: str = ""
    name: str
    kind: str
    service: str
    instance: str
    start: float
    end: float
    status: Literal["unset", "ok", "error"] = "unset"
    status_message: str = ""
    attributes: dict[str, Any] = {}
    events: list[SpanEvent] = []


class SpanBatch(BaseModel):
    """The body of a message in TRACES."""

    spans: list[SpanRecord]


def without_control_headers(headers: Mapping[str, str]) -> Headers:
    """The headers less those that order the server about (`Nats-...`): safe to store again.

    A copied `Nats-Rollup` would purge a stream, a copied `Nats-Msg-Id` would be taken for a double. A name that only
    some clients can send is left out too.
    """
    return {
        name: value
        for name, value in headers.items()
        if _HEADER_NAME.match(name) and not name.lower().startswith("nats-")
    }
