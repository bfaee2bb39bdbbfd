"""The agent: takes a file, runs both tools, answers with a report."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, DirectoryPath, Field

from actors.actor import Agent, task
from actors.agents.code_analyst.analysis import complexities, report, ruff_findings
from actors.agents.code_analyst.model import CodeReview, Finding, FunctionComplexity, Report
from actors.agents.code_analyst.source import check_size, read_source
from actors.agents.tools import first_error


class CodeAnalystSettings(BaseModel):
    """The agent's table in the mesh file."""

    model_config = ConfigDict(extra="forbid")

    root: DirectoryPath = Path()
    """The folder that paths in tasks are below of; nothing outside it is read."""
    max_bytes: Annotated[int, Field(gt=0)] = 1024 * 1024
    tool_timeout: Annotated[float, Field(gt=0)] = 10.0
    """Seconds that each tool may take."""


class CodeAnalyst(Agent):
    """Reviews Python source: ruff's findings and cognitive complexity."""

    concurrency = 2
    Settings = CodeAnalystSettings

    settings: CodeAnalystSettings

    @task("code_review")
    async def review(self, message: CodeReview) -> Report:
        """Review one file.

        Raises:
            SourceError: the file cannot be reviewed; no retry.
            ToolError: a tool could not do its work.
        """
        limit = self.settings.max_bytes
        if message.path is not None:
            name = message.path
            source = await asyncio.to_thread(read_source, name, root=self.settings.root, max_bytes=limit)
        else:
            name, source = message.name, message.source or ""
            check_size(source, name=name, max_bytes=limit)
        timeout = self.settings.tool_timeout
        source = source.removeprefix("\ufeff")
        findings, functions = await _both(source, name, timeout)
        return report(source, name, findings, functions)


async def _both(source: str, name: str, timeout: float) -> tuple[list[Finding], list[FunctionComplexity]]:
    try:
        async with asyncio.TaskGroup() as group:
            findings = group.create_task(ruff_findings(source, name, timeout=timeout))
            functions = group.create_task(complexities(source, name, timeout=timeout))
    except BaseExceptionGroup as errors:
        raise first_error(errors) from None
    return findings.result(), functions.result()
