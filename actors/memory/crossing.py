"""Errors of shared memory on their way from a coordinator to who asked it: what is raised there is raised here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from actors.memory import errors
from bus.errors import (
    BatchTooLargeError,
    BusError,
    ConfigError,
    DecodeError,
    EncodeError,
    InvalidKeyError,
    InvalidSubjectError,
    PayloadTooLargeError,
    QueueFullError,
    RemoteError,
)

_KINDS: Final[tuple[tuple[str, Callable[..., BusError], tuple[str, ...]], ...]] = (
    ("no_such_version", errors.NoSuchVersionError, ("key", "version", "reason")),
    ("too_many_conflicts", errors.TooManyConflictsError, ("key", "limit")),
    ("stale_fence", errors.StaleFenceError, ("key", "lock", "token")),
    ("wrong_fence", errors.WrongFenceError, ("what", "reason")),
    ("invalid_rule", errors.InvalidRuleError, ("what", "reason")),
    ("invalid_ttl", errors.InvalidTtlError, ("what", "reason")),
    ("lock_lost", errors.LockLostError, ("key", "reason")),
    ("deadlock", errors.DeadlockError, ("key", "mode", "circle")),
    ("not_your_session", errors.NotYourSessionError, ("session", "caller")),
    ("too_many_waiters", errors.TooManyWaitersError, ("what", "limit")),
    ("too_many_locks", errors.TooManyLocksError, ("what", "limit")),
    ("outcome_unknown", errors.OutcomeUnknownError, ("key",)),
    ("contended", errors.ContendedError, ("table", "tries")),
    ("overtaken", errors.OvertakenError, ("key", "tries", "seconds")),
    ("batch_too_large", BatchTooLargeError, ("size", "limit")),
    ("config", ConfigError, ("what", "reason")),
    ("decode", DecodeError, ("subject", "reason")),
    ("encode", EncodeError, ("subject", "reason")),
    ("invalid_key", InvalidKeyError, ("what", "reason")),
    ("invalid_subject", InvalidSubjectError, ("what", "reason")),
    ("payload_too_large", PayloadTooLargeError, ("subject", "size", "limit")),
    ("queue_full", QueueFullError, ("subject", "reason")),
)
"""By code: what is made again, and the fields that it is made of, in their order."""
_BY_CODE: Final[Mapping[str, tuple[Callable[..., BusError], tuple[str, ...]]]] = {
    code: (made, fields) for code, made, fields in _KINDS
}
CONFLICT: Final = "conflict"
TOLD: Final = ("version", "at", "by", "deleted")
"""What a conflict tells of the entry that stands there."""
_TEXT: Final = 400
"""Characters of a text in the details, which may take 4,000 in all (`bus.endings`)."""


def details_of(error: BusError) -> dict[str, Any]:
    """The fields of an error, as they travel. Of a conflict neither value does, for they may be large: who asked has
    his own, and reads the other by its version.
    """
    if isinstance(error, errors.ConflictError):
        theirs = error.theirs
        stands = {name: getattr(theirs, name) for name in TOLD} if theirs else None
        return {"key": error.key, "base": error.base, "reason": error.reason[:_TEXT], "theirs": stands}
    _, fields = _BY_CODE.get(error.code, (None, ()))
    given = {name: getattr(error, name) for name in fields}
    return {name: one[:_TEXT] if isinstance(one, str) else one for name, one in given.items()}


def received(error: RemoteError) -> BusError:
    """The error as it was raised there; one that is not known is a `TransportError` if trying again may help, and
    otherwise stays as it is.
    """
    made, fields = _BY_CODE.get(error.code, (None, ()))
    if made is None:
        return errors.CoordinatorError(error.code, error.message) if error.retryable else error
    if all(name in error.details for name in fields):
        return made(*(error.details[name] for name in fields))
    if fields[-1] == "reason" and len(fields) == 2:  # of a request that no coordinator could read
        what, _, reason = error.message.partition(": ")
        return made(what, reason)
    return error
