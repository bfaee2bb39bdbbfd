"""What a user wishes to do, and what it may, as subjects. Which of them: `bus.roles`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bus import subjects


@dataclass(frozen=True, slots=True)
class Wish:
    """What a user is to do: the capabilities whose tasks it does, and what it wants of others.

    `submits` are capabilities, or agents as `@name`; `asks` are `service.method`; `broadcasts` are capabilities;
    `prompts` are agents that take prompts, Revo's or others, or `*` for all; `memory` are namespaces of shared memory,
    with `:ro` at the end those that are only read, or `*` for all.
    """

    does: Sequence[str] = ()
    submits: Sequence[str] = ()
    asks: Sequence[str] = ()
    broadcasts: Sequence[str] = ()
    prompts: Sequence[str] = ()
    memory: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Grants:
    """What comes of it. Each list holds subjects, with wildcards where many are meant."""

    sends: tuple[str, ...] = ()
    """What it may publish, and be answered once."""
    pulls: tuple[str, ...] = ()
    """What it may publish, and be answered many times."""
    hears: tuple[str, ...] = ()
    """What it may subscribe."""
    serves: tuple[str, ...] = ()
    """What it answers to others, under its own name."""
    casts: tuple[str, ...] = ()
    """The capabilities to all instances of which it may speak."""
    does: tuple[str, ...] = ()
    """The capabilities whose tasks it does."""
    streams: tuple[str, ...] = ()
    """What it answers to others with many messages."""
    listings: tuple[tuple[str, str], ...] = ()
    """What many answer, it among them: how others call it, and where it hears it in an account of its own."""
    prompts: tuple[str, ...] = ()
    """The agents that it may prompt, by name."""
    finds: tuple[tuple[str, str], ...] = ()
    """What it asks many to find them, as in `listings`."""


def listings(*verbs: str) -> list[tuple[str, str]]:
    """Where agents that take prompts are found."""
    return [
        (subjects.micro(verb, subjects.AGENTS, one), subjects.listing(verb, one)) for verb in verbs for one in ("", "*")
    ]


READS: Final = ("read", "read_many", "history", "list", "conflicts", "changes", "describe", "locks")
"""What a coordinator of shared memory is asked within a namespace by those who may read it."""
WRITES: Final = ("write", "lock", "unlock")
"""And by those who may write to it."""
SESSIONS: Final = ("open_session", "renew_session", "close_session")
"""And by those who may hold locks, wherever: a session is of no namespace."""


def namespace_of(access: str) -> tuple[str, bool]:
    """The namespace that one of a wish's `memory` names, and whether it may be written to.

    Raises:
        InvalidSubjectError: there can be no such namespace.
    """
    namespace = access.removesuffix(":ro")
    return namespace if namespace == "*" else subjects.token(namespace, "namespace"), namespace == access


def remembers(user: str, memory: Sequence[str]) -> list[str]:
    """What a user publishes to use shared memory: who may touch which namespace is held by these subjects alone."""
    found: list[str] = []
    for access in memory:
        namespace, writes = namespace_of(access)
        methods = (*READS, *WRITES) if writes else READS
        found += [subjects.scoped(subjects.MEMORY, method, namespace, user) for method in methods]
        if writes:
            found += [subjects.rpc(subjects.MEMORY, method, user) for method in SESSIONS]
    return list(dict.fromkeys(found))
