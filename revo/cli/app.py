"""The table of commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from revo.cli import benches, common, completion, groups, memory, scheduling
from revo.cli.common import Output, guarded
from revo.cli.options import (
    AgainOption,
    AtOnceOption,
    BatchOption,
    CapabilityOption,
    EachOption,
    JsonLinesOption,
    OutputOption,
    PathFieldOption,
    ResultsOption,
    SpecForm,
    SpecWhat,
    TextFieldOption,
    UrlOption,
    YesOption,
)

app = typer.Typer(
    help="The mesh that AI agents live on: durable tasks, actors as processes, one trace through all of them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(groups.tasks, name="tasks")
app.add_typer(scheduling.schedule, name="schedule")
app.add_typer(groups.dead, name="dead")
app.add_typer(groups.topology, name="topology")
app.add_typer(groups.keys, name="keys")
app.add_typer(groups.k8s, name="k8s")
app.add_typer(groups.backup, name="backup")
app.add_typer(memory.memory, name="memory")
app.add_typer(benches.bench, name="bench")


def main(arguments: list[str]) -> int:
    """Parse and run; returns the exit status."""

    def command() -> int:
        try:
            status = app(arguments, prog_name="revo", standalone_mode=False)
        except typer.Abort:
            return common.INTERRUPTED
        except TyperException as error:
            return _wrong_usage(error)
        return int(status or 0)

    return guarded(command)


def _wrong_usage(error: TyperException) -> int:
    """Say in one line what was typed wrong. A group without its command gets its help instead."""
    context = getattr(error, "ctx", None)
    text = error.format_message() if hasattr(error, "format_message") else str(error)
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stdout.write(f"{text}\n")
    else:
        path = context.command_path if context is not None else "revo"
        sys.stderr.write(f"revo: {' '.join(text.split())}; try `{path} --help`\n")
    return common.USAGE


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context, *, version: Annotated[bool, typer.Option("--version", help="print the version")] = False
) -> None:
    """Every command answers in JSON with `--output json`.

    Exit codes: 0 done, 1 the task failed, 2 wrong usage, 3 no mesh reachable, 4 timed out.
    """
    if version:
        from importlib.metadata import version as version_of

        sys.stdout.write(f"revo {version_of('revo-mesh')}\n")
        raise typer.Exit
    if context.invoked_subcommand is None:
        sys.stdout.write(context.get_help() + "\n")
        raise typer.Exit(common.USAGE)


@app.command(epilog="Examples: revo up | revo up mesh.toml | revo up --detach --output json")
def up(
    mesh_file: Annotated[
        Path | None, typer.Argument(help="default: ./mesh.toml, else the actors that come with Revo")
    ] = None,
    *,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="return when every actor is ready")] = False,
    url: Annotated[str | None, typer.Option("--url", help="use this NATS server instead of an embedded one")] = None,
    output: OutputOption = Output.TEXT,
) -> int:
    """Start a mesh: a NATS server and every actor of the mesh file, each a process of its own."""
    from revo.cli.up import up as start

    return start(mesh_file, detach=detach, url=url, output=output)


@app.command(epilog="Example: revo down")
def down(output: OutputOption = Output.TEXT) -> int:
    """End the mesh that runs here: actors finish what they have in hand."""
    from revo.cli.up import down as end

    return end(output=output)


@app.command(epilog="Examples: revo run examples/echo_agent.py:Echo | revo run actors.agents.code_analyst:CodeAnalyst")
def run(
    target: Annotated[str, typer.Argument(help="package.module:Class or path/to/file.py:Class")],
    name: Annotated[str | None, typer.Option("--name", help="its address; default: the class's name")] = None,
    url: UrlOption = None,
    output: Annotated[
        Output, typer.Option("--output", "-o", help="how it logs: json is one object a line")
    ] = Output.TEXT,
) -> int:
    """Run one actor in the foreground. SIGTERM or Ctrl-C drains it, a second one stops it at once."""
    from revo.cli.run import run as run_actor

    return run_actor(target, name, url, json_logs=output is Output.JSON)


@app.command(
    epilog="Examples: revo submit echo text=hi --wait | revo submit code_review path=app.py --priority high -o json"
    " | revo submit report --cron '0 9 * * 1-5' --timezone Europe/Berlin --schedule daily"
    " | revo submit code_review --each 'src/**/*.py' --results reviews.jsonl | revo submit echo --jsonl work.jsonl"
    " | revo submit crawl url=https://example.org --follow"
)
def submit(
    capability: Annotated[
        str, typer.Argument(help="the kind of work, or @AGENT", autocompletion=completion.capabilities)
    ],
    fields: Annotated[
        list[str] | None, typer.Argument(help="key=value; numbers, true, [..] and {..} as in JSON")
    ] = None,
    *,
    json_text: Annotated[
        str | None, typer.Option("--json", help="the whole message as JSON; - reads it from stdin")
    ] = None,
    priority: Annotated[str, typer.Option("--priority", "-p", help="critical, urgent, high, normal or low")] = "normal",
    task_id: Annotated[str | None, typer.Option("--id", help="the same id twice is one task")] = None,
    key: Annotated[str | None, typer.Option("--key", help="any text; the same key twice is one task")] = None,
    by_content: Annotated[bool, typer.Option("--by-content", help="the same message twice is one task")] = False,
    deadline: Annotated[float | None, typer.Option("--deadline", help="seconds until the task expires")] = None,
    agent: Annotated[
        str | None,
        typer.Option("--agent", help="this agent and none other is to do it", autocompletion=completion.agents),
    ] = None,
    at: Annotated[str | None, typer.Option("--at", help="once, then: 2026-12-24T18:00:00+01:00")] = None,
    after: Annotated[str | None, typer.Option("--after", help="once, so much later: 90, 15m, 2h, 1d")] = None,
    every: Annotated[str | None, typer.Option("--every", help="again and again, so often: 30, 15m, 2h, 1d")] = None,
    cron: Annotated[str | None, typer.Option("--cron", help="again and again, as crontab says: '0 9 * * 1-5'")] = None,
    timezone: Annotated[
        str | None, typer.Option("--timezone", help="of --cron (default UTC) or --at: Europe/Berlin")
    ] = None,
    schedule_id: Annotated[
        str | None, typer.Option("--schedule", help="its id with one of these; one of the same id is replaced")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="wait for the result and print it")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="the same, and show what it says meanwhile")] = False,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0.001, help="seconds to wait; then exit 4, the task goes on")
    ] = None,
    each: EachOption = None,
    jsonl: JsonLinesOption = None,
    path_field: PathFieldOption = None,
    text_field: TextFieldOption = None,
    results: ResultsOption = None,
    batch: BatchOption = None,
    at_once: AtOnceOption = None,
    again: AgainOption = False,
    url: UrlOption = None,
    output: OutputOption = Output.TEXT,
) -> int:
    """Submit one task, now or later, or one for each file or line. A task is durable then, and ends in one result."""
    from revo.cli.files import work_off
    from revo.cli.schedule import Timing
    from revo.cli.submit import Request
    from revo.cli.submit import submit as send
    from revo.cli.work import Work

    timing = Timing(at, after, every, cron, timezone, schedule_id)
    request = Request(capability, fields or [], json_text, priority, task_id, key, by_content, deadline, agent, timing)
    work = Work(each, jsonl, path_field, text_field, results, batch, at_once, again)
    if work.given:
        return work_off(request, work, timeout=timeout, url=url, output=output, follow=follow, wait=wait)
    return send(request, wait=wait, follow=follow, timeout=timeout, url=url, output=output)


@app.command(epilog="Examples: revo prompt hermes 'what is new?' | revo prompt hermes - --attach a.png < question.txt")
def prompt(
    agent: Annotated[str, typer.Argument(help="whom; ours, or a foreign one", autocompletion=completion.agents)],
    text: Annotated[str, typer.Argument(help="what to say; - reads it from stdin")],
    *,
    attach: Annotated[list[Path] | None, typer.Option("--attach", "-a", help="a file; may be repeated")] = None,
    answer: Annotated[
        list[str] | None, typer.Option("--answer", help="what to say when it asks; else the terminal is asked")
    ] = None,
    save: Annotated[Path | None, typer.Option("--save", help="a folder for the files that it sends")] = None,
    owner: Annotated[str | None, typer.Option("--owner", help="whose, where several have such an agent")] = None,
    session: Annotated[str | None, typer.Option("--session", help="which, where it has several")] = None,
    timeout: Annotated[float | None, typer.Option("--timeout", min=0.1, help="seconds for all of it")] = None,
    inactivity: Annotated[float, typer.Option("--inactivity", min=0.1, help="seconds without any sign")] = 60.0,
    url: UrlOption = None,
    output: OutputOption = Output.TEXT,
) -> int:
    """Prompt an agent and show its answer as it comes. Nothing is stored: what must not be lost is a task."""
    from revo.cli.prompt import Request
    from revo.cli.prompt import prompt as say

    request = Request(agent, text, attach or [], answer or [], owner, session, timeout, inactivity, save)
    return say(request, url=url, output=output)


@app.command(epilog="Examples: revo ps | revo ps --agent code-analyst | revo ps --capability echo --output json")
def ps(
    agent: Annotated[str, typer.Option("--agent", help="only its instances", autocompletion=completion.agents)] = "",
    capability: CapabilityOption = "",
    url: UrlOption = None,
    output: OutputOption = Output.TEXT,
) -> int:
    """Show who lives: kind, instance, state, load, uptime, restarts; and what should live and does not."""
    from revo.cli.ps import ps as show

    return show(agent, capability, url=url, output=output)


@app.command(
    epilog="Examples: revo pause echo-1f2e3d4c --reason 'its disk is full' | revo pause code_review --output json"
)
def pause(
    name: Annotated[str, typer.Argument(help="an instance, or a capability", autocompletion=completion.capabilities)],
    *,
    reason: Annotated[str, typer.Option("--reason", "-r", help="what others are told")] = "paused by hand",
    url: UrlOption = None,
    output: OutputOption = Output.TEXT,
) -> int:
    """Let an instance take no more, or a capability's tasks wait, until `revo resume`. What runs is finished."""
    from revo.cli.pause import pause as turn

    return turn(name, reason, url=url, output=output)


@app.command(epilog="Examples: revo resume echo-1f2e3d4c | revo resume code_review --output json")
def resume(
    name: Annotated[str, typer.Argument(help="an instance, or a capability", autocompletion=completion.capabilities)],
    url: UrlOption = None,
    output: OutputOption = Output.TEXT,
) -> int:
    """Let an instance or a capability go on that was paused."""
    from revo.cli.pause import resume as turn

    return turn(name, url=url, output=output)


@app.command(epilog="Examples: revo top | revo top --interval 5 | revo top --count 1 --output json")
def top(
    interval: Annotated[float, typer.Option("--interval", min=0.1, help="seconds between two looks")] = 1.0,
    count: Annotated[int, typer.Option("--count", min=0, help="so many looks; 0: until q or Ctrl-C")] = 0,
    url: UrlOption = None,
    output: OutputOption = Output.TEXT,
) -> int:
    """Watch the mesh live: rates, queues by priority, agents, and what went wrong lately."""
    from revo.cli.top import top as watch

    return watch(interval=interval, count=count, url=url, output=output)


@app.command(epilog="Examples: revo events | revo events --follow | revo events --kind agent --since 86400 -o json")
def events(
    kind: Annotated[str, typer.Option("--kind", help="agent, system, schedule, fault or breaker; default: all")] = "",
    name: Annotated[str, typer.Option("--name", help="of one instance, or one part of the system")] = "",
    since: Annotated[float | None, typer.Option("--since", min=0, help="seconds to look back; default: 3600")] = None,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on, with what happens from now on")] = False,
    url: UrlOption = None,
    output: OutputOption = Output.TEXT,
) -> int:
    """Show what happened: who registered, was ready, drained, left or died, and what the system did."""
    from revo.cli.events import show

    back = since if since is not None else 0.0 if follow else 3600.0
    return show(kind, name, since=back, follow=follow, url=url, output=output)


@app.command(epilog="Example: revo trace 55110d561f2abc5cd77d05f1c50de13a")
def trace(
    task_or_trace_id: Annotated[str, typer.Argument(help="a task's id, or a trace's")],
    url: UrlOption = None,
    output: OutputOption = Output.TEXT,
) -> int:
    """Print the trace of a task as a tree with times."""
    from revo.cli.trace import trace as show

    return show(task_or_trace_id, url=url, output=output)


@app.command(epilog="Examples: revo spec > mesh.yaml | revo spec schemas -o json | revo spec --target agent.py:Echo")
def spec(
    what: Annotated[
        SpecWhat, typer.Argument(help="the whole wire, or only the capabilities' schemas")
    ] = SpecWhat.ASYNCAPI,
    capability: CapabilityOption = "",
    target: Annotated[
        list[str] | None, typer.Option("--target", "-t", help="of this class, and not of a mesh; may be repeated")
    ] = None,
    to: Annotated[Path | None, typer.Option("--to", help="write to this file; of schemas, a folder")] = None,
    url: UrlOption = None,
    output: Annotated[SpecForm, typer.Option("--output", "-o", help="how it is written")] = SpecForm.YAML,
) -> int:
    """Write what the mesh says on the wire as AsyncAPI 3.0, or the JSON schemas of its capabilities."""
    from revo.cli.spec import spec as write

    return write(what, capability, target or [], to, url=url, form=output)


@app.command(epilog="Examples: revo verify | revo verify --output json")
def verify(url: UrlOption = None, output: OutputOption = Output.TEXT) -> int:
    """Count from the streams what became of every task. Exit 1 when one is lost, in limbo or doubled."""
    from revo.cli.verify import verify as count

    return count(url=url, output=output)


@app.command(epilog="Examples: revo chaos | revo chaos --seconds 60 --every 1 --spare-server --yes")
def chaos(
    seconds: Annotated[float, typer.Option("--seconds", min=1, max=3600, help="how long")] = 20.0,
    every: Annotated[float, typer.Option("--every", min=0.1, help="seconds between two blows")] = 1.0,
    *,
    spare_server: Annotated[bool, typer.Option("--spare-server", help="leave the embedded server alone")] = False,
    yes: YesOption = False,
    output: OutputOption = Output.TEXT,
) -> int:
    """Kill and stop processes of the mesh that runs here, for a bounded time, while it works; then verify."""
    from revo.cli.chaos import chaos as rage

    return rage(seconds=seconds, every=every, spare_server=spare_server, yes=yes, output=output)


@app.command(
    epilog="Examples: revo conformance --capability node --command 'node conform.js' | revo conformance --list"
)
def conformance(
    capability: Annotated[str, typer.Option("--capability", "-c", help="what the worker does")] = "conform",
    command: Annotated[
        str, typer.Option("--command", help="starts the worker; the url of the server is in REVO_NATS_URL")
    ] = "",
    only: Annotated[list[str] | None, typer.Option("--only", help="this check; may be repeated")] = None,
    patience: Annotated[
        float,
        typer.Option("--patience", min=0.5, help="seconds for what should come at once; a start has 40 in any case"),
    ] = 20.0,
    *,
    url: Annotated[str, typer.Option("--url", help="this NATS server instead of one of its own")] = "",
    requirements: Annotated[
        bool, typer.Option("--list", help="show what is asked of a worker, and run nothing")
    ] = False,
    output: OutputOption = Output.TEXT,
) -> int:
    """Check a worker in any language against what one must do on the wire. Exit 1 when it lacks a MUST."""
    from revo.cli.conformance import conformance as check
    from revo.cli.conformance import requirements as show
    from revo.conformance.runner import Plan

    if requirements:
        return show(output=output)
    return check(Plan(capability, command, url, only or (), patience), output=output)


@app.command(epilog="Example: revo doctor --output json")
def doctor(url: UrlOption = None, output: OutputOption = Output.TEXT) -> int:
    """Find out what is wrong, and what to do about it."""
    from revo.cli.doctor import doctor as examine

    return examine(url=url, output=output)


@app.command(epilog="Examples: revo demo | DEMO_PATH=src revo demo")
def demo(
    path: Annotated[
        Path | None,
        typer.Option("--path", envvar="DEMO_PATH", help="Python files to review; default: the standard library"),
    ] = None,
    files: Annotated[int, typer.Option("--files", min=1, help="how many at the most")] = 200,
    output: OutputOption = Output.TEXT,
) -> int:
    """Let two agents review 200 files, kill one of them on the way, and count what was lost."""
    from revo.cli.demo import demo as perform

    return perform(path, files=files, output=output)
