"""What the agents of the demo kept in shared memory, read by somebody else when they are gone."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from actors.agents.findings import NAMESPACE
from actors.memory.client import Memory
from bus.mesh import Mesh

if TYPE_CHECKING:
    from revo.cli.demo_story import Story


async def count(story: Story, mesh: Mesh) -> None:
    """Count the files whose findings are kept, and add the findings up."""
    memory = Memory(mesh, NAMESPACE)
    rules: Counter[str] = Counter()
    tests: Counter[str] = Counter()
    async for summary in memory.walk():
        entry = await memory.get(summary.key)
        if entry is None:
            continue
        story.kept += 1
        story.kept_by_both += len(entry.value) > 1
        story.contradicted += bool(entry.alternatives)
        for found in entry.value.values():
            rules.update(found.get("rules", {}))
            tests.update(found.get("tests", {}))
    story.kept_rules, story.kept_risks = dict(sorted(rules.items())), dict(sorted(tests.items()))
