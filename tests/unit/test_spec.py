"""The AsyncAPI document is one, says all that the code can send, and means what the models mean."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from jsonschema.exceptions import SchemaError
from pydantic import BaseModel, Field

from bus import messages, subjects
from revo import Actor, Agent, rpc, task
from revo.spec import addresses, sources, ways
from revo.spec import document as documents
from revo.spec.sources import Capability, Found
from tests import specs

ROOT = Path(__file__).parents[2]


class Leaf(BaseModel):
    kind: Literal["leaf"]
    size: int = Field(gt=0)


class Branch(BaseModel):
    kind: Literal["branch"]
    parts: list[Tree]


Tree = Annotated[Leaf | Branch, Field(discriminator="kind")]


class Garden(BaseModel):
    """What grows."""

    tree: Tree
    best: Annotated[Leaf, Field(description="the best one")] = Leaf(kind="leaf", size=1)
    at: tuple[int, str] = (0, "here")
    by_name: dict[str, Leaf] = {}


class Gardener(Agent):
    @task("grow")
    async def grow(self, garden: Garden) -> dict[str, Leaf]:
        """Grow it.

        More of this.
        """
        return garden.by_name


class Teller(Actor):
    @rpc("tell")
    async def tell(self) -> str:
        return "so"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found = [sources.of_class(one) for one in (Gardener, Teller)]
    methods = [method for one in found for method in one.methods]
    return documents.document(Found(found[0].capabilities, [*methods, *sources.system()]), server="localhost:4222")


def test_the_document_is_asyncapi_and_its_examples_fit_its_schemas(document: dict[str, Any]) -> None:
    specs.check(document)
    assert document["asyncapi"] == "3.0.0"
    assert document["servers"]["mesh"]["host"] == "localhost:4222"
    message = document["components"]["messages"]["grow.task"]
    assert message["summary"] == "Grow it."
    assert {"task.grow.send", "done.grow.receive", "cast.grow.send", "rpc.teller.tell.send"} <= set(
        document["operations"]
    )
    assert document["channels"]["rpc.revo-steward.cancel"]["address"] == "revo.rpc.revo-steward.cancel.{caller}"
    assert document["channels"]["rpc.revo-memory.read"]["address"] == "revo.scoped.revo-memory.read.{scope}.{caller}"


@pytest.mark.parametrize(
    ("part", "fault"),
    [
        (("channels", "task"), {"bogus": 1}),
        (("operations", "task.send"), {"action": "shout"}),
        (("operations", "task.send"), {"messages": [{"$ref": "#/channels/done/messages/Result"}]}),
        (("components", "messages", "Task"), {"payload": {"$ref": "#/components/schemas/Nobody"}}),
        (("components", "messages", "Beat"), {"examples": [{"payload": {"agent": "x"}}]}),
        (("components", "schemas", "Beat"), {"type": "map"}),
        (("channels", "task"), {"parameters": {}}),
    ],
)
def test_a_document_that_is_wrong_would_be_found_out(
    document: dict[str, Any], part: tuple[str, ...], fault: dict[str, Any]
) -> None:
    def changed(node: Any, path: tuple[str, ...]) -> Any:
        return {**node, path[0]: changed(node[path[0]], path[1:])} if path else {**node, **fault}

    with pytest.raises((AssertionError, KeyError, SchemaError)):
        specs.check(changed(document, part))


LEAF = {"kind": "leaf", "size": 2}


@pytest.mark.parametrize(
    ("garden", "good"),
    [
        ({"tree": LEAF}, True),
        ({"tree": {"kind": "branch", "parts": [LEAF, {"kind": "branch", "parts": []}]}}, True),
        ({"tree": LEAF, "at": [1, "x"], "best": LEAF, "by_name": {"$ref": LEAF, "default": LEAF}}, True),
        ({}, False),
        ({"tree": {"kind": "leaf", "size": 0}}, False),
        ({"tree": {"kind": "bush"}}, False),
        ({"tree": {"kind": "branch", "parts": [{"kind": "leaf"}]}}, False),
        ({"tree": LEAF, "at": ["x", 1]}, False),
        ({"tree": LEAF, "at": [1, "x", 2]}, False),
        ({"tree": LEAF, "best": {"kind": "leaf", "size": -1}}, False),
    ],
)
def test_a_schema_means_the_same_in_the_document(
    document: dict[str, Any], garden: dict[str, Any], *, good: bool
) -> None:
    (capability,) = sources.of_class(Gardener).capabilities
    assert specs.fits_both(document, "grow.message", capability.message, garden) == (good, good)


@pytest.mark.parametrize(
    ("schema", "values"),
    [
        (
            {"properties": {"$ref": {"type": "string"}, "default": {"type": "integer"}}},
            [{"$ref": "x"}, {"default": "x"}],
        ),
        ({"$ref": "#/$defs/a", "required": ["y"], "$defs": {"a": {"required": ["x"]}}}, [{"x": 1}, {"x": 1, "y": 1}]),
        ({"properties": {"next": {"$ref": "#"}, "n": {"type": "integer"}}}, [{"next": {"n": 1}}, {"next": {"n": "1"}}]),
        ({"$ref": "#/definitions/a~1b", "definitions": {"a/b": {"type": "integer"}}}, [1, "1"]),
        (
            {
                "properties": {"discriminator": {"type": "integer"}, "$id": {"$ref": "#/$defs/a"}},
                "$defs": {"a": {"const": 1}},
            },
            [{"discriminator": 1}, {"discriminator": "x"}, {"$id": 1}, {"$id": 2}],
        ),
        ({"dependentRequired": {"a": ["b"]}}, [{"a": 1}, {"a": 1, "b": 1}, {}]),
        ({"dependentSchemas": {"a": {"required": ["c"]}}}, [{"a": 1}, {"a": 1, "c": 1}]),
        ({"prefixItems": [{"type": "integer"}], "items": {"type": "string"}}, [[1, "x"], [1, 2], []]),
        ({"$id": "urn:x", "$anchor": "y", "const": {"$ref": "#/nowhere"}}, [{"$ref": "#/nowhere"}, 1]),
    ],
)
def test_what_others_register_means_the_same_too(schema: dict[str, Any], values: list[Any]) -> None:
    made = documents.document(Found([Capability("odd", schema, {}, "odd", "1")], []))
    specs.check(made)
    for value in values:
        ours, theirs = specs.fits_both(made, "odd.message", schema, value)
        assert ours == theirs, value


def test_every_header_of_ours_stands_in_the_document(document: dict[str, Any]) -> None:
    known = {
        name
        for one in document["components"]["messages"].values()
        for name in one.get("headers", {}).get("properties", {})
    }
    ours = {value for name, value in vars(messages).items() if name.isupper() and str(value).startswith("Revo-")}
    assert ours <= known, f"add {ours - known} to revo/spec/examples.py"


def test_every_subject_that_the_code_can_build_stands_in_the_document() -> None:
    filters = {"consumer_filter", "result_of", "dead_of", "_task"}
    builders = {
        name
        for name, one in inspect.getmembers(subjects, inspect.isfunction)
        if '"revo.' in inspect.getsource(one) and not name.startswith(("parse_", "is_"))
    }
    used = "".join(inspect.getsource(one) for one in (ways, addresses, documents))
    missing = {name for name in builders - filters if f"subjects.{name}" not in used}
    assert not missing, f"give them a channel in revo/spec/ways.py: {sorted(missing)}"


def test_every_note_for_the_audit_that_the_code_writes_stands_in_the_document(document: dict[str, Any]) -> None:
    code = "".join(path.read_text() for folder in ("bus", "actors") for path in (ROOT / folder).rglob("*.py"))
    written = set(re.findall(r'\bnote\((?:self\._connection, |connection, )?"([a-z]+)"', code))
    written |= set(re.findall(r'self\._note\("([a-z]+)"', code))
    assert {"anchor", "double", "lost", "moved", "redriven", "shed"} <= written, "else they are not found any more"
    channels = [one["address"] or "" for one in document["channels"].values()]
    known = {address.split(".")[2] for address in channels if address.startswith("revo.audit.")}
    assert written == known, "give them a channel in revo/spec/ways.py"


def subjects_of(text: str) -> set[str]:
    """The subjects that a document for people names, with a token for each part that varies; `>` is any more."""
    found = set()
    for said in re.findall(r"(?:\brevo|\bagents|\$KV)\.(?:<[^>\n]*>|[^\s`'\"|,;)]|(?<=[{a-z]),(?=[a-z]))+", text):
        plain = re.sub(r"<[^>]*>|\*", "x", said.rstrip(".:") + (".>" if said.endswith("...") else ""))
        for with_option in {plain.replace("[", "").replace("]", ""), re.sub(r"\[.*?\]", "", plain)}:
            braces = re.search(r"\{(.*?)\}", with_option)
            words = braces[1].split(",") if braces else [""]
            found |= {with_option.replace(braces[0], word) if braces else with_option for word in words}
    return found


def test_every_subject_in_the_document_of_the_wire_is_one_that_the_code_builds(document: dict[str, Any]) -> None:
    channels = specs.Channels(document)
    named = subjects_of((ROOT / "docs" / "wire.md").read_text())
    assert len(named) > 35, "else they are not found any more"
    assert {"revo.task.x.x", "revo.task.@x.x.x", "agents.hb.x.x.x", "revo.done.x.>", "revo.later.x.x"} <= named
    wrong = {
        one
        for one in named
        if not (channels.begins(one.removesuffix(".>")) if one.endswith(".>") else channels.of(one) is not None)
    }
    for one in named:
        service, method = (one.split(".") + [""] * 4)[2:4]
        channel = channels.of(one)
        if service.startswith("revo-") and method != "x" and channel is not None and "{method}" in channel["address"]:
            wrong.add(one)
    assert not wrong
    assert channels.of("revo.tsak.x.normal") is None
    assert not channels.begins("revo.dome.x")
