"""`revo trace`: a task's spans as a tree with times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from bus.mesh import Mesh
from bus.messages import SpanEvent, SpanRecord
from bus.settings import Settings
from bus.traces import Node, tree
from revo.cli.common import DONE, Output, console, print_json, quiet_logs, run_async

if TYPE_CHECKING:
    from rich.text import Text

BAR: Final = 12
PROCESS: Final = 16
FIGURE: Final = 9
"""Columns of a bar, of a process and of a number."""
WIDE: Final = 100
"""Columns from which there is room for bars."""
_SHOWN: Final = {
    "revo.attempt": "attempt",
    "revo.deliveries": "delivery",
    "revo.outcome": "",
    "tool.exit_status": "exit",
}
"""Attributes worth a place on the line, and the word before each."""
_NO_NEWS_AT_FIRST: Final = ("revo.attempt", "revo.deliveries")


def trace(task_or_trace_id: str, *, url: str | None, output: Output) -> int:
    """Print the trace of a task; returns the exit status."""
    quiet_logs()
    spans = run_async(_read(task_or_trace_id, url), "reading spans")
    if output is Output.JSON:
        print_json(as_json(spans))
    else:
        terminal = console()
        terminal.print(render(spans, width=terminal.width))
    return DONE


async def _read(task_or_trace_id: str, url: str | None) -> list[SpanRecord]:
    async with Mesh.connect(url, settings=Settings.from_env(), service="revo-trace") as mesh:
        return await mesh.trace(task_or_trace_id)


def as_json(spans: Sequence[SpanRecord]) -> list[dict[str, Any]]:
    """The spans as they are stored, by start."""
    return [span.model_dump() for span in sorted(spans, key=lambda span: span.start)]


def render(spans: Sequence[SpanRecord], *, width: int = 80) -> Text:
    """The spans as a tree: what, where, when it began, how long it took. Readable at 80 columns, without colour too.

    What happened in a span stands below it: an error, a retry, a redelivery, a dead letter.
    """
    from rich.text import Text

    start = min(span.start for span in spans)
    whole = max(max(span.end for span in spans) - start, 1e-6)
    page = _Page(width, start, whole)
    title = f"trace {spans[0].trace_id}: {_ms(whole)} ms"
    rows = [Text(title, style="italic"), page.row(Text("span"), "process", "at ms", "ms")]
    left = [(node, "", "") for node in reversed(tree(spans))]  # not by recursion: a chain of tasks may be long
    while left:
        node, lead, below = left.pop()
        rows += page.lines(node, lead, below)
        for child in reversed(node.children):
            branch, rest = ("└─ ", "   ") if child is node.children[-1] else ("├─ ", "│  ")
            left.append((child, below + branch, below + rest))
    return Text("\n", overflow="ellipsis", no_wrap=True).join(rows)


class _Page:
    """Lays out lines of `width` columns for a trace that began at `start` and took `whole` seconds."""

    def __init__(self, width: int, start: float, whole: float) -> None:
        self._width = width
        self._start = start
        self._whole = whole
        self._bar = BAR if width >= WIDE else 0
        self._name = max(24, width - PROCESS - 2 * FIGURE - 4 - (self._bar + 2 if self._bar else 0))

    def lines(self, node: Node, lead: str, below: str) -> Iterator[Text]:
        """A span's line, and one for each thing that happened in it."""
        from rich.text import Text

        span, failed = node.span, node.span.status == "error"
        name = Text(self._cut(lead), style="dim").append(_plain(span.name), style="bold red" if failed else "bold")
        notes = [
            (_told(event), "red" if event.name == "exception" else "dim", _ms(event.time - self._start))
            for event in span.events
        ]
        if failed and not any(event.name == "exception" for event in span.events):
            notes.insert(0, (f"failed: {_plain(span.status_message)}", "red", ""))
        if node.orphan:
            notes.insert(0, ("its parent was lost with its process", "yellow", ""))
        facts = ", ".join(_facts(span))
        if facts and name.cell_len + 1 + len(facts) <= self._name:
            name.append(f" {facts}", style="dim")
        elif facts:
            notes.insert(0, (facts, "dim", ""))
        at, took = span.start - self._start, span.end - span.start
        yield self.row(name, _tail(_plain(span.instance or span.service)), _ms(at), _ms(took), self._drawn(at, took))
        stem = self._cut(below) + ("│  " if node.children else "   ")
        for text, style, when in notes:
            note = Text(stem, style="dim").append(text, style=style)
            note.truncate(self._name + 2 + PROCESS if when else self._width, overflow="ellipsis", pad=bool(when))
            yield note.append(f" {when:>{FIGURE}}", style="dim") if when else note

    def row(self, name: Text, process: str, at: str, took: str, bar: str = "") -> Text:
        """One line of cells."""
        name.truncate(self._name, overflow="ellipsis", pad=True)
        name.append(f"  {process:<{PROCESS}} {at:>{FIGURE}} {took:>{FIGURE}}", style="")
        return name.append(f"  {bar}", style="cyan") if self._bar and bar else name

    def _cut(self, lead: str) -> str:
        """What is drawn before a line; of very deep ones only the end, so that there is room for the name."""
        most = max(12, self._name // 2)
        return lead if len(lead) <= most else "⋯" + lead[1 - most :]

    def _drawn(self, at: float, took: float) -> str:
        """Where in the trace the span lies, to scale."""
        first = min(self._bar - 1, int(at / self._whole * BAR))
        length = max(1, round(took / self._whole * BAR))
        return " " * first + "━" * min(length, self._bar - first)


def _facts(span: SpanRecord) -> Iterator[str]:
    """What is worth a place on the line; that a first attempt was a first one is not."""
    for key, word in _SHOWN.items():
        value = span.attributes.get(key)
        if value is not None and not (key in _NO_NEWS_AT_FIRST and value == 1):
            yield f"{word} {_plain(str(value))}".strip()


def _ms(seconds: float) -> str:
    """Milliseconds that fit their column: up to 277 hours."""
    ms = seconds * 1e3
    return f"{ms:.1f}" if abs(ms) < 1e6 else f"{ms:.0f}"


def _tail(instance: str) -> str:
    """The end of an instance's name, which tells it from its siblings."""
    return instance if len(instance) <= PROCESS else "…" + instance[1 - PROCESS :]


def _told(event: SpanEvent) -> str:
    """An event in a few words."""
    facts = event.attributes
    if event.name == "exception":
        kind = str(facts.get("exception.type", "")).rpartition(".")[2]
        return _plain(f"{kind}: {facts.get('exception.message', '')}")
    said = (f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}" for key, value in facts.items())
    return _plain(" ".join((event.name, *said)))


def _plain(text: str) -> str:
    """The text on one line, without the control characters by which a span could write all over the terminal."""
    return "".join(char if char.isprintable() else " " for char in text)
