"""Which namespaces of shared memory there are, for those who may look into the stream."""

from __future__ import annotations

from collections import Counter

from actors.memory.clock import retried
from actors.memory.versions import STREAM, namespace_of
from bus import reading, subjects
from bus.mesh import Mesh


async def sizes(mesh: Mesh) -> dict[str, int]:
    """How many keys each namespace has, by name: those that are deleted count while they can be had back.

    A namespace is there when something is, or was said of how it is used. Costs as much as the bucket has keys.

    Raises:
        PermissionDeniedError: whoever has a role of his own knows his namespaces.
        TransportError: no answer.
    """
    patterns = (subjects.namespace_record("*"), subjects.kept_under(subjects.ENTRIES, "*"))
    configured, kept = [await _names(mesh, subjects.entry(subjects.MEMORY_BUCKET, one)) for one in patterns]
    counted = Counter(map(namespace_of, kept))
    return {name: counted[name] for name in sorted({*counted, *map(namespace_of, configured)})}


async def _names(mesh: Mesh, pattern: str) -> list[str]:
    connection = mesh.connection
    return await retried(connection, lambda: reading.subjects_in(connection, STREAM, pattern))
