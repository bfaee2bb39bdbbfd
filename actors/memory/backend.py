"""What carries out a client's calls: the streams themselves, where he may touch them (`actors.memory.store`,
`actors.memory.locks`), or a coordinator that does the same on his behalf (`actors.memory.remote`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from actors.memory.model import Entry, Fence, LockState, Mode, Namespace, Page

Outcome = Literal["written", "overwrote", "merged", "conflict", "absent"]
"""What became of a write: it is based on what stood there; it was not, and stands all the same; it was merged with what
stood there; it was added to the conflict set, and what stood there still does; it was a delete, nothing stood there,
and nothing was stored."""


@dataclass(frozen=True, slots=True)
class Author:
    """Who writes."""

    by: str
    task: str = ""
    trace_id: str = ""
    agent: str = ""
    """Whose rank it has, where that is known for sure; empty: his of whom `by` is an instance."""


@dataclass(frozen=True, slots=True)
class Write:
    """What is to become of a key."""

    key: str
    value: Any = None
    """Plain; of no meaning for a delete."""
    base: int | None = None
    """The version that it is based on, 0: none; None: the writer does not care, if the namespace does not. A delete
    without one is of whatever stands there.
    """
    ttl: float = 0.0
    delete: bool = False
    resolve: bool = False
    """It puts an end to the conflict set of its base; all other writes leave that as it is."""


@dataclass(frozen=True, slots=True)
class Written:
    """What became of it. `value` is what stands there now where it was merged."""

    key: str
    version: int
    outcome: Outcome = "written"
    value: Any = None


@dataclass(frozen=True, slots=True)
class Session:
    """A lease on all locks of one client. It ends when it is not renewed for `lease` seconds."""

    id: str
    revision: int
    lease: float


class Backend(Protocol):
    """Entries."""

    async def read(self, namespace: str, key: str, version: int = 0) -> Entry | None:
        """The newest version, be it a delete, or the one that is asked for; None where nothing was ever written.

        Raises:
            NoSuchVersionError: the key never had this version, or it is no longer kept.
        """
        ...

    async def write(
        self, namespace: str, writes: Sequence[Write], author: Author, fence: Fence | None = None
    ) -> list[Written]:
        """Carry out one write, or several, all or none, by the strategy of the namespace.

        Raises:
            ConflictError, TooManyConflictsError, StaleFenceError, WrongFenceError, NoSuchVersionError: nothing was
                changed.
            TransportError: whether it was written is not known.
        """
        ...

    async def history(self, namespace: str, key: str) -> list[Entry]:
        """All versions that are kept, the oldest first."""
        ...

    async def list(self, namespace: str, prefix: str = "", after: str = "", limit: int = 100) -> Page:
        """What stands at and under a key, by key."""
        ...

    async def conflicts(self, namespace: str, after: str = "", limit: int = 100) -> Page:
        """The entries that have a conflict set, by key."""
        ...

    def watch(self, namespace: str, prefix: str = "", since: int | None = None) -> AsyncGenerator[Entry, None]:
        """Every version written at and under a key, in order and without a gap: first what stands there, or with
        `since` all after that version that is still kept.
        """
        ...

    async def describe(self, namespace: str) -> Namespace:
        """How a namespace is used."""
        ...

    async def configure(self, namespace: str, how: Namespace, instead_of: Namespace | None = None) -> None:
        """Have a namespace be used so from now on, if it is used as `instead_of` says, should that be given.

        Raises:
            ConfigError: it is not; nothing was changed.
            PermissionDeniedError: that is an operator's.
        """
        ...

    async def purge(self, namespace: str, key: str) -> bool:
        """Drop all versions of a key, and write nothing; False: there were none.

        Raises:
            PermissionDeniedError: that is an operator's.
        """
        ...


class LockBackend(Protocol):
    """Locks."""

    async def open_session(self, author: Author) -> Session:
        """A new session."""
        ...

    async def renew(self, session: Session) -> Session:
        """The same session for another `lease` seconds.

        Raises:
            LockLostError: it has ended, and all its locks are gone.
        """
        ...

    async def close_session(self, session: Session) -> None:
        """End a session and give up all its locks. One that has ended is no error."""
        ...

    async def lock(
        self,
        namespace: str,
        key: str,
        mode: Mode,
        *,
        id: str,  # noqa: A002
        owner: str,
        session: Session,
        author: Author,
        wait: float,
    ) -> Fence | None:
        """Take a lock, or a place in the queue for it, and wait up to `wait` seconds; None: it is still waited for, and
        calling again with the same `id` goes on waiting in the same place. With `wait` 0 no place is taken. Locks of
        one `owner` do not exclude each other; an owner's name begins with its session's id.

        Cancelled, or without an answer, whether it is held or waited for is not known; `unlock` gives it up.

        Raises:
            DeadlockError: the wait would never end; its place is given up.
            LockLostError: the session has ended.
        """
        ...

    async def unlock(self, namespace: str, key: str, id: str) -> bool:  # noqa: A002
        """Give up a lock, or the place in the queue for it; False: it was neither."""
        ...

    async def locks(self, namespace: str = "") -> list[LockState]:
        """All locks that are held or waited for, in one namespace or in all; by namespace and key, holders first, then
        waiters in their order.
        """
        ...
