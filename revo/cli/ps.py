"""`revo ps`: who lives, what they do, and who should live and does not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from actors.meshhome import MeshHome
from actors.registry.client import RegistryClient
from actors.registry.model import Instance
from bus.mesh import Mesh
from bus.settings import MIB, Settings
from revo.cli.common import DONE, Output, ago, console, print_json, quiet_logs, run_async, table

if TYPE_CHECKING:
    from rich.table import Table

STYLES: Final = {
    "idle": "green",
    "busy": "green",
    **dict.fromkeys(("degraded", "paused", "draining", "starting", "restarting", "resting"), "yellow"),
    **dict.fromkeys(("suspect", "error", "dead", "failed"), "red"),
}
_WIDE: Final = 110
"""Columns of a terminal from which on there is room for more."""


def ps(agent: str, capability: str, *, url: str | None, output: Output) -> int:
    """Show the instances that live; returns the exit status."""
    quiet_logs()
    rows = run_async(_look(agent, capability, url), "asking the registry")
    if output is Output.JSON:
        print_json(rows)
        return DONE
    terminal = console()
    if rows:
        terminal.print(_table(rows, wide=terminal.width >= _WIDE))
    else:
        which = f" of {agent or capability}" if agent or capability else ""
        terminal.print(f"no instance{which} lives")
    return DONE


async def _look(agent: str, capability: str, url: str | None) -> list[dict[str, Any]]:
    settings = Settings.from_env()
    async with Mesh.connect(url, settings=settings, service="revo-ps") as mesh:
        client = RegistryClient(mesh)
        found = await client.instances(agent, dead=not capability)
        if capability:
            found = [instance for instance in found if capability in instance.capabilities]
        rows = [row_of(instance) for instance in found]
        if not capability:
            living = {instance.instance for instance in found if instance.condition != "dead"}
            rows += supervised(settings, mesh.connection.url, agent, living)
    return sorted(rows, key=lambda row: (row["kind"] != "system", row["agent"], row["instance"]))


def row_of(instance: Instance) -> dict[str, Any]:
    """An instance as scripts see it."""
    row = instance.model_dump(exclude={"owner", "capabilities"})
    row["kind"] = "foreign" if row.pop("foreign") else instance.kind
    uptime = time.time() - instance.started_at if instance.started_at else 0.0
    row["condition"] = row["condition"] or instance.state  # an older registry does not say
    if row["condition"] == "dead":
        row |= {"state": "dead", "concurrency": 0}  # all that is known of it is that it is gone
    return {**row, "capabilities": sorted(instance.capabilities), "uptime": uptime}


def supervised(settings: Settings, url: str, agent: str, known: set[str]) -> list[dict[str, Any]]:
    """What the supervisor of the mesh on this machine looks after and the registry does not know: it is down."""
    state = MeshHome(settings.home.absolute()).read()
    if state is None or state.get("url") != url:
        return []
    rows = []
    for child in state.get("actors", []):
        if child["instance"] in known and child["state"] == "ready":
            continue
        if (agent and child["name"] != agent) or child["state"] == "ready":
            continue
        kind = "system" if child["name"].startswith("revo-") else "agent"
        rows.append(
            {
                "kind": kind,
                "agent": child["name"],
                "instance": child["label"],
                "state": child["state"],
                "condition": child["state"],
                "restarts": child["restarts"],
                "reason": child["reason"],
                "running": 0,
                "waiting": 0,
                "concurrency": 0,
                "uptime": 0.0,
                "capabilities": [],
            }
        )
    return rows


def _table(rows: list[dict[str, Any]], *, wide: bool) -> Table:
    from rich.markup import escape

    columns = ["kind", "=instance", "state", ">load", ">up", ">restarts"]
    found = table("", *columns, *([">cpu", ">memory", ">failed", ">p95", "host", "capabilities"] if wide else []))
    for row in rows:
        state = f"[{STYLES.get(row['condition'], 'default')}]{row['condition']}[/]"
        if row["reason"]:
            state += f" [dim]{escape(row['reason'])}[/]"
        up = ago(time.time() - row["uptime"]) if row["uptime"] else ""
        more = [*health_of(row), row.get("host", ""), ", ".join(row["capabilities"])] if wide else []
        found.add_row(row["kind"], row["instance"], state, load_of(row), up, str(row["restarts"]), *more)
    return found


def health_of(row: dict[str, Any]) -> list[str]:
    """Processor time in cores, memory, the share that failed, and how long 95 of 100 took."""
    health = row.get("health")
    if not health:
        return [""] * 4
    p95 = health["latency"].get("p95")
    took = "" if p95 is None else f"{p95 * 1000:.0f} ms" if p95 < 1 else f"{p95:.1f} s"
    return [f"{health['cpu']:.2f}", f"{health['memory'] / MIB:.0f} MB", f"{health['error_rate']:.0%}", took]


def load_of(row: dict[str, Any]) -> str:
    """How many of its slots are taken, and how many messages wait in the process."""
    if not row["concurrency"]:
        return ""
    waiting = f" +{row['waiting']}" if row["waiting"] else ""
    return f"{row['running']}/{row['concurrency']}{waiting}"
