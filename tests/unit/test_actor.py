"""An actor class says what it handles; what cannot be served is refused with a word on what to do."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from actors.actor import Actor, Agent, TaskContext, check_class, rpc, task
from actors.loading import load
from actors.mailbox import Mailbox
from actors.runtime import plain_value
from bus.errors import ConfigError, EncodeError, InvalidSubjectError, MailboxFullError
from bus.outcomes import Policy
from tests.eventually import eventually


class Text(BaseModel):
    text: str


class TwoHats(Agent):
    @task("shout", time_limit=5, max_attempts=2)
    async def shout(self, message: Text, context: TaskContext) -> Text:
        return Text(text=f"{message.text.upper()} {context.attempt}")

    @task("whisper")
    def whisper(self, message: Text) -> str:
        return message.text.lower()

    @rpc("count")
    async def count(self) -> int:
        return 1


class CodeAnalystLike(Agent):
    @task("x")
    async def x(self, message: Text) -> Text:
        return message


def test_a_name_is_the_class_in_kebab_case_unless_it_has_one() -> None:
    assert TwoHats.name == "two-hats"
    assert CodeAnalystLike.name == "code-analyst-like"


def test_the_model_is_learnt_from_the_annotations() -> None:
    found = {handler.name: handler for handler in check_class(TwoHats)}
    assert set(found) == {"shout", "whisper", "count"}
    assert found["shout"].wants_context
    assert not found["shout"].in_thread
    assert found["whisper"].in_thread
    assert found["count"].message is None
    assert found["shout"].message is not None
    assert found["shout"].message.validate_python({"text": "a"}) == Text(text="a")


def test_what_a_decorator_says_goes_over_the_default_policy() -> None:
    found = {handler.name: handler for handler in check_class(TwoHats)}
    policy = found["shout"].policy_over(Policy(ack_wait=9.0))
    assert (policy.time_limit, policy.max_attempts, policy.ack_wait) == (5, 2, 9.0)


class NoHandlers(Agent):
    pass


class NoAnnotation(Agent):
    @task("x")
    async def x(self, message):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201  (the fault)
        return message


class TooMany(Agent):
    @task("x")
    async def x(self, one: Text, two: Text) -> None: ...


class NotAnAgent(Actor):
    @task("x")
    async def x(self, message: Text) -> None: ...


class Twice(Agent):
    @task("x")
    async def one(self, message: Text) -> None: ...

    @task("x")
    async def two(self, message: Text) -> None: ...


class BadConcurrency(TwoHats):
    concurrency = 0


class BadName(TwoHats):
    name = "no.dots"


class Unserialisable(Agent):
    @task("x")
    async def x(self, message: asyncio.Event) -> None: ...


@pytest.mark.parametrize(
    ("actor", "says"),
    [
        (NoHandlers, "handles nothing; give a method @task"),
        (NoAnnotation, "annotate message with its pydantic model"),
        (TooMany, "takes one message"),
        (NotAnAgent, "derive the class from revo.Agent"),
        (Twice, "x is handled by one already"),
        (BadConcurrency, "not a number above zero"),
        (BadName, "cannot be used in a subject"),
        (Unserialisable, "use a pydantic model"),
    ],
)
def test_a_class_that_cannot_be_served_says_why_and_what_to_do(actor: type[Actor], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check_class(actor)


def test_illegal_names_and_policies_are_refused_at_import() -> None:
    with pytest.raises(InvalidSubjectError):
        task("no.dots")
    with pytest.raises(InvalidSubjectError):
        rpc("*")
    with pytest.raises(ConfigError):
        task("x", time_limit=0)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("nonsense", "package.module:Class"),
        ("no.such.module:X", "no module named"),
        ("tests.unit.test_actor:Nothing", "has no Nothing"),
        ("tests.unit.test_actor:Text", "is not an actor"),
        ("no/such/file.py:X", "no such file"),
    ],
)
def test_a_target_that_is_no_actor_says_why(target: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load(target)


@pytest.mark.parametrize(("attribute", "value"), [("shout", {"wrong": 1}), ("whisper", 5), ("count", "x")])
def test_a_value_that_is_not_what_the_method_declares_is_an_encode_error(attribute: str, value: Any) -> None:
    handler = next(handler for handler in check_class(TwoHats) if handler.attribute == attribute)
    with pytest.raises(EncodeError, match="did not return what it declares"):
        plain_value(handler, value, "here")


async def test_a_mailbox_lets_its_concurrency_through_in_order_and_refuses_beyond_its_capacity() -> None:
    mailbox = Mailbox("echo", concurrency=1, capacity=2)
    order: list[int] = []
    release = asyncio.Event()

    async def one(number: int) -> None:
        await mailbox.enter(bounded=True)
        order.append(number)
        await release.wait()
        mailbox.leave()

    running = [asyncio.create_task(one(number)) for number in range(3)]
    await eventually(lambda: mailbox.waiting == 2)
    with pytest.raises(MailboxFullError):
        await one(99)
    release.set()
    await asyncio.gather(*running)
    assert order == [0, 1, 2]


async def test_a_turn_that_nobody_waits_for_any_more_goes_to_the_next() -> None:
    mailbox = Mailbox("echo", concurrency=1, capacity=9)
    assert mailbox.enter_at_once()
    order: list[int] = []

    async def one(number: int) -> None:
        await mailbox.enter(bounded=True)
        order.append(number)

    waiting = [asyncio.create_task(one(number)) for number in range(3)]
    await eventually(lambda: mailbox.waiting == 3)
    assert not mailbox.enter_at_once(), "others came before"
    waiting[0].cancel()
    mailbox.leave()  # before the cancelled one has had a look
    await asyncio.gather(waiting[1])
    mailbox.leave()  # given to the third, which is cancelled as it gets it
    waiting[2].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert order == [1]
    assert (mailbox.running, mailbox.waiting, mailbox.enter_at_once()) == (0, 0, True)
