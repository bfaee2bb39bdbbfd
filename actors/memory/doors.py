"""Which way a mesh's calls go: to the streams, where it may touch them, or to a coordinator. One of each for a mesh."""

from __future__ import annotations

from typing import Final
from weakref import WeakKeyDictionary

from actors.memory.backend import Author, Backend, LockBackend
from bus import subjects
from bus.mesh import Mesh
from bus.tasks import FAMILY
from bus.telemetry import current_ids


class Doors:
    """What carries out the calls of one mesh."""

    def __init__(self, backend: Backend, locks: LockBackend) -> None:
        self.backend: Final = backend
        self.locks: Final = locks


_known: WeakKeyDictionary[Mesh, Doors] = WeakKeyDictionary()


def doors_of(mesh: Mesh) -> Doors:
    """What carries out the calls of a mesh; the same each time. It ends with the mesh."""
    found = _known.get(mesh)
    if found is None:
        found = _known[mesh] = _open(mesh)
    return found


def _open(mesh: Mesh) -> Doors:
    if mesh.connection.restricted:
        from actors.memory.remote import Remote  # noqa: PLC0415  (most processes need one of the two)

        remote = Remote(mesh)
        return Doors(remote, remote)
    from actors.memory.locks import Locks  # noqa: PLC0415
    from actors.memory.store import Store  # noqa: PLC0415

    store = Store(mesh.connection, mesh.telemetry)
    mesh.at_close(store.close)
    return Doors(store, Locks(mesh.connection))


def author_of(mesh: Mesh) -> Author:
    """Who writes: the instance, or what a client calls itself; in whose task, if it is in a handler."""
    instance = mesh.telemetry.instance
    own = mesh.client == subjects.ANONYMOUS or instance.startswith(f"{mesh.client}-")
    family = FAMILY.get()
    return Author(instance if own else mesh.client, family.parent if family else "", current_ids()[0])
