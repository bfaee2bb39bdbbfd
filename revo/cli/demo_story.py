"""What happens in `revo demo`, as it is printed and as scripts read it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from actors.agents.code_analyst.direct import Totals
from bus.audit import Audit
from bus.messages import SpanRecord


@dataclass
class Story:
    """What happened."""

    files: int
    guarded: int = 0
    """How many of them were reviewed for security too."""
    summed_up: int = 0
    """How many of them went to the guest too."""
    surveyed: int = 0
    """How many of them were reviewed once more, in one long task."""
    survey: Totals | None = None
    direct_survey: Totals | None = None
    survey_deliveries: int = 0
    repeated: int = 0
    """How many of those were begun with again after the kill."""
    guest: str = ""
    """The instance of the agent that is not ours, by the registry's word; empty where there is none."""
    answered: int = 0
    """How many of its tasks the guest answered."""
    question: str = ""
    """What the code analyst was prompted, as any agent is that speaks the Synadia Agent Protocol."""
    answer: str = ""
    totals: Totals | None = None
    direct: Totals | None = None
    risks: dict[str, int] = field(default_factory=dict)
    direct_risks: dict[str, int] = field(default_factory=dict)
    kept: int = 0
    """The files of which shared memory says what was found in them."""
    kept_by_both: int = 0
    """Those of them of which both agents say something, each without the other's being lost."""
    contradicted: int = 0
    kept_rules: dict[str, int] = field(default_factory=dict)
    kept_risks: dict[str, int] = field(default_factory=dict)
    audit: Audit | None = None
    seconds: float = 0.0
    killed: str = ""
    """The replica that was killed with a task in hand."""
    noticed: float = 0.0
    """Seconds from then until the registry did not know it any more."""
    successor: str = ""
    """Who took its place, by the registry's word."""
    by_replica: dict[str, int] = field(default_factory=dict)
    redelivered: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    hopeless: str = ""
    """How the task ended that no agent can do."""
    trace: list[SpanRecord] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether the mesh found what the tools find when they are run directly."""
        return self.totals == self.direct and self.risks == self.direct_risks

    @property
    def remembered(self) -> bool:
        """Whether shared memory holds all that was found, no more and no less."""
        totals = self.totals
        found = totals is not None and (self.kept_rules, self.kept_risks) == (totals.rules, self.risks)
        return found and bool(self.kept_by_both) and not self.contradicted

    @property
    def tasks(self) -> int:
        """How many tasks there were for the agents."""
        return self.files + self.guarded + self.summed_up + bool(self.surveyed)

    @property
    def survey_good(self) -> bool:
        """Whether the long task outlived its replica, and did no more again than the file that it was at."""
        return self.survey == self.direct_survey and self.survey_deliveries > 1 and self.repeated <= 1

    @property
    def good(self) -> bool:
        """Whether nothing was lost although something was redelivered."""
        audit = self.audit
        if audit is None or audit.waiting or not audit.good:
            return False
        all_ended = audit.ended == self.tasks + 1 and self.hopeless == "expired"
        went_on = self.redelivered > 0 and bool(self.successor)
        well = self.equal and self.survey_good and bool(self.answer) and self.guest_good
        return all_ended and went_on and well

    @property
    def guest_good(self) -> bool:
        """Whether the guest, where there is one, was met and answered."""
        return not self.summed_up or (bool(self.guest) and self.answered == self.summed_up)


def as_json(story: Story) -> dict[str, Any]:
    """The story for scripts."""
    assert story.audit is not None
    return {
        "files": story.files,
        "guarded": story.guarded,
        "summed_up": story.summed_up,
        "survey": {
            "files": story.surveyed,
            "deliveries": story.survey_deliveries,
            "repeated": story.repeated,
            "equal_to_direct": story.survey == story.direct_survey,
        },
        "guest": story.guest,
        "answered": story.answered,
        "question": story.question,
        "answer": story.answer,
        "seconds": round(story.seconds, 3),
        "tasks_per_second": round(story.tasks / story.seconds, 1),
        "killed": story.killed,
        "noticed_s": round(story.noticed, 3),
        "successor": story.successor,
        "redelivered": story.redelivered,
        "lost": story.audit.lost,
        "kept": {"files": story.kept, "by_both": story.kept_by_both, "contradicted": story.contradicted},
        "remembered": story.remembered,
        "audit": asdict(story.audit),
        "by_replica": story.by_replica,
        "totals": asdict(story.totals) if story.totals else None,
        "risks": story.risks,
        "equal_to_direct": story.equal,
        "failed": story.failed,
        "hopeless": story.hopeless,
        "trace": [span.model_dump() for span in story.trace],
    }
