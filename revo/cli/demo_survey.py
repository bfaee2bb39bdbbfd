"""The long task of the demo: many files reviewed in one, whose replica is killed in the middle of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from actors.agents.code_analyst.direct import Totals
from bus import inspection
from bus.following import Progress
from bus.handle import Handle
from bus.mesh import Mesh
from bus.messages import Result

if TYPE_CHECKING:
    from revo.cli.demo_story import Story

CAPABILITY: Final = "code_survey"
MOST: Final = 12
"""Files of the survey: it is done when the others are."""
KILL_AFTER: Final = 0.4
"""The share of them that has been begun with when its replica is killed."""


def of(files: list[Path]) -> list[Path]:
    """Those of the files that are surveyed."""
    return files[:: max(1, len(files) // MOST)][:MOST]


class Survey:
    """What is seen of the task by who follows it."""

    def __init__(self, handle: Handle, count: int) -> None:
        self._handle = handle
        self._count = count
        self._begun: Counter[str] = Counter()
        self.far = asyncio.Event()
        """Set when it is far enough for its replica to be killed, and when it has ended."""

    async def follow(self) -> None:
        """See which files it begins with, until it has ended."""
        async with aclosing(self._handle.follow()) as said:
            async for item in said:
                if isinstance(item, Progress):
                    self._begun[item.text] += 1
                if len(self._begun) > self._count * KILL_AFTER:
                    self.far.set()
        self.far.set()

    async def holder(self, mesh: Mesh) -> str:
        """The instance that has it in hand at this moment; empty: none."""
        beats = await inspection.workers(mesh.connection, task_id=self._handle.task_id)
        return beats[0].instance if beats else ""

    @property
    def repeated(self) -> int:
        """How many files were begun with more than once, counted as often as that was too often."""
        return self._begun.total() - len(self._begun)

    def count(self, story: Story, result: Result) -> None:
        """Note what came of it."""
        story.repeated, story.survey_deliveries = self.repeated, result.deliveries
        if result.status == "succeeded":
            found = result.value
            rules = dict(sorted(found["rules"].items()))
            failed = len(found["failed"])
            story.survey = Totals(rules, found["function_count"], found["total_complexity"], failed)
