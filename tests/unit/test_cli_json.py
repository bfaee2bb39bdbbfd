"""What the command line writes is JSON that any reader takes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from revo.cli.common import to_json


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b"\xff", {"base64": "/w=="}),
        ({"a": [b"\xff", {"b": b""}]}, {"a": [{"base64": "/w=="}, {"b": {"base64": ""}}]}),
        ([float("nan"), {"x": float("-inf")}], ["NaN", {"x": "-Infinity"}]),
        ({b"\xff": 1, 2: float("inf"), (1, 2): b"a"}, {"/w==": 1, "2": "Infinity", "(1, 2)": {"base64": "YQ=="}}),
        ({"n": 1, "f": 1.5, "none": None, "yes": True}, {"n": 1, "f": 1.5, "none": None, "yes": True}),
    ],
)
def test_any_value_is_json_that_any_reader_takes(value: object, shown: Any) -> None:
    assert json.loads(to_json(value), parse_constant=pytest.fail) == shown
