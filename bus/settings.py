"""The `REVO_*` environment, read once and validated.

Every limit of the design is a setting here. Must not know who uses a setting.
"""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from bus.errors import ConfigError, NoMeshError
from bus.subjects import is_token, place, token

MIB = 1024 * 1024

MESH_FILE = "mesh.json"
"""Below `home`: what runs on this machine, written by `revo up`."""

KEYS = "keys"
"""Below `home`: the users of the mesh and their credentials (`actors.keyring`), in a folder for each tenant."""
MAIN = "main"
"""The tenant of those who name none."""

LATE = 1.5
"""Heartbeats without a renewal of its lease from which on an instance is suspect."""

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Bytes = Annotated[int, Field(gt=0)]


class Settings(BaseModel):
    """All settings of a process. Times are seconds, sizes are bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nats_url: str = Field(
        "", description="the server to use, or several of a cluster with commas between; empty: see `home`"
    )
    home: Path = Field(Path(".revo"), description="where a mesh that runs on this machine keeps its files")
    nats_server: str = Field("", description="path of a nats-server binary; empty: the one that was installed")
    credentials: str = Field(
        "", description="file of the user to be, or its name when the file is in `home`; empty: see `home`"
    )
    tls_ca: str = Field("", description="file of the authorities that may vouch for the server; empty: the system's")
    tls_cert: str = Field("", description="file of our own certificate, for a server that asks for one")
    tls_key: str = Field("", description="file of its key")
    client: str = Field("", description="our token in task and result subjects; empty: the user's name, or anon")
    connect_timeout: Seconds = Field(5.0, description="how long the first connect may take")
    request_timeout: Seconds = Field(5.0, description="how long one request to the server or an actor may take")
    publish_timeout: Seconds = Field(15.0, description="how long a durable publish is tried before it is an error")
    deadline: Seconds = Field(3600.0, description="of a task that names none")
    result_ttl: Seconds = Field(3600.0, description="how long a result is kept, at the least until the deadline")
    ack_wait: Seconds = Field(5.0, description="after how long a dead worker's task runs elsewhere")
    max_attempts: int = Field(3, ge=1, description="how often a handler may fail before the task is dead")
    time_limit: Seconds = Field(30.0, description="how long one attempt may run")
    backoff: Seconds = Field(1.0, description="before the second attempt; doubles with every further one")
    backoff_max: Seconds = Field(60.0, description="the longest pause between two attempts")
    max_deaths: int = Field(3, ge=1, description="processes that may die of one task before it is dead")
    hold: Seconds = Field(30.0, description="how long a suspect waits to be alone; none waits longer for a slot")
    settle_patience: Seconds = Field(60.0, description="how long a result that cannot be stored is kept in hand")
    drain_timeout: Seconds = Field(20.0, description="how long a drain waits for the work in hand")
    heartbeat: Seconds = Field(1.0, description="between two signs of life of a worker")
    lease: Seconds = Field(3.0, description="how long a worker may be silent before its attempts count as lost")
    lease_heartbeat: Annotated[float, Field(ge=0.5, le=3600)] = Field(
        2.0, description="between two renewals of an instance's lease in the registry; it runs out after two"
    )
    steward_interval: Seconds = Field(0.5, description="between two looks of a steward at the queue")
    forks: bool = Field(
        default=True,
        description="start the actors of a mesh on this machine as forks of one process, where it is safe",
    )
    http: str = Field(
        "", description="where an actor serves /healthz, /readyz and /metrics, as 0.0.0.0:9464; empty: nowhere"
    )
    owner: str = Field("revo", description="whose the agents are that take prompts; a token of their subjects")
    session: str = Field("main", description="the last token of those subjects; replicas share it")
    prompt_heartbeat: int = Field(
        10, ge=1, le=3600, description="between two heartbeats of an agent that takes prompts"
    )
    prompt_keepalive: Annotated[float, Field(gt=0, le=50)] = Field(
        20.0, description="between two signs of life to who waits for an answer; after 60 of silence he gives up"
    )
    prompt_limit: Seconds = Field(600.0, description="how long an agent may work on one prompt")
    prompt_max_payload: Bytes = Field(MIB, description="of one prompt; where the server takes less, that counts")
    prompt_max_answer: Bytes = Field(64 * MIB, description="of one whole answer to a prompt of ours")
    memory_history: int = Field(16, ge=2, le=1000, description="versions of an entry of shared memory that are kept")
    memory_deleted: Seconds = Field(
        7 * 86400.0, description="how long a deleted entry of shared memory, and its versions, can be had back"
    )
    memory_lease: Annotated[float, Field(ge=2, le=3600)] = Field(
        6.0, description="how long who holds locks of shared memory may be silent before they are taken away"
    )
    labels: dict[str, str] = Field({}, description="what to find this process's instance by, as zone=a,team=search")
    mailbox: int = Field(1000, ge=1, description="how many requests may wait in an actor's mailbox")
    trace_sample: float = Field(1.0, ge=0, le=1, description="the share of new traces that are recorded")
    replicas: int = Field(1, ge=1, le=5, description="copies of every stream, for a cluster")
    client_queue: int = Field(
        200_000, ge=1, description="tasks of one client that may wait for one capability at one priority"
    )
    blob_above: Annotated[int, Field(ge=1024, le=MIB)] = Field(
        512 * 1024, description="of a task's message or value: what is larger travels beside its message, in pieces"
    )
    blob_max: Bytes = Field(64 * MIB, description="of a task's message or value")
    max_depth: int = Field(16, ge=1, le=1000, description="generations of tasks that submit tasks")
    max_children: int = Field(10_000, ge=1, description="tasks that one attempt of a task may submit")
    fair_share: int = Field(
        1000, ge=1, description="tasks of other clients that a client with few of its own waits for at the most"
    )
    tasks_max_bytes: Bytes = 1024 * MIB
    later_max_bytes: Bytes = 128 * MIB
    progress_max_bytes: Bytes = 256 * MIB
    checkpoints_max_bytes: Bytes = 256 * MIB
    blobs_max_bytes: Bytes = 4096 * MIB
    budgets_max_bytes: Bytes = 256 * MIB
    results_max_bytes: Bytes = 1024 * MIB
    dead_max_bytes: Bytes = 512 * MIB
    traces_max_bytes: Bytes = 256 * MIB
    attempts_max_bytes: Bytes = 64 * MIB
    audit_max_bytes: Bytes = 64 * MIB
    advisories_max_bytes: Bytes = 64 * MIB
    registry_max_bytes: Bytes = 64 * MIB
    events_max_bytes: Bytes = 64 * MIB
    memory_max_bytes: Bytes = 1024 * MIB
    sessions_max_bytes: Bytes = 16 * MIB
    dead_max_age: Seconds = 30 * 86400.0
    traces_max_age: Seconds = 86400.0
    progress_max_age: Seconds = 3600.0
    audit_max_age: Seconds = 2 * 86400.0
    events_max_age: Seconds = 7 * 86400.0

    @field_validator("nats_url")
    @classmethod
    def _url(cls, value: str) -> str:
        if value and not _is_url(value):
            raise ValueError("must look like nats://host:4222")
        return value

    @field_validator("http")
    @classmethod
    def _http(cls, value: str) -> str:
        try:
            parts = urlsplit(f"//{value}")
            good = not value or (
                parts.netloc == value and parts.username is None and bool(parts.hostname) and parts.port is not None
            )
        except ValueError:
            good = False
        if not good:
            raise ValueError("must look like 127.0.0.1:9464 or [::]:9464; port 0 is any that is free")
        return value

    @field_validator("labels", mode="before")
    @classmethod
    def _labels(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
        if any(not key.strip() or not equals for key, equals, _ in pairs):
            raise ValueError("must look like zone=a,team=search")
        return {key.strip(): text.strip() for key, _, text in pairs}

    @field_validator("owner", "session")
    @classmethod
    def _place(cls, value: str) -> str:
        return place(value)

    @field_validator("client")
    @classmethod
    def _client(cls, value: str) -> str:

        return token(value, "client") if value else value

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Settings:
        """The settings that the environment names; the rest are the defaults above.

        Raises:
            ConfigError: when a value cannot be used; it names the variable. A variable `REVO_...` that is
                no setting is not an error: newer and older processes share environments.
        """
        env = os.environ if env is None else env
        given = {
            field: env[name]
            for field in cls.model_fields
            if (name := f"REVO_{field.upper()}") in env and env[name] != ""
        }
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            first = error.errors()[0]
            name = f"REVO_{str(first['loc'][0]).upper()}"
            shown = name if name.endswith("URL") else f"{name}={first['input']}"  # a URL may hold a password
            raise ConfigError(shown, first["msg"].removeprefix("Value error, ")) from None

    @property
    def http_address(self) -> tuple[str, int] | None:
        """Host and port of the setting `http`; None when it is empty."""
        if not self.http:
            return None
        parts = urlsplit(f"//{self.http}")
        return parts.hostname or "", parts.port or 0

    @property
    def lease_ttl(self) -> float:
        """Seconds that a lease in the registry lives after its last renewal; the server counts whole ones."""
        return float(max(1, int(2 * self.lease_heartbeat)))

    @property
    def lease_late(self) -> float:
        """Seconds after its last renewal from which on nobody should count on who holds a lease."""
        return min(self.lease_ttl, LATE * self.lease_heartbeat)

    def at(self, url: str | None, what: str = "--url") -> Settings:
        """These settings with another server, or as they are when `url` is None or empty.

        Raises:
            ConfigError: it is no URL; the error names `what`.
        """
        if not url:
            return self
        if not _is_url(url):
            raise ConfigError(what, "must look like nats://host:4222")
        return self.model_copy(update={"nats_url": url})

    def find_credentials(self, url: str) -> str:
        """The file of the user to be at a server: the setting `REVO_CREDENTIALS`, else the operator's of the mesh that
        runs here, if it is that mesh's server; empty when there is none.
        """
        named = self.credentials
        if is_token(named) and not Path(named).exists():
            return str(self.home / KEYS / MAIN / f"{named}.nk")
        if named:
            return named
        state = self._running()
        return str(state.get("credentials", "")) if state.get("url") == url else ""

    def find_url(self) -> str:
        """The server to use: the setting `REVO_NATS_URL`, else that of the mesh which runs here.

        Raises:
            NoMeshError: neither is there.
        """
        if self.nats_url:
            return self.nats_url
        state = self._running()
        if not state.get("url"):
            raise NoMeshError(str(self.home / MESH_FILE))
        return str(state["url"])

    def _running(self) -> dict[str, Any]:
        """What is written of the mesh that runs here."""
        try:
            state = json.loads((self.home / MESH_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}


def _is_url(value: str) -> bool:
    """Whether it is the URL of a server, or those of several servers of a cluster with commas between."""
    for one in value.split(","):
        try:
            parts = urlsplit(one)
            _ = parts.port  # raises when it is none
        except ValueError:
            return False
        if parts.scheme not in ("nats", "tls", "ws", "wss") or not parts.hostname:
            return False
    return True


def check_secrets(url: str) -> None:
    """See that no password in a URL would travel in the clear.

    Raises:
        ConfigError: it would, to a host that is not this machine.
    """
    for one in url.split(","):
        parts = urlsplit(one)
        if parts.username is not None and parts.scheme in ("nats", "ws") and not is_local(parts.hostname or ""):
            reason = "its password would travel in the clear; use tls:// or a file of credentials (`revo keys`)"
            raise ConfigError(redact(one), reason)


def is_local(host: str) -> bool:
    """Whether a host is this machine, by its loopback."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def redact(url: str) -> str:
    """The URL, or URLs, without user and password, fit for a log line or an error."""
    return ",".join(_redact(one) for one in url.split(","))


def _redact(url: str) -> str:
    parts = urlsplit(url)
    if parts.username is None and parts.password is None:
        return url
    host = parts.hostname or ""
    return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}"
