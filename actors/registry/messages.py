"""What the registry is told and asked, and what it answers."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from actors.registry.model import Count, Definition, Instance, Kind, Labels, Text
from bus.messages import Token, UnixSeconds

MAX_PAGE: Final = 1000


class CapabilityInfo(BaseModel):
    """A capability as an agent declares it: its name, the JSON schemas of message and result, and the topics on which
    what is published is a task for it.
    """

    name: str
    message: dict[str, Any] = {}
    result: dict[str, Any] = {}
    topics: Annotated[list[Token], Field(max_length=64)] = []


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
    With `dead` those whose lease ran out in the last minute come on the last page, too.

    `known` is the highest revision that the asker has seen of the registry: a replica that is behind waits for it.
    """

    agent: str = ""
    after: str = ""
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 100
    known: int = 0
    dead: bool = False


class Find(BaseModel):
    """Which instances work, and have a capability and all of these labels. With `names` the names come of those from
    whom an answer to a broadcast is expected, and nothing else.
    """

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
    pauses: dict[str, str] = {}
    """Capabilities that are paused, and why."""
    definition: Definition | None = None


class Details(BaseModel):
    """One instance with what its capabilities are."""

    instance: Instance
    definitions: list[Definition]
    revision: int = 0


class Which(BaseModel):
    """Which agents: those that subscribe to a topic, or that have a capability."""

    topic: str = ""
    capability: str = ""
    known: int = 0


class Doing(BaseModel):
    """An agent, what it does of that, and whether an instance of it lives."""

    agent: str
    capability: str
    lives: bool


class Agents(BaseModel):
    """By name."""

    agents: list[Doing]
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
