"""How namespaces are used: a record each, which all that write follow."""

from __future__ import annotations

import logging
from typing import Final, NamedTuple

from actors.memory.clock import retried
from actors.memory.model import Namespace
from actors.memory.versions import STREAM
from bus import codec, jetstream, subjects
from bus.connection import Connection
from bus.errors import BusError, DecodeError
from bus.messages import CONTENT_TYPE, EXPECTED_SUBJECT_SEQUENCE, JSON
from bus.nursery import Nursery
from bus.watch import Watch

log = logging.getLogger(__name__)

BY: Final = "Revo-By"
SETTINGS: Final = "Revo-Settings"
"""On a record that a coordinator made from what it was started with; not on one that somebody asked for."""
SPLIT: Final = "Revo-Split"
"""On a record that follows one of another strategy: entries may have conflict sets also where the last writer wins."""


class Used(NamedTuple):
    """What stands in a record."""

    how: Namespace
    revision: int = 0
    by: str = ""
    settings: bool = False
    """A coordinator made it from its settings."""
    split: bool = False
    """Entries may have conflict sets, whatever the strategy is by now."""


_DEFAULT = Used(Namespace())


class Usage:
    """Follows the records from the first question on; until all are known, and while they may not be, it asks."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: dict[str, Used | _Unread] = {}
        self._watch: Watch | None = None
        self._nursery: Nursery | None = None

    def cached(self, namespace: str) -> Used | None:
        """How a namespace is used, or None: that is to be asked for."""
        if self._watch is None or not self._watch.current.is_set():
            return None
        found = self._known.get(namespace, _DEFAULT)
        return found if isinstance(found, Used) else None

    async def of(self, namespace: str) -> Used:
        """How a namespace is used.

        Raises:
            DecodeError: its record makes no sense to us; somebody with a later version wrote it.
            TransportError: no answer.
        """
        found = self.cached(namespace)
        if found is None:
            if self._watch is None:
                self._follow()
            found = await self.newest(namespace)
        return found

    async def newest(self, namespace: str) -> Used:
        """How a namespace is used, as the stream's leader has it.

        Raises:
            As `of`.
        """
        subject = subjects.entry(subjects.MEMORY_BUCKET, subjects.namespace_record(namespace))
        stored = await retried(self._connection, lambda: jetstream.last(self._connection, STREAM, subject))
        return _read(stored) if stored is not None else _DEFAULT

    async def put(self, namespace: str, how: Namespace, *, by: str, before: Used, settings: bool = False) -> None:
        """Have a namespace be used so from now on, if it is used as `before` says. `settings`: that is what a
        coordinator was started with.

        Raises:
            WrongSequenceError: somebody was faster, or an earlier try was stored.
            TransportError: whether it is, is not known.
        """
        subject = subjects.entry(subjects.MEMORY_BUCKET, subjects.namespace_record(namespace))
        body = codec.encode(how, JSON, subject=namespace)
        split = before.split or before.how.strategy != "last_writer_wins"
        headers = {CONTENT_TYPE: JSON, BY: by, EXPECTED_SUBJECT_SEQUENCE: str(before.revision)}
        headers |= {name: "1" for name, said in ((SETTINGS, settings), (SPLIT, split)) if said}
        stored = await jetstream.store(self._connection, subject, body, headers)
        self._know(namespace, Used(how, stored.sequence, by, settings, split))

    async def close(self) -> None:
        """Follow no more. May be repeated."""
        watch, self._watch = self._watch, None
        if self._nursery is not None:
            await self._nursery.close(())
        if watch is not None:
            await watch.close()

    def _follow(self) -> None:
        if self._nursery is None or self._nursery.failed.done():
            self._nursery = Nursery("memory")
        pattern = subjects.entry(subjects.MEMORY_BUCKET, subjects.namespace_record("*"))
        watch = Watch(
            self._connection,
            STREAM,
            pattern,
            self._on_message,
            on_reset=self._known.clear,
            spawn=self._nursery.spawn,
        )
        self._watch = watch
        self._nursery.spawn(self._open(watch))

    async def _open(self, watch: Watch) -> None:
        try:
            await watch.open()
        except (BusError, TimeoutError) as error:
            log.debug("records of namespaces cannot be followed yet: %s", error)  # whoever asks next tries again
            if self._watch is watch:
                self._watch = None
            await watch.close()

    def _on_message(self, stored: jetstream.StoredMessage) -> None:
        found: Used | _Unread
        try:
            found = _read(stored)
        except DecodeError as error:
            log.warning("%s", error)
            found = _Unread(stored.sequence)
        self._know(stored.subject.rpartition(".")[2], found)

    def _know(self, namespace: str, found: Used | _Unread) -> None:
        if namespace not in self._known or found.revision > self._known[namespace].revision:
            self._known[namespace] = found


class _Unread(NamedTuple):
    """A record that makes no sense to us."""

    revision: int


def _read(stored: jetstream.StoredMessage) -> Used:
    how = codec.read(Namespace, stored.headers, stored.body, subject=stored.subject)
    said = stored.headers
    return Used(how, stored.sequence, said.get(BY, ""), SETTINGS in said, SPLIT in said)
