"""Whether every watcher was told all of it, in order, and knows at the end what the store has."""

from __future__ import annotations

import math
from collections.abc import Iterator

from tests.history.records import Change, History, Violation, Watcher

RULE = "told"


def violations(history: History) -> Iterator[Violation]:
    """Every watcher that was told something twice, too early, too late or not at all."""
    versions, begun = history.versions(), _begun(history)
    for watcher in history.watchers:
        yield from _order(watcher, begun)
        told: dict[str, list[Change]] = {}
        for change in watcher.changes:
            told.setdefault(change.key, []).append(change)
        for key in sorted(versions):
            if under(key, watcher.prefix) and key in told:
                yield from _skipped(watcher, told[key], sorted(versions[key]), begun, history.depth)
        if watcher.complete:
            yield from _last(watcher, told, begun, history)


def under(key: str, prefix: str) -> bool:
    """Whether a key is at or under another."""
    return not prefix or key == prefix or key.startswith(f"{prefix}/")


def _begun(history: History) -> dict[int, float]:
    """When the call began that made a version; what is not known of a version began at once."""
    versions = {value: version for seen in history.versions().values() for version, value in seen.items()}
    found: dict[int, float] = {}
    for op in history.ops:
        if op.writes and op.outcome != "refused":
            version = op.seen.version if op.seen else versions.get(op.value)
            if version and (op.value is not None or op.outcome == "done"):
                found[version] = op.start
    return found


def _order(watcher: Watcher, begun: dict[int, float]) -> Iterator[Violation]:
    before = 0
    for key, seen, at in watcher.changes:
        assert seen.version is not None
        if seen.version <= before:
            yield Violation(RULE, f"{watcher.name} was told version {seen.version} of {key} after version {before}")
        if begun.get(seen.version, -math.inf) > at:
            yield Violation(RULE, f"{watcher.name} was told version {seen.version} of {key} before it was written")
        before = seen.version


def _skipped(
    watcher: Watcher, told: list[Change], versions: list[int], begun: dict[int, float], depth: int
) -> Iterator[Violation]:
    """What it was not told, although it was told what came later, and which cannot have been pushed out by then."""
    heard = [seen.version or 0 for _, seen, _ in told]
    first = heard[0]
    for version in sorted(set(versions) - set(heard)):
        later = next((one for one in told if (one.seen.version or 0) > version), None)
        if later is None:
            continue  # that it was not told the last is seen where its last is
        if version < first and watcher.replay and begun.get(version, -math.inf) < watcher.changes[0].at:
            continue  # it stood there no more when it began to look
        newer = sum(one > version and begun.get(one, -math.inf) < later.at for one in versions)
        if newer < depth:
            what = f"version {version} of {later.key}, but version {later.seen.version}"
            yield Violation(RULE, f"{watcher.name} was not told {what}; {newer} were newer by then")


def _last(
    watcher: Watcher, told: dict[str, list[Change]], begun: dict[int, float], history: History
) -> Iterator[Violation]:
    for key, kept in sorted(history.final.items()):
        if not kept or not under(key, watcher.prefix):
            continue
        last = kept[-1]
        knows = told[key][-1].seen if key in told else None
        early = bool(watcher.changes) and begun.get(last.version or 0, -math.inf) < watcher.changes[0].at
        if knows is None and last.value is None and watcher.replay and early:
            continue  # what is deleted does not stand there
        if knows != last:
            yield Violation(RULE, f"{watcher.name} was told last that {key} is {knows}, but it is {last}")
