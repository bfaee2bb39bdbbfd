"""Which foreign agents live: everybody who speaks the Synadia Agent Protocol here and is not ours.

Who was met lives for as long as its heartbeats come. Made from what is heard alone, so every replica of the bridge
comes to know the same.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from actors.registry.catalog import Catalog
from actors.registry.model import owns
from bus import subjects
from bus.connection import Connection
from bus.directory import discover
from bus.errors import (
    BusError,
    DecodeError,
    InvalidSubjectError,
    NoRespondersError,
    PermissionDeniedError,
    TransportError,
)
from bus.prompts import AgentInfo, read_presence
from bus.wire import Message

log = logging.getLogger(__name__)

MISSED: Final = 2
"""Heartbeats that may be missing; then the agent is gone."""
LATE: Final = 0.5
"""Seconds that a heartbeat may be late, and we with looking at them."""
AGAIN: Final = 60.0
"""Seconds for which who was not taken is not asked again who it is."""
MOST: Final = 256
"""Instances that are taken: each agent costs five consumers on TASKS, and anybody may say that it is one."""
_STRANGERS: Final = 10_000
_LONGEST: Final = 50
"""Characters of an agent's name: the name of its lease must fit in a token."""
_PATIENCE: Final = 1.0
"""Seconds to answer a ping."""


@dataclass(slots=True)
class Foreign:
    """One instance of a foreign agent."""

    info: AgentInfo
    heard: float
    """When it last gave a sign of life, by our monotonic clock."""
    interval: float
    """Seconds between two heartbeats, as it says itself."""

    @property
    def agent(self) -> str:
        """Whose instance it is."""
        return self.info.agent

    @property
    def name(self) -> str:
        """What it is called here; every replica of the bridge calls it so."""
        digest = hashlib.blake2b(f"{self.info.prompt}.{self.info.instance}".encode(), digest_size=6).hexdigest()
        return f"{self.agent}-{digest}"


class Foreigners:
    """Everybody who beats or answers, is not ours, and can be worked with."""

    def __init__(
        self,
        connection: Connection,
        catalog: Catalog,
        *,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        changed: Callable[[], None],
    ) -> None:
        """`catalog` knows ours. `changed` hears of whoever comes and goes."""
        self._connection = connection
        self._catalog = catalog
        self._spawn = spawn
        self._changed = changed
        self._known: dict[str, Foreign] = {}
        self._strangers: dict[str, float] = {}
        """Instances that were asked who they are and not taken, and until when that holds."""
        connection.on_reconnect(self._back)

    async def open(self) -> None:
        """Listen to heartbeats from now on; returns when those that are here already have been met."""
        await self._connection.subscribe(subjects.PRESENCE, self._on_presence)
        await self._meet_all()

    def alive(self) -> list[Foreign]:
        """Those that live, in the order of their agents and names."""
        return sorted(self._known.values(), key=lambda one: (one.agent, one.name))

    def of(self, agent: str) -> list[AgentInfo]:
        """All instances of an agent."""
        return [one.info for one in self._known.values() if one.agent == agent]

    def forget_the_silent(self, late: float) -> None:
        """Let go of those whose heartbeats have not come. `late` is by how many seconds we look later than we meant to:
        then it may be we who were slow, what they said meanwhile is still to be read, and their time begins anew.
        """
        if not self._connection.is_connected:
            return  # it is we who are deaf
        now = time.monotonic()
        if late > LATE:
            for one in self._known.values():
                one.heard = now
            return
        for one in self.alive():
            silent = now - one.heard
            if silent > MISSED * one.interval + LATE:
                self._let_go(one, f"is gone: no heartbeat for {silent:.1f} s")

    async def look_after(self, agent: str) -> None:
        """Nobody took a prompt for this agent: let go of those of its instances that are not there.

        Raises:
            TransportError: the server cannot be asked.
        """
        for one in self.alive():
            if one.agent == agent and not await self._answers(subjects.AGENTS, one.info.instance):
                self._let_go(one, "is gone: it answers no more")

    def _let_go(self, one: Foreign, why: str) -> None:
        if self._known.pop(one.info.instance, None) is not None:
            log.warning("foreign agent %s %s", one.name, why)
            self._changed()

    # --- meeting them -----------------------------------------------------------------------------------------

    def _on_presence(self, message: Message) -> None:
        try:
            presence = read_presence(message.data, subject=message.subject)
            agent = subjects.parse_prompt_address(message.subject).agent
        except (DecodeError, InvalidSubjectError) as error:
            log.debug("a heartbeat is left out: %s", error)
            return
        known, now = self._known.get(presence.instance_id), time.monotonic()
        if known is not None:
            if known.agent == agent:
                known.heard, known.interval = now, presence.interval_s
        elif now >= self._strangers.get(presence.instance_id, 0.0) and subjects.is_token(presence.instance_id):
            self._put_off(presence.instance_id)
            self._spawn(self._meet(presence.instance_id, agent, presence.interval_s))

    def _put_off(self, instance: str) -> None:
        if len(self._strangers) >= _STRANGERS:
            self._strangers.clear()
        self._strangers[instance] = time.monotonic() + AGAIN

    async def _meet(self, instance: str, agent: str, interval: float) -> None:
        try:
            found = await discover(self._connection, instance) if self._may_be_foreign(instance) else []
            for info in found:
                if info.instance == instance and info.agent == agent:
                    await self._take(info, interval)  # permissions hold on which subject it beats
        except TransportError as error:
            log.debug("instance %s is met later: %s", instance, error)
            self._strangers.pop(instance, None)

    async def _meet_all(self) -> None:
        for info in await discover(self._connection):
            if info.instance not in self._known and subjects.is_token(info.instance):
                self._put_off(info.instance)
                interval = await self._interval_of(info)
                if interval:
                    await self._take(info, interval)

    async def _interval_of(self, info: AgentInfo) -> float:
        """The seconds between two heartbeats of an agent that has not been heard yet; 0: it is left to be heard.

        Anybody may answer that he is any agent. Who answers where an agent is asked for its status is that agent, where
        permissions hold the subject.
        """
        if _fault(info) or not self._may_be_foreign(info.instance):
            return 0.0
        status = subjects.parse_prompt_address(info.prompt).status
        try:
            reply = await self._connection.request(status, timeout=_PATIENCE)
            return read_presence(reply.data, subject=status).interval_s
        except (DecodeError, TransportError, PermissionDeniedError) as error:
            log.debug("foreign agent %s is met by its heartbeat: %s", info.agent, error)
            return 0.0

    async def _back(self) -> None:
        """After a reconnect: we were deaf, not they silent, and whoever has come meanwhile we did not hear."""
        for one in self._known.values():
            one.heard = time.monotonic()
        self._strangers.clear()
        self._spawn(self._look_around())

    async def _look_around(self) -> None:
        try:
            await self._meet_all()
        except BusError as error:
            if not error.retryable:
                raise
            log.debug("who came while the server was away is met by its heartbeat: %s", error)

    async def _take(self, info: AgentInfo, interval: float) -> None:
        fault = _fault(info)
        if fault:
            log.warning("foreign agent %.80r, instance %.80s, is left out: %s", info.agent, info.instance, fault)
        elif await self._is_ours(info):
            return
        elif len(self._known) >= MOST:
            log.warning("foreign agent %s is left out: there are %d instances already", info.agent, MOST)
        else:
            one = self._known.setdefault(info.instance, Foreign(info, time.monotonic(), interval))
            self._strangers.pop(info.instance, None)
            log.info("foreign agent %s lives, at %s", one.name, info.prompt)
            self._changed()

    def _may_be_foreign(self, instance: str) -> bool:
        known = self._catalog.get(instance)
        return known is None or known.instance.foreign

    async def _is_ours(self, info: AgentInfo) -> bool:
        """Ours are in the registry by their own names; while there is none they answer as a service of their own."""
        if not self._may_be_foreign(info.instance):
            return True
        return owns(info.agent, info.instance) and await self._answers(info.agent, info.instance)

    async def _answers(self, service: str, instance: str) -> bool:
        subject = subjects.micro("PING", service, instance)
        try:
            await self._connection.request(subject, timeout=_PATIENCE)
        except NoRespondersError:
            return False
        except TransportError:
            return True  # it is there, and slow
        return True


def _fault(info: AgentInfo) -> str:
    """Why an agent cannot be worked with; others wrote all of what it says."""
    if not subjects.is_token(info.agent) or len(info.agent) > _LONGEST:
        return f"its name is not 1 to {_LONGEST} characters of A-Z, a-z, 0-9, underscore and hyphen"
    if info.agent.startswith("revo-"):
        return "names that begin with revo- are Revo's own"
    try:
        address = subjects.parse_prompt_address(info.prompt)
    except InvalidSubjectError as error:
        return str(error)
    if address.prompt != info.prompt or address.agent != info.agent:
        return f"it wants its prompts on {info.prompt:.200}, which is not {info.agent}'s"
    return "" if len(info.prompt) <= 256 else "its owner or session is too long"
