"""`revo memory ...`: the table of its commands."""

from __future__ import annotations

from typing import Annotated

import typer

from revo.cli import completion
from revo.cli.common import Output
from revo.cli.options import OutputOption, UrlOption, YesOption

memory = typer.Typer(
    help="See and change what agents share: entries and their versions, conflicts, locks.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
conflicts = typer.Typer(
    help="Entries whose values contradict each other: see them, choose.", no_args_is_help=True, rich_markup_mode=None
)
namespaces = typer.Typer(
    help="How namespaces are used: what becomes of writes that contradict.", no_args_is_help=True, rich_markup_mode=None
)
memory.add_typer(conflicts, name="conflicts")
memory.add_typer(namespaces, name="namespaces")

Key = Annotated[str, typer.Argument(help="such as project/app/findings", autocompletion=completion.keys)]
Prefix = Annotated[str, typer.Argument(help="a key: it and all under it", autocompletion=completion.keys)]
Value = Annotated[str, typer.Argument(help="JSON; @FILE or - reads it from a file or stdin")]
NamespaceOption = Annotated[
    str, typer.Option("--namespace", "-n", help="which part of the memory", autocompletion=completion.namespaces)
]
NamespaceName = Annotated[str, typer.Argument(help="a namespace", autocompletion=completion.namespaces)]
BaseOption = Annotated[
    int | None, typer.Option("--base", min=0, help="the version that it is made from; 0: nothing stands there")
]


@memory.command(
    "get", epilog="Examples: revo memory get project/app | revo memory get project/app --version 12 -o json"
)
def get(
    key: Key,
    version: Annotated[int, typer.Option("--version", min=0, help="an older one; 0: the newest")] = 0,
    namespace: NamespaceOption = "main",
    url: UrlOption = None,
    output: OutputOption = Output.TEXT,
) -> int:
    """Print what stands under a key. With --output json also who wrote it, when, and what contradicts it."""
    from revo.cli.memory_entries import get as read

    return read(namespace, key, version, url=url, output=output)


@memory.command(
    "put",
    epilog="""Examples: revo memory put project/app '{"rules": 3}' | revo memory put project/app @app.json --base 12""",
)
def put(
    key: Key,
    value: Value,
    base: BaseOption = None,
    ttl: Annotated[float, typer.Option("--ttl", min=0, help="seconds until it is gone; 0: never")] = 0.0,
    namespace: NamespaceOption = "main",
    url: UrlOption = None,
    output: OutputOption = Output.TEXT,
) -> int:
    """Write a value. Exit 1 when it is refused, or contradicts what stands there and waits beside it."""
    from revo.cli.memory_entries import put as write

    return write(namespace, key, value, base, ttl, url=url, output=output)


@memory.command("rm", epilog="Examples: revo memory rm project/app | revo memory rm project/app --base 12")
def rm(
    key: Key,
    base: BaseOption = None,
    namespace: NamespaceOption = "main",
    url: UrlOption = None,
    output: OutputOption = Output.TEXT,
) -> int:
    """Delete what stands under a key, and nothing below it. It can be had back for a week."""
    from revo.cli.memory_entries import rm as delete

    return delete(namespace, key, base, url=url, output=output)


@memory.command("purge", epilog="Example: revo memory purge project/app/token --yes")
def purge(
    key: Key,
    *,
    namespace: NamespaceOption = "main",
    yes: YesOption = False,
    url: UrlOption = None,
    output: OutputOption = Output.TEXT,
) -> int:
    """Drop a key with all its versions, for good: for secrets, and where the store is full."""
    from revo.cli.memory_entries import purge as drop

    return drop(namespace, key, yes=yes, url=url, output=output)


@memory.command("undelete", epilog="Example: revo memory undelete project/app")
def undelete(
    key: Key, namespace: NamespaceOption = "main", url: UrlOption = None, output: OutputOption = Output.TEXT
) -> int:
    """Write again what was deleted, or whose time ran out."""
    from revo.cli.memory_entries import undelete as restore

    return restore(namespace, key, url=url, output=output)


@memory.command("ls", epilog="Examples: revo memory ls | revo memory ls project --namespace findings --output json")
def ls(
    prefix: Prefix = "", namespace: NamespaceOption = "main", url: UrlOption = None, output: OutputOption = Output.TEXT
) -> int:
    """List the entries at and under a key."""
    from revo.cli.memory_entries import ls as show

    return show(namespace, prefix, url=url, output=output)


@memory.command("history", epilog="Example: revo memory history project/app")
def history(
    key: Key, namespace: NamespaceOption = "main", url: UrlOption = None, output: OutputOption = Output.TEXT
) -> int:
    """List the versions of an entry that are kept: who wrote them, when, and from which version."""
    from revo.cli.memory_entries import history as show

    return show(namespace, key, url=url, output=output)


@memory.command("diff", epilog="Examples: revo memory diff project/app 12 | revo memory diff project/app 12 15 -o json")
def diff(
    key: Key,
    old: Annotated[int, typer.Argument(min=0, help="a version; 0: from nothing")],
    new: Annotated[int, typer.Argument(min=0, help="another one; 0: the newest")] = 0,
    namespace: NamespaceOption = "main",
    url: UrlOption = None,
    output: OutputOption = Output.TEXT,
) -> int:
    """Show what differs between two versions of an entry."""
    from revo.cli.memory_entries import diff as show

    return show(namespace, key, old, new, url=url, output=output)


@memory.command("watch", epilog="Examples: revo memory watch project | revo memory watch --since 120 --output json")
def watch(
    prefix: Prefix = "",
    since: Annotated[
        int | None, typer.Option("--since", min=0, help="all after this version; default: what stands there first")
    ] = None,
    count: Annotated[int, typer.Option("--count", min=0, help="so many; 0: until Ctrl-C")] = 0,
    namespace: NamespaceOption = "main",
    url: UrlOption = None,
    output: OutputOption = Output.TEXT,
) -> int:
    """Follow what is written at and under a key. With --output json one object a line."""
    from revo.cli.memory_entries import watch as follow

    return follow(namespace, prefix, since, count, url=url, output=output)


@memory.command("locks", epilog="Examples: revo memory locks | revo memory locks --all --output json")
def locks(
    namespace: NamespaceOption = "main",
    *,
    every: Annotated[bool, typer.Option("--all", help="of all namespaces")] = False,
    url: UrlOption = None,
    output: OutputOption = Output.TEXT,
) -> int:
    """Show who holds which lock and who waits for one, and for how long."""
    from revo.cli.memory_admin import locks as show

    return show("" if every else namespace, url=url, output=output)


@conflicts.command("ls", epilog="Example: revo memory conflicts ls --namespace findings")
def conflicts_ls(namespace: NamespaceOption = "main", url: UrlOption = None, output: OutputOption = Output.TEXT) -> int:
    """List the entries that wait for somebody to choose between their values."""
    from revo.cli.memory_admin import conflicts_ls as show

    return show(namespace, url=url, output=output)


@conflicts.command("show", epilog="Example: revo memory conflicts show project/app")
def conflicts_show(
    key: Key, namespace: NamespaceOption = "main", url: UrlOption = None, output: OutputOption = Output.TEXT
) -> int:
    """Show what stands under a key, and in what each value that contradicts it differs."""
    from revo.cli.memory_admin import conflicts_show as show

    return show(namespace, key, url=url, output=output)


@conflicts.command(
    "resolve",
    epilog="Examples: revo memory conflicts resolve project/app --take 1 | "
    """revo memory conflicts resolve project/app '{"rules": 4}' --base 15""",
)
def conflicts_resolve(
    key: Key,
    value: Annotated[str | None, typer.Argument(help="what is to stand there, as in `put`")] = None,
    take: Annotated[
        int | None, typer.Option("--take", min=0, help="or which of the values, as `show` numbers them")
    ] = None,
    base: Annotated[
        int | None, typer.Option("--base", min=1, help="the version that was shown; default: whatever stands there")
    ] = None,
    namespace: NamespaceOption = "main",
    url: UrlOption = None,
    output: OutputOption = Output.TEXT,
) -> int:
    """Put an end to a conflict: choose a value, or write another one."""
    from revo.cli.memory_admin import conflicts_resolve as resolve

    return resolve(namespace, key, value, take, base, url=url, output=output)


@namespaces.command("ls", epilog="Example: revo memory namespaces ls")
def namespaces_ls(url: UrlOption = None, output: OutputOption = Output.TEXT) -> int:
    """List the namespaces, how they are used, and how many keys they have."""
    from revo.cli.memory_admin import namespaces_ls as show

    return show(url=url, output=output)


@namespaces.command("show", epilog="Example: revo memory namespaces show findings")
def namespaces_show(name: NamespaceName = "main", url: UrlOption = None, output: OutputOption = Output.TEXT) -> int:
    """Show how a namespace is used."""
    from revo.cli.memory_admin import namespaces_show as show

    return show(name, url=url, output=output)


@namespaces.command(
    "set",
    epilog="Examples: revo memory namespaces set findings --strategy merge --rule '**.tags=set' --rule runs=counter | "
    "revo memory namespaces set plans --strategy highest_rank --rank reviewer=2",
)
def namespaces_set(
    name: NamespaceName,
    strategy: Annotated[
        str,
        typer.Option("--strategy", help="last_writer_wins, first_writer_wins, merge, highest_rank or manual"),
    ] = "",
    rule: Annotated[
        list[str] | None,
        typer.Option("--rule", help="path=counter, set, append or a function's name; path= takes it away"),
    ] = None,
    rank: Annotated[list[str] | None, typer.Option("--rank", help="agent-or-user=number; who= takes it away")] = None,
    url: UrlOption = None,
    output: OutputOption = Output.TEXT,
) -> int:
    """Say what becomes of writes that are not based on the newest version. What is not named stays as it is."""
    from revo.cli.memory_admin import namespaces_set as configure

    return configure(name, strategy, rule or [], rank or [], url=url, output=output)
