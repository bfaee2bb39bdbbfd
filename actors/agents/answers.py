"""How agents that review Python source answer a prompt: which source is in it, and their report as text to read."""

from __future__ import annotations

import itertools
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from actors.agents.errors import SourceError, TooLargeError
from actors.agents.review import ReviewSettings
from actors.agents.source import check_size, decode
from bus.prompts import Prompt

MAX_ROWS: Final = 200
"""Rows of one table in an answer; who wants all of them submits a task."""

Review = Callable[[str, str], Awaitable[str]]
"""Takes a name and a source, and returns the report as text."""

_FENCED: Final = re.compile(r"^```[ \t]*(\S*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_PYTHON: Final = frozenset({"", "py", "python", "python3"})
_CODE: Final = re.compile(
    r"^\s*(?:import \w|from [\w.]+ import\b|(?:async )?def \w+\s*\(|class \w+\s*[:(]|@\w|try:|return\b|"
    r"(?:if|elif|for|while|with) .+:\s*(?:#.*)?$|[\w.\[\]]+ ?(?:[-+*/|&]?=)(?!=)|[\w.]+\()",
    re.MULTILINE,
)
"""A line that begins as Python does and as no sentence does."""


async def send_reports(prompt: Prompt, settings: ReviewSettings, review: Review, abilities: str) -> None:
    """Answer with the reports on all source in a prompt, one after the other as they come; with `abilities`, when there
    is none. What cannot be reviewed is said in its place.

    Raises:
        ToolError: a tool could not do its work.
    """
    found = sources_in(prompt)
    if not found:
        await prompt.send(abilities)
    for left, (name, source) in zip(range(len(found) - 1, -1, -1), found, strict=True):
        try:
            text = await review(name, _text_of(name, source, settings.max_bytes))
        except SourceError as error:
            text = f"{_title(name)}\n\nNot reviewed: {cell(str(error))}.\n"
        await prompt.send(f"{text}\n" if left else text)


def _text_of(name: str, source: str | bytes, max_bytes: int) -> str:
    """The source as text, without a byte order mark.

    Raises:
        SourceError: it is none, or too large.
    """
    if isinstance(source, bytes):
        if len(source) > max_bytes:
            raise TooLargeError(name, len(source), max_bytes)
        source = decode(source, name=name)
    check_size(source, name=name, max_bytes=max_bytes)
    return source.removeprefix("\ufeff")


def sources_in(prompt: Prompt) -> list[tuple[str, str | bytes]]:
    """The names and the contents of the source in a prompt: what is attached, what stands between fences in its text,
    or else the text itself, if it looks like Python.
    """
    found: list[tuple[str, str | bytes]] = [(file.filename, file.content) for file in prompt.attachments]
    fenced = _FENCED.findall(prompt.text)
    blocks = [block for language, block in fenced if language.lower() in _PYTHON]
    for number, block in enumerate(blocks, 1):
        found.append((f"source-{number}.py" if len(blocks) > 1 else "source.py", block))
    if not found and not fenced and _CODE.search(prompt.text):
        found.append(("source.py", prompt.text))
    return found


def report_text(name: str, summary: str, *tables: str) -> str:
    """A report in Markdown."""
    return "\n\n".join([_title(name), summary, *(table for table in tables if table)]) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[object]], count: int) -> str:
    """A table in Markdown, empty without rows. `count` is of all rows, of which `rows` may be the first."""
    shown = [f"| {' | '.join(cell(str(value)) for value in row)} |" for row in itertools.islice(rows, MAX_ROWS)]
    if not shown:
        return ""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *shown]
    more = f"\n\n{count - len(shown)} more are not shown." if count > len(shown) else ""
    return "\n".join(lines) + more


def cell(text: str) -> str:
    """A text that stands in one cell of a table, or in one line."""
    return " ".join(text.split()).replace("|", "\\|")


def _title(name: str) -> str:
    return f"## {cell(name)}"
