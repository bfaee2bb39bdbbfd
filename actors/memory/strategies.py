"""What becomes of a write, by the strategy of its namespace. Pure: the caller reads before and stores after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from actors.memory.backend import Author, Outcome, Write
from actors.memory.errors import ConflictError, TooManyConflictsError
from actors.memory.merge import merge
from actors.memory.model import MAX_ALTERNATIVES, Alternative, Entry, Namespace
from actors.memory.plain import ABSENT, same
from bus.errors import BusError


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be stored as the next version, on the condition that what stood there still does; or `refused`."""

    outcome: Outcome = "written"
    value: Any = None
    deleted: bool = False
    ttl: float = 0.0
    rank: int = 0
    merged: int = 0
    """The version that stood there and was merged with the write; 0: none."""
    alternatives: tuple[Alternative, ...] = ()
    """The whole conflict set of the next version."""
    refused: BusError | None = None
    """Nothing is to be stored, and this is to be raised."""


@dataclass(frozen=True, slots=True)
class _Case:
    """A write that is not based on what stands there."""

    how: Namespace
    write: Write
    author: Author
    standing: Entry
    ancestor: Entry | None
    known: bool
    at: float

    @property
    def ours(self) -> Any:
        return ABSENT if self.write.delete else self.write.value

    @property
    def theirs(self) -> Any:
        return self.standing.value if self.standing.live else ABSENT

    @property
    def rank(self) -> int:
        return self.how.rank_of(self.author.by, self.author.agent)

    @property
    def left(self) -> tuple[Alternative, ...]:
        """The conflict set, but for what the writer had before him when he resolved it."""
        if not self.write.resolve or self.ancestor is None:
            return self.standing.alternatives
        return tuple(one for one in self.standing.alternatives if one not in self.ancestor.alternatives)


def decide(
    how: Namespace,
    write: Write,
    author: Author,
    standing: Entry | None,
    *,
    ancestor: Entry | None = None,
    known: bool = True,
    at: float,
) -> Decision:
    """What becomes of `write` where `standing` is the newest version (None: nothing was ever written).

    `ancestor` is the version that the write is based on (None: on nothing); `known` is false where it is no longer
    kept. Neither matters but for `merge`, and there only where the write is based on a version that is not the newest.
    `at` is the writer's clock, unix seconds. That the base is a version that the key has had is the caller's to see to,
    and that all values are plain.

    A write that is based on what stands there is stored. So is one that is based on nothing where nothing is left:
    after a delete, and after an entry's time ran out whatever it was based on; and a delete without a base, which is of
    whatever stands there. What both wrote alike is no conflict for `manual`; for `merge` both may have counted, and
    where one writer wins each of two that write "taken" would believe that he is the one. A conflict set stays,
    whatever is written, until a write says that it resolves it; what has one does not expire.
    """
    rank = how.rank_of(author.by, author.agent)
    if standing is None:
        return _stored(write, rank)
    base = write.base or 0
    vacant = standing.expired or (standing.deleted and not base)
    careless = write.base is None and (write.delete or how.strategy == "last_writer_wins")
    if careless or base == standing.version or (vacant and not standing.alternatives):
        return _stored(write, rank, alternatives=() if write.resolve else standing.alternatives)
    case = _Case(how, write, author, standing, ancestor, known, at)
    if how.strategy == "manual" and _alike(case):
        rank = max(case.rank, standing.rank)  # who agrees does not take the other's rank from what stands there
        return _stored(write, rank, alternatives=case.left)
    return _STRATEGIES[how.strategy](case)


def _stored(write: Write, rank: int, outcome: Outcome = "written", **more: Any) -> Decision:
    ttl = 0.0 if write.delete or more.get("alternatives") else write.ttl
    value = None if write.delete else write.value
    return Decision(outcome, value, write.delete, ttl, rank, **more)


def _alike(case: _Case) -> bool:
    return same(case.ours, case.theirs) and (case.write.delete or case.write.ttl == case.standing.ttl)


def _last_writer(case: _Case) -> Decision:
    return _stored(case.write, case.rank, "overwrote", alternatives=case.left)


def _first_writer(case: _Case) -> Decision:
    return _refused(case, "")


def _highest_rank(case: _Case) -> Decision:
    if case.rank > case.standing.rank:
        return _stored(case.write, case.rank, "overwrote", alternatives=case.left)
    return _refused(case, f"rank {case.rank} of {case.author.by} is not above rank {case.standing.rank}")


def _refused(case: _Case, reason: str) -> Decision:
    ours = None if case.write.delete else case.write.value
    return Decision(refused=ConflictError(case.write.key, case.write.base or 0, case.standing, ours, reason))


def _merged(case: _Case) -> Decision:
    if not case.known:
        return _joined(case, f"version {case.write.base} that it is based on is no longer kept")
    # The ancestor's time may have run out since it was read: it is what its reader saw all the same.
    base = ABSENT if case.ancestor is None or case.ancestor.deleted else case.ancestor.value
    done = merge(base, case.ours, case.theirs, case.how.rules)
    if done.contradictions:
        return _joined(case, done.reason)
    gone, standing = done.value is ABSENT, case.standing
    lasting = (case.write.ttl, standing.ttl)
    return Decision(
        "merged",
        None if gone else done.value,
        gone,
        # What was merged lives as long as the part of it that lives longest.
        0.0 if gone or case.left or 0.0 in lasting else max(lasting),
        max(case.rank, standing.rank),
        standing.version,
        case.left,
    )


def _manual(case: _Case) -> Decision:
    return _joined(case, "")


def _joined(case: _Case, reason: str) -> Decision:
    """What stands there stands, and ours joins its conflict set, unless it is in it."""
    standing, write, author = case.standing, case.write, case.author
    alternatives = standing.alternatives
    if not any(one.deleted == write.delete and same(one.value, write.value) for one in alternatives):
        if len(alternatives) >= MAX_ALTERNATIVES:
            return Decision(refused=TooManyConflictsError(write.key, MAX_ALTERNATIVES))
        value = None if write.delete else write.value
        more = (write.base or 0, author.by, case.at, author.task, author.trace_id, write.delete, reason)
        alternatives = (*alternatives, Alternative(value, *more))
    deleted = not standing.live
    return Decision(
        "conflict", None if deleted else standing.value, deleted, rank=standing.rank, alternatives=alternatives
    )


_STRATEGIES: Final[dict[str, Callable[[_Case], Decision]]] = {
    "last_writer_wins": _last_writer,
    "first_writer_wins": _first_writer,
    "merge": _merged,
    "highest_rank": _highest_rank,
    "manual": _manual,
}
