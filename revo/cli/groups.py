"""The commands that come in groups: `revo tasks ...`, `dead`, `topology`, `k8s`, `keys` and `backup`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from revo.cli.common import Output
from revo.cli.options import CapabilityOption, ClientOption, OutputOption, UrlOption, YesOption

tasks = typer.Typer(
    help="See what waits, runs and has ended; cancel a task.", no_args_is_help=True, rich_markup_mode=None
)
dead = typer.Typer(
    help="Look after dead letters: tasks that failed for good.", no_args_is_help=True, rich_markup_mode=None
)

topology = typer.Typer(
    help="See and make what a mesh needs on a NATS server that others run.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
k8s = typer.Typer(
    help="Kubernetes: a mesh file as manifests for kustomize.", no_args_is_help=True, rich_markup_mode=None
)
keys = typer.Typer(
    help="See and make the users of a mesh: who may do what, and the files that prove it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
backup = typer.Typer(
    help="Copy all streams of a mesh to a folder, while it works; put them back.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
UserName = Annotated[str, typer.Argument(help="the user's name; of an agent and of a client their own")]
TenantOption = Annotated[str, typer.Option("--tenant", help="whose: tenants share a server and nothing else")]
Grant = list[str] | None
MeshFileArgument = Annotated[
    Path | None,
    typer.Argument(help="a mesh file, or an export of one; default: ./mesh.toml, else what comes with Revo"),
]
TaskId = Annotated[str, typer.Argument(help="the task's id")]
TaskIds = Annotated[list[str] | None, typer.Argument(help="ids of dead tasks")]
BackupFolder = Annotated[Path, typer.Argument(help="the folder of one backup")]
AllOption = Annotated[bool, typer.Option("--all", help="all of them, or all of --capability")]


@tasks.command("ls", epilog="Examples: revo tasks ls | revo tasks ls --ended 50 --output json")
def tasks_ls(
    capability: CapabilityOption = "",
    ended: Annotated[int, typer.Option("--ended", min=0, max=1000, help="how many of the last results")] = 10,
    url: UrlOption = None,
    output: OutputOption = Output.TEXT,
) -> int:
    """Show the queues, what runs where and for how long, and the last results."""
    from revo.cli.tasks import ls

    return ls(capability, ended=ended, url=url, output=output)


@tasks.command("show", epilog="Example: revo tasks show 55110d561f2abc5cd77d05f1c50de13a")
def tasks_show(task_id: TaskId, url: UrlOption = None, output: OutputOption = Output.TEXT) -> int:
    """Show where one task is: queued, running (on which instance, for how long), or how it ended."""
    from revo.cli.tasks import show

    return show(task_id, url=url, output=output)


@tasks.command("follow", epilog="Example: revo tasks follow 55110d561f2abc5cd77d05f1c50de13a --after 20 --output json")
def tasks_follow(
    task_id: TaskId,
    after: Annotated[int, typer.Option("--after", min=0, help="leave out what has numbers up to this")] = 0,
    capability: Annotated[
        str, typer.Option("--capability", "-c", help="of a task of our own: spares looking for it")
    ] = "",
    timeout: Annotated[float | None, typer.Option("--timeout", min=0.001, help="seconds; then exit 4")] = None,
    url: UrlOption = None,
    output: OutputOption = Output.TEXT,
) -> int:
    """Show what a task says, from the start or any number on, until it has ended; then how."""
    from revo.cli.follow import follow

    return follow(task_id, capability, after=after, timeout=timeout, url=url, output=output)


@tasks.command("cancel", epilog="Example: revo tasks cancel 55110d561f2abc5cd77d05f1c50de13a")
def tasks_cancel(
    task_id: TaskId,
    capability: CapabilityOption = "",
    client: ClientOption = "",
    url: UrlOption = None,
    output: OutputOption = Output.TEXT,
) -> int:
    """Cancel a task, queued or running, and its children. Exit 1 when it had ended before."""
    from revo.cli.tasks import cancel

    return cancel(task_id, capability=capability, client=client, url=url, output=output)


@dead.command("ls", epilog="Examples: revo dead ls | revo dead ls --capability code_review --output json")
def dead_ls(capability: CapabilityOption = "", url: UrlOption = None, output: OutputOption = Output.TEXT) -> int:
    """List dead letters, the latest last."""
    from revo.cli.dead import ls

    return ls(capability, url=url, output=output)


@dead.command("show", epilog="Example: revo dead show 55110d561f2abc5cd77d05f1c50de13a")
def dead_show(task_id: TaskId, url: UrlOption = None, output: OutputOption = Output.TEXT) -> int:
    """Show why a task is dead, its traceback, the original message, and the chain of its redrives."""
    from revo.cli.dead import show

    return show(task_id, url=url, output=output)


@dead.command("redrive", epilog="Examples: revo dead redrive 55110d56... | revo dead redrive --all -c code_review")
def dead_redrive(
    task_ids: TaskIds = None,
    *,
    every: AllOption = False,
    capability: CapabilityOption = "",
    url: UrlOption = None,
    output: OutputOption = Output.TEXT,
) -> int:
    """Submit dead tasks anew, each under an id of its own. Doing it twice is the same new task."""
    from revo.cli.dead import redrive

    return redrive(task_ids or [], every=every, capability=capability, url=url, output=output)


@dead.command("drop", epilog="Examples: revo dead drop 55110d56... | revo dead drop --all -c code_review --yes")
def dead_drop(
    task_ids: TaskIds = None,
    *,
    every: AllOption = False,
    capability: CapabilityOption = "",
    yes: YesOption = False,
    url: UrlOption = None,
    output: OutputOption = Output.TEXT,
) -> int:
    """Take dead letters away for good."""
    from revo.cli.dead import drop

    return drop(task_ids or [], every=every, capability=capability, yes=yes, url=url, output=output)


@topology.command("plan", epilog="Examples: revo topology plan | revo topology plan mesh.toml --check --output json")
def topology_plan(
    mesh_file: MeshFileArgument = None,
    *,
    check: Annotated[bool, typer.Option("--check", help="exit 1 when there is anything to do")] = False,
    url: UrlOption = None,
    output: OutputOption = Output.TEXT,
) -> int:
    """Show which streams and consumers would be created or changed. Touches nothing."""
    from revo.cli.topology import show

    return show(mesh_file, check=check, url=url, output=output)


@topology.command("export", epilog="Example: revo topology export mesh.toml > topology.json")
def topology_export(mesh_file: MeshFileArgument = None, output: OutputOption = Output.JSON) -> int:
    """Print what a mesh file wants, for `revo topology apply topology.json` where its agents are not installed."""
    from revo.cli.topology import export

    return export(mesh_file, output=output)


@topology.command("apply", epilog="Examples: revo topology apply mesh.toml | REVO_REPLICAS=3 revo topology apply")
def topology_apply(
    mesh_file: MeshFileArgument = None, url: UrlOption = None, output: OutputOption = Output.TEXT
) -> int:
    """Create what is missing and change what differs. Actors then need no right to create streams."""
    from revo.cli.topology import apply

    return apply(mesh_file, url=url, output=output)


@k8s.command(
    "render",
    epilog="Examples: revo k8s render --mesh mesh.toml --out k8s | revo k8s render --image registry.example/revo:0.1.0",
)
def k8s_render(
    mesh_file: Annotated[Path | None, typer.Option("--mesh", help="default: ./mesh.toml")] = None,
    folder: Annotated[Path, typer.Option("--out", help="the folder to write to")] = Path("k8s"),
    image: Annotated[str, typer.Option("--image", help="of the actors whose entry names none")] = "",
    output: OutputOption = Output.TEXT,
) -> int:
    """Write a folder for `kubectl apply -k`: base, components and overlays once, and what the mesh file says anew."""
    from revo.cli.k8s import render

    return render(mesh_file, folder, image, output=output)


@keys.command(
    "init", epilog="Examples: revo keys init | revo keys init --mesh mesh.toml | revo keys init --tenant acme"
)
def keys_init(
    mesh_file: Annotated[
        Path | None, typer.Option("--mesh", help="a mesh file whose agents get credentials, too, each an account")
    ] = None,
    tenant: TenantOption = "main",
    output: OutputOption = Output.TEXT,
) -> int:
    """Make a tenant: its operator, and the users of its system actors. `revo up` does it for the tenant main."""
    from revo.cli.keys import init

    return init(tenant, mesh_file, output=output)


@keys.command(
    "add",
    epilog="Examples: revo keys add shop --role submitter --submits code_review | "
    "revo keys add reviewer --role agent --target my.agents:Reviewer",
)
def keys_add(
    name: UserName,
    role: Annotated[str, typer.Option("--role", help="submitter, agent, gateway, observer or operator")],
    target: Annotated[str | None, typer.Option("--target", help="an agent's class, which says what it does")] = None,
    does: Annotated[Grant, typer.Option("--does", help="a capability whose tasks it does")] = None,
    submits: Annotated[Grant, typer.Option("--submits", help="a capability, @agent or '*', to submit to")] = None,
    asks: Annotated[Grant, typer.Option("--asks", help="a request that it makes: service.method")] = None,
    broadcasts: Annotated[Grant, typer.Option("--broadcasts", help="a capability to speak to all instances of")] = None,
    prompts: Annotated[Grant, typer.Option("--prompts", help="an agent that it prompts, or '*'")] = None,
    memory: Annotated[Grant, typer.Option("--memory", help="a namespace of shared memory; only read as NS:ro")] = None,
    *,
    shared: Annotated[bool, typer.Option("--shared", help="no account of its own: faster, and trusted more")] = False,
    tenant: TenantOption = "main",
    output: OutputOption = Output.TEXT,
) -> int:
    """Make a user and the file of its credentials, or change what it may do."""
    from bus.grants import Wish
    from revo.cli.keys import add

    given = (tuple(one or ()) for one in (does, submits, asks, broadcasts, prompts, memory))
    return add(name, role, tenant, target=target, wish=Wish(*given), shared=shared, output=output)


@keys.command("rotate", epilog="Examples: revo keys rotate shop | revo keys rotate shop --finish")
def keys_rotate(
    name: UserName,
    *,
    finish: Annotated[bool, typer.Option("--finish", help="the key before is good no more")] = False,
    tenant: TenantOption = "main",
    output: OutputOption = Output.TEXT,
) -> int:
    """Give a user a new key. The one before it is good until --finish; processes take up the new one by themselves."""
    from revo.cli.keys import rotate

    return rotate(name, tenant, finish=finish, output=output)


@keys.command("remove", epilog="Example: revo keys remove shop")
def keys_remove(name: UserName, tenant: TenantOption = "main", output: OutputOption = Output.TEXT) -> int:
    """Let a user be none any more. Its connections are cut."""
    from revo.cli.keys import remove

    return remove(name, tenant, output=output)


@keys.command("show", epilog="Examples: revo keys show | revo keys show shop | revo keys show --kubernetes manifests")
def keys_show(
    name: Annotated[str, typer.Argument(help="a user, for all that it may do")] = "",
    *,
    config: Annotated[bool, typer.Option("--config", help="what the server's configuration includes")] = False,
    kubernetes: Annotated[
        Path | None, typer.Option("--kubernetes", help="a folder to write manifests to: accounts, and secrets")
    ] = None,
    tenant: TenantOption = "main",
    output: OutputOption = Output.TEXT,
) -> int:
    """List the users, or show what one of them may do. No secret is shown."""
    from revo.cli.keys import show

    return show(name, tenant, config=config, kubernetes=kubernetes, output=output)


@backup.command("create", epilog='Examples: revo backup create monday | revo backup create "backups/$(date +%F-%H%M)"')
def backup_create(
    folder: Annotated[Path, typer.Argument(help="a folder that is new or empty")],
    url: UrlOption = None,
    output: OutputOption = Output.TEXT,
) -> int:
    """Copy all streams to a folder, unencrypted. What was accepted before is in it; the mesh may be at work."""
    from revo.cli.backup import create

    return create(folder, url=url, output=output)


@backup.command("show", epilog="Examples: revo backup show monday | revo backup show monday --output json")
def backup_show(folder: BackupFolder, output: OutputOption = Output.TEXT) -> int:
    """Check every byte of a backup and show what is in it. Needs no server."""
    from revo.cli.backup import show

    return show(folder, output=output)


@backup.command("restore", epilog="Examples: revo backup restore monday | revo backup restore monday --replace")
def backup_restore(
    folder: BackupFolder,
    mesh_file: Annotated[
        Path | None,
        typer.Argument(help="where no mesh runs: whose [server] is started for it; default: ./mesh.toml"),
    ] = None,
    *,
    replace: Annotated[bool, typer.Option("--replace", help="delete the streams that stand there")] = False,
    url: UrlOption = None,
    output: OutputOption = Output.TEXT,
) -> int:
    """Put a backup back, before the actors are started. Changes nothing where one of its streams stands."""
    from revo.cli.backup import restore

    return restore(folder, mesh_file, replace=replace, url=url, output=output)
