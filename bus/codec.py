"""Models to bytes and back, as msgpack or JSON; the only importer of msgpack.

The content type of a message decides. Must not know subjects beyond naming them in errors.
"""

from __future__ import annotations

import datetime
import enum
import functools
import uuid
from collections.abc import Mapping
from decimal import Decimal
from pathlib import PurePath
from typing import Any, TypeVar

import msgpack
import pydantic_core
from pydantic import BaseModel, TypeAdapter, ValidationError

from bus.errors import DecodeError, EncodeError
from bus.messages import CONTENT_TYPE, JSON, MSGPACK

T = TypeVar("T")

_ENCODE_FAULTS = (TypeError, ValueError, OverflowError, RecursionError)
_DECODE_FAULTS = (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException)
# pydantic_core's and msgpack's own errors are ValueErrors, but for msgpack's UnpackException


def _plain(value: object) -> object:
    """What stands on the wire for a Python value that msgpack does not know; JSON has the same forms."""
    if isinstance(value, BaseModel):
        return value.model_dump()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, uuid.UUID | Decimal | PurePath):
        return str(value)
    if isinstance(value, set | frozenset):
        return list(value)
    raise TypeError(f"no wire form for a {type(value).__name__}")


def encode(value: object, content_type: str = MSGPACK, *, subject: str = "") -> bytes:
    """The value as bytes of the given content type.

    Raises:
        EncodeError: when it has no wire form (an unknown type, an integer beyond 64 bits, a cycle).
    """
    try:
        if content_type == JSON:
            return pydantic_core.to_json(value)
        packed: bytes = msgpack.packb(value, default=_plain)
    except _ENCODE_FAULTS as error:
        raise EncodeError(subject, f"{error}") from error
    return packed


def canonical(value: object, *, subject: str = "") -> bytes:
    """The value as bytes that are equal where the values are, in whichever order their maps have their keys.

    Raises:
        EncodeError: when it has no wire form.
    """
    return encode(_sorted(decode(encode(value, subject=subject), MSGPACK)), subject=subject)


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value, key=lambda key: (type(key).__name__, key))}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def content_type_of(headers: Mapping[str, str], *, subject: str = "") -> str:
    """Which of the two content types the message has; one that says nothing is JSON.

    Raises:
        DecodeError: when it says something that we do not read.
    """
    said = headers.get(CONTENT_TYPE, "")
    if said == MSGPACK:
        return MSGPACK
    said = said.partition(";")[0].strip().lower()
    if said in (MSGPACK, JSON):
        return said
    if said:
        raise DecodeError(subject, f"content type {said!r} is neither {JSON} nor {MSGPACK}")
    return JSON


def decode(body: bytes, content_type: str, *, subject: str = "") -> Any:
    """The plain value (maps, lists, scalars) in the bytes.

    Raises:
        DecodeError: when the bytes are not of that content type.
    """
    try:
        if content_type == JSON:
            return pydantic_core.from_json(body)
        return msgpack.unpackb(body, strict_map_key=False)
    except _DECODE_FAULTS as error:
        raise DecodeError(subject, f"not {content_type.partition('/')[2]}: {error or type(error).__name__}") from error


def validate(adapter: TypeAdapter[T], value: object, *, subject: str = "") -> T:
    """The plain value as the adapter's type.

    Raises:
        DecodeError: when it does not fit; the reason names every field that is wrong, without its value.
    """
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        faults = [
            f"{'.'.join(str(part) for part in fault['loc']) or 'body'}: {fault['msg']}"
            for fault in error.errors(include_url=False, include_input=False)
        ]
        raise DecodeError(subject, "; ".join(faults[:10])) from None
    except RecursionError as error:
        raise DecodeError(subject, "nested too deeply") from error


def as_type(model: type[T], value: object, *, subject: str = "") -> T:
    """A plain value as `model`, or as any other type.

    Raises:
        DecodeError: as `validate`.
    """
    adapter: TypeAdapter[T] = _adapter(model)  # type: ignore[arg-type]  # a type is hashable
    return validate(adapter, value, subject=subject)


def read(model: type[T], headers: Mapping[str, str], body: bytes, *, subject: str = "") -> T:
    """A whole message as `model`: content type, bytes and fields.

    Raises:
        DecodeError: when any of the three does not fit.
    """
    return as_type(model, decode(body, content_type_of(headers, subject=subject), subject=subject), subject=subject)


@functools.lru_cache(maxsize=64)
def _adapter(model: type[Any]) -> TypeAdapter[Any]:
    """Building one takes as long as ten messages."""
    return TypeAdapter(model)
