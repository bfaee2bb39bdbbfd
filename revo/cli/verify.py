"""`revo verify`: what became of every task, counted from the streams of a live mesh."""

from __future__ import annotations

import datetime
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict

from bus.audit import Audit, audit
from bus.mesh import Mesh
from bus.settings import Settings
from revo.cli.common import DONE, FAILED, Output, console, print_json, quiet_logs, run_async

_ADVICE = {
    "lost": "neither waiting nor ended. Report it: this must not happen",
    "limbo": "past their deadline and not ended. Does a steward run? `revo up` starts one",
    "doubled": "with two results. Report it: this must not happen",
    "unburied": "failed without a dead letter. Report it: this must not happen",
}


def verify(*, url: str | None, output: Output) -> int:
    """Count and show; returns 1 when anything is wrong."""
    quiet_logs()
    found = run_async(count(url), "counting what became of every task")
    if output is Output.JSON:
        print_json({**asdict(found), "good": found.good})
    else:
        show(found)
    return DONE if found.good else FAILED


async def count(url: str | None) -> Audit:
    """The audit, with a spinner that counts."""
    read = 0
    terminal = console(stderr=True)
    status = terminal.status("reading the streams") if terminal.is_terminal else None

    def progress(more: int) -> None:
        nonlocal read
        read += more
        if status is not None and read % 500 == 0:
            status.update(f"reading the streams: {read:,} results")

    shown: AbstractContextManager[object] = status or nullcontext()
    with shown:
        async with Mesh.connect(url, settings=Settings.from_env(), service="revo-verify") as mesh:
            return await audit(mesh.connection, progress=progress)


def show(found: Audit) -> None:
    """A line for each count; what is wrong in red, with names."""
    from rich.text import Text

    terminal = console()
    counted = "tasks ever accepted"
    if found.since:
        since = datetime.datetime.fromtimestamp(found.since).astimezone()
        counted = f"tasks accepted since {since:%Y-%m-%d %H:%M:%S}; the results of older ones may be gone"
    terminal.print(f"{found.accepted:>10,}  {counted}")
    statuses = ", ".join(f"{count:,} {status}" for status, count in sorted(found.statuses.items()))
    terminal.print(f"{found.ended:>10,}  ended{f' ({statuses})' if statuses else ''}", soft_wrap=True)
    terminal.print(f"{found.waiting:>10,}  waiting or running")
    terminal.print(f"{found.redelivered:>10,}  needed more than one delivery")
    if found.doubles:
        terminal.print(f"{found.doubles:>10,}  were submitted again and ended by the first one's result")
    for kind, advice in _ADVICE.items():
        wrong = getattr(found, kind)
        if not wrong:
            terminal.print(f"{0:>10}  {kind}", style="green")
            continue
        terminal.print(Text(f"{wrong:>10,}  {kind}: {advice}", style="bold red"), soft_wrap=True)
        names = found.names.get(kind, [])
        more = f" and {wrong - len(names)} more" if wrong > len(names) else ""
        terminal.print(Text(f"{'':12}{', '.join(names)}{more}"), soft_wrap=True)
