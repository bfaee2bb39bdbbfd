"""The agent: takes a file, runs bandit, answers with a report."""

from __future__ import annotations

from typing import Final

from actors.actor import Agent, Prompt, prompt, task
from actors.agents.answers import report_text, send_reports, table
from actors.agents.findings import NAMESPACE, Findings
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

    memory = (NAMESPACE,)
    settings: ReviewSettings
    _findings: Findings | None = None

    async def on_start(self) -> None:
        """Keep what is found in files from now on."""
        self._findings = Findings(self.mesh, self.name)

    @task("security_review")
    async def review(self, message: SecurityReview) -> SecurityReport:
        """Review one file. What is found in one below the root is kept in shared memory, too.

        Raises:
            SourceError: the file cannot be reviewed; no retry.
            ToolError: the tool could not do its work.
        """
        name, source = await source_of(message, self.settings)
        found = await self._report(name, source)
        if message.path is not None and self._findings is not None:
            await self._findings.keep(message.path, {"tests": found.tests, "severities": found.severities})
        return found

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
