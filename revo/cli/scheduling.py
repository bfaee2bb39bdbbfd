"""The commands of `revo schedule`."""

from __future__ import annotations

from typing import Annotated

import typer

from revo.cli.common import Output
from revo.cli.options import OutputOption, UrlOption

schedule = typer.Typer(
    help="See and change what is to be done later; `revo submit --at|--after|--every|--cron` makes such.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
ScheduleId = Annotated[str, typer.Argument(help="the schedule's id; of what is due once, the task's")]
WhoseOption = Annotated[str, typer.Option("--client", help="whose; default: anybody's, for who may ask so")]


@schedule.command("ls", epilog="Examples: revo schedule ls | revo schedule ls --client alice --output json")
def schedule_ls(client: WhoseOption = "", url: UrlOption = None, output: OutputOption = Output.TEXT) -> int:
    """List what is to be done later, the next one first."""
    from revo.cli.schedule import ls

    return ls(client, url=url, output=output)


@schedule.command("show", epilog="Example: revo schedule show nightly")
def schedule_show(
    schedule_id: ScheduleId, client: WhoseOption = "", url: UrlOption = None, output: OutputOption = Output.TEXT
) -> int:
    """Show one schedule, its next times, and what became of its last task."""
    from revo.cli.schedule import show

    return show(schedule_id, client, url=url, output=output)


@schedule.command("rm", epilog="Example: revo schedule rm nightly")
def schedule_rm(
    schedule_id: ScheduleId, client: WhoseOption = "", url: UrlOption = None, output: OutputOption = Output.TEXT
) -> int:
    """Take a schedule away. A task that was to be done once ends as cancelled."""
    from revo.cli.schedule import turn

    return turn("rm", schedule_id, client, url=url, output=output)


@schedule.command("pause", epilog="Example: revo schedule pause nightly")
def schedule_pause(
    schedule_id: ScheduleId, client: WhoseOption = "", url: UrlOption = None, output: OutputOption = Output.TEXT
) -> int:
    """Let a schedule be due no more, until `revo schedule resume`."""
    from revo.cli.schedule import turn

    return turn("pause", schedule_id, client, url=url, output=output)


@schedule.command("resume", epilog="Example: revo schedule resume nightly")
def schedule_resume(
    schedule_id: ScheduleId, client: WhoseOption = "", url: UrlOption = None, output: OutputOption = Output.TEXT
) -> int:
    """Let a paused schedule go on, from now."""
    from revo.cli.schedule import turn

    return turn("resume", schedule_id, client, url=url, output=output)
