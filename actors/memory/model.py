"""What shared memory holds, as its users see it. Must not know how it is stored."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from actors.memory import rules
from bus import codec, subjects

T = TypeVar("T")

Strategy = Literal["last_writer_wins", "first_writer_wins", "merge", "highest_rank", "manual"]
"""What becomes of a write that is not based on the newest version."""

MAX_ALTERNATIVES: Final = 16
"""Values under one key that may contradict what stands there."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """A value that was to be written and contradicts what stands there."""

    value: Any
    """None for a delete; then `deleted` is set."""
    base: int
    """The version that its writer had seen; 0: none."""
    by: str
    at: float
    """Unix seconds, by its writer's clock."""
    task: str = ""
    trace_id: str = ""
    deleted: bool = False
    reason: str = ""
    """Why it could not be merged."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One version of what stands under a key."""

    key: str
    version: int
    """Its sequence in the bucket: grows with every write, whichever key it is to."""
    value: Any
    """Plain: maps, lists and scalars. None for a delete; then `deleted` is set."""
    at: float
    """Unix seconds, by the server's clock."""
    by: str = ""
    """The instance that wrote it; who asked a coordinator is held to his own name."""
    task: str = ""
    """The task in whose handler it was written, as `<client>.<capability>.<task id>`."""
    trace_id: str = ""
    """32 hex digits; empty where no trace was recorded."""
    base: int = 0
    """The version that it is based on; 0: none was named."""
    merged: int = 0
    """The version that stood there meanwhile and was merged with it; 0: none."""
    rank: int = 0
    """Its writer's, where the namespace has ranks."""
    ttl: float = 0.0
    """Seconds after `at` when it expires; 0: never."""
    deleted: bool = False
    expired: bool = False
    """Nobody deleted it: its time ran out. With `deleted` it is the version that says so, and has no value."""
    alternatives: tuple[Alternative, ...] = ()
    """The conflict set: values that contradict this one, for somebody to choose from. It stays, whatever is written,
    until `resolve`."""

    @property
    def live(self) -> bool:
        """Whether there is a value."""
        return not (self.deleted or self.expired)

    def read(self, model: type[T]) -> T:
        """The value as `model`, which any pydantic model or type can be.

        Raises:
            DecodeError: it is none; the reason names every field that is wrong.
        """
        return codec.as_type(model, self.value, subject=self.key)


Base = Entry | int | None
"""What a write is based on: what was read, or its version; None or 0: nothing is known to stand there."""


@dataclass(frozen=True, slots=True)
class Summary:
    """One entry in a list."""

    key: str
    version: int
    at: float
    by: str
    size: int
    """Bytes, as stored."""
    ttl: float = 0.0
    conflicts: int = 0


@dataclass(frozen=True, slots=True)
class Page:
    """Entries by key. `after` is what to ask for the next page with; empty: there is none."""

    entries: tuple[Summary, ...]
    after: str = ""


_INSTANCE: Final = re.compile(r"(.+)-[0-9a-f]{8}\Z")


def agent_of(by: str) -> str:
    """The agent of an instance, and a user as he is. Instances end on eight hex digits, so that none can be called as
    another agent, or user, is: no `code-analyst` is an instance of an agent `code`.
    """
    found = _INSTANCE.match(by)
    return found[1] if found else by


class Namespace(BaseModel):
    """How a namespace is used."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    strategy: Strategy = "last_writer_wins"
    rules: dict[str, str] = Field(
        default={},
        description="for `merge`, by path within a value (`stats.*`, `**.tags`, `.` for all of it): `counter`, `set`, "
        "`append`, or the name of a function that was registered",
    )
    ranks: dict[str, int] = Field(
        default={}, description="for `highest_rank`: by agent or user; 0 for who is not named"
    )

    @field_validator("rules")
    @classmethod
    def _rules(cls, value: dict[str, str]) -> dict[str, str]:
        rules.check(value)
        return value

    @field_validator("ranks")
    @classmethod
    def _names(cls, value: dict[str, int]) -> dict[str, int]:
        for name in value:
            subjects.token(name, "agent or user")
        return value

    def rank_of(self, by: str, agent: str = "") -> int:
        """The rank of an instance, or of a user; `agent` is whose it is, where that need not be taken from its name."""
        return self.ranks.get(agent or agent_of(by), 0)


class Mode(enum.StrEnum):
    """What a lock allows others: the modes of multiple granularity locking (Gray et al., 1976), without SIX."""

    INTENT_SHARED = "intent-shared"
    INTENT_EXCLUSIVE = "intent-exclusive"
    SHARED = "shared"
    EXCLUSIVE = "exclusive"


@dataclass(frozen=True, slots=True)
class Fence:
    """What a fenced write shows: which lock its writer holds."""

    namespace: str
    key: str
    id: str
    token: int


@dataclass(frozen=True, slots=True)
class LockState:
    """One lock that is held or waited for."""

    namespace: str
    key: str
    mode: Mode
    id: str
    session: str
    by: str
    since: float
    """Unix seconds: since when it is held, or waited for."""
    token: int = 0
    """The fencing token; 0: it is waited for."""
