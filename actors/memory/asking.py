"""Asks the coordinators of shared memory until there is an answer: all that they are asked may be asked again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from actors.memory import crossing
from actors.memory.errors import NoMemoryError
from bus import codec, rpc, subjects
from bus.errors import (
    BusClosedError,
    BusError,
    ConfigError,
    NoRespondersError,
    NoTimeLeftError,
    RemoteError,
    TransportError,
)
from bus.mesh import Mesh

M = TypeVar("M", bound=BaseModel)

PATIENCE: Final = 3.0
"""Seconds to wait for a coordinator to be there: one that was killed is back within that."""
TRY: Final = 2.0
"""Seconds for one try, besides what it waits by itself: who answers is quick, and who was killed never does."""
PAUSE: Final = 0.02
PAUSE_MAX: Final = 0.5
_FINAL: Final = ("deadlock", "outcome_unknown", "overtaken", "queue_full")
"""What may be cured by trying again, but not at once."""


def message(model: type[M], **fields: Any) -> M:
    """A message to a coordinator.

    Raises:
        ConfigError: there can be no such.
    """
    try:
        return model(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(".".join(str(part) for part in first["loc"]), first["msg"].lower()) from error


async def ask(
    mesh: Mesh,
    namespace: str,
    method: str,
    asked: BaseModel | None,
    reply: Any,
    *,
    wait: float = 0.0,
    timeout: float = TRY,
    patience: float | None = None,
    before_again: Callable[[], object] | None = None,
) -> Any:
    """Ask any coordinator, within a namespace or without, and return its answer as `reply`, any type.

    `wait` is seconds that it is asked to wait; `patience` those for which it is asked again (default: the setting
    `publish_timeout`). `before_again` is called before each try after one that may have arrived.

    Raises:
        NoMemoryError: none runs.
        PermissionDeniedError: that was not granted.
        TransportError: no answer.
        BusError: what was raised there.
    """
    connection, loop = mesh.connection, asyncio.get_running_loop()
    began, pause, arrived = loop.time(), PAUSE, False
    if namespace:
        subjects.token(namespace, "namespace")
    while True:
        try:
            answer = await rpc.call(
                connection, mesh.telemetry, subjects.MEMORY, method, asked, timeout=timeout + wait, scope=namespace
            )
            return codec.as_type(reply, answer, subject=subjects.MEMORY)
        except (BusClosedError, NoTimeLeftError):
            raise
        except RemoteError as error:
            failure: BusError = crossing.received(error)
            if not failure.retryable or failure.code in _FINAL:
                raise failure from (error if failure is not error else None)
        except NoRespondersError as error:
            failure = NoMemoryError()
            failure.__cause__ = error
        except TransportError as error:
            failure = error
        most = connection.settings.publish_timeout if patience is None else patience
        missing = isinstance(failure, NoMemoryError)
        if loop.time() - began > (min(PATIENCE, most) if missing else most):
            raise failure
        arrived = arrived or not missing
        await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311
        pause = min(PAUSE_MAX, pause * 2)
        if before_again is not None and arrived:
            before_again()
