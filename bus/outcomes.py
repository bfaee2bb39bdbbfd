"""The outcome table: what becomes of a task, whatever happens to it.

Pure data and one pure function, so that the whole table can be read, and tested, in one place. `bus.worker` carries
out what it says, in this order: store the result, make sure of the dead letter, settle the delivery. Every step can
be repeated after a crash.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Mapping
from dataclasses import dataclass, fields

from bus.messages import Status


class Happening(enum.Enum):
    """What can happen to a delivery."""

    RETURNED = "the handler returned"
    RAISED = "the handler raised an error that a retry may cure"
    RAISED_FOR_GOOD = "the handler raised an error that no retry cures"
    UNENCODABLE = "what the handler returned does not encode"
    UNREADABLE = "the message does not decode or validate"
    EXPIRED = "the deadline passed"
    CANCELLED = "somebody cancelled the task"
    KILLED_ITS_PROCESS = "too many processes died while they ran nothing else"
    ENDED_BEFORE = "a result is stored already"
    HANDED_BACK = "the worker drains, or had no slot for too long"
    SUPERSEDED = "a later run has taken the task over"


class Settle(enum.Enum):
    """How the delivery is settled with the server (ADR-13 of NATS)."""

    ACK = b"+ACK"
    TERM = b"+TERM"
    NAK = b"-NAK"
    NOTHING = b""
    """Not at all: it is with somebody else."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the worker does. `result` is the status to store, or None when the task has not ended."""

    result: Status | None
    dead: bool
    settle: Settle
    counts: bool = False
    """Whether this was an attempt: only an error of the handler is."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How a capability is run. It belongs to the capability: all replicas of all agents keep to the same."""

    ack_wait: float = 5.0
    max_attempts: int = 3
    time_limit: float = 30.0
    backoff: float = 1.0
    backoff_max: float = 60.0
    max_deaths: int = 3

    @classmethod
    def of(cls, given: Mapping[str, float]) -> Policy:
        """The policy that a consumer or a steward tells of: what another version knows besides is left out."""
        return cls(**{field.name: given[field.name] for field in fields(cls) if field.name in given})  # type: ignore[arg-type]

    def pause(self, errors: int, slower: float = 1.0) -> float:
        """Seconds before the attempt that follows `errors` errors: exponential, with half of it jitter, so many times
        `slower`, and never longer than `backoff_max`.
        """
        full = min(self.backoff_max, slower * self.backoff * 2.0 ** min(errors - 1, 30))
        return full * random.uniform(0.5, 1.0)  # noqa: S311  (spreads load, guards nothing)


AGAIN = Outcome(result=None, dead=False, settle=Settle.NAK, counts=True)
_FAILED = Outcome(result="failed", dead=True, settle=Settle.TERM)

TABLE: dict[Happening, Outcome] = {
    Happening.RETURNED: Outcome(result="succeeded", dead=False, settle=Settle.ACK),
    Happening.RAISED: Outcome(result="failed", dead=True, settle=Settle.TERM, counts=True),
    Happening.RAISED_FOR_GOOD: Outcome(result="failed", dead=True, settle=Settle.TERM, counts=True),
    Happening.UNENCODABLE: Outcome(result="failed", dead=True, settle=Settle.TERM, counts=True),
    Happening.UNREADABLE: _FAILED,
    Happening.KILLED_ITS_PROCESS: _FAILED,
    Happening.EXPIRED: Outcome(result="expired", dead=False, settle=Settle.TERM),
    Happening.CANCELLED: Outcome(result="cancelled", dead=False, settle=Settle.TERM),
    Happening.ENDED_BEFORE: Outcome(result=None, dead=False, settle=Settle.ACK),
    Happening.HANDED_BACK: Outcome(result=None, dead=False, settle=Settle.NAK),
    Happening.SUPERSEDED: Outcome(result=None, dead=False, settle=Settle.NOTHING),
}


def decide(happening: Happening, *, attempt: int, policy: Policy) -> Outcome:
    """What becomes of a task to which `happening` happened at its `attempt`-th attempt (1 is the first)."""
    if happening is Happening.RAISED and attempt < policy.max_attempts:
        return AGAIN
    return TABLE[happening]
