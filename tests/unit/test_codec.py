"""Models cross the wire as msgpack or JSON and come back equal; what does not fit is an error that says where."""

from __future__ import annotations

import datetime
import enum
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter

from bus import codec
from bus.errors import DecodeError, EncodeError
from bus.messages import JSON, MSGPACK, without_control_headers

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


class Colour(enum.Enum):
    RED = "red"


class Everything(BaseModel):
    when: datetime.datetime
    id: uuid.UUID
    path: Path
    colour: Colour
    tags: set[int]
    pause: datetime.timedelta


@given(PLAIN, st.sampled_from([MSGPACK, JSON]))
def test_plain_data_comes_back_equal(value: Any, content_type: str) -> None:
    assert codec.decode(codec.encode(value, content_type), content_type) == value


@pytest.mark.parametrize("content_type", [MSGPACK, JSON])
def test_a_model_of_rich_types_comes_back_equal(content_type: str) -> None:
    model = Everything(
        when=datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
        id=uuid.UUID(int=7),
        path=Path("a/b"),
        colour=Colour.RED,
        tags={1, 2},
        pause=datetime.timedelta(seconds=90),
    )
    body = codec.encode(model.model_dump(), content_type)
    assert codec.read(Everything, {"Content-Type": content_type}, body) == model


@pytest.mark.parametrize("value", [object(), 2**70, {1: object()}])
def test_a_value_without_a_wire_form_is_an_encode_error(value: object) -> None:
    with pytest.raises(EncodeError):
        codec.encode(value, MSGPACK, subject="here")


def test_a_cycle_is_an_encode_error_in_both_types() -> None:
    loop: list[Any] = []
    loop.append(loop)
    for content_type in (MSGPACK, JSON):
        with pytest.raises(EncodeError):
            codec.encode(loop, content_type)


@given(st.binary(max_size=200), st.sampled_from([MSGPACK, JSON]))
def test_no_bytes_raise_anything_but_a_decode_error(body: bytes, content_type: str) -> None:
    try:
        codec.decode(body, content_type)
    except DecodeError:
        return


@pytest.mark.parametrize("body", [b"[" * 100_000, b"\x91" * 100_000, b'{"a":' * 50_000])
def test_bytes_nested_too_deeply_are_a_decode_error(body: bytes) -> None:
    for content_type in (MSGPACK, JSON):
        with pytest.raises(DecodeError):
            codec.decode(body, content_type)


def test_a_message_that_says_nothing_is_json_and_one_that_says_something_else_is_refused() -> None:
    assert codec.content_type_of({}) == JSON
    assert codec.content_type_of({"Content-Type": "application/json; charset=utf-8"}) == JSON
    with pytest.raises(DecodeError, match="text/html"):
        codec.content_type_of({"Content-Type": "text/html"})


def test_every_wrong_field_is_named_and_its_value_is_not_shown() -> None:
    class Two(BaseModel):
        a: int
        b: int

    with pytest.raises(DecodeError) as caught:
        codec.validate(TypeAdapter(Two), {"a": "secret-word"})
    assert "a:" in str(caught.value)
    assert "b:" in str(caught.value)
    assert "secret-word" not in str(caught.value)


def test_headers_that_order_the_server_about_are_not_copied() -> None:
    kept = without_control_headers({"Nats-Rollup": "all", "nats-msg-id": "x", "Mine": "1", "traceparent": "t"})
    assert kept == {"Mine": "1", "traceparent": "t"}
