"""A task that was given to the worker under test, and the end that it came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bus import codec
from bus.errors import BusError
from revo.conformance.tap import Seen, Unmet


class NotRun(BusError):  # noqa: N818  (a verdict, and no failure of ours)
    """A check cannot be made here; says why."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def __str__(self) -> str:
        return self.why


@dataclass(slots=True)
class Task:
    """One task that was stored in TASKS."""

    client: str
    capability: str
    task_id: str
    sequence: int
    tell: str
    body: bytes
    headers: dict[str, str]
    at: float
    """When it was submitted, unix seconds by our clock."""
    deadline: float
    blind: bool = False
    """Whether it was under way while we were not connected: we may have missed what was said of it."""

    @property
    def name(self) -> str:
        """`<client>.<capability>.<task id>`."""
        return f"{self.client}.{self.capability}.{self.task_id}"


@dataclass(frozen=True, slots=True)
class End:
    """The result of a task, as it was told."""

    seen: Seen
    result: dict[str, Any]

    def __getitem__(self, field: str) -> Any:
        return self.result.get(field)

    @property
    def code(self) -> str:
        """Of its error; empty: it has none."""
        return str((self.result.get("error") or {}).get("code", ""))

    def __str__(self) -> str:
        return f"{self['status']}{f' ({self.code})' if self.code else ''}"


def read(seen: Seen) -> End:
    """The result in a message."""
    try:
        result = codec.decode(seen.body, codec.content_type_of(seen.headers), subject=seen.name)
    except BusError as error:
        raise Unmet(f"the result of {seen.name} cannot be read: {error}") from error
    if not isinstance(result, dict):
        raise Unmet(f"the result of {seen.name} is no map")
    return End(seen, result)


def expect(found: object, wanted: object, what: str) -> None:
    """Have two things be equal.

    Raises:
        Unmet: they are not; says `what` should be.
    """
    if found != wanted:
        raise Unmet(f"{what} is {found!r:.300}, wanted {wanted!r:.300}")
