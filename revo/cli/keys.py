"""`revo keys`: who may do what on the server of a mesh, and the files that prove it."""

from __future__ import annotations

import base64
import json
import os
import signal
import time
from pathlib import Path
from typing import Any, Final

from actors.admission import let_in, load_all
from actors.keyring import Keyring, User, wish_of
from actors.loading import load
from actors.meshfile import MeshFile
from actors.meshhome import MeshHome
from bus.credentials import OPERATOR, write_text
from bus.errors import ConfigError
from bus.grants import Wish
from bus.roles import AGENT, SUBMITTER
from bus.settings import KEYS, MAIN, Settings
from revo.cli.common import DONE, Output, console, print_json, say_line, table, waiting
from revo.kube.names import key_secret

_GRANTS: Final = ("does", "submits", "asks", "broadcasts", "prompts", "memory")
_PATIENCE: Final = 10.0
"""Seconds that a mesh that runs here may take to read its keys again."""


def init(tenant: str, mesh_file: Path | None, *, output: Output) -> int:
    """Make a tenant with its operator, its system actors and the agents of a mesh file; returns the exit status."""
    keyring, home = _keyring()
    if mesh_file is not None:
        if tenant != MAIN:
            raise ConfigError("--mesh", f"is for the tenant {MAIN}; add the agents of {tenant} by `revo keys add`")
        actors = load_all(MeshFile.load(mesh_file), mesh_file.absolute().parent, strict=True)
        made = let_in(keyring, actors, isolated=True)
    else:
        made = keyring.init(tenant)
    _tell(home, output)
    return _done(keyring, {"tenant": tenant, "made": made}, f"tenant {tenant} is {'made' if made else 'there'}", output)


def add(name: str, role: str, tenant: str, *, target: str | None, wish: Wish, shared: bool, output: Output) -> int:
    """Make a user, or change what it may do; returns the exit status."""
    if target is not None:
        if role != AGENT:
            raise ConfigError("--target", f"is for agents, and {name} is to be of role {role}")
        wish = wish_of(load(target))
    if role == SUBMITTER and wish == Wish():
        reason = "may do nothing: say --submits CAPABILITY (or '*'), --asks, --broadcasts, --prompts AGENT or --memory"
        raise ConfigError(name, reason)
    keyring, home = _keyring()
    made = keyring.init(tenant)
    made = keyring.ensure(name, role, wish, tenant, isolated=not shared) or made
    _tell(home, output)
    path = keyring.path(name, tenant)
    said = {"user": name, "role": role, "tenant": tenant, "changed": made, "credentials": str(path)}
    return _done(keyring, said, f"{name} is {role} of tenant {tenant}; its credentials are {path}", output)


def rotate(name: str, tenant: str, *, finish: bool, output: Output) -> int:
    """Give a user a new key, or let the one before it be good no more; returns the exit status."""
    keyring, home = _keyring()
    if finish:
        line = "has one key now" if keyring.finish(name, tenant) else "had one key only"
    else:
        keyring.rotate(name, tenant)
        line = "has a new key; the one before is good until `revo keys rotate --finish`"
    _tell(home, output)
    return _done(keyring, {"user": name, "tenant": tenant, "finished": finish}, f"{name} {line}", output)


def remove(name: str, tenant: str, *, output: Output) -> int:
    """Let a user be none any more; returns the exit status."""
    keyring, home = _keyring()
    state = home.read() if home.holder() else None
    if tenant == MAIN and state and name in {OPERATOR, *(actor["name"] for actor in state["actors"])}:
        raise ConfigError(name, "is of the mesh that runs here; end it, or take the actor out of its mesh file, first")
    keyring.remove(name, tenant)
    _tell(home, output)
    return _done(keyring, {"user": name, "tenant": tenant, "removed": True}, f"{name} is no user any more", output)


def show(name: str, tenant: str, *, config: bool, kubernetes: Path | None, output: Output) -> int:
    """Show the users, or what one of them may do, or what a server elsewhere needs; returns the exit status."""
    keyring, _ = _keyring()
    ring = keyring.read()
    if not ring.tenants:
        raise ConfigError(str(keyring.folder), "there are no keys yet; `revo up` or `revo keys init` makes them")
    if kubernetes is not None:
        return _export(keyring, tenant, kubernetes, output)
    if config:
        console().print(keyring.accounts.read_text(encoding="utf-8"), soft_wrap=True, markup=False)
        return DONE
    if name:
        return _show_one(keyring, name, tenant, output)
    rows = [_public(keyring, of, who, user) for of, users in ring.tenants.items() for who, user in users.items()]
    if output is Output.JSON:
        print_json(rows)
        return DONE
    made = table("", "tenant", "user", "role", "account", ">keys", "grants")
    for row in rows:
        who = (row[key] for key in ("tenant", "user", "role", "account"))
        made.add_row(*who, str(len(row["keys"])), _said(row))
    console().print(made)
    return DONE


def _show_one(keyring: Keyring, name: str, tenant: str, output: Output) -> int:
    granted = keyring.grants(name, tenant)
    user = keyring.read().tenants[tenant][name]
    publish, subscribe = [*granted.sends, *granted.pulls], [*granted.hears, *granted.serves, *granted.streams]
    publish += [asked for asked, _ in granted.finds]
    subscribe += [subject for both in granted.listings for subject in both]
    if output is Output.JSON:
        print_json({**_public(keyring, tenant, name, user), "publish": publish, "subscribe": subscribe})
        return DONE
    terminal = console()
    terminal.print(f"{name}, {user.role} of tenant {tenant}: {_said(_public(keyring, tenant, name, user))}")
    for what, some in (("may publish", publish), ("may subscribe", subscribe)):
        terminal.print(f"\n{what}", style="bold")
        for subject in some:
            terminal.print(f"  {subject}", soft_wrap=True, markup=False)
    return DONE


def _public(keyring: Keyring, tenant: str, name: str, user: User) -> dict[str, Any]:
    grants = {key: getattr(user, key) for key in _GRANTS}
    account = "own" if user.isolated else "shared"
    named = {"tenant": tenant, "user": name, "role": user.role, "account": account, "keys": user.keys}
    return {**named, **grants, "credentials": str(keyring.path(name, tenant))}


def _said(row: dict[str, Any]) -> str:
    said = [f"{key} {', '.join(row[key])}" for key in _GRANTS if row[key]]
    return "; ".join(said) or "what its role may"


# --- a server elsewhere ---------------------------------------------------------------------------------------


def _export(keyring: Keyring, tenant: str, folder: Path, output: Output) -> int:
    """Write manifests: the accounts for the server, and a secret for each user. All for their owner alone."""
    users = keyring.read().tenants.get(tenant, {})
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    accounts = {"nats-accounts.conf": keyring.accounts.read_text(encoding="utf-8")}
    written = [_manifest(folder / "nats-accounts.yaml", "ConfigMap", "revo-nats-accounts", {"data": accounts})]
    for name in users:
        seed = base64.b64encode(keyring.path(name, tenant).read_bytes()).decode()
        body = {"type": "Opaque", "data": {"credentials.nk": seed}}
        written.append(_manifest(folder / f"key-{name}.yaml", "Secret", key_secret(name), body))
    if output is Output.JSON:
        print_json([str(path) for path in written])
    else:
        console().print(f"{len(written)} manifests in {folder}; the secrets among them are as secret as the keys")
    return DONE


def _manifest(path: Path, kind: str, name: str, body: dict[str, Any]) -> Path:
    made = {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, **body}
    write_text(path, json.dumps(made, indent=1) + "\n")  # JSON is YAML
    return path


# --- what all of them do --------------------------------------------------------------------------------------


def _keyring() -> tuple[Keyring, MeshHome]:
    home = MeshHome(Settings.from_env().home.absolute())
    return Keyring(home.folder / KEYS), home


def _tell(home: MeshHome, output: Output) -> None:
    """Have the mesh that runs here know; returns when it does."""
    pid = home.holder()
    if not pid:
        return
    before = (home.read() or {}).get("written_at", 0.0)
    os.kill(pid, signal.SIGHUP)
    until = time.monotonic() + _PATIENCE
    with waiting("the mesh reads its keys again"):
        while time.monotonic() < until:
            if (home.read() or {}).get("written_at", 0.0) != before:
                return
            time.sleep(0.05)
    if output is Output.TEXT:
        say_line(f"the mesh that runs here has not said that it knows; see {home.log}")


def _done(keyring: Keyring, said: dict[str, Any], line: str, output: Output) -> int:
    if output is Output.JSON:
        print_json({**said, "accounts": str(keyring.accounts)})
    else:
        console().print(line, soft_wrap=True)
    return DONE
