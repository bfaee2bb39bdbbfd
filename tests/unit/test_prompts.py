"""Prompts on the wire as the protocol's own packages write and read them, and methods that can answer none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel
from synadia_ai.agents import Attachment as TheirAttachment
from synadia_ai.agents import Envelope as TheirEnvelope
from synadia_ai.agents import decode, encode
from synadia_ai.agents.messages import decode_chunk, encode_chunk

from actors.actor import Actor, Agent, check_class, prompted_by
from actors.agents.answers import MAX_ROWS, sources_in, table
from bus import subjects
from bus.errors import ConfigError, DecodeError, InvalidSubjectError
from bus.prompts import (
    Attachment,
    Chunk,
    Envelope,
    Query,
    Response,
    StatusChunk,
    read_chunk,
    read_envelope,
    read_info,
    read_presence,
    read_size,
    write_chunk,
    write_envelope,
    write_presence,
    write_size,
)
from revo import Prompt, prompt

FILE = Attachment(filename="a b.bin", content=bytes(range(256)))
CHUNKS: list[Chunk] = [
    Response(text="grüße"),
    Response(text="", attachments=(FILE,)),
    StatusChunk(status="ack"),
    Query(id="1", reply_subject="a.b", prompt="sure?"),
    Query(id="1", reply_subject="a.b", prompt="sure?", attachments=(FILE,)),
]


@pytest.mark.parametrize("chunk", CHUNKS)
def test_a_chunk_is_the_same_to_the_protocol_s_own_package_and_back(chunk: Chunk) -> None:
    theirs = decode_chunk(write_chunk(chunk))
    assert theirs is not None
    assert read_chunk(encode_chunk(theirs)) == chunk


def test_an_envelope_keeps_what_nobody_knows() -> None:
    theirs = TheirEnvelope(prompt="hi", attachments=[TheirAttachment.from_bytes("a", b"\0")], later=[1])  # type: ignore[call-arg]
    ours = read_envelope(encode(theirs), subject="s")
    assert ours.attachments == (Attachment(filename="a", content=b"\0"),)
    assert decode(write_envelope(ours)) == theirs
    assert write_envelope(Envelope(prompt="hi")) == b'{"prompt":"hi"}'
    assert read_envelope(b"", subject="s", may_be_empty=True).prompt == ""
    assert read_chunk(b'{"type": "later", "data": 1}') is None


@pytest.mark.parametrize("subject", ["", "a b", "a.>", "a.*.b", "a..b", "x" * 600])
def test_no_answer_is_sent_where_none_can_be_published(subject: str) -> None:
    chunk = write_chunk(Query(id="1", reply_subject="a.b", prompt="?")).replace(b"a.b", subject.encode())
    with pytest.raises(DecodeError):
        read_chunk(chunk)


def test_sizes_and_subjects_are_the_protocol_s() -> None:
    for size in (1, 1000, 1024, 8 * 1024**2, 1024**2 - 1):
        assert read_size(write_size(size)) == size
    assert (write_size(1024**2), read_size("4 gb"), read_size("many")) == ("1MB", 4 * 1024**3, None)
    address = subjects.prompt_address("echo", "me_2", "s-1")
    assert address.presence == "agents.hb.echo.me_2.s-1"
    assert subjects.parse_prompt_address(address.status) == address
    assert read_presence(write_presence(address, "i", 10), subject="s").interval_s == 10
    for bad in (("Echo", "a", "b"), ("a_b", "a", "b"), ("a", "A", "b"), ("a", "b", ""), ("a", "b.c", "d")):
        with pytest.raises(InvalidSubjectError):
            subjects.prompt_address(*bad)
    for other in (b"{}", b"[]", b'{"name": "agents", "id": "a", "endpoints": [{"name": "prompt", "subject": ">"}]}'):
        with pytest.raises(DecodeError):
            read_info(other, subject="s")


def test_an_agent_on_plain_nats_py_that_says_no_more_than_it_must_is_known() -> None:
    said = {"agent": "a", "owner": "b", "session": "c", "protocol_version": "0.3"}
    prompts = {"name": "prompt", "subject": "agents.prompt.a.b.c", "queue_group": "agents", "metadata": None}
    info = {"name": "agents", "id": "i", "version": "1.0.0", "description": None, "metadata": said}
    read = read_info(json.dumps({**info, "endpoints": [prompts]}).encode(), subject="s")
    assert (read.agent, read.session, read.description, read.max_payload, read.attachments) == (
        "a",
        "c",
        "",
        None,
        True,
    )


class Text(BaseModel):
    text: str


def of(method: Any, base: type[Actor] = Agent, **more: Any) -> type[Actor]:
    return type("Odd", (base,), {"answer": method, **more})


def test_a_method_that_can_answer_no_prompt_is_named_with_what_to_do() -> None:
    def nothing(self: Any) -> str:
        return ""

    def two(self: Any, prompt: Prompt, more: int) -> str:
        return ""

    def model(self: Any, prompt: Text) -> str:
        return ""

    def number(self: Any, prompt: Prompt) -> int:
        return 1

    def parts(self: Any, prompt: Prompt) -> Iterator[str]:
        yield ""

    def good(self: Any, prompt: Prompt) -> Text | None:
        return None

    for method, said in (
        (nothing, "takes one argument"),
        (two, "takes one argument"),
        (model, "annotate prompt as revo.Prompt"),
        (number, "returns text, a pydantic model or nothing"),
        (parts, "make it `async def`"),
    ):
        with pytest.raises(ConfigError, match=f"Odd.answer: .*{said}"):
            check_class(of(prompt(method)))
    with pytest.raises(ConfigError, match="only an Agent takes prompts"):
        check_class(of(prompt(good), Actor))
    with pytest.raises(ConfigError, match="other answers prompts, too"):
        check_class(of(prompt(good), other=prompt(good)))
    with pytest.raises(ConfigError, match=r"Odd.name: .*a-z, 0-9 and hyphen; The_Odd is not"):
        check_class(of(prompt(good), name="The_Odd"))
    assert check_class(of(prompt(good))) == [], "an agent may do no tasks, and take prompts"
    found = prompted_by(of(prompt(attachments=False)(good)))
    assert found is not None
    assert (found.attachments, found.in_thread, found.streams) == (False, True, False)


def asked(text: str, *files: Attachment) -> Any:
    return type("Asked", (), {"text": text, "attachments": files})


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("What can you do?", []),
        ("Is this (a sentence) with = signs? Class: no. For all I know:", []),
        ("import os", ["source.py"]),
        ("def f(x):\n    return x", ["source.py"]),
        ("x = 1", ["source.py"]),
        ("print('hi')", ["source.py"]),
        ("Look:\n```python\nx\n```\nand\n```\ny\n```\n", ["source-1.py", "source-2.py"]),
        ("Look:\n```json\nx = 1\n```\nor\n```py\ny\n```", ["source.py"]),
        ("Look:\n```json\nx = 1\n```\n", []),
    ],
)
def test_source_is_found_in_a_prompt(text: str, names: list[str]) -> None:
    assert [name for name, _ in sources_in(asked(text))] == names
    attached = Attachment(filename="a.py", content=b"x")
    assert sources_in(asked("What is wrong with it?", attached)) == [("a.py", b"x")]


def test_a_table_is_cut_and_says_so() -> None:
    shown = table(("a", "b"), ((n, "x|y\nz") for n in range(MAX_ROWS + 5)), MAX_ROWS + 5)
    assert shown.splitlines()[2] == r"| 0 | x\|y z |"
    assert shown.endswith("5 more are not shown.")
    assert table(("a",), (), 0) == ""
