"""JSON schemas of capabilities: whether they are any, and whether two say the same."""

from __future__ import annotations

import hashlib
from typing import Any, Final

from actors.registry.errors import SchemaError
from actors.registry.messages import CapabilityInfo
from actors.registry.model import Definition
from bus import codec

MAX_SCHEMA: Final = 64 * 1024
"""Bytes of one schema, as msgpack."""
_WORDS: Final = frozenset({"title", "description", "examples", "default", "deprecated", "$comment"})
"""What a schema says to people: it may differ. A default may too, for the handler fills it in."""
_MAPS: Final = frozenset({"properties", "$defs", "definitions", "patternProperties", "dependentSchemas"})
"""Here the keys are names of the user's, not the schema's words."""


def check(capability: CapabilityInfo, checked: set[bytes]) -> None:
    """Make sure that both schemas are some. `checked` are those that were looked at before, and grows by these.

    Raises:
        SchemaError: one is none, or too large; names the capability and where.
    """
    for what, schema in (("message", capability.message), ("result", capability.result)):
        where = f"capability {capability.name}: schema of its {what}"
        packed = codec.canonical(schema, subject=where)
        if len(packed) > MAX_SCHEMA:
            raise SchemaError(where, f"{len(packed)} bytes exceed the limit of {MAX_SCHEMA} bytes")
        if packed not in checked:
            _check(schema, where)
            if len(checked) < 10_000:
                checked.add(packed)


def _check(schema: dict[str, Any], where: str) -> None:
    from jsonschema import Draft202012Validator  # noqa: PLC0415  (70 ms, with the first schema that is new)
    from jsonschema.exceptions import SchemaError as InvalidSchema  # noqa: PLC0415

    try:
        Draft202012Validator.check_schema(schema)
    except InvalidSchema as error:
        path = "/".join(str(part) for part in error.absolute_path) or "the whole"
        raise SchemaError(where, f"is not a JSON schema (2020-12): at {path}: {error.message[:200]}") from error
    except RecursionError as error:
        raise SchemaError(where, "is nested too deeply") from error


def digest(capability: CapabilityInfo | Definition) -> str:
    """Equal where two definitions say the same."""
    essence = codec.canonical([_essence(capability.message), _essence(capability.result)])
    return hashlib.blake2b(essence, digest_size=8).hexdigest()


def difference(ours: CapabilityInfo, agent: str, theirs: Definition, whose: str) -> str:
    """In which way what an agent comes with disagrees with what another means, in words; empty when it does not."""
    names = (agent, whose) if agent != whose else ("the one that comes", "the one that lives")
    for what, one, other in (("message", ours.message, theirs.message), ("result", ours.result, theirs.result)):
        found = _differs(_essence(one), _essence(other), what, names)
        if found:
            return found
    return ""


def _essence(schema: Any, *, names: bool = False) -> Any:
    if isinstance(schema, dict):
        return {
            key: _essence(value, names=not names and key in _MAPS)
            for key, value in schema.items()
            if names or key not in _WORDS
        }
    if isinstance(schema, list):
        # Names that are required, values that are allowed: their order is that of somebody's lines, and says nothing.
        items = [_essence(item) for item in schema]
        return sorted(items) if all(isinstance(item, str) for item in items) else items
    return schema


def _differs(ours: Any, theirs: Any, where: str, names: tuple[str, str]) -> str:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted(ours.keys() | theirs.keys()):
            if key not in theirs:
                return f"{where}.{key} is not known to {names[1]}"
            if key not in ours:
                return f"{where}.{key} is not known to {names[0]}"
            found = _differs(ours[key], theirs[key], f"{where}.{key}", names)
            if found:
                return found
        return ""
    if ours == theirs and type(ours) is type(theirs):
        return ""
    return f"{where} is {theirs!r:.80} for {names[1]} and {ours!r:.80} for {names[0]}"
