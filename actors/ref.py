"""The address of an actor, as others hold it."""

from __future__ import annotations

from typing import Any, TypeVar, overload

from pydantic import TypeAdapter

from bus import codec, subjects
from bus.mesh import Mesh

T = TypeVar("T")


class ActorRef:
    """Speaks to an actor by name: whichever of its instances is free answers."""

    def __init__(self, mesh: Mesh, name: str) -> None:
        self._mesh = mesh
        self.name = subjects.token(name, "actor")

    @overload
    async def ask(self, method: str, message: object = None, *, timeout: float | None = None) -> Any: ...

    @overload
    async def ask(self, method: str, message: object = None, *, reply: type[T], timeout: float | None = None) -> T: ...

    async def ask(self, method: str, message: object = None, *, reply: Any = None, timeout: float | None = None) -> Any:
        """Ask and wait for the reply, as `reply` when that is given, else as plain data.

        At most once. Whether the actor lives or dies of a bad question is not the asker's to decide: it gets the error.

        Raises:
            NoRespondersError: at once, when no instance runs.
            RequestTimeoutError: no reply within `timeout` seconds.
            RemoteError: the handler failed, or the mailbox is full (`retryable`).
            DecodeError: the reply is not a `reply`.
        """
        value = await self._mesh.ask(self.name, method, message, timeout=timeout)
        if reply is None:
            return value
        return codec.validate(TypeAdapter(reply), value, subject=subjects.rpc(self.name, method))

    async def tell(self, method: str, message: object = None) -> None:
        """Send without waiting. At most once: nothing says whether it arrived."""
        await self._mesh.tell(self.name, method, message)
