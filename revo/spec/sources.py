"""What can be done on a mesh: capabilities and methods with their schemas, from classes or from the registry."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from actors.actor import Actor, check_class
from actors.enrolment import schema_of
from actors.loading import load
from actors.registry.client import RegistryClient
from bus import subjects
from bus.mesh import Mesh


@dataclass(frozen=True)
class Capability:
    """What agents do as tasks."""

    name: str
    message: dict[str, Any]
    result: dict[str, Any]
    agent: str
    """By whose word."""
    version: str
    about: str = ""


@dataclass(frozen=True)
class Method:
    """What an actor answers at once."""

    service: str
    name: str
    message: dict[str, Any] | None
    result: dict[str, Any]
    scoped: bool
    about: str = ""


@dataclass(frozen=True)
class Found:
    """All that is to stand in the documents."""

    capabilities: list[Capability]
    methods: list[Method]


def of_class(actor: type[Actor]) -> Found:
    """What a class declares.

    Raises:
        ConfigError: it cannot be run; names what is wrong.
    """
    capabilities, methods = [], []
    for handler in check_class(actor):
        about = (inspect.getdoc(getattr(actor, handler.attribute)) or "").partition("\n\n")[0].replace("\n", " ")
        message = None if handler.message is None else schema_of(handler.message, "validation")
        result = schema_of(handler.value, "serialization")
        if handler.kind == "task":
            made = Capability(handler.name, message or {}, result, actor.name, actor.version, about)
            capabilities.append(made)
        else:
            methods.append(Method(actor.name, handler.name, message, result, handler.scoped, about))
    return Found(capabilities, methods)


def of_targets(targets: list[str]) -> Found:
    """What the classes declare that `package.module:Class` or `path/to/file.py:Class` name.

    Raises:
        ConfigError: one cannot be found or run.
    """
    found = [of_class(load(target)) for target in targets]
    return Found([one for each in found for one in each.capabilities], [one for each in found for one in each.methods])


async def of_mesh(mesh: Mesh, capability: str = "") -> Found:
    """The capabilities that somebody who lives has, or the one that is named. Of methods the registry knows nothing.

    Raises:
        NoRegistryError: no registry runs.
        PermissionDeniedError: submitters may not ask; operators and observers may.
        TransportError: no answer.
    """
    client = RegistryClient(mesh)
    names = [capability] if capability else [one.capability for one in await client.capabilities()]
    said = [await client.definition(name) for name in sorted(names)]
    return Found(
        [Capability(one.capability, one.message, one.result, one.agent, one.version) for one in said if one], []
    )


def system() -> list[Method]:
    """What Revo's own services answer."""
    from actors.bridge import Bridge
    from actors.memory import Coordinator
    from actors.registry import Registry
    from actors.steward import Steward

    services: tuple[type[Actor], ...] = (Steward, Registry, Coordinator, Bridge)
    assert {one.name for one in services} == {subjects.STEWARD, subjects.REGISTRY, subjects.MEMORY, subjects.BRIDGE}
    return [method for one in services for method in of_class(one).methods]
