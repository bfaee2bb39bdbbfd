"""How namespaces are used: a record each, which all that write follow."""

from __future__ import annotations

import logging

from actors.memory.clock import retried
from actors.memory.model import Namespace
from actors.memory.versions import STREAM
from bus import codec, jetstream, subjects
from bus.connection import Connection
from bus.errors import BusError, DecodeError
from bus.messages import CONTENT_TYPE, JSON
from bus.nursery import Nursery
from bus.watch import Watch

log = logging.getLogger(__name__)

_DEFAULT = Namespace()


class Usage:
    """Follows the records from the first question on; until all are known, and while they may not be, it asks."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: dict[str, tuple[int, Namespace | DecodeError]] = {}
        self._watch: Watch | None = None
        self._nursery: Nursery | None = None

    def cached(self, namespace: str) -> Namespace | None:
        """How a namespace is used, or None: that is to be asked for."""
        if self._watch is None or not self._watch.current.is_set():
            return None
        _, found = self._known.get(namespace, (0, _DEFAULT))
        return found if isinstance(found, Namespace) else None

    async def of(self, namespace: str) -> Namespace:
        """How a namespace is used.

        Raises:
            DecodeError: its record makes no sense to us; somebody with a later version wrote it.
            TransportError: no answer.
        """
        found = self.cached(namespace)
        if found is None:
            subject = subjects.entry(subjects.MEMORY_BUCKET, subjects.namespace_record(namespace))
            if self._watch is None:
                self._follow()
            stored = await retried(self._connection, lambda: jetstream.last(self._connection, STREAM, subject))
            found = _read(stored) if stored is not None else _DEFAULT
        return found

    async def put(self, namespace: str, how: Namespace) -> None:
        """Have a namespace be used so from now on.

        Raises:
            TransportError: whether it is, is not known.
        """
        subject = subjects.entry(subjects.MEMORY_BUCKET, subjects.namespace_record(namespace))
        body = codec.encode(how, JSON, subject=namespace)
        stored = await jetstream.store(self._connection, subject, body, {CONTENT_TYPE: JSON})
        self._know(namespace, stored.sequence, how)

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
        found: Namespace | DecodeError
        try:
            found = _read(stored)
        except DecodeError as error:
            log.warning("%s", error)
            found = error
        self._know(stored.subject.rpartition(".")[2], stored.sequence, found)

    def _know(self, namespace: str, revision: int, how: Namespace | DecodeError) -> None:
        if revision > self._known.get(namespace, (0, how))[0]:
            self._known[namespace] = revision, how


def _read(stored: jetstream.StoredMessage) -> Namespace:
    return codec.read(Namespace, stored.headers, stored.body, subject=stored.subject)
