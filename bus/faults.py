"""What kind of fault an error is, how grave, and what is done about it. Pure: no network, time is handed in.

Eight classes. What an error says of itself counts first (`fault_class`), then its type, then its status or code, then
what it was raised from. `docs/faults.md` tells the same to users.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import enum
import errno
import math
import re
import socket
import ssl
import subprocess
from collections import deque
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from bus import errors

FaultClass = Literal["crash", "timeout", "communication", "resource", "task", "overload", "network", "unknown"]
CLASSES: Final[tuple[FaultClass, ...]] = get_args(FaultClass)
Recovery = Literal["restart", "shed", "back-off", "open-breaker", "give-up"]


class Severity(enum.IntEnum):
    """How grave it is."""

    LOW = 0
    MEDIUM = 1
    HIGH = 2
    CRITICAL = 3

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Treatment:
    """What is done about a class: how grave it is the first time and at the most, and the strategy."""

    severity: Severity
    most: Severity
    recovery: Recovery


TABLE: Final[dict[FaultClass, Treatment]] = {
    "crash": Treatment(Severity.HIGH, Severity.CRITICAL, "restart"),
    "timeout": Treatment(Severity.MEDIUM, Severity.CRITICAL, "back-off"),
    "communication": Treatment(Severity.MEDIUM, Severity.CRITICAL, "open-breaker"),
    "resource": Treatment(Severity.HIGH, Severity.CRITICAL, "shed"),
    "task": Treatment(Severity.LOW, Severity.MEDIUM, "give-up"),  # of a busy agent's tasks some are always wrong
    "overload": Treatment(Severity.LOW, Severity.HIGH, "back-off"),
    "network": Treatment(Severity.MEDIUM, Severity.CRITICAL, "back-off"),
    "unknown": Treatment(Severity.MEDIUM, Severity.HIGH, "back-off"),
}
STEPS: Final = (3, 10, 30)
"""Faults of one class within `WINDOW` that raise its severity by one step each."""
WINDOW: Final = 60.0
"""Seconds that a fault is remembered."""
GAP: Final = 2.0
"""Seconds between two events about one class of one capability."""
BREAKING: Final[frozenset[FaultClass]] = frozenset({"communication", "timeout", "resource"})
"""What a capability's breaker counts: trying again at once makes it worse, and another replica may fare better."""
SLOWER: Final = {Severity.LOW: 1.0, Severity.MEDIUM: 1.0, Severity.HIGH: 2.0, Severity.CRITICAL: 4.0}
"""How many times as long a back-off takes."""
OVERLOADED: Final = 4.0
"""The same for an overload, besides: who is busy needs time, not another try."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that was met. `count` is how many of its class there were within `WINDOW`."""

    kind: FaultClass
    severity: Severity
    recovery: Recovery
    count: int = 1

    @property
    def slower(self) -> float:
        """How many times as long as usual the next attempt waits."""
        return SLOWER[self.severity] * (OVERLOADED if self.kind == "overload" else 1.0)


def severity_of(kind: FaultClass, count: int) -> Severity:
    """How grave the last of so many within `WINDOW` is."""
    treatment = TABLE[kind]
    return Severity(min(treatment.most, treatment.severity + sum(count >= step for step in STEPS)))


def recovery_of(kind: FaultClass, *, last: bool) -> Recovery:
    """What is done about it. The last attempt is given up; what is no use trying is tried again while it may be."""
    planned = TABLE[kind].recovery
    if last:
        return "give-up"
    return "back-off" if planned == "give-up" else planned


# --- which class an error is ------------------------------------------------------------------------------

_TYPES: Final[tuple[tuple[type[BaseException], FaultClass], ...]] = (
    (errors.WorkerDiedError, "crash"),
    (errors.DeliveriesExhaustedError, "crash"),
    (concurrent.futures.BrokenExecutor, "crash"),
    (errors.TimeLimitError, "timeout"),
    (errors.DeadlineExceededError, "timeout"),
    (errors.RequestTimeoutError, "timeout"),
    (errors.ResultTimeoutError, "timeout"),
    (TimeoutError, "timeout"),
    (subprocess.TimeoutExpired, "timeout"),
    (errors.MailboxFullError, "overload"),
    (errors.QueueFullError, "overload"),
    (asyncio.QueueFull, "overload"),
    (errors.NoRespondersError, "communication"),
    (errors.NoStewardError, "communication"),
    (ConnectionRefusedError, "communication"),
    (EOFError, "communication"),
    (errors.BusClosedError, "network"),
    (errors.TransportError, "network"),
    (ConnectionError, "network"),
    (socket.gaierror, "network"),
    (socket.herror, "network"),
    (ssl.SSLCertVerificationError, "task"),  # as it is set up: no try cures it
    (ssl.SSLError, "network"),
    (MemoryError, "resource"),
    (errors.BusError, "task"),
    (FileNotFoundError, "task"),
    (FileExistsError, "task"),
    (IsADirectoryError, "task"),
    (NotADirectoryError, "task"),
    (PermissionError, "task"),
    (ValueError, "task"),
    (TypeError, "task"),
    (LookupError, "task"),
    (ArithmeticError, "task"),
    (AssertionError, "task"),
    (AttributeError, "task"),
    (NameError, "task"),
    (NotImplementedError, "task"),
    (RecursionError, "task"),
)
"""The first that fits counts."""
_ERRNO: Final[dict[int, FaultClass]] = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS), "resource"),
    **dict.fromkeys((errno.EAGAIN, errno.EBUSY), "overload"),
    **dict.fromkeys((errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTUNREACH, errno.EHOSTDOWN), "network"),
    errno.ETIMEDOUT: "timeout",
}
_STATUS: Final[dict[int, FaultClass]] = {
    **dict.fromkeys((408, 504), "timeout"),
    **dict.fromkeys((429, 503, 529), "overload"),
    **dict.fromkeys((500, 502), "communication"),
    507: "resource",
}
"""Of HTTP, and of NATS micro services, which use its numbers; the rest of 400 to 599 is the task's own fault."""
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_DEPTH: Final = 8


def _code(kind: type[BaseException]) -> str:
    name = kind.__name__.removesuffix("Error") if issubclass(kind, errors.BusError) else kind.__name__
    return _CAMEL.sub("_", name).lower()


_SUBCLASSES: Final = (errors.ServerUnreachableError, errors.NoMeshError, errors.ConnectionLostError, errors.Retry)
_CODES: Final[dict[str, FaultClass]] = {
    **{_code(kind): name for kind, name in _TYPES if kind is not errors.BusError},
    **{_code(kind): ("task" if kind is errors.Retry else "network") for kind in _SUBCLASSES},
    **dict.fromkeys(("busy", "overloaded", "too_many_requests", "rate_limited", "resource_exhausted"), "overload"),
    **dict.fromkeys(("draining", "unavailable", "encode", "breaker_open"), "communication"),
}
"""Of an error that crossed the wire."""
_FAR: Final[dict[str, FaultClass]] = {"crash": "communication", "network": "communication", "resource": "overload"}


def classify(error: BaseException) -> FaultClass:
    """The class of an error; `unknown` when nothing explains it.

    An error of one's own says which it is by an attribute: `fault_class = "overload"`.
    """
    return _class(error, _DEPTH) or "unknown"


def _class(error: BaseException, depth: int) -> FaultClass | None:
    own = _said(error, "fault_class")
    if own in CLASSES:
        return own
    if isinstance(error, errors.Retry) and error.__cause__ is not None and depth:
        return _class(error.__cause__, depth - 1) or "task"
    found = _by_data(error) or next((name for kind, name in _TYPES if isinstance(error, kind)), None)
    if found is not None:
        return found
    if depth:
        below = list(error.exceptions) if isinstance(error, BaseExceptionGroup) else [error.__cause__]
        among = [name for one in below if one is not None and (name := _class(one, depth - 1))]
        if among:
            return max(among, key=lambda name: TABLE[name].severity)
    # Whoever says whether a retry helps knew what he raised.
    return "task" if isinstance(_said(error, "retryable"), bool) else None


def _by_data(error: BaseException) -> FaultClass | None:
    """What its code, its number or its status says, which is more than its type."""
    if isinstance(error, errors.RemoteError):
        return _of_another(error)
    if isinstance(error, errors.BusError) and error.code in _CODES and not isinstance(error, errors.Retry):
        return _CODES[error.code]
    if isinstance(error, subprocess.CalledProcessError):
        return "crash" if error.returncode < 0 else "task"
    if isinstance(error, OSError) and error.errno in _ERRNO:
        return _ERRNO[error.errno]
    status = _status(error)
    if status is None:
        return None
    return _STATUS.get(status, "communication" if status > 500 else "task")


def _of_another(error: errors.RemoteError) -> FaultClass:
    """What the fault of another is for us: that its memory is short, or its process died, is not so of ours."""
    said = error.fault if error.fault in CLASSES and error.fault != "unknown" else _CODES.get(error.code)
    if said is None and error.code.isdecimal() and 400 <= int(error.code) < 600:
        said = _STATUS.get(int(error.code), "task")
    if said is None:
        return "unknown" if error.retryable else "task"
    return _FAR.get(said, said)


def _status(error: BaseException) -> int | None:
    """The HTTP status that clients of many libraries put on their errors."""
    for holder in (error, _said(error, "response")):
        for name in ("status_code", "status", "code"):
            value = _said(holder, name)
            if isinstance(value, int) and not isinstance(value, bool) and 400 <= value < 600:
                return value
    return None


def _said(holder: object, name: str) -> object:
    """An attribute of somebody else's error, which may be a property that raises."""
    try:
        return getattr(holder, name, None)
    except Exception:  # noqa: BLE001  (whatever it is, it says nothing)
        return None


def hint(error: BaseException | None) -> float | None:
    """In how many seconds to try again, if the error says so: `delay`, `retry_in` or `retry_after`."""
    for name in ("delay", "retry_in", "retry_after"):
        value = _said(error, name)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
            return float(value)
    return None


# --- how often, and what is worth telling ------------------------------------------------------------------


@dataclass(slots=True)
class _Entry:
    times: deque[float] = field(default_factory=lambda: deque(maxlen=STEPS[-1]))
    last: Fault | None = None
    told: Fault | None = None
    told_at: float = -math.inf
    untold: int = 0


class Ledger:
    """Counts faults by whose they are and their class. Of each class of each it keeps the last `STEPS[-1]` times."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, FaultClass], _Entry] = {}

    def met(self, whose: str, kind: FaultClass, now: float, *, last: bool = False) -> Fault:
        """Count one; returns it with its severity. `last`: it is not tried again."""
        entry = self._entries.setdefault((whose, kind), _Entry())
        while entry.times and now - entry.times[0] >= WINDOW:
            entry.times.popleft()
        if not entry.times:
            entry.told = None  # it has been quiet: this one is news again
        entry.times.append(now)
        count = len(entry.times)
        fault = entry.last = Fault(kind, severity_of(kind, count), recovery_of(kind, last=last), count)
        if entry.told is not None and fault.severity < entry.told.severity:
            entry.told = fault  # should it rise again, that is news
        entry.untold += 1
        return fault

    def news(self, whose: str, kind: FaultClass, now: float) -> float | None:
        """In how many seconds to tell of it, 0 being now: of the first, of one that is graver, of another strategy.
        None: it is told already.
        """
        entry = self._entries.get((whose, kind))
        if entry is None or entry.last is None or not entry.untold:
            return None
        told, fault = entry.told, entry.last
        if told is not None and fault.severity <= told.severity and fault.recovery == told.recovery:
            return None
        return max(0.0, entry.told_at + GAP - now)

    def tell(self, whose: str, kind: FaultClass, now: float) -> tuple[Fault, int]:
        """It is being told: the last of them, and how many there were since the one that was told before."""
        entry = self._entries[whose, kind]
        assert entry.last is not None
        entry.told, entry.told_at = entry.last, now
        untold, entry.untold = entry.untold, 0
        return entry.last, untold
