"""The lines of a backlog are what stands in TASKS, whatever leaves it in whichever order."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from bus import subjects
from bus.backlog import Backlog
from bus.connection import Connection
from bus.jetstream import StoredMessage

LINES = st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["normal", "low"]), st.booleans())


def seen(backlog: Backlog) -> dict[str, list[int]]:
    return {subject: list(line.sequences) for subject, line in backlog.lines.items()}


@given(st.lists(LINES, max_size=40), st.lists(st.integers(1, 60), max_size=20), st.integers(1, 60))
def test_who_leaves_its_line_leaves_no_other_and_an_empty_line_is_none(
    tasks: list[tuple[str, str, bool]], gone: list[int], first: int
) -> None:
    backlog: Any = Backlog(cast("Connection", SimpleNamespace(settings=SimpleNamespace(deadline=60.0))))
    expected: dict[str, list[int]] = {}
    for sequence, (client, priority, lane) in enumerate(tasks, 1):
        subject = subjects.TaskAddress("echo", priority, client).subject(lane=lane)
        backlog._add(StoredMessage(subject, sequence, {}, b"{}", sequence * 10**9))
        expected.setdefault(subject, []).append(sequence)
    for sequence in [*gone, *gone]:
        backlog.gone(sequence)
    backlog._drop_before(first)
    left = {name: [one for one in line if one >= first and one not in gone] for name, line in expected.items()}
    assert seen(backlog) == {name: line for name, line in left.items() if line}
    assert backlog.lanes == sum(subject.endswith(".fair") for subject in backlog.lines)


@given(st.lists(LINES, max_size=40), st.integers(0, 41), st.integers(0, 41))
def test_what_stands_before_a_task_is_counted_over_all_clients(
    tasks: list[tuple[str, str, bool]], after: int, sequence: int
) -> None:
    backlog: Any = Backlog(cast("Connection", SimpleNamespace(settings=SimpleNamespace(deadline=60.0))))
    for number, (client, priority, lane) in enumerate(tasks, 1):
        subject = subjects.TaskAddress("echo", priority, client).subject(lane=lane)
        backlog._add(StoredMessage(subject, number, {}, b"{}", number * 10**9))
    address = subjects.TaskAddress("echo", "low", "c")
    numbered = [(number, lane) for number, (_, priority, lane) in enumerate(tasks, 1) if priority == "low"]
    queue = sum(after < number < sequence for number, lane in numbered if not lane)
    assert backlog.before(address, after, sequence) == (queue, sum(n < sequence for n, lane in numbered if lane))
