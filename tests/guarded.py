"""A server that knows users, and the users of a small mesh: for tests of who may do what."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from actors.keyring import Keyring
from actors.loading import default_policy
from bus import roles, topology
from bus.connection import Connection
from bus.grants import Grants, Wish
from bus.mesh import Mesh
from bus.outcomes import Policy
from bus.server import Server
from bus.settings import MAIN, Settings

QUICK = Policy(ack_wait=1.0, max_attempts=3, time_limit=10.0, backoff=0.05, backoff_max=0.1, max_deaths=3)
OTHER = "acme"
"""Another tenant."""


@dataclass
class Guarded:
    """One such server. Agents are `echo` and `other`, clients `alice` and `bob`."""

    server: Server
    keyring: Keyring

    def settings(self, user: str, tenant: str = MAIN) -> Settings:
        """Those of a process that is the user."""
        return Settings(
            nats_url=self.server.url,
            credentials=str(self.keyring.path(user, tenant)),
            ack_wait=1.0,
            request_timeout=2.0,
        )

    async def connection(self, user: str, tenant: str = MAIN) -> Connection:
        """A connection as the user."""
        return await Connection.open(self.server.url, name=user, settings=self.settings(user, tenant))

    def env(self, user: str) -> dict[str, str]:
        """The environment of a process that is the user."""
        return {"REVO_CREDENTIALS": str(self.keyring.path(user))}

    def mesh(self, user: str, tenant: str = MAIN) -> contextlib.AbstractAsyncContextManager[Mesh]:
        """A client as the user."""
        return Mesh.connect(settings=self.settings(user, tenant), service=user)


def people(keyring: Keyring, *, isolated: bool, tenant: str = MAIN) -> None:
    """Make the users of a tenant."""
    keyring.init(tenant)
    for name in ("echo", "other"):
        memory = ("notes",) if name == "echo" else ()
        keyring.ensure(name, "agent", Wish(does=(name,), memory=memory), tenant, isolated=isolated)
    for name in ("alice", "bob"):
        wish = Wish(submits=("echo",))
        if name == "alice":
            wish = Wish(submits=("echo",), prompts=("echo",), memory=("notes:ro",))
        keyring.ensure(name, "submitter", wish, tenant, isolated=isolated)
    keyring.ensure("gate", "gateway", Wish(), tenant, isolated=isolated)
    keyring.ensure("eye", "observer", Wish(), tenant)
    keyring.ensure("hermes", "foreign", Wish(), tenant)


def before(monkeypatch: pytest.MonkeyPatch, *parts: str) -> None:
    """Grant agents nothing with one of these parts in its subject: as a version did that did not know of it."""
    grants = roles.grants

    def of_before(role: str, user: str, wish: Wish, foreign: Sequence[str] = ()) -> Grants:
        found = grants(role, user, wish, foreign)
        if role != roles.AGENT:
            return found
        return replace(found, sends=tuple(one for one in found.sends if not any(part in one for part in parts)))

    monkeypatch.setattr(roles, "grants", of_before)


@contextlib.asynccontextmanager
async def at_work(folder: Path, agent: str, capability: str, policy: Policy | None = None) -> AsyncIterator[Guarded]:
    """Such a server for one agent, with the shipped policy if no other is given, and for client `alice`. Both have
    accounts of their own.
    """
    keyring = Keyring(folder / "keys")
    keyring.init()
    keyring.ensure(agent, "agent", Wish(does=(capability,)))
    keyring.ensure("alice", "submitter", Wish(submits=(capability,)))
    async with Server(folder / "nats", accounts=keyring.accounts) as server:
        here = Guarded(server, keyring)
        async with here.mesh("operator") as mesh:
            for address in (capability, f"@{agent}"):
                await topology.ensure_capability(mesh.connection, address, policy or default_policy(Settings()), agent)
        yield here


@contextlib.asynccontextmanager
async def guarded(folder: Path, *, isolated: bool) -> AsyncIterator[Guarded]:
    """The server with what a mesh stands on, in both tenants."""
    keyring = Keyring(folder / "keys")
    for tenant in (MAIN, OTHER):
        people(keyring, isolated=isolated, tenant=tenant)
    async with Server(folder / "nats", accounts=keyring.accounts) as server:
        here = Guarded(server, keyring)
        async with here.mesh("operator") as mesh:
            for capability in ("echo", "other", "@echo", "@other"):
                await topology.ensure_capability(mesh.connection, capability, QUICK, capability.strip("@"))
        yield here
