"""`revo conformance`: does a worker, in whichever language, do on the wire what is asked of one?"""

from __future__ import annotations

from bus import subjects
from revo.cli.common import DONE, FAILED, Output, console, print_json, quiet_logs, run_async, table
from revo.conformance.requirements import REQUIREMENTS
from revo.conformance.runner import Outcome, Plan, Report, run

_STYLES = {"ok": "green", "failed": "bold red", "skipped": "yellow"}


def requirements(*, output: Output) -> int:
    """Show what is asked, and run nothing."""
    if output is Output.JSON:
        print_json([{"number": r.number, "name": r.name, "level": r.level, "says": r.says} for r in REQUIREMENTS])
        return DONE
    rows = table("what is asked of a worker", "", "=check", "", "it must, or should")
    for one in REQUIREMENTS:
        rows.add_row(one.number, one.name, one.level, one.says)
    console().print(rows)
    return DONE


def conformance(plan: Plan, *, output: Output) -> int:
    """Check a worker and show what became of each check; returns 1 when it lacks something that it must do."""
    quiet_logs("error")  # that the server is lost is its own doing
    subjects.token(plan.capability, "capability")
    report = run_async(run(plan), f"checking the worker of {plan.capability}")
    if output is Output.JSON:
        print_json(
            {
                "capability": report.capability,
                "conforms": report.conforms,
                "seconds": round(report.seconds, 3),
                "checks": [_plain(one) for one in report.outcomes],
                "log": report.log,
            }
        )
    else:
        _show(report)
    return DONE if report.conforms else FAILED


def _plain(one: Outcome) -> dict[str, str]:
    asked = one.requirement
    return {"number": asked.number, "name": asked.name, "level": asked.level, "verdict": one.verdict, "why": one.why}


def _show(report: Report) -> None:
    from rich.text import Text

    terminal = console()
    rows = table("", "", "=check", "", "", "why")
    for one in report.outcomes:
        asked, verdict = one.requirement, Text(one.verdict, style=_STYLES[one.verdict])
        rows.add_row(asked.number, asked.name, asked.level, verdict, Text(one.why or "-"))
    terminal.print(rows)
    failed = [one for one in report.outcomes if one.verdict == "failed"]
    counts = ", ".join(f"{sum(one.verdict == v for one in report.outcomes)} {v}" for v in _STYLES)
    said = "conforms" if report.conforms else "does not conform"
    terminal.print(f"\nThe worker of {report.capability} {said}: {counts}, in {report.seconds:.1f} s.", soft_wrap=True)
    if failed and report.log:
        terminal.print(Text(f"\nThe end of what it said:\n{report.log}"), soft_wrap=True)
