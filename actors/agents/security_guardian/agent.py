"""The agent: takes a file, runs bandit, answers with a report."""

from __future__ import annotations

from typing import Final

from actors.actor import Agent, Prompt, prompt, task
from actors.agents.answers import report_text, send_reports, table
from actors.agents.review import ReviewSettings, source_of
from actors.agents.security_guardian.analysis import report, risks
from actors.agents.security_guardian.model import SecurityReport, SecurityReview

ABILITIES: Final = (
    "I look for security risks in Python source, with bandit. "
    "Send me source as text, between ``` fences, or as attachments. "
    "For many files, and for work that must not be lost, submit tasks for `security_review`."
)


class SecurityGuardian(Agent):
    """Looks for security risks in Python source."""

    concurrency = 2
    Settings = ReviewSettings

    settings: ReviewSettings

    @task("security_review")
    async def review(self, message: SecurityReview) -> SecurityReport:
        """Review one file.

        Raises:
            SourceError: the file cannot be reviewed; no retry.
            ToolError: the tool could not do its work.
        """
        name, source = await source_of(message, self.settings)
        return await self._report(name, source)

    @prompt
    async def answer(self, prompt: Prompt) -> None:
        """Review the source in a prompt, or say what to send."""

        async def review(name: str, source: str) -> str:
            return _readable(await self._report(name, source))

        await send_reports(prompt, self.settings, review, ABILITIES)

    async def _report(self, name: str, source: str) -> SecurityReport:
        return report(source, name, await risks(source, name, timeout=self.settings.tool_timeout))


def _readable(found: SecurityReport) -> str:
    count = sum(found.tests.values())
    by_severity = ", ".join(f"{number} {severity.lower()}" for severity, number in found.severities.items())
    summary = f"{count} risk{'' if count == 1 else 's'} in {found.lines} lines{f': {by_severity}' if count else ''}."
    rows = ((one.line, one.test, one.severity.lower(), one.confidence.lower(), one.message) for one in found.risks)
    return report_text(found.name, summary, table(("line", "test", "severity", "confidence", "risk"), rows, count))
