"""Which way a mesh's calls go: to the streams, where it may touch them, or to a coordinator. One of each for a mesh."""

from __future__ import annotations

import functools
from typing import Final

from actors.memory.backend import Author, Backend, LockBackend
from actors.memory.holding import Holder
from bus import subjects
from bus.family import FAMILY
from bus.mesh import Mesh

_AUTHOR: Final = f"{__name__}.author"


class Doors:
    """What carries out the calls of one mesh."""

    def __init__(self, mesh: Mesh, backend: Backend, locks: LockBackend) -> None:
        self._mesh = mesh
        self._holder: Holder | None = None
        self.backend: Final = backend
        self.locks: Final = locks

    @property
    def holder(self) -> Holder:
        """All locks that the mesh holds; they are given up as it closes."""
        if self._holder is None:
            author = functools.partial(author_of, self._mesh)
            self._holder = Holder(self.locks, author, patience=self._mesh.connection.settings.publish_timeout)
            self._mesh.at_close(self._holder.close)
        return self._holder


def doors_of(mesh: Mesh) -> Doors:
    """What carries out the calls of a mesh; the same each time. It ends with the mesh."""
    found = mesh.attached.get(__name__)
    if not isinstance(found, Doors):
        found = mesh.attached[__name__] = _open(mesh)
    return found


def _open(mesh: Mesh) -> Doors:
    if mesh.connection.restricted:
        from actors.memory.remote import Remote  # noqa: PLC0415  (most processes need one of the two)

        remote = Remote(mesh)
        return Doors(mesh, remote, remote)
    from actors.memory.locks import Locks  # noqa: PLC0415
    from actors.memory.store import Store  # noqa: PLC0415

    store = Store(mesh.connection, mesh.telemetry)
    mesh.at_close(store.close)
    locks = Locks(mesh.connection)
    mesh.at_close(locks.close)
    return Doors(mesh, store, locks)


def author_of(mesh: Mesh) -> Author:
    """Who writes: the instance, or what a client calls itself; in whose task, if it is in a handler. In which trace is
    for whoever carries it out to say.
    """
    known = mesh.attached.get(_AUTHOR)
    if not isinstance(known, Author):
        instance = mesh.telemetry.instance
        own = mesh.client == subjects.ANONYMOUS or instance.startswith(f"{mesh.client}-")
        known = mesh.attached[_AUTHOR] = Author(instance if own else mesh.client)
    family = FAMILY.get()
    return known if family is None else Author(known.by, family.parent)
