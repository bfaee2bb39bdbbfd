"""A reply as it travels: a value, or an error by the headers that every NATS micro service has for one (ADR-32)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bus import codec
from bus.endings import error_info
from bus.errors import (
    BusError,
    CodecError,
    DecodeError,
    EncodeError,
    MailboxFullError,
    NotFoundError,
    RemoteError,
    RequestTimeoutError,
)
from bus.messages import CONTENT_TYPE, JSON, MSGPACK, SERVICE_ERROR, SERVICE_ERROR_CODE, ErrorInfo


def read(headers: Mapping[str, str], body: bytes, subject: str) -> Any:
    """The value of a reply.

    Raises:
        RemoteError: when the reply is an error, ours or any other micro service's.
        DecodeError: when it cannot be read.
    """
    if SERVICE_ERROR_CODE in headers:
        try:
            info = codec.read(ErrorInfo, headers, body, subject=subject)
        except DecodeError:
            raise RemoteError(headers[SERVICE_ERROR_CODE], headers.get(SERVICE_ERROR, "")) from None
        error = RemoteError(info.code, info.message, info.retryable, info.details)
        error.fault = info.fault
        raise error
    if not body:
        return None
    return codec.decode(body, codec.content_type_of(headers, subject=subject), subject=subject)


def failure(error: BaseException, content_type: str) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a reply that says what went wrong."""
    info = error_info(error)
    info.traceback = ""  # ours to read in the log, not the caller's
    number = "500"
    if isinstance(error, CodecError) and not isinstance(error, EncodeError):
        number = "400"
    elif isinstance(error, NotFoundError):
        number = "404"
    elif isinstance(error, MailboxFullError):
        number = "429"
    elif isinstance(error, RequestTimeoutError) or info.code == "deadline_exceeded":
        number = "504"
    elif info.retryable and isinstance(error, BusError):
        number = "503"
    text = " ".join(f"{info.code}: {info.message}".split())[:500]
    headers = {CONTENT_TYPE: content_type, SERVICE_ERROR_CODE: number, SERVICE_ERROR: text}
    return codec.encode(info.model_dump(), JSON if content_type == JSON else MSGPACK), headers
