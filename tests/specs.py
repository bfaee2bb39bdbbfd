"""Holds an AsyncAPI document against its rules, and messages against the document."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator, Draft202012Validator, validators
from jsonschema.protocols import Validator

OFFICIAL = Path(__file__).parent / "asyncapi" / "3.0.0.json"
_PARAMETER = re.compile(r"\\\{([a-z_]+)\\\}")

_TYPES = Draft7Validator.TYPE_CHECKER.redefine("string", lambda _, value: isinstance(value, str | bytes))
_WithBytes: type[Validator] = validators.extend(Draft7Validator, type_checker=_TYPES)  # type: ignore[no-untyped-call]


@functools.cache
def official() -> Draft7Validator:
    schema = json.loads(OFFICIAL.read_text())
    Draft7Validator.check_schema(schema)
    return Draft7Validator(schema)


def resolved(document: Any, reference: str) -> Any:
    """What a reference within the document leads to."""
    assert reference.startswith("#/"), reference
    for part in reference[2:].split("/"):
        document = document[part.replace("~1", "/").replace("~0", "~")]
    return document


def references(node: Any, *, are_names: bool = False) -> Iterator[str]:
    """All references in a document; what stands in an example or a default is none."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref" and isinstance(value, str):
                yield value
            elif are_names or key not in ("examples", "default", "const", "enum"):
                yield from references(value, are_names=not are_names and key in ("properties", "patternProperties"))
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def check(document: dict[str, Any]) -> None:
    """Make sure that it is an AsyncAPI 3.0 document, also in what the official schema cannot say."""
    faults = [
        f"{'/'.join(map(str, fault.absolute_path))}: {fault.message}" for fault in official().iter_errors(document)
    ]
    assert not faults, faults[:5]
    for reference in references(document):
        resolved(document, reference)
    addresses = [one["address"] for one in document["channels"].values() if one["address"] is not None]
    assert len(addresses) == len(set(addresses)), "two channels have one address"
    for name, channel in document["channels"].items():
        named = re.findall(r"\{([^}]*)\}", channel["address"] or "")
        assert set(named) == set(channel.get("parameters", {})), name
        assert len(named) == len(set(named)), name
    for name, operation in document["operations"].items():
        for part in (operation, operation.get("reply", operation)):
            channel = part["channel"]["$ref"]
            assert part["messages"], name
            assert all(one["$ref"].startswith(f"{channel}/messages/") for one in part["messages"]), name
    for schema in document["components"]["schemas"].values():
        Draft7Validator.check_schema(schema)
    for message in document["components"]["messages"].values():
        for example in message.get("examples", []):
            faults = payload_faults(document, message, example["payload"])
            assert not faults, (message["name"], faults)


def validator(document: dict[str, Any], schema: dict[str, Any]) -> Validator:
    """For a schema that refers to others of the document. Bytes, which only msgpack has, are a string of it."""
    return _WithBytes({**schema, "components": document["components"]})


def payload_faults(document: dict[str, Any], message: dict[str, Any], payload: Any) -> list[str]:
    return [fault.message[:300] for fault in validator(document, message["payload"]).iter_errors(payload)]


def header_faults(document: dict[str, Any], message: dict[str, Any], headers: dict[str, str]) -> list[str]:
    schema = message.get("headers", {})
    return [fault.message[:300] for fault in validator(document, schema).iter_errors(headers)]


def fits_both(document: dict[str, Any], name: str, schema: dict[str, Any], value: Any) -> tuple[bool, bool]:
    """Whether a value fits a schema as its agent wrote it, and as it stands in the document."""
    there = {"$ref": f"#/components/schemas/{name}"}
    return Draft202012Validator(schema).is_valid(value), validator(document, there).is_valid(value)


class Channels:
    """Finds the channel of a subject: the one that says most of it."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._known = [
            ((address.count("{"), -len(re.sub(r"{.*?}", "", address))), re.compile(_pattern(address)), channel)
            for channel in document["channels"].values()
            if (address := channel["address"]) is not None
        ]
        self._known.sort(key=lambda one: one[0])
        self._document = document

    def of(self, subject: str) -> dict[str, Any] | None:
        return next((channel for _, pattern, channel in self._known if pattern.fullmatch(subject)), None)

    def begins(self, prefix: str) -> bool:
        """Whether any channel is below `prefix`, whose tokens are whole."""
        depth = prefix.count(".") + 1
        shortened = (".".join((one["address"] or "").split(".")[:depth]) for one in self._document["channels"].values())
        return any(re.fullmatch(_pattern(address), prefix) for address in shortened)

    def message(self, channel: dict[str, Any]) -> dict[str, Any]:
        (reference,) = channel["messages"].values()
        message: dict[str, Any] = resolved(self._document, reference["$ref"])
        return message


def _pattern(address: str) -> str:
    pattern = re.escape(address).replace(r"\.\{caller\}", r"(\.[^.]+)?").replace(r"\{path\}", ".+")
    return _PARAMETER.sub("[^.]+", pattern)
