"""What the demo prints at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from bus import subjects
from revo.cli.common import console
from revo.cli.trace import render

if TYPE_CHECKING:
    from revo.cli.demo_story import Story

TOP_RULES = 10


def show(story: Story) -> None:
    """Print findings, replicas, the trace of a task that outlived its worker, and the count."""
    terminal = console()
    terminal.print(_findings(story))
    terminal.print()
    terminal.print(_replicas(story))
    terminal.print()
    if story.trace:
        terminal.print("a task whose worker was killed:")
        terminal.print(render(story.trace, width=terminal.width))
        terminal.print()
    for line in _count(story):
        terminal.print(line, soft_wrap=True)


def _findings(story: Story) -> Table:
    assert story.totals is not None
    table = Table(title="findings", title_justify="left", box=None, pad_edge=False)
    table.add_column("rule")
    table.add_column("found", justify="right")
    ranked = sorted(story.totals.rules.items(), key=lambda item: -item[1])
    for rule, count in ranked[:TOP_RULES]:
        table.add_row(rule, f"{count:,}")
    rest = ranked[TOP_RULES:]
    if rest:
        table.add_row(f"{len(rest)} other rules", f"{sum(count for _, count in rest):,}")
    return table


def _replicas(story: Story) -> Table:
    table = Table(title="tasks per replica", title_justify="left", box=None, pad_edge=False)
    table.add_column("instance")
    table.add_column("tasks", justify="right")
    table.add_column("")
    bridges = (name for name in story.by_replica if name.startswith(f"{subjects.BRIDGE}-"))
    notes = {story.killed: "killed -9 with a task in hand", story.successor: "took its place"}
    notes |= dict.fromkeys(bridges, f"prompted {story.guest}")
    for instance in sorted({*story.by_replica, story.successor} - {""}):
        table.add_row(instance, str(story.by_replica.get(instance, 0)), notes.get(instance, ""))
    return table


def _count(story: Story) -> list[Text]:
    assert story.audit is not None
    assert story.totals is not None
    found = sum(story.totals.rules.values())
    risks = f"{sum(story.risks.values()):,} risks in {story.guarded} of the files"
    lines = [
        Text(f"{story.tasks} tasks on {story.files} files in {story.seconds:.1f} s: {_rate(story):.1f} tasks/s"),
        Text(
            f"{found:,} findings, {story.totals.functions:,} functions, complexity {story.totals.complexity:,}; {risks}"
        ),
        _verdict(
            f"the registry missed {story.killed} {story.noticed:.1f} s after its death, and knows {story.successor}",
            good=bool(story.killed and story.noticed and story.successor),
        ),
        _verdict("equal to running the tools directly", good=story.equal),
        _verdict(
            f"shared memory holds what was found in {story.kept} files, in {story.kept_by_both} of them by both agents",
            good=story.remembered,
        ),
        Text(f"code-analyst was prompted, by the Synadia Agent Protocol: {story.question}"),
        _verdict(f"it said: {story.answer}", good=bool(story.answer)),
        *_guest(story),
        _verdict(
            f"1 task on {story.surveyed} of the files outlived its worker: "
            f"{story.repeated} of them {'was' if story.repeated == 1 else 'were'} reviewed twice",
            good=story.survey_good,
        ),
        _verdict(f"redelivered: {story.redelivered}", good=story.redelivered > 0),
        _verdict(
            f"accepted: {story.audit.accepted}  ended: {story.audit.ended}  doubled: {story.audit.doubled}",
            good=story.audit.ended == story.tasks + 1 and not story.audit.doubled,
        ),
        _verdict(f"1 task that no agent can do: {story.hopeless} by the steward", good=story.hopeless == "expired"),
        _verdict(f"lost: {story.audit.lost}", good=not story.audit.lost),
    ]
    lines += [Text(f"{count} tasks failed: {code}") for code, count in story.failed.items()]
    return lines


def _guest(story: Story) -> list[Text]:
    if not story.summed_up:
        return []
    done = f"{story.answered} of {story.summed_up} tasks answered"
    return [_verdict(f"{story.guest or 'nobody'}, an agent that knows nothing of Revo: {done}", good=story.guest_good)]


def _rate(story: Story) -> float:
    return story.tasks / story.seconds


def _verdict(text: str, *, good: bool) -> Text:
    return Text(text if good else f"{text}  <- not as it should be", style="green" if good else "bold red")
