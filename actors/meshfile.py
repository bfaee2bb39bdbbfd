"""The mesh file: which actors run, how many of each, with which settings.

Every mistake in it is one line that names file, line and key.
"""

from __future__ import annotations

import re
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from bus import subjects
from bus.errors import ConfigError, InvalidSubjectError
from bus.settings import is_local

DEFAULT_NAME: Final = "mesh.toml"
REGISTRY: Final = "actors.registry:Registry"
STEWARD: Final = "actors.steward:Steward"
BRIDGE: Final = "actors.bridge:Bridge"
MEMORY: Final = "actors.memory:Coordinator"
CODE_ANALYST: Final = "actors.agents.code_analyst:CodeAnalyst"
SECURITY_GUARDIAN: Final = "actors.agents.security_guardian:SecurityGuardian"

_SYSTEM: Final = {
    subjects.REGISTRY: "registries",
    subjects.STEWARD: "stewards",
    subjects.MEMORY: "memories",
    subjects.BRIDGE: "bridges",
}
_SYSTEM_STAGES: Final = ((subjects.REGISTRY,), (subjects.STEWARD, subjects.MEMORY), (subjects.BRIDGE,))
"""No agent waits for the memory at its start, so the memory makes nobody wait."""

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class PodEntry(BaseModel):
    """The table `[actors.NAME.pod]`: how the actor runs in Kubernetes. `revo up` does not look at it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: str = Field("", description="what it runs in; empty: the image of `revo k8s render --image`")
    cpu: str = Field("250m", description="how much of a core it asks for, and may use eight times of")
    memory: str = Field("256Mi", description="what it asks for, and may not exceed twice over")
    max: int = Field(10, ge=1, le=1000, description="instances when there is much to do")
    startup: int = Field(60, ge=1, le=3600, description="seconds that its import may take")
    env: dict[str, str] = Field({}, description="variables of its environment; no secrets")
    secrets: dict[str, str] = Field(
        {}, description="VARIABLE = secret/key: a file of that secret, its path in VARIABLE"
    )

    @field_validator("cpu")
    @classmethod
    def _cores(cls, value: str) -> str:
        if not re.fullmatch(r"[1-9][0-9]*m|[0-9]+(\.[0-9]+)?", value):
            raise ValueError(f"{value!r} is no number of cores as Kubernetes writes it: 250m, 0.5 or 2")
        return value

    @field_validator("memory")
    @classmethod
    def _bytes(cls, value: str) -> str:
        if not re.fullmatch(r"[1-9][0-9]*(k|Ki|[MGT]i?)?", value):
            raise ValueError(f"{value!r} is no amount of memory as Kubernetes writes it: 256Mi or 2G")
        return value

    @field_validator("secrets")
    @classmethod
    def _secrets(cls, value: dict[str, str]) -> dict[str, str]:
        for text in value.values():
            if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[-._a-zA-Z0-9]+", text):
                raise ValueError(f"{text!r} must look like secret-name/key")
        return value


class ActorEntry(BaseModel):
    """One table `[actors.NAME]`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: str = Field(description="package.module:Class, or path/to/file.py:Class seen from the mesh file")
    count: int = Field(1, ge=1, le=1000)
    settings: dict[str, Any] = {}
    labels: dict[str, str] = Field({}, description="what its instances can be found by in the registry")
    pod: PodEntry = PodEntry()
    after: list[str] = Field([], description="actors that are ready before this one starts, and end after it")

    @field_validator("labels")
    @classmethod
    def _labels(cls, value: dict[str, str]) -> dict[str, str]:
        for key, text in value.items():
            if not key or any(sign in key + text for sign in ",=\n"):
                raise ValueError(f"{key!r}: a label is text without comma, equals sign and line break")
        return value

    @field_validator("target")
    @classmethod
    def _target(cls, value: str) -> str:
        if not re.fullmatch(r"[^:\s]+:[A-Za-z_]\w*", value):
            raise ValueError("must look like package.module:Class or path/to/file.py:Class")
        return value


class ServerEntry(BaseModel):
    """The table `[server]`: the embedded server."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    port: int = Field(0, ge=0, le=65535, description="0: 4222 when it is free, else any")
    host: str = Field("127.0.0.1", description="where it listens; anywhere but on loopback only with TLS")
    tls_cert: Path | None = Field(None, description="file of its certificate, seen from the mesh file")
    tls_key: Path | None = Field(None, description="file of the certificate's key")
    isolated: bool = Field(False, description="whether every agent has an account of its own (docs/security.md)")
    encrypted: bool = Field(False, description="whether its streams are encrypted on the disk")

    def seen_from(self, folder: Path) -> ServerEntry:
        """The same with files as they are found from anywhere; `folder` is that of the mesh file."""
        files = {key: getattr(self, key) for key in ("tls_cert", "tls_key")}
        return self.model_copy(update={key: folder / path for key, path in files.items() if path is not None})

    @model_validator(mode="after")
    def _safe(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together")
        if not is_local(self.host) and self.tls_cert is None:
            raise ValueError(f"host {self.host} can be reached from outside: set tls_cert and tls_key, too")
        return self


class Supervision(BaseModel):
    """The table `[supervision]`: what is done about an actor whose process ends by itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_restarts: int = Field(5, ge=0, description="so often within `within` seconds, then it is left for dead")
    within: Seconds = 60.0
    backoff: Seconds = 0.2
    backoff_max: Seconds = 10.0
    rest: Seconds = Field(30.0, description="how long an idle actor stays down that made room for others")


class SystemEntry(BaseModel):
    """The table `[system]`: the actors that every mesh needs, and those that it may have."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    registries: int = Field(1, ge=0, le=100, description="0 where another mesh on the same server has them")
    stewards: int = Field(1, ge=0, le=100, description="0 where another mesh on the same server has them")
    memories: int = Field(1, ge=0, le=100, description="coordinators of shared memory; 0 where nobody uses any")
    memory: dict[str, Any] = Field({}, description="the settings of the coordinators of shared memory")
    bridges: int = Field(0, ge=0, le=100, description="to foreign agents (docs/foreign-agents.md)")
    bridge: dict[str, Any] = Field({}, description="the settings of the bridges")

    def entries(self) -> dict[str, ActorEntry]:
        """They start first, and end last."""
        found = {}
        if self.registries:
            found[subjects.REGISTRY] = ActorEntry(target=REGISTRY, count=self.registries)
        if self.stewards:
            found[subjects.STEWARD] = ActorEntry(target=STEWARD, count=self.stewards)
        if self.memories:
            found[subjects.MEMORY] = ActorEntry(target=MEMORY, count=self.memories, settings=self.memory)
        if self.bridges:
            found[subjects.BRIDGE] = ActorEntry(target=BRIDGE, count=self.bridges, settings=self.bridge)
        return found


class MeshFile(BaseModel):
    """A whole mesh file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    server: ServerEntry = ServerEntry()
    supervision: Supervision = Supervision()
    system: SystemEntry = SystemEntry()
    actors: dict[str, ActorEntry] = Field(min_length=1)

    @field_validator("actors")
    @classmethod
    def _names(cls, value: dict[str, ActorEntry]) -> dict[str, ActorEntry]:
        for name in value:
            if name in _SYSTEM:
                raise ValueError(f"{name} is a system actor; set [system] {_SYSTEM[name]} = N")
            try:
                subjects.token(name, "actor name")
            except InvalidSubjectError as error:
                raise ValueError(str(error)) from error
        return value

    @model_validator(mode="after")
    def _order(self) -> Self:
        for name, entry in self.actors.items():
            for other in entry.after:
                if other not in self.actors:
                    raise ValueError(f"actors.{name}.after: there is no actor {other}")
        try:
            self.stages()
        except CycleError as error:
            raise ValueError(f"actors wait for each other: {' after '.join(error.args[1])}") from error
        return self

    def all_actors(self) -> dict[str, ActorEntry]:
        """The system's actors, then those of the file."""
        return {**self.system.entries(), **self.actors}

    def stages(self) -> list[list[str]]:
        """The order in which actors start: each stage when all of the one before are ready. They end the other way."""
        standing = self.system.entries()
        stages = [[name for name in stage if name in standing] for stage in _SYSTEM_STAGES]
        stages = [stage for stage in stages if stage]
        sorter = TopologicalSorter({name: entry.after for name, entry in self.actors.items()})
        sorter.prepare()
        while sorter.is_active():
            stage = sorter.get_ready()
            stages.append([name for name in self.actors if name in stage])
            sorter.done(*stage)
        return stages

    @classmethod
    def default(cls) -> MeshFile:
        """The actors that come with Revo, one of each."""
        return cls(
            actors={
                "code-analyst": ActorEntry(target=CODE_ANALYST),
                "security-guardian": ActorEntry(target=SECURITY_GUARDIAN),
            }
        )

    @classmethod
    def load(cls, path: Path) -> MeshFile:
        """The mesh file at `path`.

        Raises:
            ConfigError: it cannot be read or used; names file, line and key.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
            raise ConfigError(str(path), (reason or "cannot be read").lower()) from error
        try:
            raw = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            reason, _, line = str(error).partition(" (at line ")
            where = f"{path}:{line.partition(',')[0]}" if line else str(path)
            raise ConfigError(where, reason.lower()) from error
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            first = error.errors()[0]
            key = [str(part) for part in first["loc"]]
            reason = {"extra_forbidden": "unknown key", "missing": "is missing"}.get(first["type"], first["msg"])
            what = f"{path}:{line_of(text, key)}: {'.'.join(key)}"
            raise ConfigError(what, reason.removeprefix("Value error, ")) from error


_HEADER = re.compile(r"\s*\[\[?\s*(.+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(r"\s*((?:\"[^\"]*\"|'[^']*'|[A-Za-z0-9_.\s-])+?)\s*=")
_PART = re.compile(r"\"([^\"]*)\"|'([^']*)'|([A-Za-z0-9_-]+)")


def line_of(text: str, key: list[str]) -> int:
    """The line, from 1, where a key stands, or the nearest table around it: tomllib gives no positions."""
    best, depth, table = 1, 0, list[str]()
    for number, line in enumerate(text.splitlines(), start=1):
        header = _HEADER.match(line)
        found = _KEY.match(line)
        if header and "=" not in line.partition("]")[0]:
            table = _parts(header.group(1))
            here = table
        elif found:
            here = table + _parts(found.group(1))
        else:
            continue
        shared = len(here) if key[: len(here)] == here else 0
        if shared > depth:
            best, depth = number, shared
    return best


def _parts(dotted: str) -> list[str]:
    return [a or b or c for a, b, c in _PART.findall(dotted)]
