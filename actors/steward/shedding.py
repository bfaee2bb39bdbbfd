"""Has an idle instance leave a host whose resources run short: one for each call, and only who can be spared.

An agent keeps at least one instance that is ready, system actors stay, and a host or an agent loses no second one
within `EVERY` seconds, however many ask and whichever steward they ask: the claims stand in AUDIT.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Iterable
from typing import Final

from pydantic import BaseModel, Field

from actors.registry.client import RegistryClient
from actors.registry.model import Instance, owns
from bus import codec, events, jetstream, subjects
from bus.connection import Connection
from bus.control import ShedOrder
from bus.errors import DecodeError, NotFoundError, WrongSequenceError
from bus.messages import CONTENT_TYPE, EXPECTED_SUBJECT_SEQUENCE, MSGPACK

log = logging.getLogger(__name__)

EVERY: Final = 10.0
"""Seconds in which a host, or an agent, loses one instance at the most; a lease that was given up is known by then."""


class Shortage(BaseModel):
    """Whose resources run short, and of what by the code of its error."""

    instance: str
    reason: str = Field("", max_length=200)


class Shed(BaseModel):
    """Who was told to leave, and in words what was done; empty: nobody can be spared."""

    instance: str = ""
    said: str = ""


def spare(instances: Iterable[Instance], short: Instance) -> list[Instance]:
    """Who can be spared for the sake of an instance: idle, on its host, of an agent with another one that is ready. Who
    holds the most memory is first.
    """
    sound = [one for one in instances if one.state == "ready" and one.condition not in ("suspect", "error", "paused")]
    ready = Counter(one.agent for one in sound)
    some = [
        one
        for one in sound
        if one.kind == "agent"
        and one.host == short.host
        and one.instance != short.instance
        and one.condition in (None, "idle")
        and not one.running
        and not one.waiting
        and ready[one.agent] > 1
    ]
    return sorted(some, key=lambda one: one.health.memory if one.health else 0, reverse=True)


class Shedder:
    """Finds who can be spared, and tells them to leave."""

    def __init__(self, connection: Connection, registry: RegistryClient, by: str) -> None:
        self._connection = connection
        self._registry = registry
        self._by = by

    async def shed(self, shortage: Shortage, caller: str) -> Shed:
        """Tell one idle instance on the host of whoever asks to leave. `caller` may speak for its own instances alone;
        empty: for any.

        Raises:
            NotFoundError: no such instance of the caller's lives.
            TransportError: the registry does not answer, or the claim could not be stored.
        """
        everybody = await self._registry.instances()
        short = next((one for one in everybody if one.instance == shortage.instance), None)
        if short is None or (caller and not owns(caller, shortage.instance)):
            raise NotFoundError(f"instance {shortage.instance}", f"none of this name of {caller or 'anybody'} lives")
        found = spare(everybody, short)
        if not found:
            return Shed(said=f"nobody idle on {short.host} can be spared")
        host = hashlib.blake2b(short.host.encode(), digest_size=8).hexdigest()
        if not await self._claim(subjects.note("shed", "host", host)):
            return Shed(said=f"somebody has left {short.host} within the last {EVERY:g} s")
        for one in found:
            if await self._claim(subjects.note("shed", "agent", one.agent)):
                await self._order(one, short, shortage.reason)
                return Shed(instance=one.instance, said=f"{one.instance} is idle and told to leave {short.host}")
        return Shed(said=f"those who can be spared lost another one within the last {EVERY:g} s")

    async def _order(self, one: Instance, short: Instance, reason: str) -> None:
        order = ShedOrder(reason=f"{short.instance} is short of resources: {reason}"[:250])
        subject = subjects.control(one.agent, one.instance, "shed")
        await self._connection.publish(subject, codec.encode(order.model_dump()), {CONTENT_TYPE: MSGPACK})
        log.warning("%s is told to leave %s: %s", one.instance, one.host, order.reason)
        about = {"host": one.host, "short": short.instance, "reason": reason}
        await events.tell(self._connection, events.AGENT, one.instance, "shed", agent=one.agent, by=self._by, **about)

    async def _claim(self, subject: str) -> bool:
        """Whether nobody has claimed it within `EVERY` seconds; it is ours then."""
        last = await jetstream.last(self._connection, subjects.AUDIT, subject)
        if last is not None and time.time() - _claimed_at(last) < EVERY:
            return False
        expected = str(last.sequence if last is not None else 0)
        headers = {CONTENT_TYPE: MSGPACK, EXPECTED_SUBJECT_SEQUENCE: expected}
        try:
            await jetstream.store(self._connection, subject, codec.encode({"at": time.time()}), headers)
        except WrongSequenceError:
            return False
        return True


def _claimed_at(stored: jetstream.StoredMessage) -> float:
    try:
        return float(codec.read(dict, stored.headers, stored.body, subject=stored.subject)["at"])
    except (DecodeError, KeyError, TypeError, ValueError) as error:
        log.warning("a claim that cannot be read counts as old: %s", error)
        return 0.0
