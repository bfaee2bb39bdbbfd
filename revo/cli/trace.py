"""`revo trace`: a task's spans as a tree with times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from bus.mesh import Mesh
from bus.messages import SpanEvent, SpanRecord
from bus.settings import Settings
from bus.traces import Node, tree
from revo.cli.common import DONE, Output, console, print_json, quiet_logs, run_async

if TYPE_CHECKING:
    from rich.table import Table

BAR: Final = 12
PROCESS: Final = 16
WIDE: Final = 100
"""Columns from which there is room for bars."""
_WITH_BARS: Final = 5
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
        terminal = console()
        terminal.print(render(spans, width=terminal.width))
    return DONE


async def _read(task_or_trace_id: str, url: str | None) -> list[SpanRecord]:
    async with Mesh.connect(url, settings=Settings.from_env(), service="revo-trace") as mesh:
        return await mesh.trace(task_or_trace_id)


def render(spans: Sequence[SpanRecord], *, width: int = 80) -> Table:
    """The spans as a tree: what, where, when it began, how long it took. Readable at 80 columns, without colour too."""
    from rich.table import Table

    start = min(span.start for span in spans)
    whole = max(max(span.end for span in spans) - start, 1e-6)
    table = Table(
        title=f"trace {spans[0].trace_id}: {whole * 1e3:.1f} ms", title_justify="left", box=None, pad_edge=False
    )
    figures, bar = 9, BAR if width >= WIDE else 0
    left = width - PROCESS - 2 * figures - bar - 6
    table.add_column("span", no_wrap=True, overflow="ellipsis", width=max(30, left))
    table.add_column("process", no_wrap=True, overflow="ellipsis", width=PROCESS)
    table.add_column("at ms", justify="right", no_wrap=True, width=figures)
    table.add_column("ms", justify="right", no_wrap=True, width=figures)
    if bar:
        table.add_column("", no_wrap=True, width=bar)
    for node in tree(spans):
        _add(table, node, ("", ""), (start, whole))
    return table


def _add(table: Table, node: Node, leads: tuple[str, str], scale: tuple[float, float]) -> None:
    """Add a span, what happened in it, and its children. `leads` are drawn before its line and before those below."""
    from rich.text import Text

    span, (lead, below), (start, _) = node.span, leads, scale
    name = Text(lead, style="dim")
    name.append(span.name, style="bold red" if span.status == "error" else "bold")
    facts = [f"{word} {span.attributes[key]}".strip() for key, word in _SHOWN.items() if key in span.attributes]
    if node.orphan:
        facts.append("(its parent was lost with its process)")
    if facts:
        name.append(" " + ", ".join(facts), style="dim")
    cells = [_bar(span, *scale)] if len(table.columns) == _WITH_BARS else []
    at, took = (span.start - start) * 1e3, (span.end - span.start) * 1e3
    table.add_row(name, _tail(span.instance or span.service), f"{at:.1f}", f"{took:.1f}", *cells)
    stem = below + ("│  " if node.children else "   ")
    for event in span.events:
        line = Text(stem, style="dim").append(_told(event), style="red" if event.name == "exception" else "dim")
        table.add_row(line, "", f"{(event.time - start) * 1e3:.1f}")
    for child in node.children:
        branch, rest = ("└─ ", "   ") if child is node.children[-1] else ("├─ ", "│  ")
        _add(table, child, (below + branch, below + rest), scale)


def _tail(instance: str) -> str:
    """The end of an instance's name, which tells it from its siblings."""
    return instance if len(instance) <= PROCESS else "…" + instance[1 - PROCESS :]


def _told(event: SpanEvent) -> str:
    """An event in a few words."""
    facts = event.attributes
    if event.name == "exception":
        kind = str(facts.get("exception.type", "")).rpartition(".")[2]
        return f"{kind}: {facts.get('exception.message', '')}"
    return " ".join([event.name, *(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in facts.items())])


def _bar(span: SpanRecord, start: float, whole: float) -> str:
    """Where in the trace the span lies, to scale."""
    first = min(BAR - 1, int((span.start - start) / whole * BAR))
    length = max(1, round((span.end - span.start) / whole * BAR))
    return " " * first + "━" * min(length, BAR - first)
