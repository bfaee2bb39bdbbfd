"""`revo bench ...`: the commands; what they do is in `revo.bench`."""

from __future__ import annotations

from typing import Annotated

import typer

from revo.cli.common import Output
from revo.cli.options import OutputOption

bench = typer.Typer(help="Measure this machine.", no_args_is_help=True, rich_markup_mode=None)

RoundsOption = Annotated[int, typer.Option("--rounds", min=1, help="how many rounds of each way, in turns")]
TasksOption = Annotated[int, typer.Option("--tasks", min=200, help="how many a round")]


@bench.command("start", epilog="Example: revo bench start --output json")
def bench_start(
    runs: Annotated[int, typer.Option("--runs", min=1, help="how often")] = 5, output: OutputOption = Output.TEXT
) -> int:
    """Measure how soon an actor process is ready, and how much memory it holds when idle."""
    from revo.bench.start import start

    return start(runs, output=output)


@bench.command("registry", epilog="Examples: revo bench registry | revo bench registry --instances 200 --seconds 5")
def bench_registry(
    instances: Annotated[int, typer.Option("--instances", min=1, max=20_000, help="how many register")] = 1000,
    rate: Annotated[float, typer.Option("--rate", min=1, help="questions a second")] = 500.0,
    seconds: Annotated[float, typer.Option("--seconds", min=1, help="how long is asked")] = 10.0,
    output: OutputOption = Output.TEXT,
) -> int:
    """Measure a registry process: how fast instances register, what they cost it, how soon it answers `find`."""
    from revo.bench.registry import registry

    return registry(instances, rate=rate, seconds=seconds, output=output)


@bench.command("choosing", epilog="Examples: revo bench choosing | revo bench choosing --instances 5000 --output json")
def bench_choosing(
    instances: Annotated[int, typer.Option("--instances", min=1, max=20_000, help="how many there are")] = 1000,
    choices: Annotated[int, typer.Option("--choices", min=100, help="how many each way")] = 5000,
    output: OutputOption = Output.TEXT,
) -> int:
    """Measure what it takes a client to choose an instance, while all of them renew their leases."""
    from revo.bench.choosing import choosing

    return choosing(instances, choices, output=output)


@bench.command("tasks", epilog="Examples: revo bench tasks | revo bench tasks --tasks 20000 --output json")
def bench_tasks(
    count: TasksOption = 5000,
    rounds: RoundsOption = 3,
    system: Annotated[bool, typer.Option("--system", help="with a registry beside it")] = False,
    guards: Annotated[
        bool, typer.Option("--guards", help="also without users, and with accounts of their own")
    ] = False,
    output: OutputOption = Output.TEXT,
) -> int:
    """Measure durable tasks, plain and traced, against the shortest durable loop in plain nats-py."""
    from revo.bench.tasks import tasks as measure

    return measure(count, rounds, system=system, guards=guards, output=output)


@bench.command("ask", epilog="Example: revo bench ask --output json")
def bench_ask(count: TasksOption = 5000, rounds: RoundsOption = 3, output: OutputOption = Output.TEXT) -> int:
    """Measure typed request and reply against plain nats-py's."""
    from revo.bench.asks import ask

    return ask(count, rounds, output=output)


@bench.command("submit", epilog="Example: revo bench submit --tasks 50000")
def bench_submit(count: TasksOption = 20_000, rounds: RoundsOption = 3, output: OutputOption = Output.TEXT) -> int:
    """Measure how fast many tasks are stored, against plain nats-py's publish_async with dedup ids."""
    from revo.bench.asks import submit

    return submit(count, rounds, output=output)


@bench.command("scale", epilog="Example: revo bench scale --tasks 2000")
def bench_scale(count: TasksOption = 1000, output: OutputOption = Output.TEXT) -> int:
    """Measure what a second worker process adds to tasks that use 5 ms of CPU."""
    from revo.bench.queues import scale

    return scale(count, output=output)


@bench.command("priorities", epilog="Example: revo bench priorities --output json")
def bench_priorities(count: TasksOption = 20_000, output: OutputOption = Output.TEXT) -> int:
    """Measure how fast five full queues are worked off, against one in plain nats-py."""
    from revo.bench.queues import priorities

    return priorities(count, output=output)


@bench.command("emit", epilog="Examples: revo bench emit | revo bench emit --chunks 5000 --output json")
def bench_emit(
    count: Annotated[int, typer.Option("--chunks", min=100, help="how many a round")] = 1000,
    rounds: RoundsOption = 3,
    output: OutputOption = Output.TEXT,
) -> int:
    """Measure how soon what a handler shows is seen, against a publish of plain nats-py, which stores nothing."""
    from revo.bench.emit import emit

    return emit(count, rounds, output=output)


@bench.command("backlog", epilog="Example: revo bench backlog --tasks 100000")
def bench_backlog(
    count: Annotated[int, typer.Option("--tasks", min=20_000, help="how many wait")] = 100_000,
    output: OutputOption = Output.TEXT,
) -> int:
    """Measure whether a long queue is filled and worked off as fast as a short one, and what its worker holds."""
    from revo.bench.queues import backlog

    return backlog(count, output=output)


@bench.command("memory", epilog="Examples: revo bench memory | revo bench memory --clients 20 --output json")
def bench_memory(
    count: Annotated[int, typer.Option("--count", min=200, help="how many gets and puts a round")] = 5000,
    rounds: RoundsOption = 5,
    clients: Annotated[
        int, typer.Option("--clients", min=1, max=1000, help="connections that read, write and watch at once")
    ] = 50,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, max=600, help="how long they do")] = 4.0,
    output: OutputOption = Output.TEXT,
) -> int:
    """Measure shared memory, through both doors, against plain nats-py's key-value buckets."""
    from revo.bench.memory import memory

    return memory(count, rounds, clients, seconds, output=output)


@bench.command("idle", epilog="Example: revo bench idle --seconds 30")
def bench_idle(
    seconds: Annotated[float, typer.Option("--seconds", min=1, help="how long")] = 10.0,
    output: OutputOption = Output.TEXT,
) -> int:
    """Measure what a registry, a steward and four agents cost that have nothing to do."""
    from revo.bench.idle import idle

    return idle(seconds, output=output)
