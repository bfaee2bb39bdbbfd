"""A lock as its holder sees it: held for the length of a block, which ends when the lock is lost."""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from actors.memory.errors import LockLostError
from actors.memory.leasing import Lease
from actors.memory.model import Fence, Mode
from bus.errors import ConfigError

if TYPE_CHECKING:
    from actors.memory.holding import Holder

log = logging.getLogger(__name__)


class Grant(NamedTuple):
    """That a lock is held, and the lease that it hangs on."""

    fence: Fence
    lease: Lease


class Lock:
    """A lock, to be held for the length of an `async with` block, or between `acquire` and `release`.

    Within one task, locks do not exclude each other; two tasks of one process do.
    """

    def __init__(self, holder: Holder, namespace: str, key: str, mode: Mode, timeout: float | None) -> None:
        self.namespace: Final = namespace
        self.key: Final = key
        self.mode: Final = mode
        self.timeout: Final = timeout
        """Seconds to wait for it; None: as long as it takes."""
        self.lost = asyncio.Event()
        """Set when it was taken away while it was held."""
        self._holder = holder
        self._grant: Grant | None = None
        self._reason = ""
        self._task: asyncio.Task[Any] | None = None
        """Whose block it is held for."""
        self._cancelling = 0
        self._cancelled = False

    @property
    def held(self) -> bool:
        """Whether it is held, as far as is known here; a fenced write knows better."""
        return self._grant is not None and not self.lost.is_set() and self._grant.lease.lives

    @property
    def token(self) -> int:
        """The fencing token: grows from one grant of an exclusive lock to the next. 0: it was not held yet."""
        return self._grant.fence.token if self._grant is not None else 0

    @property
    def fence(self) -> Fence:
        """What a fenced write shows, also when the lock is lost: the store refuses it then.

        Raises:
            ConfigError: it is not held.
        """
        if self._grant is None:
            raise ConfigError(f"the lock on {self.key}", "is not held")
        return self._grant.fence

    async def acquire(self) -> Self:
        """Hold it from now on, until `release`; nobody cancels anything when it is lost.

        Raises:
            LockTimeoutError: others held it for longer than `timeout`.
            DeadlockError: those that hold it wait for what we hold.
            LockLostError: what this task holds already is lost.
            ConfigError: it is held already, or there is no task that could.
            TransportError: no answer.
        """
        if self._grant is not None:
            raise ConfigError(f"the lock on {self.key}", "is held already; take another one of the same key")
        self.lost.clear()
        self._reason = ""
        self._grant = await self._holder.take(self)
        self._grant.lease.tell(self._grant.fence.id, self._lose)
        return self

    async def release(self) -> None:
        """Hold it no more. Once it is released this does nothing. Without a server it is waited no longer than for the
        end of the lease, which is the end of the lock.

        Raises:
            LockLostError: it was lost meanwhile.
        """
        grant, self._grant = self._grant, None
        if grant is None:
            return
        reason = self._reason or await self._holder.give_up(grant)
        if reason:
            self._reason = reason
            self.lost.set()
            raise LockLostError(self.key, reason)

    def _lose(self, reason: str) -> None:
        """It was taken away: end the block that it is held for."""
        self._reason = reason
        self.lost.set()
        if self._task is not None and self._task is not asyncio.current_task():
            self._cancelled = True
            self._task.cancel(f"the lock on {self.key} is lost")

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise ConfigError(f"the lock on {self.key}", "can be held within a task only")
        await self.acquire()
        self._task, self._cancelling, self._cancelled = task, task.cancelling(), False
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        ours = self._cancelled and task is not None and task.uncancel() <= self._cancelling
        try:
            await self.release()
        except LockLostError as lost:
            if kind is None or (ours and issubclass(kind, asyncio.CancelledError)):
                raise lost from error
            log.warning("%s", lost)
