"""A server's configuration for users with roles: one account for each tenant, where its streams are, and one for each
user that is to be `isolated` from them (ADR 11).

Permissions on subjects alone do not hold who means harm: JetStream answers on whatever subject a request names, so who
may pull one message, or read one, can have it published on any subject of his account. Between accounts the server
makes the reply subject itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bus import subjects
from bus.credentials import DEFAULT_INBOX, SHARED_INBOX, TRUSTED
from bus.grants import Grants

MAX_CONNECTIONS: Final = 1000
"""Of one user at once."""
MAX_PAYLOAD: Final = 1024 * 1024
"""Bytes of one message, headers included; the server has its own limit, the smaller one counts."""
MAX_SUBSCRIPTIONS: Final = 10_000
"""Of one user, over all its connections."""


@dataclass(frozen=True, slots=True)
class Member:
    """One user of a tenant. `keys` are public; with two of them a rotation is under way."""

    name: str
    role: str
    keys: Sequence[str]
    grants: Grants
    isolated: bool = True
    """Whether it has an account of its own; never where its role is trusted with streams."""


@dataclass(slots=True)
class _Account:
    """One account as the server's configuration has it."""

    users: list[dict[str, Any]] = field(default_factory=list)
    exports: dict[tuple[str, str, bool], list[str]] = field(default_factory=dict)
    """By kind, subject and whether many answers come: to whom."""
    imports: list[dict[str, Any]] = field(default_factory=list)
    streams: bool = False
    limited: bool = True

    def export(self, kind: str, subject: str, to: str, *, many: bool = False) -> None:
        """Let another account have it."""
        self.exports.setdefault((kind, subject, many), []).append(to)

    def take(self, kind: str, subject: str, of: str, *, called: str = "") -> None:
        """Have what another account exports, under its name there or another."""
        taken: dict[str, Any] = {kind: {"account": of, "subject": subject}, **({"to": called} if called else {})}
        if taken not in self.imports:
            self.imports.append(taken)

    def public(self) -> dict[str, Any]:
        exports = [
            {kind: subject, **({"response_type": "stream"} if many else {}), "accounts": sorted(set(to))}
            for (kind, subject, many), to in self.exports.items()
        ]
        limits = {
            "max_connections": MAX_CONNECTIONS,
            "max_subscriptions": MAX_SUBSCRIPTIONS,
            "max_payload": MAX_PAYLOAD,
        }
        return {
            **({"jetstream": "enabled"} if self.streams else {}),
            **({"limits": limits} if self.limited else {}),
            "users": self.users,
            **({"exports": exports} if exports else {}),
            **({"imports": self.imports} if self.imports else {}),
        }


def configuration(tenants: Mapping[str, Iterable[Member]]) -> str:
    """The `accounts` of a server's configuration. It holds no secret: public keys, and who may what."""
    accounts: dict[str, _Account] = {}
    for tenant, members in tenants.items():
        _add(accounts, tenant, list(members))
    lines = [f"  {json.dumps(name)}: {_text(account.public())}" for name, account in accounts.items()]
    return "# Written by `revo keys`; do not edit.\naccounts {\n" + "\n".join(lines) + "\n}\n"


def account_of(tenant: str, member: Member) -> str:
    """The account that a user lives in."""
    return f"{tenant}/{member.name}" if member.isolated and member.role not in TRUSTED else tenant


def _add(accounts: dict[str, _Account], tenant: str, members: Sequence[Member]) -> None:
    core = accounts[tenant] = _Account(streams=True, limited=False)
    agents = [member for member in members if member.grants.serves]
    for member in members:
        name = account_of(tenant, member)
        own = core if name == tenant else accounts.setdefault(name, _Account())
        own.users += [{"nkey": key, "permissions": _permissions(tenant, member)} for key in member.keys]
        if own is not core:
            _grant(core, own, tenant, name, member.grants)
            _serve(core, own, tenant, name, member.grants)
        for capability in member.grants.casts:
            _let_speak(accounts, tenant, member, capability, agents)
        if member.grants.prompts:
            _let_find(accounts, tenant, member, agents)


def _grant(core: _Account, own: _Account, tenant: str, name: str, granted: Grants) -> None:
    """Have a user's account take from the tenant's what it was granted."""
    for kind, subjects_, many in (
        ("service", granted.sends, False),
        ("service", granted.pulls, True),
        ("stream", granted.hears, False),
    ):
        for subject in subjects_:
            core.export(kind, subject, name, many=many)
            own.take(kind, subject, tenant)


def _serve(core: _Account, own: _Account, tenant: str, name: str, granted: Grants) -> None:
    """Have the tenant's account take from a user's what it answers."""
    for subject in granted.serves:
        own.export("service", subject, tenant)
        core.take("service", subject, name)
    for subject in granted.streams:
        own.export("service", subject, tenant, many=True)
        core.take("service", subject, name)
    for asked, subject in granted.listings:
        own.export("service", subject, tenant, many=True)
        core.take("service", subject, name, called=asked)


def _let_speak(
    accounts: dict[str, _Account], tenant: str, member: Member, capability: str, agents: Sequence[Member]
) -> None:
    """Let a user speak to all instances of a capability, from account to account: streams do not pass through one."""
    speaker = account_of(tenant, member)
    said, answered = subjects.broadcast(capability, member.name), f"{subjects.answers(member.name)}.>"
    for agent in agents:
        listener = account_of(tenant, agent)
        if capability not in agent.grants.does or listener == speaker:
            continue
        hearing = accounts.setdefault(listener, _Account())
        for kind, subject in (("stream", said), ("service", answered)):
            accounts[speaker].export(kind, subject, listener)
            hearing.take(kind, subject, speaker)


def _let_find(accounts: dict[str, _Account], tenant: str, member: Member, agents: Sequence[Member]) -> None:
    """Let a user find the agents that it may prompt, and hear their heartbeats."""
    finder, core = account_of(tenant, member), accounts[tenant]
    if finder == tenant:
        return
    own, answers = accounts.setdefault(finder, _Account()), bool(member.grants.listings)
    for asked, listed in member.grants.finds:
        # Who answers this itself must not take it from those who take it from him: the server calls that a cycle, and
        # does not start. He has it from each of the others, under the name by which nobody asks.
        subject = listed if answers else asked
        core.export("service", subject, finder, many=True)
        own.take("service", subject, tenant, called=asked if answers else "")
    for agent in agents:
        theirs = account_of(tenant, agent)
        if theirs in (tenant, finder) or not {agent.name, "*"}.intersection(member.grants.prompts):
            continue
        found = accounts.setdefault(theirs, _Account())
        beats = subjects.PromptAddress(agent.name, "*", "*").presence
        found.export("stream", beats, finder)
        own.take("stream", beats, theirs)
        for asked, listed in member.grants.finds if answers else ():
            found.export("service", listed, finder, many=True)
            own.take("service", listed, theirs, called=asked)


def _permissions(tenant: str, member: Member) -> dict[str, Any]:
    """The same as subjects: what is not granted is refused by name, and not only heard by nobody."""
    granted = member.grants
    publish, subscribe = [*granted.sends, *granted.pulls], list(granted.hears)
    publish += [asked for asked, _ in granted.finds]
    if member.role not in TRUSTED:
        alone = account_of(tenant, member) != tenant
        subscribe += [
            f"{DEFAULT_INBOX}.>" if alone else f"{SHARED_INBOX}.{member.name}.>",
            *granted.serves,
            *granted.streams,
        ]
        subscribe += [subject for both in granted.listings for subject in both]
        if granted.serves:
            # The last is for clients of the agent protocol in this account, which know no other inbox.
            publish += ["_R_.>", "_CAST.>", f"{DEFAULT_INBOX}.>"]
            subscribe += [f"{subjects.broadcast(capability)}.*" for capability in granted.does]
        for capability in granted.casts:
            publish.append(subjects.broadcast(capability, member.name))
            subscribe.append(f"{subjects.answers(member.name)}.>")
    return {"publish": {"allow": sorted(set(publish))}, "subscribe": {"allow": sorted(set(subscribe))}}


def _text(value: object) -> str:
    """As JSON, which a server's configuration takes."""
    return json.dumps(value)
