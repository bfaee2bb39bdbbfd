"""What clients ask of the stewards, until there is an answer: all that a steward does may be done again."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from bus import rpc, subjects
from bus.connection import Connection
from bus.errors import BusError, NoRespondersError, NoStewardError, NotFoundError, RemoteError, TransportError
from bus.messages import Cancelled
from bus.outcomes import Policy
from bus.telemetry import Telemetry
from bus.topology import ForbiddenTopologyError, PolicyConflictError, settle

PATIENCE: Final = 1.5
"""Seconds to wait for a steward to be there: after a restart of the server it takes a moment."""


async def policy_of(
    connection: Connection, telemetry: Telemetry, capability: str, wanted: Policy, agent: str
) -> tuple[Policy, PolicyConflictError | None]:
    """How a capability, or an agent's own address, is run; for who may not look at its consumers. As
    `topology.ensure_capability`, but it makes none.

    Raises:
        ForbiddenTopologyError: it has no consumers.
        NoStewardError, TransportError: nobody says.
    """
    try:
        said = await ask(connection, telemetry, "policy", {"name": capability})
    except NotFoundError as error:
        raise ForbiddenTopologyError(f"the consumers of {capability}", "create") from error
    held = Policy.of(said["policy"]) if said["policy"] else None
    return settle(capability, wanted, agent, held, str(said["agent"]))


async def cancel(
    connection: Connection,
    telemetry: Telemetry,
    task_id: str,
    *,
    by: str,
    capability: str = "",
    client: str = "",
    sequence: int = 0,
) -> Cancelled:
    """Have a task cancelled on behalf of a client; see `bus.mesh.Mesh.cancel`."""
    subjects.token(task_id, "task id")
    message = {
        "task_id": task_id,
        "capability": capability,
        "client": client,
        "sequence": sequence,
        "by": f"client {by}",
    }
    return Cancelled.model_validate(await ask(connection, telemetry, "cancel", message))


async def ask(
    connection: Connection, telemetry: Telemetry, method: str, message: dict[str, Any], *, scope: str = ""
) -> Any:
    """Ask any steward, within a scope where the method has some, and return the plain value of its answer.

    Raises:
        NotFoundError: what the message names is not there.
        NoStewardError: nobody is there to do it.
        RemoteError: the steward refuses; asking again changes nothing.
        TransportError: no answer within the setting `publish_timeout`; asking again is safe.
    """
    loop = asyncio.get_running_loop()
    started, pause = loop.time(), 0.1
    while True:
        try:
            return await rpc.call(connection, telemetry, subjects.STEWARD, method, message, scope=scope)
        except RemoteError as error:
            if error.code == "not_found":
                what, _, reason = error.message.partition(": ")
                raise NotFoundError(what, reason) from error
            if not error.retryable:
                raise
            failure: BusError = error
        except TransportError as error:
            failure = error
        waited = loop.time() - started
        if isinstance(failure, NoRespondersError) and waited > PATIENCE:
            raise NoStewardError(method) from failure
        if waited > connection.settings.publish_timeout:
            raise failure
        await asyncio.sleep(pause)
        pause = min(1.0, pause * 2)
