"""Have an instance, or a whole capability, take nothing for a while.

An instance is told, and says so in its lease; it is gone with the instance. A capability is paused on the server: its
consumers deliver nothing, to those that live and to those that come, until it is resumed.
"""

from __future__ import annotations

import time
from typing import Any, Final, Literal

from pydantic import BaseModel

from actors.registry.client import RegistryClient
from actors.registry.model import Pause, pause_key
from bus import codec, events, subjects, topology
from bus.errors import ConfigError, NoRespondersError, NotFoundError
from bus.mesh import Mesh
from bus.messages import CONTENT_TYPE, MSGPACK
from bus.store import Bucket

LONGEST: Final = 255
"""Characters of a reason."""


class Paused(BaseModel):
    """What was paused, or resumed."""

    name: str
    kind: Literal["instance", "capability"]
    reason: str
    """Empty: it goes on."""


async def pause(mesh: Mesh, name: str, reason: str) -> Paused:
    """Have an instance take no task, no request and no prompt, or the tasks of a capability wait.

    What runs is finished. Tasks that are sent to an agent by name are its own, and are done while a capability is
    paused. Paused again it has the new reason.

    Raises:
        ConfigError: the reason is empty or too long.
        NotFoundError: there is neither an instance nor a capability of that name; nothing was changed.
        PermissionDeniedError: the credentials are no operator's.
        NoRegistryError, TransportError: whether it is paused is not known; doing it again is safe.
    """
    if not 0 < len(reason) <= LONGEST:
        raise ConfigError("--reason", f"has {len(reason)} characters; give 1 to {LONGEST}")
    return await _turn(mesh, name, reason)


async def resume(mesh: Mesh, name: str) -> Paused:
    """Have it go on; as `pause`."""
    return await _turn(mesh, name, "")


async def _turn(mesh: Mesh, name: str, reason: str) -> Paused:
    subjects.token(name, "instance or capability")
    found = await RegistryClient(mesh).instances()
    instance = next((one for one in found if one.instance == name), None)
    if instance is not None:
        if instance.foreign:
            raise ConfigError(name, "is a foreign agent, which takes no orders")
        if instance.kind != "agent":
            raise ConfigError(name, f"is of {instance.agent}, which is no agent: it takes no tasks that could wait")
        await _tell_instance(mesh, instance.agent, name, reason)
        return Paused(name=name, kind="instance", reason=reason)
    try:
        await topology.pause_capability(mesh.connection, name, paused=bool(reason))
    except NotFoundError:
        raise NotFoundError(name, "there is no instance and no capability of that name; see `revo ps`") from None
    await _write_down(mesh, name, reason)
    return Paused(name=name, kind="capability", reason=reason)


async def _tell_instance(mesh: Mesh, agent: str, name: str, reason: str) -> None:
    connection = mesh.connection
    subject = subjects.control(agent, name, "pause")
    body = codec.encode({"reason": reason})
    try:
        await connection.request(subject, body, {CONTENT_TYPE: MSGPACK}, timeout=connection.settings.request_timeout)
    except NoRespondersError as error:
        raise NotFoundError(f"instance {name}", "it does not listen; is it of an older version?") from error
    await _tell(mesh, name, reason, agent=agent)


async def _write_down(mesh: Mesh, capability: str, reason: str) -> None:
    bucket = Bucket(mesh.connection, subjects.REGISTRY_BUCKET)
    key = pause_key(capability)
    if reason:
        said = Pause(reason=reason, by=mesh.client, at=time.time())
        await bucket.put(key, codec.encode(said.model_dump()), {CONTENT_TYPE: MSGPACK})
    elif (await bucket.get(key)) is not None:
        await bucket.remove(key)
    await _tell(mesh, capability, reason)


async def _tell(mesh: Mesh, name: str, reason: str, agent: str = "") -> None:
    kind, what = (events.AGENT if agent else events.SYSTEM), "paused" if reason else "resumed"
    details: dict[str, Any] = {"reason": reason} if reason else {}
    await events.tell(mesh.connection, kind, name, what, agent=agent, by=mesh.client, **details)
