"""An instance's side of the registry: it registers once, and from then on keeps its lease by itself.

While no registry is there it works all the same, and registers when one is back. A lease that ran out, because the
server was away or the process was stopped, it takes again.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from actors.registry.errors import RefusedError
from actors.registry.messages import Registered, Registration
from actors.registry.model import Instance, State, lease_key, owner_of
from actors.registry.schemas import digest
from bus import codec, events, replies, subjects
from bus.connection import Connection
from bus.errors import BusError, RemoteError, TransportError, WrongSequenceError
from bus.messages import CONTENT_TYPE, MSGPACK
from bus.store import Bucket

log = logging.getLogger(__name__)

_FIRST_PAUSE: Final = 0.05
_SPREAD: Final = (0.75, 1.0)
"""Of a heartbeat: those that came together, or back together, do not renew their leases together for ever."""
_SOON: Final = 0.1
"""Seconds between two renewals at the least, however often what we say changes."""
_PATIENCE: Final = 2.0
"""Seconds that a registry has to answer."""


class LeaseLostError(BusError):
    """Somebody else holds our lease; the process should end, and a new one come under another name."""

    def __init__(self, instance: str) -> None:
        super().__init__(instance)
        self.instance = instance

    def __str__(self) -> str:
        return f"the lease of {self.instance} is held by somebody else"


class Registrar:
    """Registers one instance and renews its lease."""

    def __init__(
        self,
        connection: Connection,
        registration: Registration,
        say: Callable[[], Mapping[str, Any]],
    ) -> None:
        """`say` gives what changes from one renewal to the next, as fields of `Instance`; any thread may call it."""
        self._connection = connection
        self._registration = registration
        self._say = say
        self.hurried: Callable[[], bool] = _never
        """Whether others should hear of us more often than by the heartbeat; any thread may ask."""
        self._heartbeat = connection.settings.lease_heartbeat
        self._ttl = connection.settings.lease_ttl
        self._key = lease_key(registration.agent, registration.instance)
        self._meanings = {one.name: digest(one) for one in registration.capabilities}
        self._state: State = "starting"
        self._revision = 0
        self._registered_at = 0.0
        self._renewed = 0.0
        self._wake = asyncio.Event()
        connection.on_reconnect(self._on_reconnect)

    @property
    def registered(self) -> bool:
        """Whether a registry has let us in."""
        return self._revision > 0

    @property
    def holds_lease(self) -> bool:
        """Whether others find us: a registry has let us in, and the lease has been renewed in time."""
        return self.registered and self.lease_age() <= self._ttl

    def lease_age(self) -> float:
        """Seconds since the lease was renewed, NaN without one."""
        return time.monotonic() - self._renewed if self.registered else math.nan

    async def start(self) -> None:
        """Register, if a registry is there; otherwise `keep` does it later.

        Raises:
            RefusedError: what we say of ourselves cannot be used, or contradicts somebody who lives.
        """
        try:
            await self._register()
        except BusError as error:
            if not error.retryable:
                raise
            log.info("%s works without being registered, for no registry answers", self._registration.instance)

    async def keep(self) -> None:
        """Renew the lease until cancelled; first register, where that is still to be done.

        Raises:
            RefusedError, LeaseLostError: we may not be who we are; the process should end.
        """
        pause = _FIRST_PAUSE
        while True:
            try:
                beat = random.uniform(*_SPREAD) * self._heartbeat  # noqa: S311
                async with asyncio.timeout(beat if self.registered else pause):
                    await self._wake.wait()
            except TimeoutError:
                pass  # which is the usual case
            else:
                await asyncio.sleep(max(0.0, self._renewed + _SOON - time.monotonic()))
            self._wake.clear()
            try:
                if self.registered:
                    await self._renew()
                else:
                    pause = min(self._heartbeat, pause * 2)
                    await self._register()
                    log.info("%s is registered", self._registration.instance)
                    await self.enter(self._state)
            except BusError as error:
                if not error.retryable:
                    raise
                log.debug("lease of %s: %s", self._registration.instance, error)
                if self.registered:
                    await asyncio.sleep(min(0.25, self._heartbeat / 8))
                    self._wake.set()

    async def enter(self, state: State) -> None:
        """Say in which state we are: in the lease, and as an event."""
        self._state = state
        if self.registered and self._connection.is_connected:
            try:
                await self._renew()
            except BusError as error:
                if not error.retryable:
                    raise
                self._wake.set()
            await self._tell(state)

    def renew_soon(self) -> None:
        """What we say of ourselves has changed, and others should know at once."""
        self._wake.set()

    async def leave(self) -> None:
        """Give the lease up. Should that fail it runs out by itself."""
        if not self.registered or not self._connection.is_connected:
            return
        try:
            bucket = Bucket(self._connection, subjects.REGISTRY_BUCKET)
            await bucket.remove(self._key, patience=1.0)
            await self._tell("left")
        except BusError as error:
            log.warning("the lease of %s is not given up, and runs out: %s", self._registration.instance, error)

    async def pulse(self, connection: Connection) -> None:
        """Renew the lease through the connection of another thread, for our own loop is blocked."""
        due = min(1.0, self._heartbeat) if self.hurried() else self._heartbeat
        if self.registered and time.monotonic() - self._renewed >= due and connection.is_connected:
            try:
                await self._put(connection, self._revision)
            except (BusError, TimeoutError) as error:
                log.debug("lease of %s: %s", self._registration.instance, error)

    async def _on_reconnect(self) -> None:
        self._wake.set()  # while the server was away the lease ran on

    async def _register(self) -> None:
        """Not traced: where no registry is, this is tried for ever."""
        subject = subjects.rpc(subjects.REGISTRY, "register", self._connection.caller)
        body = codec.encode(self._registration, subject=subject)
        reply = await self._connection.request(subject, body, {CONTENT_TYPE: MSGPACK}, timeout=_PATIENCE)
        try:
            registered = Registered.model_validate(replies.read(reply.headers or {}, reply.data, subject))
        except RemoteError as error:
            if error.retryable:
                raise
            raise RefusedError(error.code, error.message) from error
        self._revision, self._registered_at = registered.revision, registered.registered_at
        self._renewed = time.monotonic()

    async def _renew(self) -> None:
        try:
            await self._put(self._connection, self._revision)
        except WrongSequenceError:
            await self._take_again()
        except TimeoutError:
            raise LeaseLateError(self._registration.instance) from None

    async def _take_again(self) -> None:
        """Something else stands there than we wrote last: an answer was lost, the lease ran out, or it was taken."""
        entry = await Bucket(self._connection, subjects.REGISTRY_BUCKET).get(self._key)
        if entry is not None and entry.live:
            held = codec.read(Instance, entry.headers, entry.body, subject=entry.key)
            if held.owner != owner_of(self._registration.secret):
                raise LeaseLostError(self._registration.instance)
            self._revision = entry.revision
            return
        try:
            await self._put(self._connection, entry.revision if entry is not None else 0)
        except WrongSequenceError as error:
            raise LeaseLateError(self._registration.instance) from error  # once more, from the top
        log.warning("the lease of %s had run out and is taken again", self._registration.instance)
        await self._tell(self._state)

    async def _put(self, connection: Connection, expect: int) -> None:
        body = codec.encode(self._instance().model_dump())
        bucket = Bucket(connection, subjects.REGISTRY_BUCKET)
        headers = {CONTENT_TYPE: MSGPACK}
        async with asyncio.timeout(self._heartbeat):
            self._revision = await bucket.put(self._key, body, headers, expect=expect, ttl=self._ttl, patience=0.0)
        self._renewed = time.monotonic()

    def _instance(self) -> Instance:
        registration = self._registration
        return Instance(
            **registration.model_dump(exclude={"secret", "capabilities"}),
            capabilities=self._meanings,
            state=self._state,
            registered_at=self._registered_at,
            owner=owner_of(registration.secret),
            **self._say(),
        )

    async def _tell(self, what: str) -> None:
        registration = self._registration
        details: dict[str, Any] = {"host": registration.host, "pid": registration.pid}
        name = registration.instance
        await events.tell(self._connection, events.AGENT, name, what, agent=registration.agent, by=name, **details)


def _never() -> bool:
    return False


class LeaseLateError(TransportError):
    """A renewal was not answered in time; the next one may be."""

    def __init__(self, instance: str) -> None:
        super().__init__(instance)
        self.instance = instance

    def __str__(self) -> str:
        return f"the renewal of the lease of {self.instance} was not answered in time"
