"""What is registered, what is asked, and what stands in the bucket REGISTRY.

A lease is one entry `lease.<agent>.<instance>` that holds all that is known of the instance but the schemas of its
capabilities; those stand once, at `def.<capability>`.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from bus import subjects
from bus.messages import Hex, Token, UnixSeconds

LEASES: Final = subjects.LEASES
DEFINITIONS: Final = "def"
MAX_PAGE: Final = 1000

Kind = Literal["agent", "actor", "system"]
State = Literal["starting", "ready", "draining"]
Text = Annotated[str, Field(max_length=256)]
Count = Annotated[int, Field(ge=0, le=1_000_000_000)]
Labels = Annotated[dict[Annotated[str, Field(max_length=64)], Text], Field(max_length=32)]


class Word(NamedTuple):
    """What a capability is (a digest of its schemas), and which version of which agent says so."""

    meaning: str
    agent: str
    version: str

    def contradicts(self, other: Word) -> bool:
        """Whether the two cannot hold at once. Of two versions of one agent both may: one replaces the other."""
        return self.meaning != other.meaning and (self.agent != other.agent or self.version == other.version)


class CapabilityInfo(BaseModel):
    """A capability as an agent declares it: its name and the JSON schemas of message and result."""

    name: str
    message: dict[str, Any] = {}
    result: dict[str, Any] = {}


class Registration(BaseModel):
    """What an instance says of itself. `secret` is what it proves later that the lease is its own."""

    model_config = ConfigDict(extra="ignore")

    agent: str
    instance: str
    secret: Annotated[str, Field(min_length=16, max_length=128, repr=False)]
    kind: Kind = "agent"
    version: Text = ""
    host: Text = ""
    pid: Count = 0
    started_at: UnixSeconds = 0.0
    restarts: Count = 0
    concurrency: Count = 1
    labels: Labels = {}
    capabilities: Annotated[list[CapabilityInfo], Field(max_length=256)] = []


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

    @property
    def key(self) -> str:
        """Where its lease stands in the bucket."""
        return lease_key(self.agent, self.instance)

    def word(self, capability: str) -> Word:
        """What one of its capabilities is to it."""
        return Word(self.capabilities[capability], self.agent, self.version)


class Definition(BaseModel):
    """What a capability is, and whose word that is: of several versions of an agent, that of the last one to come."""

    model_config = ConfigDict(extra="ignore")

    capability: Token
    message: dict[str, Any] = {}
    result: dict[str, Any] = {}
    agent: Token
    version: Text = ""
    defined_at: UnixSeconds = 0.0


class Registered(BaseModel):
    """The lease stands. It runs out `ttl` seconds after its last renewal."""

    instance: str
    revision: int
    ttl: float
    registered_at: float


class Lease(BaseModel):
    """Names a lease and proves that it is one's own."""

    agent: str
    instance: str
    secret: Annotated[str, Field(min_length=1, max_length=128, repr=False)]


class Removed(BaseModel):
    """Whether there was a lease to give up."""

    instance: str
    removed: bool


class Query(BaseModel):
    """Which instances: those of an agent, all by default. They come by name, in pages; `after` is the last one seen.

    `known` is the highest revision that the asker has seen of the registry: a replica that is behind waits for it.
    """

    agent: str = ""
    after: str = ""
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 100
    known: int = 0


class Find(BaseModel):
    """Which instances have a capability and all of these labels. With `names` only their names come."""

    capability: str
    labels: Labels = {}
    after: str = ""
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 100
    known: int = 0
    names: bool = False


class Name(BaseModel):
    """One instance."""

    instance: str
    known: int = 0


class Page(BaseModel):
    """Instances in the order of their names. `more`: ask again, after the last of these."""

    instances: list[dict[str, Any]]
    more: bool = False
    revision: int = 0
    definition: Definition | None = None


class Details(BaseModel):
    """One instance with what its capabilities are."""

    instance: Instance
    definitions: list[Definition]
    revision: int = 0


class CapabilitySummary(BaseModel):
    """A capability that somebody who lives has."""

    capability: str
    agents: list[str]
    instances: int


class Capabilities(BaseModel):
    """All that can be done here."""

    capabilities: list[CapabilitySummary]
    revision: int = 0


def owner_of(secret: str) -> str:
    """What stands in a lease for the holder's secret."""
    return hashlib.blake2b(secret.encode(), digest_size=16).hexdigest()


def lease_key(agent: str, instance: str) -> str:
    """The key of a lease.

    Raises:
        InvalidSubjectError: a name that cannot stand in a subject.
    """
    return f"{LEASES}.{subjects.token(agent, 'agent name')}.{subjects.token(instance, 'instance name')}"


def owns(agent: str, instance: str) -> bool:
    """Whether an instance is called as those of the agent are, and so as those of no other agent."""
    return instance.rpartition("-")[0] == agent


def definition_key(capability: str) -> str:
    """The key of a capability's definition.

    Raises:
        InvalidSubjectError: a name that cannot stand in a subject.
    """
    return f"{DEFINITIONS}.{subjects.token(capability, 'capability')}"
