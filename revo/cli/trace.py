"""`revo trace`: a task's spans as a tree with times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from bus.mesh import Mesh
from bus.messages import SpanRecord
from bus.settings import Settings
from bus.traces import Node, tree
from revo.cli.common import DONE, Output, console, print_json, quiet_logs, run_async

if TYPE_CHECKING:
    from rich.table import Table

BAR: Final = 14
_SHOWN: Final = {
    "revo.attempt": "attempt",
    "revo.deliveries": "delivery",
    "revo.outcome": "",
    "tool.exit_status": "exit",
}
"""Attributes worth a place on the line, and the word before each."""


def trace(task_or_trace_id: str, *, url: str | None, output: Output) -> int:
    """Print the trace of a task; returns the exit status."""
    quiet_logs()
    spans = run_async(_read(task_or_trace_id, url))
    if output is Output.JSON:
        print_json([span.model_dump() for span in sorted(spans, key=lambda span: span.start)])
    else:
        console().print(render(spans))
    return DONE


async def _read(task_or_trace_id: str, url: str | None) -> list[SpanRecord]:
    async with Mesh.connect(url, settings=Settings.from_env(), service="revo-trace") as mesh:
        return await mesh.trace(task_or_trace_id)


def render(spans: Sequence[SpanRecord]) -> Table:
    """The spans as a tree: what, where, when it began, how long it took. Readable at 80 columns, without colour too."""
    from rich.table import Table

    start = min(span.start for span in spans)
    whole = max(max(span.end for span in spans) - start, 1e-6)
    table = Table(
        title=f"trace {spans[0].trace_id}: {whole * 1e3:.1f} ms", title_justify="left", box=None, pad_edge=False
    )
    table.add_column("span", no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column("process", no_wrap=True, overflow="ellipsis", max_width=22)
    table.add_column("at ms", justify="right", no_wrap=True)
    table.add_column("ms", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, width=BAR)
    for node in tree(spans):
        _add(table, node, "", "", start, whole)
    return table


def _add(table: Table, node: Node, lead: str, below: str, start: float, whole: float) -> None:
    from rich.text import Text

    span = node.span
    failed = span.status == "error"
    name = Text(lead, style="dim")
    name.append(span.name, style="bold red" if failed else "bold")
    facts = [f"{word} {span.attributes[key]}".strip() for key, word in _SHOWN.items() if key in span.attributes]
    if node.orphan:
        facts.append("(its parent was lost with its process)")
    if facts:
        name.append(" " + ", ".join(facts), style="dim")
    at, took = (span.start - start) * 1e3, (span.end - span.start) * 1e3
    table.add_row(name, span.instance or span.service, f"{at:.1f}", f"{took:.1f}", _bar(span, start, whole))
    for event in span.events:
        told = " ".join(f"{key}={value}" for key, value in event.attributes.items() if "stacktrace" not in key)
        line = Text(below + "· ", style="dim")
        line.append(f"{event.name} {told}".strip(), style="red" if event.name == "exception" else "dim")
        table.add_row(line, "", f"{(event.time - start) * 1e3:.1f}", "", "")
    for child in node.children:
        last = child is node.children[-1]
        branch, rest = ("└─ ", "   ") if last else ("├─ ", "│  ")
        _add(table, child, below + branch, below + rest, start, whole)


def _bar(span: SpanRecord, start: float, whole: float) -> str:
    """Where in the trace the span lies, to scale."""
    first = min(BAR - 1, int((span.start - start) / whole * BAR))
    length = max(1, round((span.end - span.start) / whole * BAR))
    return " " * first + "━" * min(length, BAR - first)
