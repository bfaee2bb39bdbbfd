"""The agent: takes a file, runs both tools, answers with a report."""

from __future__ import annotations

import asyncio

from actors.actor import Agent, task
from actors.agents.code_analyst.analysis import complexities, report, ruff_findings
from actors.agents.code_analyst.model import CodeReview, Finding, FunctionComplexity, Report
from actors.agents.review import ReviewSettings, source_of
from actors.agents.tools import first_error


class CodeAnalyst(Agent):
    """Reviews Python source: ruff's findings and cognitive complexity."""

    concurrency = 2
    Settings = ReviewSettings

    settings: ReviewSettings

    @task("code_review")
    async def review(self, message: CodeReview) -> Report:
        """Review one file.

        Raises:
            SourceError: the file cannot be reviewed; no retry.
            ToolError: a tool could not do its work.
        """
        name, source = await source_of(message, self.settings)
        findings, functions = await _both(source, name, self.settings.tool_timeout)
        return report(source, name, findings, functions)


async def _both(source: str, name: str, timeout: float) -> tuple[list[Finding], list[FunctionComplexity]]:
    try:
        async with asyncio.TaskGroup() as group:
            findings = group.create_task(ruff_findings(source, name, timeout=timeout))
            functions = group.create_task(complexities(source, name, timeout=timeout))
    except BaseExceptionGroup as errors:
        raise first_error(errors) from None
    return findings.result(), functions.result()
