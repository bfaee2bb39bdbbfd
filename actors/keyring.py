"""The keys of a mesh: who its users are, which role and which grants each has, and the files with their seeds.

Below one folder stand `keys.json` (no secrets), `nats-accounts.conf` for the server (no secrets either), and one file
with a seed for each user, for its owner alone. All is written from `keys.json`, whatever the server runs in.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
)

from actors.actor import Actor, check_class
from bus import accounts, credentials, nkeys, roles, subjects, trusted
from bus.credentials import OPERATOR, Credentials
from bus.errors import BusError, ConfigError
from bus.grants import Grants, Wish
from bus.settings import MAIN

SYSTEM: Final = {
    subjects.REGISTRY: "registry",
    subjects.STEWARD: "steward",
    subjects.BRIDGE: trusted.BRIDGE,
    subjects.MEMORY: trusted.MEMORY,
}
"""The users that every tenant has, besides its operator."""
_LATER: Final = ("prompts", "memory")
"""Fields that came after the first version of the file."""


class User(BaseModel):
    """One user, as `keys.json` has it."""

    model_config = ConfigDict(extra="forbid")

    role: str
    keys: list[str] = Field(min_length=1, description="public ones, the newest first; two while one is rotated")
    does: list[str] = []
    submits: list[str] = []
    asks: list[str] = []
    broadcasts: list[str] = []
    prompts: list[str] = []
    memory: list[str] = []
    isolated: bool = Field(True, description="whether it has an account of its own (ADR 11)")
    made_at: float = 0.0

    @field_validator("keys")
    @classmethod
    def _keys(cls, value: list[str]) -> list[str]:
        if not all(nkeys.is_public_key(key) for key in value):
            raise ValueError("holds what is no public key of a NATS user")
        return value

    @model_serializer(mode="wrap")
    def _dump(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what an older version knows nothing of, and would refuse, where there is none of it."""
        said: dict[str, Any] = dump(self)
        return {key: value for key, value in said.items() if value or key not in _LATER}

    @property
    def wish(self) -> Wish:
        """What it is to do."""
        wished = (self.does, self.submits, self.asks, self.broadcasts, self.prompts, self.memory)
        return Wish(*(tuple(one) for one in wished))


class Ring(BaseModel):
    """The whole of `keys.json`."""

    model_config = ConfigDict(extra="forbid")

    version: int = 1
    tenants: dict[str, dict[str, User]] = {}


class NoUserError(BusError):
    """There is no such user."""

    def __init__(self, tenant: str, name: str) -> None:
        super().__init__(tenant, name)
        self.tenant = tenant
        self.name = name

    def __str__(self) -> str:
        return f"tenant {self.tenant} has no user {self.name}; `revo keys show` lists them"


class Keyring:
    """The keys in a folder. Changes are made by one process at a time, and seen whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.accounts = folder / "nats-accounts.conf"
        """What the server's configuration includes."""
        self._file = folder / "keys.json"

    def path(self, name: str, tenant: str = MAIN) -> Path:
        """Where a user's credentials are."""
        return self.folder / tenant / f"{name}.nk"

    def read(self) -> Ring:
        """Who the users are; none before `init`.

        Raises:
            ConfigError: the file cannot be read.
        """
        try:
            return Ring.model_validate_json(self._file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return Ring()
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ConfigError(str(self._file), f"{where}: {first['msg']}") from error
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(str(self._file), f"cannot be read: {error}") from error

    def init(self, tenant: str = MAIN) -> bool:
        """Make a tenant with its operator and its system actors; False when all of it is there."""
        subjects.token(tenant, "tenant")
        if tenant.startswith("SYS"):
            raise ConfigError(f"tenant {tenant}", "names that begin with SYS are the server's")
        made = self.ensure(OPERATOR, OPERATOR, Wish(), tenant)
        for name, role in SYSTEM.items():
            made = self.ensure(name, role, Wish(), tenant) or made
        return made

    def ensure(self, name: str, role: str, wish: Wish, tenant: str = MAIN, *, isolated: bool = True) -> bool:
        """Have a user with this role and these grants, and its credentials; False when nothing was to do.

        One that is not `isolated` shares the account of the streams, and is held by permissions alone. Roles that are
        trusted with streams always do.

        Raises:
            ConfigError, InvalidSubjectError: it cannot be.
        """
        roles.check(role, name, wish)
        reserved = {**SYSTEM, OPERATOR: OPERATOR}
        if name in reserved and role != reserved[name]:
            raise ConfigError(f"user {name}", f"is of role {reserved[name]} in every tenant; take another name")
        isolated = isolated and role not in (*credentials.TRUSTED, roles.FOREIGN)
        given: dict[str, Any] = {key: list(value) for key, value in dataclasses.asdict(wish).items()}
        with self._changing() as ring:
            users = ring.tenants.setdefault(tenant, {})
            standing = users.get(name)
            if standing is not None and standing.role != role:
                raise ConfigError(f"user {name}", f"is of role {standing.role}; `revo keys remove {name}` first")
            if standing is not None and standing.isolated == isolated and self._holds(name, tenant, standing):
                if standing.wish == wish:
                    return False
                users[name] = standing.model_copy(update=given)
                return True
            key = self._new_key(name, role, tenant, isolated=isolated)
            users[name] = User(role=role, keys=[key], isolated=isolated, made_at=time.time(), **given)
            return True

    def rotate(self, name: str, tenant: str = MAIN) -> None:
        """Give a user a new key. The one before it is good until `finish`; those before that are not.

        Raises:
            NoUserError: there is none.
        """
        with self._changing() as ring:
            user = _user(ring, name, tenant)
            user.keys = [self._new_key(name, user.role, tenant, isolated=user.isolated), user.keys[0]]

    def finish(self, name: str, tenant: str = MAIN) -> bool:
        """Let the older key of a user be good no more; False when it has only one."""
        with self._changing() as ring:
            user = _user(ring, name, tenant)
            had = len(user.keys) > 1
            user.keys = user.keys[:1]
            return had

    def remove(self, name: str, tenant: str = MAIN) -> None:
        """Let a user be none any more, and take away its credentials."""
        with self._changing() as ring:
            _user(ring, name, tenant)
            del ring.tenants[tenant][name]
        self.path(name, tenant).unlink(missing_ok=True)

    def grants(self, name: str, tenant: str = MAIN) -> Grants:
        """What a user may do."""
        ring = self.read()
        user = _user(ring, name, tenant)
        return roles.grants(user.role, name, user.wish, _foreign(ring.tenants[tenant]))

    def _holds(self, name: str, tenant: str, user: User) -> bool:
        """Whether the file of a user is of use: it is there, and a key of it is one that the server will know."""
        try:
            key, _ = Credentials.load(self.path(name, tenant)).answer("")
        except ConfigError:
            return False
        return key in user.keys

    def _new_key(self, name: str, role: str, tenant: str, *, isolated: bool) -> str:
        seed, account = nkeys.new_seed(), credentials.OWN if isolated else credentials.SHARED
        path = self.path(name, tenant)
        try:
            secret = Credentials.load(path).secret
        except ConfigError:
            secret = secrets.token_hex(16)
        credentials.write(path, seed, user=name, role=role, tenant=tenant, account=account, secret=secret)
        return nkeys.public_key(seed)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[Ring]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with (self.folder / "lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                ring = self.read()
                before = ring.model_dump_json()
                yield ring
                text = accounts.configuration(_members(ring))
                if not self.accounts.exists() or self.accounts.read_text(encoding="utf-8") != text:
                    credentials.write_text(self.accounts, text)  # also when another version grants otherwise
                if ring.model_dump_json() != before:
                    credentials.write_text(self._file, json.dumps(ring.model_dump(), indent=1) + "\n")
        except OSError as error:
            raise ConfigError(str(self.folder), (error.strerror or str(error)).lower()) from error


def wish_of(actor: type[Actor]) -> Wish:
    """What an actor declares that it does, and wants of others."""
    does = tuple(handler.name for handler in check_class(actor) if handler.kind == "task")
    wanted = (actor.submits, actor.asks, actor.broadcasts, actor.prompts, actor.memory)
    return Wish(does, *(tuple(one) for one in wanted))


def _user(ring: Ring, name: str, tenant: str) -> User:
    try:
        return ring.tenants[tenant][name]
    except KeyError:
        raise NoUserError(tenant, name) from None


def _members(ring: Ring) -> dict[str, list[accounts.Member]]:
    found: dict[str, list[accounts.Member]] = {}
    for tenant, users in ring.tenants.items():
        foreign = _foreign(users)
        found[tenant] = [
            accounts.Member(
                name, user.role, user.keys, roles.grants(user.role, name, user.wish, foreign), user.isolated
            )
            for name, user in users.items()
        ]
    return found


def _foreign(users: dict[str, User]) -> list[str]:
    """The foreign agents of a tenant."""
    return sorted(name for name, user in users.items() if user.role == roles.FOREIGN)
