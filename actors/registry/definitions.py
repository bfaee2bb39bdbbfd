"""What each capability is: one word on it stands in the bucket, and nobody who lives contradicts it."""

from __future__ import annotations

import time
from typing import Final

from actors.registry import schemas
from actors.registry.catalog import BehindError, Catalog
from actors.registry.errors import DefinitionConflictError
from actors.registry.messages import CapabilityInfo, Registration
from actors.registry.model import PACKED, Definition, Word, definition_key
from bus import codec, subjects
from bus.errors import ConfigError, WrongSequenceError
from bus.store import Bucket

TRIES: Final = 5
"""So many times is tried what others may come before."""


class Definitions:
    """The definitions of all capabilities."""

    def __init__(self, catalog: Catalog, bucket: Bucket) -> None:
        self._catalog = catalog
        self._bucket = bucket
        self._checked: set[bytes] = set()

    def check(self, registration: Registration) -> dict[str, CapabilityInfo]:
        """The capabilities that somebody declares, by name.

        Raises:
            InvalidSubjectError, SchemaError, ConfigError: what it says of itself cannot be used.
            DefinitionConflictError: somebody lives whose word contradicts it.
        """
        declared: dict[str, CapabilityInfo] = {}
        for capability in registration.capabilities:
            subjects.token(capability.name, "capability")
            if capability.name in declared:
                raise ConfigError(f"capability {capability.name}", "is declared twice")
            schemas.check(capability, self._checked)
            self._agree(capability, registration)
            declared[capability.name] = capability
        return declared

    def _agree(self, capability: CapabilityInfo, registration: Registration) -> bool:
        """Whether what stands says the same.

        Raises:
            DefinitionConflictError: somebody lives whose word contradicts it.
        """
        name, ours = capability.name, registration.agent
        standing, _ = self._catalog.definitions.get(name, (None, 0))
        stands = schemas.digest(standing) if standing is not None else ""
        word = Word(schemas.digest(capability), ours, registration.version)
        against = self._catalog.against(name, word)
        if against is None:
            return stands == word.meaning
        if self._catalog.get(against.instance) is None:
            raise BehindError(0, self._catalog.revision)  # the last one is gone, and the server about to say so
        difference = "their schemas are not the same"
        if standing is not None and stands == against.capabilities[name]:
            difference = schemas.difference(capability, ours, standing, against.agent)
        raise DefinitionConflictError(name, ours, against.agent, difference, registration.version)

    async def define(self, capability: CapabilityInfo, registration: Registration) -> tuple[Definition, int] | None:
        """Write what a capability is, where it is new or nobody contradicts what comes; return what it was."""
        for _ in range(TRIES):
            if self._agree(capability, registration):
                return None
            before = self._catalog.definitions.get(capability.name)
            definition = Definition(
                capability=capability.name,
                message=capability.message,
                result=capability.result,
                agent=registration.agent,
                version=registration.version,
                defined_at=time.time(),
            )
            body = codec.encode(definition.model_dump())
            key = definition_key(capability.name)
            try:
                revision = await self._bucket.put(key, body, PACKED, expect=before[1] if before else 0)
            except WrongSequenceError:
                entry = await self._bucket.get(key)
                if entry is not None:
                    await self._catalog.reached(entry.revision)
                continue
            await self._catalog.reached(revision)
            return before
        raise BehindError(0, self._catalog.revision)

    async def restore(self, replaced: list[tuple[Definition, int] | None]) -> None:
        """Write again what was replaced by somebody who was not let in after all."""
        for before in replaced:
            if before is not None:
                definition = before[0]
                key = definition_key(definition.capability)
                await self._bucket.put(key, codec.encode(definition.model_dump()), PACKED)
