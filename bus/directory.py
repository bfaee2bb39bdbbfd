"""Finds agents that speak the Synadia Agent Protocol: all instances answer to `$SRV.INFO.agents`."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from bus import subjects
from bus.connection import Connection
from bus.errors import ConfigError, DecodeError, PermissionDeniedError, TransportError
from bus.prompts import AgentInfo, read_info
from bus.wire import Message

log = logging.getLogger(__name__)

QUIET: Final = 0.25
"""Seconds after the last answer, then nobody else is waited for."""
MOST: Final = 2.0
"""Seconds for all of them."""
KEPT: Final = 30.0
"""Seconds for which an address that was found is used without asking again."""


class NoSuchAgentError(TransportError):
    """No agent of that name takes prompts at the moment."""

    def __init__(self, agent: str, others: tuple[str, ...]) -> None:
        super().__init__(agent, others)
        self.agent = agent
        self.others = others

    def __str__(self) -> str:
        known = f"; these do: {', '.join(self.others)}" if self.others else ""
        return f"no agent called {self.agent} takes prompts{known}"


async def discover(
    connection: Connection, instance: str = "", *, quiet: float = QUIET, most: float = MOST
) -> list[AgentInfo]:
    """All instances that answer, or the one that is named, ours among them; at once when there is none.

    Raises:
        PermissionDeniedError: the credentials do not allow to ask.
        TransportError: the connection is lost.
    """
    subject = subjects.micro("INFO", subjects.AGENTS, instance)
    inbox, arrived = connection.client.new_inbox(), asyncio.Queue[Message]()
    found: dict[str, AgentInfo] = {}
    subscription = await connection.subscribe(inbox, arrived.put_nowait)
    try:
        await connection.publish(subject, reply=inbox)
        await connection.flush()  # a refusal is heard here
        until = time.monotonic() + most
        while (left := until - time.monotonic()) > 0:
            async with asyncio.timeout(min(left, quiet if found else left)):
                message = await arrived.get()
            if message.headers.get("Status") == "503" and not message.data:
                break
            try:
                info = read_info(message.data, subject=subject)
            except DecodeError as error:
                log.warning("an agent is left out: %s", error)
                continue
            found[info.instance] = info
            if instance:
                break
    except TimeoutError:
        pass  # which is the usual end
    finally:
        await subscription.drain()
    return sorted(found.values(), key=lambda info: (info.agent, info.prompt, info.instance))


class Directory:
    """Addresses of agents, by name."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: list[AgentInfo] = []
        self._met: dict[subjects.PromptAddress, float] = {}
        self._asked = -KEPT
        self._asking = asyncio.Lock()

    async def find(self, agent: str, owner: str | None = None, session: str | None = None) -> AgentInfo:
        """Where an agent is prompted. Who names owner and session is not asked for proof that it is there; one of this
        mesh is found without asking all the others.

        Raises:
            NoSuchAgentError: it is nowhere.
            ConfigError: it is in more than one place, and it is not said which is meant.
            InvalidSubjectError: a name that cannot stand in a subject.
        """
        if owner is not None and session is not None:
            return _unseen(subjects.prompt_address(agent, owner, session))
        if owner is None and session is None:
            settings = self._connection.settings
            ours = subjects.prompt_address(agent, settings.owner, settings.session)
            if await self._is_at(ours):
                return _unseen(ours)
        began = time.monotonic()
        found = choose(self._known, agent, owner, session) if began - self._asked < KEPT else None
        if found is None:
            async with self._asking:
                if self._asked < began:  # otherwise somebody has asked while we waited
                    self._known = await discover(self._connection)
                    self._asked = time.monotonic()
            found = choose(self._known, agent, owner, session)
        if found is None:
            raise NoSuchAgentError(agent, tuple(sorted({info.agent for info in self._known})))
        return found

    async def _is_at(self, address: subjects.PromptAddress) -> bool:
        """Whether somebody answers there."""
        now = time.monotonic()
        if now - self._met.get(address, -KEPT) < KEPT:
            return True
        try:
            await self._connection.request(address.status, timeout=MOST)
        except (TransportError, PermissionDeniedError) as error:
            log.debug("agent %s is looked for elsewhere: %s", address.agent, error)
            return False
        self._met[address] = now
        return True

    def forget(self) -> None:
        """Something that was found is not there any more: ask again the next time."""
        self._asked = -KEPT
        self._met.clear()


def choose(known: list[AgentInfo], agent: str, owner: str | None, session: str | None) -> AgentInfo | None:
    """The one instance that is meant; None: there is none.

    Raises:
        ConfigError: there is more than one place, and it is not said which is meant.
    """
    found = [
        info
        for info in known
        if info.agent == agent and owner in (None, info.owner) and session in (None, info.session)
    ]
    places = sorted({info.prompt for info in found})
    if len(places) > 1:
        named = ", ".join(" ".join(place.split(".")[3:]) for place in places[:10])
        raise ConfigError(f"agent {agent}", f"is in {len(places)} places, of owner and session: {named}; say which")
    return found[0] if found else None


def _unseen(address: subjects.PromptAddress) -> AgentInfo:
    """What there is to know of an agent that has not been asked."""
    return AgentInfo(
        instance="",
        agent=address.agent,
        owner=address.owner,
        session=address.session,
        prompt=address.prompt,
        status=address.status,
        max_payload=None,
        attachments=True,
        protocol_version="",
        version="",
        description="",
        metadata={},
    )
