"""The address of an actor, as others hold it."""

from __future__ import annotations

from typing import Any, TypedDict, TypeVar, Unpack, overload

from pydantic import TypeAdapter

from bus import codec, subjects
from bus.mesh import Mesh

T = TypeVar("T")


class How(TypedDict, total=False):
    """How an ask chooses its instance, and how often it is tried again; see `Mesh.ask`."""

    choose: str | None
    key: str | None
    instance: str | None
    retries: int


class ActorRef:
    """Speaks to an actor by name: whichever of its instances is free answers, or one that is chosen."""

    def __init__(self, mesh: Mesh, name: str) -> None:
        self._mesh = mesh
        self.name = subjects.token(name, "actor")

    @overload
    async def ask(
        self, method: str, message: object = None, *, timeout: float | None = None, **how: Unpack[How]
    ) -> Any: ...

    @overload
    async def ask(
        self, method: str, message: object = None, *, reply: type[T], timeout: float | None = None, **how: Unpack[How]
    ) -> T: ...

    async def ask(
        self,
        method: str,
        message: object = None,
        *,
        reply: Any = None,
        timeout: float | None = None,
        **how: Unpack[How],
    ) -> Any:
        """Ask and wait for the reply, as `reply` when that is given, else as plain data.

        At most once. Whether the actor lives or dies of a bad question is not the asker's to decide: it gets the error.
        What else may be said is as in `Mesh.ask`: `choose`, `key`, `instance`, `retries`.

        Raises:
            DecodeError: the reply is not a `reply`.
            BusError: as `Mesh.ask`.
        """
        value = await self._mesh.ask(self.name, method, message, timeout=timeout, **how)
        if reply is None:
            return value
        return codec.validate(TypeAdapter(reply), value, subject=subjects.rpc(self.name, method))

    async def tell(self, method: str, message: object = None) -> None:
        """Send without waiting. At most once: nothing says whether it arrived."""
        await self._mesh.tell(self.name, method, message)
