"""Every subject is built and parsed in one place, and nothing from outside can shape one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus import subjects
from bus.errors import InvalidSubjectError

TOKENS = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)


@given(TOKENS, st.sampled_from(subjects.PRIORITIES), TOKENS)
def test_a_task_subject_reads_back_as_it_was_built(capability: str, priority: str, client: str) -> None:
    built = subjects.task(capability, priority, client)
    assert subjects.parse_task(built) == (capability, priority, client)


@given(st.text())
def test_no_text_becomes_a_token_unless_it_is_one(text: str) -> None:
    good = 1 <= len(text) <= 64 and all(c.isascii() and (c.isalnum() or c in "_-") for c in text)
    if good:
        assert subjects.token(text) == text
    else:
        with pytest.raises(InvalidSubjectError):
            subjects.token(text)


@pytest.mark.parametrize("name", ["", "a.b", "*", ">", "a b", "a\n", "ä", "x" * 65, "a\x00"])
def test_illegal_names_are_refused_everywhere(name: str) -> None:
    builders: list[Callable[[], str]] = [
        lambda: subjects.task(name, "low"),
        lambda: subjects.task("x", "low", name),
        lambda: subjects.consumer(name, "low"),
        lambda: subjects.rpc(name, "m"),
        lambda: subjects.rpc("s", name),
        lambda: subjects.span(name),
        lambda: subjects.result_of(name),
        lambda: subjects.done(name),
    ]
    for build in builders:
        with pytest.raises(InvalidSubjectError):
            build()


def test_a_misspelt_priority_is_refused_and_the_right_ones_are_named() -> None:
    with pytest.raises(InvalidSubjectError, match="critical, urgent, high, normal, low"):
        subjects.task("x", "hihg")


def test_the_stream_takes_fifteen_forms_and_no_others() -> None:
    assert len(subjects.TASK_FORMS) == 15
    assert "revo.task.*.low" in subjects.TASK_FORMS
    assert "revo.task.*.low.*" in subjects.TASK_FORMS
    assert "revo.task.*.low.*.fair" in subjects.TASK_FORMS


def test_a_delivery_is_read_without_and_with_a_domain() -> None:
    plain = "$JS.ACK.TASKS.echo-low.3.17.40.1700000000000000000.9"
    with_domain = "$JS.ACK.hub.ACC.TASKS.echo-low.3.17.40.1700000000000000000.9.rnd"
    for reply in (plain, with_domain):
        assert subjects.parse_ack(reply) == (3, 17, 1_700_000_000_000_000_000, 40, 9)
    with pytest.raises(InvalidSubjectError):
        subjects.parse_ack("_INBOX.x.1")


@pytest.mark.parametrize(
    "given", [(["echo"], "normal", "a"), ("echo", {}, "a"), ("echo", "normal", [1]), (None, "low", "a")]
)
def test_what_is_no_text_is_refused_as_such(given: Any) -> None:
    with pytest.raises(InvalidSubjectError):
        subjects.task(*given)


def test_a_task_in_a_lane_reads_back_as_one_of_its_queue() -> None:
    address = subjects.TaskAddress("echo", "low", "alice")
    assert subjects.parse_task(address.subject(lane=True)) == address
    assert subjects.in_lane(address.subject(lane=True))
    assert not subjects.in_lane(address.subject())
    assert not subjects.in_lane(subjects.task("echo", "low", "fair")), "a client may be called so"


@pytest.mark.parametrize("capability", ["echo", "a-b", "x-normal", "@agent-1"])
def test_the_name_of_a_consumer_reads_back_as_it_was_built(capability: str) -> None:
    assert subjects.parse_consumer(subjects.consumer(capability, "low")) == (capability, "low", False)
    assert subjects.parse_consumer(subjects.lane_consumer(capability, "low")) == (capability, "low", True)
    assert subjects.parse_consumer("somebody-else-s") is None
