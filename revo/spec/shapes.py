"""Schemas as an AsyncAPI document holds them: each under a name of its own, in the dialect that its tools read.

Pydantic writes JSON Schema 2020-12 with its parts in `$defs`; the default dialect of AsyncAPI 3.0 is draft 07, and a
reference is looked up from the document's root. Must not know which schemas there are.
"""

from __future__ import annotations

import re
from typing import Any, Final

from pydantic import BaseModel

ROOT: Final = "#/components/schemas/"
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
"""Of the schemas that agents register."""

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]")
_PARTS: Final = re.compile(r"#/(?:\$defs|definitions)/([^/]+)(.*)", re.DOTALL)
_DATA: Final = frozenset({"default", "const", "enum", "examples", "example"})
"""What stands under these is no schema."""
_MAPS: Final = frozenset({"properties", "patternProperties", "dependentSchemas"})
"""What stands under these are names of the user's, with a schema each."""
_DROPPED: Final = frozenset({"$defs", "definitions", "$schema", "$id", "$anchor", "discriminator"})
"""Parts are hoisted; the others mean something else in a document, or nothing: `oneOf` is enough for a validator."""


class Shapes:
    """The schemas of one document."""

    def __init__(self) -> None:
        self.all: dict[str, Any] = {}
        """By name, as they stand in the document."""
        self._raw: dict[str, Any] = {}

    def model(self, model: type[BaseModel]) -> dict[str, str]:
        """A reference to the schema of a model of ours: what has a default may be missing, for older versions do not
        write it. Parts that several models have stand there once.
        """
        return self.schema(model.__name__, model.model_json_schema(), shared=True)

    def schema(self, name: str, schema: dict[str, Any], *, shared: bool = False) -> dict[str, str]:
        """A reference to a JSON schema that stands on its own. Its parts are named after it, unless they are `shared`
        and one that says the same has the name already.
        """
        name = self._free(_safe(name), schema)
        if name not in self.all:
            parts = {**schema.get("definitions", {}), **schema.get("$defs", {})}
            names = {}
            for part, said in parts.items():
                names[part] = self._free(_safe(part), said) if shared else _safe(f"{name}.{part}")
            self._raw[name] = schema
            self.all[name] = {}  # in its place, before its parts
            for part, said in parts.items():
                if names[part] not in self.all or not shared:
                    self._raw[names[part]] = said
                    self.all[names[part]] = _converted(said, name, names)
            self.all[name] = _converted(schema, name, names)
        return {"$ref": ROOT + name}

    def _free(self, name: str, schema: Any) -> str:
        """The name, or one like it if something else has it."""
        free, number = name, 2
        while free in self._raw and self._raw[free] != schema:
            free, number = f"{name}-{number}", number + 1
        return free


def _safe(name: str) -> str:
    return _UNSAFE.sub("_", name)


def _converted(schema: Any, owner: str, names: dict[str, str], *, are_names: bool = False) -> Any:
    """A schema of 2020-12 in the dialect of the document."""
    if isinstance(schema, list):
        return [_converted(one, owner, names) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if are_names:
        return {name: _converted(one, owner, names) for name, one in schema.items()}
    made: dict[str, Any] = {}
    for word, said in schema.items():
        if word in _DATA:
            made[word] = said
        elif word not in _DROPPED:
            made[word] = _converted(said, owner, names, are_names=word in _MAPS)
    if isinstance(made.get("$ref"), str):
        there = {"$ref": _moved(made.pop("$ref"), owner, names)}
        return {**made, "allOf": [*made.get("allOf", []), there]} if made else there  # draft 07 reads nothing beside it
    if "prefixItems" in made:
        made["items"], made["additionalItems"] = made.pop("prefixItems"), made.get("items", True)
    needs = {**made.pop("dependentRequired", {}), **made.pop("dependentSchemas", {})}
    return {**made, "dependencies": needs} if needs else made


def _moved(reference: str, owner: str, names: dict[str, str]) -> str:
    """A reference inside a schema, after its parts have moved. One that leads elsewhere stays."""
    if (found := _PARTS.match(reference)) is not None:
        part = found[1].replace("~1", "/").replace("~0", "~")
        return f"{ROOT}{names.get(part, _safe(f'{owner}.{part}'))}{found[2]}"
    return f"{ROOT}{owner}{reference[1:]}" if reference.startswith("#") else reference
