"""What other versions of Revo rely on (`docs/upgrades.md`): to change a table here breaks an upgrade or a way back."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from pydantic import BaseModel

from actors.memory import messages as memory
from actors.registry import messages as asked
from actors.registry import model as registry
from actors.registry.schemas import digest
from actors.steward import actor as steward
from bus import codec, events, messages, schedules
from bus.control import EndOrder, TasksQuestion
from bus.messages import CONTENT_TYPE, MSGPACK, Attempts
from bus.outcomes import Policy

PACKED = {CONTENT_TYPE: MSGPACK}
_ENDED = "task_id capability client sequence attempts deliveries agent instance submitted_at"

ALWAYS_THERE: dict[type[BaseModel], str] = {
    messages.Result: f"{_ENDED} status started_at finished_at",
    messages.ErrorInfo: "code message",
    messages.DeadLetter: f"{_ENDED} subject reason error died_at",
    messages.Attempts: "",
    messages.InHand: "task_id capability client priority sequence deliveries attempt state since",
    messages.Beat: "agent instance at concurrency capabilities in_hand",
    messages.Cancelled: "task_id capability client status cancelled",
    messages.Redriven: "task_id redrive_of capability client sequence duplicate",
    messages.SpanEvent: "name time",
    messages.SpanRecord: "trace_id span_id name kind service instance start end",
    messages.SpanBatch: "spans",
    EndOrder: "sequence status",
    TasksQuestion: "",
    events.Event: "at",
    steward.Name: "task_id",
    steward.Address: "name",
    steward.Standing: "policy agent",
    steward.Company: "own within",
    schedules.Making: "address priority seconds when at",
    schedules.Plan: "schedule_id when body",
    schedules.Planned: "schedule_id",
    schedules.Which: "schedule_id",
    schedules.Whose: "",
    schedules.Occurrence: "task_id at",
    schedules.ScheduleInfo: "schedule_id client capability when",
    schedules.Listing: "schedules total",
    asked.CapabilityInfo: "name",
    asked.Registration: "agent instance secret",
    asked.Registered: "instance revision ttl registered_at",
    registry.Instance: "agent instance",
    registry.Definition: "capability agent",
    asked.Lease: "agent instance secret",
    asked.Removed: "instance removed",
    asked.Query: "",
    asked.Find: "capability",
    asked.Name: "instance",
    asked.Page: "instances",
    asked.Details: "instance definitions",
    asked.CapabilitySummary: "capability agents instances",
    asked.Capabilities: "capabilities",
    memory.Read: "key",
    memory.ReadMany: "keys",
    memory.Past: "key",
    memory.Versions: "",
    memory.Listing: "",
    memory.Writes: "writes id",
    memory.Changed: "",
    memory.Changes: "position",
    memory.Opening: "",
    memory.Kept: "session",
    memory.Wanted: "key mode id owner session",
    memory.Given: "key id",
}
"""The fields without which an older or a newer version cannot read what this one writes."""


@pytest.mark.parametrize("model", ALWAYS_THERE, ids=lambda model: model.__name__)
def test_what_crosses_the_wire_needs_no_field_more_or_less_than_was_promised(model: type[BaseModel]) -> None:
    needed = {name for name, field in model.model_fields.items() if field.is_required()}
    assert needed == set(ALWAYS_THERE[model].split())
    assert model.model_config.get("extra") != "forbid", "what a newer version says besides is no error"


@pytest.mark.parametrize(
    ("model", "field", "words"),
    [
        (messages.Result, "status", "succeeded failed expired cancelled"),
        (messages.InHand, "state", "held secluded running"),
        (messages.SpanRecord, "status", "unset ok error"),
        (asked.Registration, "kind", "agent actor system"),
        (registry.Instance, "state", "starting ready draining"),
    ],
)
def test_the_words_that_others_must_know_are_these_and_no_more(model: type[BaseModel], field: str, words: str) -> None:
    assert get_args(model.model_fields[field].annotation) == tuple(words.split())


def test_a_policy_of_another_version_is_read_for_what_this_one_knows() -> None:
    said: dict[str, Any] = {"ack_wait": 1.0, "max_attempts": 7, "of_tomorrow": 3.0}
    assert Policy.of(said) == Policy(ack_wait=1.0, max_attempts=7)


def test_what_a_newer_version_notes_of_a_task_outlives_the_changes_of_an_older_one() -> None:
    newer = codec.encode({"errors": 1, "of_tomorrow": "kept"})
    changed = codec.read(Attempts, PACKED, newer).model_copy(update={"errors": 2})
    stored = codec.decode(codec.encode(changed.model_dump()), MSGPACK)
    assert (stored["errors"], stored["of_tomorrow"]) == (2, "kept")


def test_the_digest_of_a_schema_is_the_same_in_every_version() -> None:
    """Instances write it into their leases, each as its own version makes it."""
    schema = {"type": "object", "title": "Order", "properties": {"b": {"type": "string"}}, "required": ["b", "a"]}
    capability = asked.CapabilityInfo(name="paint", message=schema, result={"type": "string"})
    assert digest(capability) == "d8bc22fb5166a4e3"
