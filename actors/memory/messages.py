"""What a coordinator of shared memory is asked, and what it answers; `docs/wire.md` tells it to others.

The namespace is the scope of the request, and stands in none of these.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from actors.memory import sessions
from actors.memory.backend import Session, Write
from actors.memory.model import Entry, Fence, Mode

MAX_PAGE: Final = 1000
"""Entries of one list, and keys of one request."""
MAX_WAIT: Final = 2.0
"""Seconds that a coordinator keeps a request waiting. Who wants to wait longer asks again: whichever replica answers
goes on where the one before was, and none must be waited for when it is to end."""


def _session(session: Session) -> Session:
    if not sessions.may_be(session.id):
        raise ValueError("no session has such an id")
    return session


Key = Annotated[str, Field(max_length=500)]
"""`bus.subjects.path` says what one may be; no key that it takes is longer than this."""
OfSession = Annotated[Session, AfterValidator(_session)]
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_./-]{1,200}$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.@-]{0,300}$")]
Limit = Annotated[int, Field(ge=1, le=MAX_PAGE)]
Seconds = Annotated[float, Field(ge=0, le=MAX_WAIT, allow_inf_nan=False)]
Version = Annotated[int, Field(ge=0)]


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore")


class Read(_Message):
    """The newest version of a key, or another."""

    key: Key
    version: Version = 0


class ReadMany(_Message):
    """The newest versions of some keys."""

    keys: Annotated[list[Key], Field(max_length=MAX_PAGE)]


class Past(_Message):
    """The versions of a key after one of them."""

    key: Key
    after: Version = 0


class Versions(_Message):
    """As many as fit, the oldest first. Ask again with this `after`, unless it is 0: then that was all."""

    entries: list[Entry] = []
    after: Version = 0


class Listing(_Message):
    """What stands at and under a key, by key."""

    prefix: Key = ""
    after: Key = ""
    limit: Limit = 100


class Writes(_Message):
    """Some writes, all or none. With the same `id` it is the same, asked for once more: then `ago` says since when."""

    writes: Annotated[list[Write], Field(min_length=1, max_length=MAX_PAGE)]
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{16,64}$")]
    ago: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Seconds since it was asked for the first time; 0: this is it."""
    by: Name = ""
    task: Name = ""
    fence: Fence | None = None


class Changed(_Message):
    """What was written after a version, at and under a key. If there is nothing yet, it is waited for."""

    prefix: Key = ""
    since: Version | None = Field(None, description="None: only how far it has got is asked")
    wait: Seconds = 0.0
    limit: Limit = 256


class Changes(_Message):
    """Every version after `since`, in order, as many as fit. Ask again with `since=position`."""

    entries: list[Entry] = []
    position: Version
    anew: bool = Field(False, description="the stream is not the one that `since` was of: begin anew")


class Opening(_Message):
    """A session is to be opened."""

    by: Name = ""
    task: Name = ""


class Kept(_Message):
    """A session."""

    session: OfSession


class Wanted(_Message):
    """A lock, or the place in the queue for it that an earlier request with the same `id` took."""

    key: Key
    mode: Mode
    id: Id
    owner: Id
    session: OfSession
    by: Name = ""
    task: Name = ""
    wait: Seconds = 0.0


class Given(_Message):
    """A lock, or a place in the queue for it, is given up."""

    key: Key
    id: Id
    answered: Annotated[bool, Field(description="no request for it can be under way: all were answered")] = False
