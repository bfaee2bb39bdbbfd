"""What stands in the bucket REGISTRY, and where.

A lease is one entry `lease.<agent>.<instance>` that holds all that is known of the instance but the schemas of its
capabilities; those stand once, at `def.<capability>`.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from bus import subjects
from bus.messages import CONTENT_TYPE, MSGPACK, Hex, Token, UnixSeconds

LEASES: Final = subjects.LEASES
DEFINITIONS: Final = "def"
PACKED: Final = {CONTENT_TYPE: MSGPACK}
"""The headers of what stands there."""

Kind = Literal["agent", "actor", "system"]
State = Literal["starting", "ready", "draining"]
Condition = Literal["starting", "idle", "busy", "degraded", "paused", "draining", "suspect", "error", "dead"]
Text = Annotated[str, Field(max_length=256)]
Count = Annotated[int, Field(ge=0, le=1_000_000_000)]
Seconds = Annotated[float, Field(ge=0, le=1e10)]
Share = Annotated[float, Field(ge=0, le=1e6)]
Labels = Annotated[dict[Annotated[str, Field(max_length=64)], Text], Field(max_length=32)]


class Word(NamedTuple):
    """What a capability is (a digest of its schemas), and which version of which agent says so."""

    meaning: str
    agent: str
    version: str

    def contradicts(self, other: Word) -> bool:
        """Whether the two cannot hold at once. Of two versions of one agent both may: one replaces the other."""
        return self.meaning != other.meaning and (self.agent != other.agent or self.version == other.version)


class Health(BaseModel):
    """How an instance is, by its own word at the last renewal of its lease."""

    model_config = ConfigDict(extra="ignore")

    cpu: Share = 0.0
    """Processor time, in cores, since the renewal before."""
    memory: Annotated[int, Field(ge=0)] = 0
    """Resident, in bytes."""
    lag: Seconds = 0.0
    """How late the event loop was at worst since the renewal before, in seconds."""
    done: Annotated[int, Field(ge=0)] = 0
    """Tasks, requests and prompts that came to an end, well or not, since it started."""
    error_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The share of those that failed, the recent ones counting more."""
    latency: dict[str, Seconds] = {}
    """Quantiles `p50`, `p95` and `p99` of how long the last ones of all took, in seconds; empty before the first."""
    requests: Annotated[dict[Text, Seconds], Field(max_length=256)] = {}
    """How long the last requests took in the mean, in seconds, by method; of tasks it says nothing."""
    idle: Seconds | None = None
    """Seconds since it last did something from its queue, of those that it had room for more; None: it has none."""
    heard: Annotated[int, Field(ge=0)] = 0
    """How often it did something from its queue, probes too, since it started."""
    degraded: list[Text] = []
    """Why it is not as it should be, though it works."""
    error: Text = ""
    """Why it cannot work."""


class Instance(BaseModel):
    """One process that lives: the body of its lease, which it renews itself."""

    model_config = ConfigDict(extra="ignore")

    agent: Token
    instance: Token
    kind: Kind = "agent"
    version: Text = ""
    host: Text = ""
    pid: Count = 0
    started_at: UnixSeconds = 0.0
    restarts: Count = 0
    concurrency: Count = 1
    labels: Labels = {}
    capabilities: dict[Token, Hex] = {}
    """By name, a digest of what it is: equal where two instances mean the same."""
    state: State = "starting"
    running: Count = 0
    """Messages that are handled at this moment."""
    waiting: Count = 0
    """Messages in the process that wait for their turn."""
    registered_at: UnixSeconds = 0.0
    owner: Hex = ""
    """A hash of the holder's secret."""
    foreign: bool = False
    """Whether it is none of ours: it speaks the Synadia Agent Protocol, and bridges hold its lease. Not a kind, for
    versions before this know no more of those.
    """
    paused: Text = ""
    """Why it takes nothing for now, by somebody's order."""
    breakers: Annotated[dict[Text, Literal["open", "half-open"]], Field(max_length=256)] = {}
    """The breakers that are not closed: of a capability of its own, or of an `agent/capability` that it asks."""
    health: Health | None = None
    """None: of a version that does not say."""
    condition: Condition | None = None
    """What the registry makes of all this; never in a lease."""
    reason: Text = ""
    """Why it is in that condition."""

    @property
    def key(self) -> str:
        """Where its lease stands in the bucket."""
        return lease_key(self.agent, self.instance)

    def word(self, capability: str) -> Word:
        """What one of its capabilities is to it."""
        return Word(self.capabilities[capability], self.agent, self.version)


class Suspicion(BaseModel):
    """What others have found of an instance: it may not be chosen. Stands for as long as it holds."""

    model_config = ConfigDict(extra="ignore")

    reason: Text
    by: Text = ""
    heard: Count = 0
    """`Health.heard` when it was found: it holds until the instance says another number."""


class Pause(BaseModel):
    """A capability whose tasks wait, by somebody's order."""

    model_config = ConfigDict(extra="ignore")

    reason: Text
    by: Text = ""
    at: UnixSeconds = 0.0


class Definition(BaseModel):
    """What a capability is, and whose word that is: of several versions of an agent, that of the last one to come."""

    model_config = ConfigDict(extra="ignore")

    capability: Token
    message: dict[str, Any] = {}
    result: dict[str, Any] = {}
    agent: Token
    version: Text = ""
    defined_at: UnixSeconds = 0.0


class Subscription(BaseModel):
    """What is published on a topic is a task for this capability of the agent; it stands while no instance lives."""

    model_config = ConfigDict(extra="ignore")

    topic: Token
    agent: Token
    capability: Token
    version: Text = ""
    """Of the agent that said so last."""
    at: UnixSeconds = 0.0


def owner_of(secret: str) -> str:
    """What stands in a lease for the holder's secret."""
    return hashlib.blake2b(secret.encode(), digest_size=16).hexdigest()


def lease_key(agent: str, instance: str) -> str:
    """The key of a lease.

    Raises:
        InvalidSubjectError: a name that cannot stand in a subject.
    """
    return f"{LEASES}.{subjects.token(agent, 'agent name')}.{subjects.token(instance, 'instance name')}"


def suspect_key(agent: str, instance: str) -> str:
    """The key of what others have found of an instance."""
    return f"{subjects.SUSPECTS}.{agent}.{instance}"


def pause_key(capability: str) -> str:
    """The key that says that a capability is paused.

    Raises:
        InvalidSubjectError: a name that cannot stand in a subject.
    """
    return f"{subjects.PAUSES}.{subjects.token(capability, 'capability')}"


def topic_key(topic: str, agent: str) -> str:
    """The key of a subscription.

    Raises:
        InvalidSubjectError: a name that cannot stand in a subject.
    """
    return f"{subjects.TOPICS}.{subjects.token(topic, 'topic')}.{subjects.token(agent, 'agent name')}"


def owns(agent: str, instance: str) -> bool:
    """Whether an instance is called as those of the agent are, and so as those of no other agent."""
    return instance.rpartition("-")[0] == agent


def definition_key(capability: str) -> str:
    """The key of a capability's definition.

    Raises:
        InvalidSubjectError: a name that cannot stand in a subject.
    """
    return f"{DEFINITIONS}.{subjects.token(capability, 'capability')}"
