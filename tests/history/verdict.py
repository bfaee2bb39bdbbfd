"""All checks together."""

from __future__ import annotations

from tests.history import linearizable, locks, stored, watchers
from tests.history.records import History, Violation


def violations(history: History) -> list[Violation]:
    """Everything that must not be; the names of the rules are `linearizable`, `alone`, `fenced`, `kept`, `told`."""
    return [
        *linearizable.violations(history),
        *locks.violations(history),
        *stored.violations(history),
        *watchers.violations(history),
    ]
