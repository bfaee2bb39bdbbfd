"""What an actor says of itself when it registers."""

from __future__ import annotations

import os
import secrets
import socket
import time
from typing import Final, cast

from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.json_schema import JsonSchemaMode

from actors.actor import Actor, Agent, Handler
from actors.parent import RESTARTS
from actors.registry.messages import CapabilityInfo, Registration
from actors.registry.model import Kind
from bus.settings import Settings

SYSTEM_PREFIX: Final = "revo-"
"""Names that begin with it are Revo's own."""


def registration_of(actor: Actor, instance: str, handlers: list[Handler], settings: Settings) -> Registration:
    """The registration of one instance, under a secret of its own."""
    kind: Kind = "agent" if isinstance(actor, Agent) else "actor"
    restarts = os.environ.get(RESTARTS, "0")
    return Registration(
        agent=actor.name,
        instance=instance,
        secret=secrets.token_hex(16),
        kind="system" if actor.name.startswith(SYSTEM_PREFIX) else kind,
        version=actor.version,
        host=socket.gethostname(),
        pid=os.getpid(),
        started_at=time.time(),
        restarts=int(restarts) if restarts.isdecimal() else 0,
        concurrency=actor.concurrency,
        labels={**actor.labels, **settings.labels},
        capabilities=[_capability(handler) for handler in handlers if handler.kind == "task"],
    )


def _capability(handler: Handler) -> CapabilityInfo:
    assert handler.message is not None
    return CapabilityInfo(
        name=handler.name,
        message=schema_of(handler.message, "validation"),
        result=schema_of(handler.value, "serialization"),
        topics=list(handler.topics),
    )


def schema_of(model: TypeAdapter[object], mode: JsonSchemaMode) -> dict[str, object]:
    """The JSON schema of a model; of one that has none, such as a callable's, the schema of anything."""
    try:
        return cast("dict[str, object]", model.json_schema(mode=mode))
    except PydanticInvalidForJsonSchema:
        return {}
