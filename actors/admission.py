"""Lets actors into a mesh whose server knows users: gives them credentials for what they declare, and makes the
consumers that they may not make themselves.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from actors.actor import Actor, Agent, check_class
from actors.keyring import SYSTEM, Keyring, wish_of
from actors.loading import default_policy, load
from actors.meshfile import MeshFile
from bus import subjects, topology
from bus.connection import Connection
from bus.errors import BusError, ConfigError, InvalidSubjectError
from bus.grants import Wish
from bus.plan import Wanted
from bus.roles import AGENT
from bus.settings import MAIN, Settings

log = logging.getLogger(__name__)

_WANTED: Final = TypeAdapter(list[Wanted])


def load_all(mesh: MeshFile, folder: Path, *, strict: bool) -> dict[str, type[Actor] | None]:
    """The class of every actor that a mesh file names; `folder` is where the file is.

    Raises:
        ConfigError: with `strict`, one of them cannot be used. Otherwise it is None: who runs it says what is wrong.
    """
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    found: dict[str, type[Actor] | None] = {}
    for name, entry in mesh.actors.items():
        where, _, attribute = entry.target.rpartition(":")
        target = f"{folder / where}:{attribute}" if where.endswith(".py") else entry.target
        try:
            actor = load(target)
            check_class(actor)
        except BusError as error:
            if strict:
                raise
            log.debug("%s is let in with nothing: %s", name, error)
            found[name] = None
        else:
            found[name] = actor
    return found


def let_in(keyring: Keyring, actors: Mapping[str, type[Actor] | None], *, isolated: bool) -> bool:
    """Have credentials for the actors and for those that every mesh has; whether the server must learn of anything.

    Who stands keeps an account of its own, and what it was granted if its class cannot be used at the moment: replicas
    of it may run well.

    Raises:
        ConfigError: an actor is called as a user of another role is.
    """
    changed = keyring.init()
    standing = keyring.read().tenants[MAIN]
    for name, actor in actors.items():
        if name in SYSTEM or (actor is None and name in standing):
            continue
        wish = wish_of(actor) if actor is not None else Wish()
        alone = isolated or (name in standing and standing[name].isolated)
        changed = keyring.ensure(name, AGENT, wish, isolated=alone) or changed
    return changed


def wanted(actors: Mapping[str, type[Actor] | None], settings: Settings) -> list[Wanted]:
    """The capabilities of some actors, and how each is run.

    Raises:
        ConfigError: two agents disagree on that.
    """
    default = default_policy(settings)
    found: dict[str, Wanted] = {}
    for name, actor in actors.items():
        if actor is None or not issubclass(actor, Agent):
            continue
        for handler in check_class(actor):
            if handler.kind == "task":
                one = Wanted(handler.name, handler.policy_over(default), name)
                before = found.setdefault(handler.name, one)
                if before.policy != one.policy:
                    reason = f"agents {before.agent} and {name} disagree on how it is run"
                    raise ConfigError(f"capability {handler.name}", reason)
        found[subjects.agent_address(name)] = Wanted(subjects.agent_address(name), default, name)
    return list(found.values())


def write_wanted(wanted: list[Wanted]) -> str:
    """Capabilities as JSON, for `read_wanted` where the classes of their agents are not installed."""
    return json.dumps(_WANTED.dump_python(wanted, mode="json"), indent=2) + "\n"


def read_wanted(path: Path) -> list[Wanted]:
    """What `write_wanted` wrote.

    Raises:
        ConfigError: the file cannot be read, or is of something else.
    """
    try:
        found = _WANTED.validate_json(path.read_text(encoding="utf-8"))
        for one in found:
            subjects.address(one.capability)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: {where}" if where else str(path), first["msg"]) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"cannot be read: {error}") from error
    except InvalidSubjectError as error:
        raise ConfigError(str(path), str(error)) from error
    return found


async def prepare(connection: Connection, actors: Mapping[str, type[Actor] | None]) -> None:
    """Make the consumers of some actors that are missing. What stands holds, and the actor says so.

    Raises:
        ConfigError: two agents disagree on how a capability is run.
        TransportError: the server does not answer.
    """
    for one in wanted(actors, connection.settings):
        await topology.ensure_capability(connection, one.capability, one.policy, one.agent)
