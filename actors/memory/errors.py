"""What shared memory refuses, and why. None of these has changed anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bus.errors import BusError, ConfigError, NotFoundError, TransportError

if TYPE_CHECKING:
    from actors.memory.model import Entry


class InvalidTtlError(ConfigError):
    """No entry can live so long."""


class InvalidRuleError(ConfigError):
    """No values can be merged by such a rule."""

    def __str__(self) -> str:
        return f"{self.what} is no rule to merge by: {self.reason}"


class NoSuchVersionError(NotFoundError):
    """An entry never had this version, or it is no longer kept."""

    def __init__(self, key: str, version: int, reason: str) -> None:
        BusError.__init__(self, key, version, reason)
        self.what = key
        self.reason = reason
        self.api_code = 0
        self.key = key
        self.version = version

    def __str__(self) -> str:
        return f"{self.key} has no version {self.version}: {self.reason}"


class ConflictError(BusError):
    """A write was based on a version that is not the newest, and what stands there, stands."""

    def __init__(self, key: str, base: int, theirs: Entry | None, ours: object, reason: str = "") -> None:
        super().__init__(key, base, theirs, ours, reason)
        self.key = key
        self.base = base
        self.theirs = theirs
        """What stands there, be it a delete; None where nothing was ever written."""
        self.ours = ours
        """What was to be written; None for a delete."""
        self.reason = reason

    def __str__(self) -> str:
        stands = "there is none"
        if self.theirs is not None:
            what = "deleted it" if self.theirs.deleted else "stands there"
            stands = f"version {self.theirs.version} by {self.theirs.by or 'nobody known'} {what}"
        base = f"based on version {self.base}" if self.base else "based on no version"
        tail = f"; {self.reason}" if self.reason else ""
        return f"the write to {self.key} is {base}, but {stands}{tail}; read it again, then write"


class TooManyConflictsError(BusError):
    """As many values contradict each other under one key as are kept."""

    def __init__(self, key: str, limit: int) -> None:
        super().__init__(key, limit)
        self.key = key
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"{self.key} has {self.limit} conflicting values already; "
            f"resolve them first (`revo memory conflicts resolve`)"
        )


class OvertakenError(BusError):
    """Others wrote to the same key again and again, before what became of this write could be stored."""

    retryable = True

    def __init__(self, key: str, tries: int, seconds: float) -> None:
        super().__init__(key, tries, seconds)
        self.key = key
        self.tries = tries
        self.seconds = seconds

    def __str__(self) -> str:
        return (
            f"others were faster {self.tries} times in {self.seconds:g} s to write to {self.key}; nothing was changed"
        )


class StaleFenceError(BusError):
    """Who writes does not hold the lock any more that the write names."""

    def __init__(self, key: str, lock: str, token: int) -> None:
        super().__init__(key, lock, token)
        self.key = key
        self.lock = lock
        self.token = token

    def __str__(self) -> str:
        return f"the write to {self.key} shows token {self.token} of the lock on {self.lock}, which is held no more"


class WrongFenceError(ConfigError):
    """The lock that a write names does not protect what is written."""


class LockTimeoutError(TransportError):
    """Others held a lock for longer than was to be waited."""

    def __init__(self, key: str, mode: str, seconds: float, holders: str) -> None:
        super().__init__(key, mode, seconds, holders)
        self.key = key
        self.mode = mode
        self.seconds = seconds
        self.holders = holders

    def __str__(self) -> str:
        return f"no {self.mode} lock on {self.key} within {self.seconds:g} s: {self.holders}"


class ContendedError(TransportError):
    """So many change one table of locks at once that our change was never the first."""

    def __init__(self, table: str, tries: int) -> None:
        super().__init__(table, tries)
        self.table = table
        self.tries = tries

    def __str__(self) -> str:
        return f"{self.table} was changed by others at each of {self.tries} tries; spread the locks over more trees"


class LockLostError(BusError):
    """A lock was taken away while it was held: its holder had not been heard of for too long."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(key, reason)
        self.key = key
        self.reason = reason

    def __str__(self) -> str:
        return f"the lock on {self.key} is lost: {self.reason}; what was done since may not be protected"


class DeadlockError(BusError):
    """Whoever waited for this lock was part of a circle, and the last to join it."""

    retryable = True

    def __init__(self, key: str, mode: str, circle: str) -> None:
        super().__init__(key, mode, circle)
        self.key = key
        self.mode = mode
        self.circle = circle

    def __str__(self) -> str:
        return f"waiting for the {self.mode} lock on {self.key} would never end: {self.circle}"


class OutcomeUnknownError(TransportError):
    """An answer was lost, and so much was written since that nothing says what became of the write."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key

    def __str__(self) -> str:
        return f"whether {self.key} was written cannot be known any more; read it"


class TooManyWaitersError(TransportError):
    """A coordinator keeps as many requests waiting as it may, of all or of one user; this one was not taken."""

    def __init__(self, what: str, limit: int) -> None:
        super().__init__(what, limit)
        self.what = what
        self.limit = limit

    def __str__(self) -> str:
        return f"{self.limit} requests wait for {self.what} already; try again"


class TooManyLocksError(TransportError):
    """There are as many locks, or sessions, in one place as there may be; this one was not taken."""

    def __init__(self, what: str, limit: int) -> None:
        super().__init__(what, limit)
        self.what = what
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"there are as many {self.what} as there may be ({self.limit}); spread them over more trees, or try again"
        )


class NotYourSessionError(BusError):
    """A session, or a lock that it holds, is another user's."""

    def __init__(self, session: str, caller: str) -> None:
        super().__init__(session, caller)
        self.session = session
        self.caller = caller

    def __str__(self) -> str:
        return f"session {self.session} of shared memory is not one of {self.caller}'s"


class CoordinatorError(TransportError):
    """A coordinator could not do what it was asked to, for reasons that pass."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        """What was raised there, as its code."""
        self.message = message

    def __str__(self) -> str:
        return f"a coordinator of shared memory could not do it: {self.reason}: {self.message}"


class NoMemoryError(TransportError):
    """No coordinator of shared memory runs."""

    def __str__(self) -> str:
        return "no coordinator of shared memory runs; `revo up` starts one, or `revo run actors.memory:Coordinator`"
