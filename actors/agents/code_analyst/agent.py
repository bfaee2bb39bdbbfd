"""The agent: takes a file, runs both tools, answers with a report."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

from actors.actor import Agent, Prompt, TaskContext, prompt, task
from actors.agents.answers import report_text, send_reports, table
from actors.agents.code_analyst.analysis import complexities, report, ruff_findings
from actors.agents.code_analyst.model import CodeReview, CodeSurvey, Finding, FunctionComplexity, Report, Survey
from actors.agents.errors import SourceError
from actors.agents.findings import NAMESPACE, Findings
from actors.agents.review import ReviewSettings, source_of
from actors.agents.tools import first_error

ABILITIES: Final = (
    "I review Python source: what ruff finds in it, and the cognitive complexity of its functions. "
    "Send me source as text, between ``` fences, or as attachments. "
    "For many files, and for work that must not be lost, submit tasks for `code_review`."
)


class CodeAnalyst(Agent):
    """Reviews Python source: ruff's findings and cognitive complexity."""

    concurrency = 2
    Settings = ReviewSettings

    memory = (NAMESPACE,)
    settings: ReviewSettings
    _findings: Findings | None = None

    async def on_start(self) -> None:
        """Keep what is found in files from now on."""
        self._findings = Findings(self.mesh, self.name)

    @task("code_review")
    async def review(self, message: CodeReview) -> Report:
        """Review one file. What is found in one below the root is kept in shared memory, too.

        Raises:
            SourceError: the file cannot be reviewed; no retry.
            ToolError: a tool could not do its work.
        """
        name, source = await source_of(message, self.settings)
        found = await self._report(name, source)
        if message.path is not None and self._findings is not None:
            kept = {"rules": found.rules, "functions": found.function_count, "complexity": found.total_complexity}
            await self._findings.keep(message.path, kept)
        return found

    @task("code_survey", saves=Survey, time_limit=3600.0)
    async def survey(self, message: CodeSurvey, context: TaskContext) -> Survey:
        """Review many files in one task, and add up what is found. It says which file it begins with, shows what it
        found in each, and goes on behind the last one that it had ended when its process dies.

        Raises:
            ToolError: a tool could not do its work.
        """
        so_far: Survey = context.saved or Survey()
        for number in range(so_far.files, len(message.paths)):
            path = message.paths[number]
            await context.progress(number / len(message.paths), path)
            try:
                name, source = await source_of(CodeReview(path=path), self.settings)
                found = await self._report(name, source)
            except SourceError as error:
                so_far.failed[path] = str(error)
            else:
                so_far.rules = dict(Counter(so_far.rules) + Counter(found.rules))
                so_far.function_count += found.function_count
                so_far.total_complexity += found.total_complexity
                context.emit({"path": path, "rules": found.rules, "complexity": found.total_complexity})
            so_far.files = number + 1
            await context.save(so_far)
        return so_far

    @prompt
    async def answer(self, prompt: Prompt) -> None:
        """Review the source in a prompt, or say what to send."""

        async def review(name: str, source: str) -> str:
            return _readable(await self._report(name, source))

        await send_reports(prompt, self.settings, review, ABILITIES)

    async def _report(self, name: str, source: str) -> Report:
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


def _readable(found: Report) -> str:
    count = sum(found.rules.values())
    summary = (
        f"{count} finding{'' if count == 1 else 's'} in {found.lines} lines. Cognitive complexity "
        f"{found.total_complexity} in {found.function_count} functions, {found.max_complexity} at most."
    )
    hardest = sorted((one for one in found.functions if one.complexity), key=lambda one: -one.complexity)[:10]
    return report_text(
        found.name,
        summary,
        table(("line", "rule", "finding"), ((one.line, one.rule, one.message) for one in found.findings), count),
        table(("line", "function", "complexity"), ((one.line, one.name, one.complexity) for one in hardest), 0),
    )
