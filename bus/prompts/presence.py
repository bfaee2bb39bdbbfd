"""What an agent says of itself: as a micro service, in heartbeats, and when it is asked for its status."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter

from bus import codec, subjects
from bus.errors import DecodeError, InvalidSubjectError
from bus.messages import JSON
from bus.prompts.envelope import Published

PROTOCOL_VERSION: Final = "0.3"

_SIZE: Final = re.compile(r"\s*(\d{1,15})\s*(B|KB|MB|GB)\s*\Z", re.IGNORECASE)
_UNITS: Final = {"GB": 1024**3, "MB": 1024**2, "KB": 1024, "B": 1}

Word = Annotated[str, Field(min_length=1, max_length=256)]


class Presence(BaseModel):
    """An instance lives: the body of a heartbeat, and of the answer to a status request."""

    model_config = ConfigDict(extra="allow", frozen=True)

    agent: Word
    owner: Word
    session: str | None = None
    instance_id: Word
    ts: str
    """When, in UTC as ISO 8601."""
    interval_s: float = Field(gt=0, le=86400)
    """Seconds between two heartbeats; who is silent for three of them is taken for dead."""


@dataclass(frozen=True, slots=True)
class AgentInfo:
    """An instance of an agent as `$SRV.INFO.agents` tells of it: what is needed to prompt it."""

    instance: str
    agent: str
    owner: str
    session: str
    """Empty, when its prompts come on a subject of its own making."""
    prompt: str
    """The subject to prompt it on."""
    status: str
    """The subject to ask its status on; empty when it has none."""
    max_payload: int | None
    """Bytes of a prompt that it takes; None: it does not say."""
    attachments: bool
    protocol_version: str
    version: str
    description: str
    metadata: Mapping[str, str]


def write_presence(address: subjects.PromptAddress, instance: str, interval: int) -> bytes:
    """The body of a heartbeat of now. `interval` is whole seconds: the protocol's own clients take no others."""
    said = {
        "agent": address.agent,
        "owner": address.owner,
        "session": address.session,
        "instance_id": instance,
        "ts": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "interval_s": interval,
    }
    return codec.encode(said, JSON)


def read_presence(body: bytes, *, subject: str) -> Presence:
    """A heartbeat, or the answer to a status request.

    Raises:
        DecodeError: it is none.
    """
    return codec.validate(_PRESENCE, codec.decode(body, JSON, subject=subject), subject=subject)


def service_metadata(address: subjects.PromptAddress) -> dict[str, str]:
    """What the micro service says of an agent."""
    return {
        "agent": address.agent,
        "owner": address.owner,
        "session": address.session,
        "protocol_version": PROTOCOL_VERSION,
    }


def prompt_metadata(max_payload: int, *, attachments: bool) -> dict[str, str]:
    """What the endpoint `prompt` says of itself. `max_payload` is bytes."""
    # No `min_sender_trust`: whoever says it promises to check signatures. NATS permissions say who may prompt.
    return {"max_payload": write_size(max_payload), "attachments_ok": "true" if attachments else "false"}


def read_info(body: bytes, *, subject: str) -> AgentInfo:
    """What an instance answered to `$SRV.INFO.agents`. Others wrote it: what it says is bounded, and its subjects are
    such that may be published to.

    Raises:
        DecodeError: it is not an agent of this protocol, or cannot be prompted.
    """
    info = codec.validate(_INFO, codec.decode(body, JSON, subject=subject), subject=subject)
    if info.name != subjects.AGENTS:
        raise DecodeError(subject, f"the micro service {info.name!r:.80} is no agent")
    endpoints = {endpoint.name: endpoint for endpoint in reversed(info.endpoints)}
    prompt = endpoints.get("prompt")
    named = {name: info.metadata.get(name, "") for name in ("agent", "owner", "protocol_version")}
    if prompt is None or not all(named.values()):
        raise DecodeError(subject, "an agent has an endpoint prompt, and says its agent, owner and protocol_version")
    status = endpoints.get("status")
    return AgentInfo(
        instance=info.id,
        agent=named["agent"],
        owner=named["owner"],
        session=_session(prompt.subject),
        prompt=prompt.subject,
        status=status.subject if status is not None else "",
        max_payload=read_size(prompt.metadata.get("max_payload", "")),
        attachments=prompt.metadata.get("attachments_ok", "true") == "true",
        protocol_version=named["protocol_version"],
        version=info.version,
        description=info.description,
        metadata=info.metadata,
    )


def write_size(size: int) -> str:
    """Bytes as the protocol writes them: `1MB`, `1000B`."""
    for unit, factor in _UNITS.items():
        if size >= factor and size % factor == 0:
            return f"{size // factor}{unit}"
    return f"{size}B"


def read_size(text: str) -> int | None:
    """The bytes; None when it is no size."""
    match = _SIZE.match(text)
    return int(match[1]) * _UNITS[match[2].upper()] if match else None


def _session(subject: str) -> str:
    try:
        return subjects.parse_prompt_address(subject).session
    except InvalidSubjectError:
        return ""


_Text = Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]
"""nats-py writes null where nothing is said."""
_Texts = Annotated[
    dict[Annotated[str, Field(max_length=256)], Annotated[str, Field(max_length=4096)]],
    BeforeValidator(lambda value: {} if value is None else value),
]


class _Endpoint(BaseModel):
    name: str
    subject: Published
    metadata: _Texts = {}


class _Info(BaseModel):
    name: str
    id: Word
    version: str = ""
    description: _Text = ""
    metadata: _Texts = {}
    endpoints: list[_Endpoint]


_PRESENCE: Final = TypeAdapter(Presence)
_INFO: Final[TypeAdapter[Any]] = TypeAdapter(_Info)
