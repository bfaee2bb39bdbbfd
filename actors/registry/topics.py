"""Who subscribes to which topic: it stands in the bucket, and outlives the instances of the agent.

An agent subscribes by registering with a capability that declares the topic, and no longer does when a version of it
registers that declares it no more.
"""

from __future__ import annotations

import re
import time
from typing import Final

from actors.registry.catalog import Catalog
from actors.registry.messages import Doing, Registration
from actors.registry.model import PACKED, Subscription, topic_key
from bus import codec
from bus.store import Bucket

_NUMBER: Final = re.compile(r"\d+")


class Topics:
    """The subscriptions of all agents."""

    def __init__(self, catalog: Catalog, bucket: Bucket) -> None:
        self._catalog = catalog
        self._bucket = bucket

    async def settle(self, registration: Registration) -> None:
        """Have the topics of an agent be those that it declares now; of two versions that live the newer one has a say.

        Raises:
            TransportError: whether all is written is not known; doing it again is safe.
        """
        ours, agent = registration.version, registration.agent
        living = (known.instance for known in self._catalog.all() if known.instance.agent == agent)
        if any(is_newer(one.version, ours) for one in living):
            return
        wanted = {topic: one.name for one in registration.capabilities for topic in one.topics}
        standing = {topic: by[agent] for topic, by in self._catalog.topics.items() if agent in by}
        revision = 0
        for topic, capability in wanted.items():
            stands = standing.pop(topic, None)
            if stands is not None and (stands.capability, stands.version) == (capability, ours):
                continue
            said = Subscription(topic=topic, agent=agent, capability=capability, version=ours, at=time.time())
            revision = await self._bucket.put(topic_key(topic, agent), codec.encode(said.model_dump()), PACKED)
        for topic in standing:
            revision = await self._bucket.remove(topic_key(topic, agent))
        await self._catalog.reached(revision)

    def subscribers(self, topic: str) -> list[Doing]:
        """The agents that subscribe to a topic, by name."""
        found = sorted(self._catalog.topics.get(topic, {}).values(), key=lambda one: one.agent)
        return [Doing(agent=one.agent, capability=one.capability, lives=self._lives(one)) for one in found]

    def having(self, capability: str) -> list[Doing]:
        """The agents an instance of which lives that has a capability, by name."""
        agents = {known.instance.agent for known in self._catalog.having(capability)}
        return [Doing(agent=agent, capability=capability, lives=True) for agent in sorted(agents)]

    def _lives(self, one: Subscription) -> bool:
        return any(known.instance.agent == one.agent for known in self._catalog.having(one.capability))


def is_newer(version: str, other: str) -> bool:
    """Whether a version is newer than another, by their numbers; of those that have none nobody can say."""
    return _numbers(version) > _numbers(other)


def _numbers(version: str) -> list[int]:
    return [int(number) for number in _NUMBER.findall(version.partition("+")[0].partition("-")[0])]
