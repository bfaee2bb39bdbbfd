"""What agents that review Python source have in common: task, settings, how it is read, how a tool is blamed."""

from __future__ import annotations

import asyncio
import io
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Final, Self, TypeVar

from pydantic import BaseModel, ConfigDict, DirectoryPath, Field, model_validator

from actors.agents.source import check_size, read_source
from actors.agents.tools import Finished, ToolCrashedError, ToolError, ToolFailedError

M = TypeVar("M", bound=BaseModel)

MAX_LISTED: Final = 400_000
"""Bytes, as JSON, of one list of a report: two of them fit a message of 1 MiB."""
MAX_TEXT: Final = 500
"""Characters of a message or name in a report: an identifier may be as long as its file."""
MAX_ANSWER: Final = 8 * 1024 * 1024
"""Bytes of a tool's answer. The largest in the standard library is 205 kB; reading 8 MiB holds the loop for 60 ms."""
MAX_NAME: Final = 4096
"""Characters of a name or path; PATH_MAX of Linux, in bytes."""

Name = Annotated[str, Field(max_length=MAX_NAME)]


class SourceTask(BaseModel):
    """Python source, or the path of a file below the agent's root."""

    source: str | None = None
    path: Name | None = None
    name: Name = "source.py"
    """What findings call a source that came without a path."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.source is None) == (self.path is None):
            raise ValueError("give either source or path")
        return self


class ReviewSettings(BaseModel):
    """The table of such an agent in the mesh file."""

    model_config = ConfigDict(extra="forbid")

    root: DirectoryPath = Path()
    """The folder that paths in tasks are below of; nothing outside it is read."""
    max_bytes: Annotated[int, Field(gt=0)] = 1024 * 1024
    tool_timeout: Annotated[float, Field(gt=0)] = 10.0
    """Seconds that each tool may take."""


async def source_of(task: SourceTask, settings: ReviewSettings) -> tuple[str, str]:
    """The name and the text of what is to be reviewed, without a byte order mark.

    Raises:
        SourceError: it cannot be read, or is too large.
    """
    if task.path is not None:
        name = task.path
        source = await asyncio.to_thread(read_source, name, root=settings.root, max_bytes=settings.max_bytes)
    else:
        name, source = task.name, task.source or ""
        check_size(source, name=name, max_bytes=settings.max_bytes)
    return name, source.removeprefix("\ufeff")


def lines_of(source: str) -> int:
    """How many lines it has, as Python counts: a form feed ends none."""
    return sum(1 for _ in io.StringIO(source, newline=None))


def within(budget: int, items: list[M]) -> list[M]:
    """The first of the items, as many as fit into so many bytes of JSON."""
    for count, item in enumerate(items):
        budget -= len(item.model_dump_json().encode()) + 1
        if budget < 0:
            return items[:count]
    return items


def packages_of(tool: str) -> str:
    """The folder that a tool written in Python is imported from.

    Raises:
        ToolFailedError: it is not installed.
    """
    spec = find_spec(tool)
    if spec is None or spec.origin is None:
        raise ToolFailedError(tool, "is not installed; install revo-mesh anew, with its dependencies")
    return str(Path(spec.origin).parents[1])


def failed(tool: str, finished: Finished) -> ToolError:
    """The error that stands for how a tool ended."""
    said = finished.stderr.decode(errors="replace").strip().splitlines()
    word = said[-1][:200] if said else "no word"
    if finished.crash:
        return ToolCrashedError(tool, f"crashed on this source with {finished.crash}: {word}")
    return ToolFailedError(tool, f"ended with status {finished.status}: {word}")
