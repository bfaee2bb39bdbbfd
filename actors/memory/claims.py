"""A lock that is held or waited for, and which of them exclude each other. Pure.

By the standard matrix of multiple granularity locking: on one key their modes meet; of two keys of which one is above
the other, the mode of the upper meets the intent that the lower implies there; any others have nothing to do with each
other. The locks of one owner never exclude each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from actors.memory.model import Mode

CODES: Final = {
    Mode.INTENT_SHARED: "IS",
    Mode.INTENT_EXCLUSIVE: "IX",
    Mode.SHARED: "S",
    Mode.EXCLUSIVE: "X",
}
"""The modes as they stand in a table."""
MODES: Final = {code: mode for mode, code in CODES.items()}
_EXCLUDES: Final = {
    "IS": frozenset({"X"}),
    "IX": frozenset({"S", "X"}),
    "S": frozenset({"IX", "X"}),
    "X": frozenset({"IS", "IX", "S", "X"}),
}
_INTENT: Final = {"IS": "IS", "IX": "IX", "S": "IS", "X": "IX"}
"""What a lock means to those above it."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A lock that is held or waited for."""

    id: str
    session: str
    owner: str
    """Begins with the session."""
    key: str
    code: str
    """Its mode, as in `CODES`."""
    since: float
    """Unix seconds, by the clock of whoever put it where it stands."""
    number: int = 0
    """The revision of the write that put it where it stands: the fencing token of a lock that is held, the place of one
    that is waited for. 0: the write that it stands in."""
    more: tuple[Any, ...] = ()
    """What a later version has written of it."""


def covers(upper: str, key: str) -> bool:
    """Whether a key is another, or under it."""
    return key == upper or key.startswith(upper + "/")


def conflict(one: Claim, other: Claim) -> bool:
    """Whether two locks exclude each other."""
    if one.owner == other.owner:
        return False
    above, below = one.key, other.key
    if above == below:
        return other.code in _EXCLUDES[one.code]
    if below.startswith(above + "/"):
        return _INTENT[other.code] in _EXCLUDES[one.code]
    if above.startswith(below + "/"):
        return _INTENT[one.code] in _EXCLUDES[other.code]
    return False


def outdoes(one: Claim, other: Claim) -> bool:
    """Whether a lock excludes all that another one excludes, but for the locks of its own owner."""
    return one.key == other.key and _EXCLUDES[one.code] >= _EXCLUDES[other.code]
