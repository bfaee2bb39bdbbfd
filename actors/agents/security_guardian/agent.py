"""The agent: takes a file, runs bandit, answers with a report."""

from __future__ import annotations

from actors.actor import Agent, task
from actors.agents.review import ReviewSettings, source_of
from actors.agents.security_guardian.analysis import report, risks
from actors.agents.security_guardian.model import SecurityReport, SecurityReview


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
        return report(source, name, await risks(source, name, timeout=self.settings.tool_timeout))
