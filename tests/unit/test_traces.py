"""Spans make a tree whatever they say of their parents, and the tree is read on 80 columns without colour."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from rich.console import Console

from bus import codec
from bus.messages import CONTENT_TYPE, MSGPACK, SpanEvent, SpanRecord
from bus.traces import Node, spans_of, tree
from revo.cli.trace import as_json, render

HEADERS = {CONTENT_TYPE: MSGPACK}


def record(span_id: str, parent: str = "", start: float = 0.0, **more: Any) -> SpanRecord:
    given = {"name": span_id, "kind": "internal", "service": "s", "instance": "s-1", "trace_id": "t", "end": start + 1}
    return SpanRecord.model_validate({"span_id": span_id, "parent_id": parent, "start": start, **given, **more})


def shape(nodes: list[Node]) -> list[Any]:
    return [(node.span.span_id, node.orphan, shape(node.children)) for node in nodes]


def drawn(*spans: SpanRecord, width: int = 80) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, no_color=True, highlight=False).print(render(spans, width=width))
    return out.getvalue().splitlines()


def test_a_span_without_its_parent_is_an_orphan_and_a_double_stands_once() -> None:
    spans = [record("b", "gone", 2), record("c", "a", 3), record("a", "", 1), record("c", "a", 3)]
    assert shape(tree(spans)) == [("a", False, [("c", False, [])]), ("b", True, [])]


def test_children_stand_by_their_start_whatever_order_they_came_in() -> None:
    spans = [record("late", "a", 9), record("early", "a", 1), record("a")]
    assert shape(tree(spans)) == [("a", False, [("early", False, []), ("late", False, [])])]


def test_spans_that_name_each_other_as_parents_are_not_left_out() -> None:
    ring = [record("x", "z", 1), record("y", "x", 2), record("z", "y", 3), record("self", "self", 4), record("a")]
    assert shape(tree(ring)) == [
        ("a", False, []),
        ("x", True, [("y", False, [("z", False, [])])]),
        ("self", True, []),
    ]


async def batches(*bodies: bytes) -> AsyncIterator[tuple[Mapping[str, str], bytes]]:
    for body in bodies:
        yield HEADERS, body


def body(*spans: SpanRecord | dict[str, Any]) -> bytes:
    return codec.encode({"spans": list(spans)})


async def test_only_the_spans_of_one_trace_are_kept() -> None:
    mine, other = record("a", trace_id="mine"), record("b", trace_id="other")
    assert await spans_of("mine", batches(body(mine, other), body(other), body(mine))) == [mine, mine]


async def test_a_task_id_finds_the_spans_that_name_it() -> None:
    mine = record("a", attributes={"messaging.message.id": "task-1"})
    assert await spans_of("task-1", batches(body(record("b"), mine))) == [mine]


async def test_what_cannot_be_read_is_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    mine = record("a")
    hostile = (b"\xc1", codec.encode({"spans": 3}), codec.encode([]), body({"trace_id": "t"}, {"attributes": 1}, mine))
    assert await spans_of("t", batches(*hostile)) == [mine]
    assert len(caplog.records) == 4


SEND = record("send", name="send code_review", instance="client-77aa", end=0.002)
RETRIED = record(
    "one",
    "send",
    0.005,
    name="process code_review",
    instance="code-analyst-3f2a9c",
    end=0.4,
    status="error",
    status_message="ValueError: no",
    attributes={"revo.attempt": 1, "revo.deliveries": 1, "revo.outcome": "nak"},
    events=[
        SpanEvent(
            name="exception",
            time=0.399,
            attributes={"exception.type": "builtins.ValueError", "exception.message": "no\n\x1b[2Jfile"},
        ),
        SpanEvent(name="retry", time=0.4, attributes={"delay": 0.5, "attempt": 1}),
    ],
)
LAST = record(
    "two",
    "send",
    0.9,
    name="process code_review",
    instance="code-analyst-other1",
    end=1.5,
    attributes={"revo.attempt": 2, "revo.deliveries": 3, "revo.outcome": "succeeded"},
    events=[SpanEvent(name="redelivered", time=0.9, attributes={"reason": "its worker vanished"})],
)
LOST = record("lost", "gone", 1.0, name="complexipy [bold]x[/bold]", end=1.2, status="error", status_message="exit 3")
TRACE = (SEND, RETRIED, LAST, LOST)


def test_the_tree_of_a_task_at_80_columns() -> None:
    assert drawn(*TRACE) == [
        "trace t: 1500.0 ms",
        "span                                        process              at ms        ms",
        "send code_review                            client-77aa            0.0       2.0",
        "├─ process code_review nak                  …-analyst-3f2a9c       5.0     395.0",
        "│     ValueError: no  [2Jfile                                    399.0",
        "│     retry delay=0.5 attempt=1                                  400.0",
        "└─ process code_review                      …-analyst-other1     900.0     600.0",
        "      attempt 2, delivery 3, succeeded",
        "      redelivered reason=its worker vanished                     900.0",
        "complexipy [bold]x[/bold]                   s-1                 1000.0     200.0",
        "   its parent was lost with its process",
        "   failed: exit 3",
    ]


@pytest.mark.parametrize("width", [30, 60, 80, 99, 100, 120, 200])
def test_no_line_is_wider_than_the_terminal_however_deep_the_tree(width: int) -> None:
    chain = [record(str(n), str(n - 1), n, name=f"process step-{n}", status="error") for n in range(1, 1500)]
    lines = drawn(*TRACE, record("0", "two"), *chain, width=width)
    assert max(len(line) for line in lines) <= width
    assert width < 80 or sum("process step-" in line for line in lines) == len(chain)


def test_bars_are_drawn_to_scale_where_there_is_room() -> None:
    lines = drawn(record("a", end=4), record("b", "a", 1, end=2), record("c", "a", 3.99, end=4), width=100)
    assert [line[88:] for line in lines[2:]] == ["━━━━━━━━━━━━", "   ━━━", "           ━"]


def test_json_holds_the_spans_by_their_start() -> None:
    assert [span["span_id"] for span in as_json([LAST, RETRIED, SEND])] == ["send", "one", "two"]
