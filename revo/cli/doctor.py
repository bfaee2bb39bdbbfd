"""`revo doctor`: what is wrong, and what to do about it. Each check is one function."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from actors.agents.confine import without_network
from actors.keyring import Keyring
from actors.meshfile import DEFAULT_NAME, MEMORY, REGISTRY, STEWARD, MeshFile
from actors.meshhome import MeshHome
from actors.registry.client import RegistryClient
from bus import inspection, subjects, topology
from bus.connection import Connection
from bus.credentials import Credentials
from bus.errors import BusError
from bus.mesh import Mesh
from bus.server import find_binary
from bus.settings import KEYS, Settings, redact
from bus.telemetry import Telemetry
from revo.cli.common import DONE, FAILED, NO_MESH, Output, console, print_json, run_async
from revo.cli.embedded import DEFAULT_PORT, is_free

CLOCK_TOLERANCE: Final = 0.5
"""Seconds that our clock and the server's may differ: deadlines are unix times."""


@dataclass(frozen=True)
class Finding:
    """What one check found. `advice` says what to do unless it is `ok`."""

    check: str
    state: Literal["ok", "warn", "fail"]
    found: str
    advice: str = ""


def doctor(*, url: str | None, output: Output) -> int:
    """Run all checks; returns 0 when none failed, 3 when no mesh is reachable, else 1."""
    settings = Settings.from_env().at(url)
    findings = [_safely(check, settings) for check in (python, binary, home, keys, shadows, tools, port)]
    try:
        address = settings.find_url()
    except BusError as error:
        mesh = [Finding("mesh", "fail", "none runs here", str(error))]
    else:
        mesh = run_async(server(address, settings), "looking at the mesh")
    findings += mesh
    if output is Output.JSON:
        print_json([asdict(finding) for finding in findings])
    else:
        _show(findings)
    if any(finding.check == "mesh" and finding.state == "fail" for finding in mesh):
        return NO_MESH
    return FAILED if any(finding.state == "fail" for finding in findings) else DONE


def _safely(check: Callable[[Settings], Finding], settings: Settings) -> Finding:
    try:
        return check(settings)
    except (BusError, OSError, subprocess.SubprocessError) as error:
        return Finding(check.__name__, "fail", str(error), "mend it and run `revo doctor` again")


def python(_: Settings) -> Finding:
    """The interpreter."""
    return Finding("python", "ok", f"{platform.python_version()} at {sys.executable}")


def binary(settings: Settings) -> Finding:
    """The nats-server that `revo up` would start."""
    path = find_binary(settings.nats_server)
    said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    return Finding("nats-server", "ok", f"{said.strip()} at {path}")


def home(settings: Settings) -> Finding:
    """`$REVO_HOME` and what was left in it."""
    place = MeshHome(settings.home.absolute())
    shown = str(settings.home)
    if not place.folder.exists():
        return Finding("home", "ok", f"{shown} does not exist yet; `revo up` makes it")
    if not os.access(place.folder, os.W_OK):
        return Finding("home", "fail", f"{shown} cannot be written", "change its owner, or set REVO_HOME")
    if place.state.exists() and not place.holder():
        advice = f"the mesh ended without tidying up; delete {place.state} or run `revo up`"
        return Finding("home", "warn", f"{place.state} names a mesh that is gone", advice)
    return Finding("home", "ok", shown)


def shadows(_: Settings) -> Finding:
    """Folders in the way of our packages."""
    ours = {name: importlib.util.find_spec(name) for name in ("bus", "actors")}
    here = Path.cwd()
    hiding = [
        name
        for name, spec in ours.items()
        if (here / name).is_dir() and not (spec and spec.origin and Path(spec.origin).is_relative_to(here))
    ]
    if hiding:
        advice = "rename it, or run revo from another folder: Python would import it in place of ours"
        return Finding("packages", "fail", f"a folder {' and '.join(hiding)} here hides Revo's own", advice)
    return Finding("packages", "ok", "nothing here hides bus or actors")


def tools(_: Settings) -> Finding:
    """What the agents that come with Revo use."""
    beside = Path(sys.executable).parent
    missing = [name for name in ("ruff",) if not ((beside / name).exists() or shutil.which(name))]
    missing += [name for name in ("complexipy", "bandit") if importlib.util.find_spec(name) is None]
    if missing:
        return Finding(
            "tools", "fail", f"{', '.join(missing)} missing", "install revo-mesh anew, with its dependencies"
        )
    if not run_async(without_network()):
        advice = "this system lets no ordinary user make a namespace; let the network say what agents may reach"
        return Finding("tools", "warn", "they are there, and have the network of whoever runs their agent", advice)
    return Finding("tools", "ok", "ruff, complexipy and bandit are there, and have no network")


def keys(settings: Settings) -> Finding:
    """Whose key files are here, and who may read them."""
    keyring = Keyring(settings.home.absolute() / KEYS)
    users = [(tenant, name) for tenant, of in keyring.read().tenants.items() for name in of]
    if not users:
        return Finding("keys", "ok", "none yet; `revo up` makes them")
    for tenant, name in users:
        if (path := keyring.path(name, tenant)).exists():
            Credentials.load(path)  # says what is wrong with it
    return Finding("keys", "ok", f"{len(users)} users; `revo keys show` lists them")


def port(settings: Settings) -> Finding:
    """The port that `revo up` would listen on."""
    named = 0
    if Path(DEFAULT_NAME).is_file():
        named = MeshFile.load(Path(DEFAULT_NAME)).server.port
    wanted = named or DEFAULT_PORT
    place = MeshHome(settings.home.absolute())
    if place.holder():
        return Finding("port", "ok", f"the mesh that runs here has its own: {(place.read() or {}).get('url', '')}")
    if is_free(wanted):
        return Finding("port", "ok", f"{wanted} is free")
    if named:
        advice = f"end what listens there, or change [server] port in {DEFAULT_NAME}"
        return Finding("port", "fail", f"{wanted} is taken by somebody else", advice)
    advice = "`revo up` takes any other that is free; to use a server that listens there: --url, or REVO_NATS_URL"
    return Finding("port", "warn", f"{wanted} is taken by somebody else", advice)


async def server(url: str, settings: Settings) -> list[Finding]:
    """The server, its clock and its streams."""
    shown = redact(url)
    try:
        connection = await Connection.open(url, name="revo-doctor", settings=settings)
    except BusError as error:
        return [Finding("mesh", "fail", f"{shown} cannot be used", str(error))]
    async with connection:
        version = connection.client.connected_server_version
        found = f"{shown}, nats-server {version.major}.{version.minor}.{version.patch} with JetStream"
        findings = [Finding("mesh", "ok", found)]
        findings.append(await clock(connection))
        findings.append(await service(connection, subjects.REGISTRY))
        findings.append(await service(connection, subjects.STEWARD))
        findings.append(await service(connection, subjects.MEMORY))
        lines = await topology.differences(connection)
        advice = "`revo topology plan` shows all of it, `revo topology apply` makes it so; or change the setting back"
        findings += [Finding("streams", "warn", line, advice) for line in lines]
        if not lines:
            findings.append(Finding("streams", "ok", "as this version wants them"))
        if not any(line.endswith("does not exist") for line in lines):
            findings += await unserved(connection)
        return findings


async def clock(connection: Connection) -> Finding:
    """Our clock against the server's."""
    before = time.time()
    skew = await topology.server_time(connection) - (before + time.time()) / 2
    if abs(skew) > CLOCK_TOLERANCE:
        return Finding("clock", "warn", f"{skew:+.1f} s from the server's", "run NTP on both: deadlines are unix times")
    return Finding("clock", "ok", f"within {CLOCK_TOLERANCE:g} s of the server's")


_WITHOUT: Final = {
    subjects.REGISTRY: ("nobody new is found", REGISTRY),
    subjects.STEWARD: ("deadlines, cancels and redrives wait for one", STEWARD),
    subjects.MEMORY: ("agents reach no shared memory, and the locks of the dead stay", MEMORY),
}


async def service(connection: Connection, name: str) -> Finding:
    """Whether a system actor is there."""
    check = name.removeprefix("revo-")
    try:
        await connection.request(subjects.micro("PING", name), timeout=2.0)
    except BusError:
        missing, target = _WITHOUT[name]
        return Finding(check, "warn", "none answers", f"{missing}: `revo up` starts it, or `revo run {target}`")
    return Finding(check, "ok", "at least one answers")


async def unserved(connection: Connection) -> list[Finding]:
    """Queued tasks that no agent which lives can do."""
    telemetry = Telemetry(service="revo-doctor", instance="revo-doctor", sample=0.0)
    registry = RegistryClient(Mesh(connection, telemetry, client=subjects.ANONYMOUS))
    waiting: dict[str, int] = {}
    for queue in await inspection.queues(connection):
        waiting[queue.capability] = waiting.get(queue.capability, 0) + queue.waiting + queue.in_hand
    try:
        able = {capability.capability for capability in await registry.capabilities()}
        able |= {subjects.agent_address(instance.agent) for instance in await registry.instances()}
    except BusError:
        return []  # without a registry nobody can say; that one is missing has been said
    findings = [
        Finding(
            "queues",
            "warn",
            f"{count:,} {'task waits' if count == 1 else 'tasks wait'} for {name}, and no agent that lives "
            + ("has that name" if name.startswith("@") else "can do it"),
            "start one (`revo run TARGET`), or add it to the mesh file; until their deadline they wait for it",
        )
        for name, count in sorted(waiting.items())
        if count and name not in able
    ]
    return findings or [Finding("queues", "ok", f"{sum(waiting.values()):,} tasks queued, each with an agent for it")]


def _show(findings: list[Finding]) -> None:
    from rich.text import Text

    terminal = console()
    styles = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    for finding in findings:
        line = Text(f"{finding.state:5}", style=styles[finding.state])
        line.append(f"{finding.check:12}", style="bold").append(finding.found, style="default")
        terminal.print(line, soft_wrap=True)
        if finding.state != "ok":
            terminal.print(Text(f"{'':17}{finding.advice}", style="dim"), soft_wrap=True)
