"""What agents share, as they use it: `Memory(mesh, "findings")`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from typing import Any, Final, Literal, Protocol

from actors.memory.backend import Write, Written
from actors.memory.diff import Difference, diff
from actors.memory.doors import author_of, doors_of
from actors.memory.errors import NoSuchVersionError
from actors.memory.holding import Lock
from actors.memory.model import Base, Entry, Fence, LockState, Mode, Namespace, Page, Summary
from actors.memory.plain import ABSENT
from bus import subjects
from bus.errors import ConfigError
from bus.mesh import Mesh

_WALKED: Final = 1000
"""Entries that are asked for at once where all are wanted."""


class Memory:
    """One namespace of shared memory: entries by hierarchical keys such as `project/app/findings`.

    A value is a map, a list, a scalar, or a pydantic model. Every write makes a version; the last ones (16, the setting
    `memory_history`) are kept. A call that changes something is carried out once, also where an answer is lost and it
    is sent again.
    """

    def __init__(self, mesh: Mesh, namespace: str) -> None:
        """Nothing is sent yet. An actor declares the namespace: `memory = ["findings"]`.

        Raises:
            InvalidSubjectError: no namespace can be called so.
        """
        self.namespace: Final = subjects.token(namespace, "namespace")
        self._mesh = mesh
        self._doors = doors_of(mesh)

    # --- one entry --------------------------------------------------------------------------------------------

    async def get(self, key: str, version: int = 0) -> Entry | None:
        """What stands under a key, or one of its versions; None where nothing stands: never, deleted or expired.

        It is the newest as the stream's leader has it: whatever was written before this was called is in it. What is
        deleted and has `alternatives` is returned, too, for they wait for somebody: `entry.live` says whether there is
        a value.

        Raises:
            InvalidKeyError: no entry can be called so.
            NoSuchVersionError: the key never had this version, or it is no longer kept.
            DecodeError: somebody stored there what is no entry.
            TransportError: no answer.
        """
        entry = await self._doors.backend.read(self.namespace, key, version)
        return entry if entry is not None and (version or entry.live or entry.alternatives) else None

    async def put(
        self, key: str, value: Any, base: Base = None, *, ttl: float = 0.0, fence: Fence | _Holds | None = None
    ) -> Written:
        """Write a value; return the version that it became, and what became of it.

        `base` is the entry that the value was made from, or its version; without one it stands for "I know of none",
        but where the last writer wins, who needs no base. Where something else stands there, the strategy of the
        namespace decides (`docs/memory.md`). After `ttl` seconds (0: never) the entry is gone for all readers. With
        `fence`, a lock that is held, the write is refused at the store if the lock is held no more.

        Raises:
            InvalidKeyError, InvalidTtlError, EncodeError, PayloadTooLargeError, NoSuchVersionError, ConflictError,
            TooManyConflictsError, StaleFenceError, WrongFenceError: nothing was changed.
            QueueFullError: the bucket is full; nothing was changed.
            TransportError: whether it was written is not known.
        """
        write = Write(key, value, _version(base), ttl)
        return (await self._doors.backend.write(self.namespace, (write,), author_of(self._mesh), _fence(fence)))[0]

    async def put_all(
        self,
        values: Mapping[str, Any],
        base: Mapping[str, Entry | int] | None = None,
        *,
        delete: Collection[str] = (),
        ttl: float = 0.0,
        fence: Fence | _Holds | None = None,
    ) -> list[Written]:
        """Write several values, and delete some, all or nothing; what became of each, the deleted ones last.

        It costs as much as 12 single writes. `base` is by key.

        Raises:
            BatchTooLargeError, and as in `put`: if one is refused, nothing was changed.
        """
        bases = base or {}
        if not set(bases) <= {*values, *delete}:
            raise ConfigError("base", f"nothing is written to {next(iter(set(bases) - {*values, *delete}))}")
        writes = [Write(key, value, _version(bases.get(key)), ttl) for key, value in values.items()]
        writes += [Write(key, None, _version(bases.get(key)), delete=True) for key in delete]
        if not writes:
            return []
        return await self._doors.backend.write(self.namespace, writes, author_of(self._mesh), _fence(fence))

    async def delete(self, key: str, base: Base = None, *, fence: Fence | _Holds | None = None) -> Written:
        """Delete what stands under a key; without a base that is whatever stands there by then. It can be had back
        until the setting `memory_deleted` is over (a week), but for its `ttl`.

        Where nothing stands, a delete without a base stores nothing, and its outcome is `absent`.

        Raises:
            As `put`.
        """
        write = Write(key, None, _version(base), delete=True)
        return (await self._doors.backend.write(self.namespace, (write,), author_of(self._mesh), _fence(fence)))[0]

    async def undelete(self, key: str, *, fence: Fence | _Holds | None = None) -> Written:
        """Write again the last value that stood there before it was deleted, or expired. It is a write that is based on
        that end: should somebody write meanwhile, the strategy decides.

        Raises:
            NoSuchVersionError: it is not deleted, or no live version is kept; nothing was changed.
            As `put`.
        """
        versions = await self.history(key)
        newest = versions[-1] if versions else None
        last = next((entry for entry in reversed(versions) if not entry.deleted), None)
        if newest is None or newest.live or last is None:
            reason = "it is not deleted" if newest is not None and newest.live else "no live version of it is kept"
            raise NoSuchVersionError(key, 0, reason)
        return await self.put(key, last.value, newest, fence=fence)

    # --- locks ------------------------------------------------------------------------------------------------

    def lock(
        self,
        key: str,
        mode: Mode | Literal["exclusive", "shared", "intent-exclusive", "intent-shared"] = Mode.EXCLUSIVE,
        timeout: float | None = 30.0,
    ) -> Lock:
        """A lock on a key and all that is under it, for `async with`; it is waited for up to `timeout` seconds (None:
        as long as it takes), in the order in which all asked.

        It is held for the length of the block, and given up by our death: `put(..., fence=lock)` is refused from the
        moment on at which another may have it. If it is lost meanwhile, the block is cancelled and raises
        `LockLostError`.

        Raises:
            InvalidKeyError, ConfigError: there can be no such lock. What the block raises stands in `docs/memory.md`.
        """
        return self._doors.holder.lock(self.namespace, key, mode, timeout)

    async def locks(self) -> list[LockState]:
        """All locks of this namespace that are held or waited for; holders first, then waiters in their order."""
        return await self._doors.locks.locks(self.namespace)

    # --- its past ---------------------------------------------------------------------------------------------

    async def history(self, key: str) -> list[Entry]:
        """All versions that are kept, deletes among them, the oldest first; empty where nothing was ever written.

        Raises:
            InvalidKeyError, TransportError: as in `get`.
        """
        return await self._doors.backend.history(self.namespace, key)

    async def diff(self, key: str, old: int, new: int = 0) -> list[Difference]:
        """What differs between two versions; `new` is the newest by default.

        Raises:
            NoSuchVersionError, InvalidKeyError, TransportError: as in `get`.
        """
        before = await self._doors.backend.read(self.namespace, key, old) if old else None
        after = await self._doors.backend.read(self.namespace, key, new)
        return diff(_plain(before), _plain(after))

    # --- many -------------------------------------------------------------------------------------------------

    async def list(self, prefix: str = "", after: str = "", limit: int = 100) -> Page:
        """What stands at and under a key, by key, `limit` at a time; for more ask again `after=page.after`.

        Raises:
            InvalidKeyError, TransportError: as in `get`.
        """
        _check(after, limit)
        return await self._doors.backend.list(self.namespace, prefix, after, limit)

    async def walk(self, prefix: str = "") -> AsyncIterator[Summary]:
        """All that stands at and under a key, by key. What comes or goes meanwhile may be among them or not."""
        after = ""
        while True:
            page = await self.list(prefix, after, _WALKED)
            for summary in page.entries:
                yield summary
            if not page.after:
                return
            after = page.after

    def watch(self, prefix: str = "", since: int | None = None) -> AsyncGenerator[Entry, None]:
        """Every version written at and under a key, deletes among them, in order and each once.

        First comes what stands there, or with `since` all after that version that is still kept. What is written
        while the connection is lost comes after it. Who is slow does not lose what is still kept either.

        Raises:
            InvalidKeyError, TransportError: as in `get`.
        """
        return self._doors.backend.watch(self.namespace, prefix, since)

    # --- conflicts --------------------------------------------------------------------------------------------

    async def conflicts(self, after: str = "", limit: int = 100) -> Page:
        """The entries whose `alternatives` wait for somebody to choose, by key; pages as in `list`."""
        _check(after, limit)
        return await self._doors.backend.conflicts(self.namespace, after, limit)

    async def resolve(
        self,
        key: str,
        value: Any = None,
        base: Base = None,
        *,
        delete: bool = False,
        fence: Fence | _Holds | None = None,
    ) -> Written:
        """Put an end to a conflict: `value` stands there from now on, or with `delete` nothing, and the alternatives
        that `base` has are gone. No other write takes them away.

        Raises:
            ConfigError: there is no base.
            As `put`.
        """
        if not base:
            raise ConfigError("base", f"say which version of {key} has the conflicts that are resolved")
        write = Write(key, None if delete else value, _version(base), delete=delete, resolve=True)
        return (await self._doors.backend.write(self.namespace, (write,), author_of(self._mesh), _fence(fence)))[0]

    async def purge(self, key: str) -> bool:
        """Drop a key with all its versions, for good, without a write: for secrets, and for a store that is full.

        Returns False where there was none. Watchers do not hear of it, and backups still have it.

        Raises:
            PermissionDeniedError: that is an operator's.
            InvalidKeyError, TransportError: as in `get`.
        """
        return await self._doors.backend.purge(self.namespace, key)

    # --- how it is used ---------------------------------------------------------------------------------------

    async def describe(self) -> Namespace:
        """How this namespace is used: its strategy, rules and ranks."""
        return await self._doors.backend.describe(self.namespace)

    async def configure(self, how: Namespace, instead_of: Namespace | None = None) -> None:
        """Have this namespace be used so from now on, by all. Others hear of it within milliseconds. With `instead_of`
        only if it is used so.

        Raises:
            ConfigError: it is used otherwise than `instead_of` says; nothing was changed.
            PermissionDeniedError: that is an operator's.
        """
        await self._doors.backend.configure(self.namespace, how, instead_of)


class _Holds(Protocol):
    """Whatever has a fence: a lock that is held."""

    @property
    def fence(self) -> Fence: ...


def _check(after: str, limit: int) -> None:
    if not isinstance(after, str):
        raise ConfigError("after", f"is a key, as a page names it, not {after!r:.40}")
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ConfigError("limit", f"a page has at least one entry, not {limit!r:.40}")


def _fence(shown: Fence | _Holds | None) -> Fence | None:
    return shown if shown is None or isinstance(shown, Fence) else shown.fence


def _version(base: Base) -> int | None:
    return base.version if isinstance(base, Entry) else base


def _plain(entry: Entry | None) -> Any:
    return entry.value if entry is not None and not entry.deleted else ABSENT
