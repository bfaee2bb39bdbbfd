"""What a prompt and the answer to it look like on the wire: an envelope, chunks, an error, and the empty end.

A prompt is text, or JSON `{"prompt", "attachments"}` when its first sign is a brace. Its answer is a stream of JSON
`{"type", "data"}`, first a status `ack`, and at last an empty message without headers, after an error too. Attachments
travel as base64.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, TypeAdapter
from pydantic_core import PydanticCustomError

from bus import codec
from bus.errors import DecodeError, RemoteError
from bus.messages import JSON, SERVICE_ERROR, SERVICE_ERROR_CODE

ACK: Final = "ack"
"""The status of a prompt that is accepted, or is still worked on."""
MAX_SILENCE: Final = 60.0
"""Seconds without a chunk after which the protocol's own clients give up."""

_NO_NAME: Final = re.compile(r"[/\\\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]|\A\.{1,2}\Z")
"""What would be a path, or would not show as what it is."""
_MAX_NAME: Final = 255
"""Bytes of a file's name; more no file system takes."""
_RETRYABLE: Final = frozenset({"429", "503"})


def _safe_name(value: str) -> str:
    if not value.strip() or _NO_NAME.search(value) or len(value.encode()) > _MAX_NAME:
        raise PydanticCustomError("file_name", "is no bare file name of 1 to 255 bytes; leave out its path")
    return value


def _bytes_of(value: object) -> object:
    if not isinstance(value, str):
        return value  # in Python they are given as they are
    try:
        return base64.b64decode(value.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        reason = "is not base64 of the standard alphabet, padded and without white space"
        raise PydanticCustomError("base64", reason) from None


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


Published = Annotated[str, Field(pattern=r"^[^\s.*>\x00-\x1f\x7f]+(\.[^\s.*>\x00-\x1f\x7f]+)*$", max_length=512)]
"""A subject that another named, and that may be published to."""


class Attachment(BaseModel):
    """A file that comes with a prompt, or with a part of the answer. Its name is a bare file name."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    filename: Annotated[str, AfterValidator(_safe_name)]
    content: Annotated[bytes, BeforeValidator(_bytes_of), PlainSerializer(_base64, when_used="json")]


Attachments = Annotated[tuple[Attachment, ...], BeforeValidator(lambda value: () if value is None else value)]
"""Some clients write null where there are none."""


class Envelope(BaseModel):
    """A prompt, or the answer to a query. Fields that we do not know are kept: who passes it on passes them on."""

    model_config = ConfigDict(extra="allow", frozen=True)

    prompt: str
    attachments: Attachments = ()


class Response(BaseModel):
    """A part of the answer."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    text: str
    attachments: Attachments = ()


class StatusChunk(BaseModel):
    """How it stands with the prompt: `ack`, or a word of the agent's own, which callers may ignore."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    status: str


class Query(BaseModel):
    """What the agent asks its caller in the middle of the stream; he answers once, with an envelope, on a subject."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    reply_subject: Published
    prompt: str
    attachments: Attachments = ()


Chunk = Response | StatusChunk | Query

_ENVELOPE: Final = TypeAdapter(Envelope)
_RESPONSE: Final = TypeAdapter(Response)
_STATUS: Final = TypeAdapter(StatusChunk)
_QUERY: Final = TypeAdapter(Query)


def write_envelope(envelope: Envelope) -> bytes:
    """The envelope as JSON."""
    return codec.encode(_plain(envelope), JSON)


def read_envelope(body: bytes, *, subject: str, may_be_empty: bool = False) -> Envelope:
    """A prompt, or with `may_be_empty` the answer to a query, from the bytes of a message.

    Raises:
        DecodeError: they are neither text nor an envelope, the prompt is empty, an attachment is not base64 or has a
            name that is no bare file name. The reason holds no content of the message.
    """
    if body.lstrip(b" \t\r\n").startswith(b"{"):
        envelope = codec.validate(_ENVELOPE, codec.decode(body, JSON, subject=subject), subject=subject)
    else:
        try:
            envelope = Envelope(prompt=body.decode())
        except UnicodeDecodeError:
            raise DecodeError(subject, "a prompt is UTF-8 text, or JSON that begins with a brace") from None
    if not may_be_empty and not envelope.prompt.strip():
        raise DecodeError(subject, "the prompt is empty")
    return envelope


def write_chunk(chunk: Chunk) -> bytes:
    """The chunk as JSON."""
    kind, data = "query", _plain(chunk)
    if isinstance(chunk, StatusChunk):
        kind, data = "status", chunk.status
    elif isinstance(chunk, Response):
        kind, data = "response", data if chunk.attachments else chunk.text
    return codec.encode({"type": kind, "data": data}, JSON)


def read_chunk(body: bytes, *, subject: str = "") -> Chunk | None:
    """A chunk from the bytes of a message that is neither the end nor an error; None when it is of a kind that we do
    not know, which is to be ignored.

    Raises:
        DecodeError: it is no chunk.
    """
    plain = codec.decode(body, JSON, subject=subject)
    if not isinstance(plain, dict) or not isinstance(plain.get("type"), str):
        raise DecodeError(subject, "a chunk is a JSON map with a type and data")
    kind, data = plain["type"], plain.get("data")
    if kind == "response":
        return codec.validate(_RESPONSE, {"text": data} if isinstance(data, str) else data, subject=subject)
    if kind == "status":
        return codec.validate(_STATUS, {"status": data}, subject=subject)
    if kind == "query":
        return codec.validate(_QUERY, data, subject=subject)
    return None


def is_end(headers: Mapping[str, str], body: bytes) -> bool:
    """Whether a message is the end of a stream."""
    return not body and not headers


def failure_headers(number: int, reason: str) -> dict[str, str]:
    """The headers of a message that says that a prompt failed; its body is empty, and the end follows it.

    400 is the caller's mistake, 429 and 503 may work later, 500 is the agent's failure.
    """
    return {SERVICE_ERROR_CODE: str(number), SERVICE_ERROR: " ".join(reason.split())[:200]}


def read_failure(headers: Mapping[str, str]) -> RemoteError | None:
    """What went wrong, if a message says so. The error's code is the protocol's number, as text."""
    number = headers.get(SERVICE_ERROR_CODE)
    if number is None:
        return None
    return RemoteError(number, headers.get(SERVICE_ERROR, ""), number in _RETRYABLE)


def _plain(model: BaseModel) -> Any:
    return model.model_dump(mode="json", exclude=None if getattr(model, "attachments", ()) else {"attachments"})
