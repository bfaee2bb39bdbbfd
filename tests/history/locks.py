"""Whether locks kept their word: who excludes others was alone, tokens grow, and no fenced write landed too late."""

from __future__ import annotations

from collections.abc import Iterator

from tests.history.records import History, Hold, Op, Violation

ALONE = "alone"
FENCED = "fenced"

_TOGETHER = {
    frozenset(pair)
    for pair in (
        ("intent-shared", "intent-shared"),
        ("intent-shared", "intent-exclusive"),
        ("intent-shared", "shared"),
        ("intent-exclusive", "intent-exclusive"),
        ("shared", "shared"),
    )
}
"""The compatibility matrix of Gray et al., without SIX; written down anew, for it is not to agree with itself."""


def excludes(lock: str, mode: str, other: str, other_mode: str) -> bool:
    """Whether two locks may not be held by two at once."""
    if lock == other:
        return frozenset((mode, other_mode)) not in _TOGETHER
    if other.startswith(f"{lock}/"):
        return frozenset((mode, _intent(other_mode))) not in _TOGETHER
    if lock.startswith(f"{other}/"):
        return frozenset((_intent(mode), other_mode)) not in _TOGETHER
    return False


def _intent(mode: str) -> str:
    return "intent-shared" if mode.endswith("shared") else "intent-exclusive"


def _excludes(one: Hold, other: Hold) -> bool:
    return one.client != other.client and excludes(one.lock, one.mode, other.lock, other.mode)


def violations(history: History) -> Iterator[Violation]:
    """All that overlap, and all fenced writes that came too late."""
    yield from _overlaps(history)
    yield from _too_late(history)


def _overlaps(history: History) -> Iterator[Violation]:
    holding: list[Hold] = []
    for hold in sorted(history.holds, key=lambda one: one.start):
        for other in holding:
            if not _excludes(hold, other):
                continue
            if other.end > hold.start and hold.end > hold.start:
                yield Violation(ALONE, f"two hold what one alone may hold\n  {other}\n  {hold}")
            elif hold.token <= other.token:
                yield Violation(ALONE, f"the later has no greater token\n  {other}\n  {hold}")
        holding.append(hold)


def _too_late(history: History) -> Iterator[Violation]:
    versions = {value: version for seen in history.versions().values() for version, value in seen.items()}
    for op in history.ops:
        if op.fence is None or not op.writes or op.outcome == "refused":
            continue
        version = op.seen.version if op.seen else versions.get(op.value) if op.value else None
        if version is not None:
            yield from _stale(op, version, history)


def _stale(op: Op, version: int, history: History) -> Iterator[Violation]:
    """A token is a revision of the stream that the versions are of, so which came first is no question of clocks."""
    assert op.fence is not None
    if version < op.fence.token:
        yield Violation(FENCED, f"version {version} is older than the token that it was written under\n  {op}")
    for hold in history.holds:
        if op.fence.token < hold.token < version and excludes(op.fence.lock, "exclusive", hold.lock, hold.mode):
            yield Violation(FENCED, f"version {version}, under token {op.fence.token}, landed after\n  {hold}\n  {op}")
