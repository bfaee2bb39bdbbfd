"""Every error of the bus survives pickling, says what it is about, and knows whether a retry helps."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

import revo
from bus import answers, batch, directory, errors, forkserver, jetstream, prompting, pull, restore, topology, worker
from bus.errors import BusError

FOR_USERS = ("children", "delivery", "fairness", "files", "payloads", "progress", "schedules")
EXAMPLES: list[BusError] = [
    errors.ConfigError("REVO_DEADLINE=x", "not a number"),
    errors.InvalidSubjectError("a.b", "a dot"),
    errors.EncodeError("revo.task.x.low.y", "a set"),
    errors.DecodeError("revo.task.x.low.y", "not json"),
    errors.BatchTooLargeError(2000, 1000),
    errors.InvalidKeyError("a//b", "a part of it is empty"),
    errors.PayloadTooLargeError("x", 1_200_000, 1_048_576),
    errors.PayloadTooLargeError("x", 70_000_000, 67_108_864, "REVO_BLOB_MAX"),
    errors.DamagedBlobError("revo.blob.a.echo.x1.b", "piece 3 of 40 is gone"),
    errors.BusClosedError("closed for good"),
    errors.ServerError("x", "no", 10052),
    errors.NotFoundError("x", "no", 10059),
    errors.WrongSequenceError("x", "wrong last sequence", 10071),
    errors.PermissionDeniedError("publish to", "x"),
    errors.AuthenticationError("nats://h:1"),
    errors.ServerTooOldError("nats://h:1", "results", "2.11", "2.9"),
    errors.NoJetStreamError("nats://h:1"),
    errors.ServerUnreachableError("nats://h:1", 5.0, "refused"),
    errors.NoMeshError(".revo/mesh.json"),
    errors.ConnectionLostError("x"),
    errors.NoRespondersError("x"),
    errors.RequestTimeoutError("x", 2.0),
    errors.NoTimeLeftError("echo/say", 0.5),
    errors.BreakerOpenError("echo", "say", 1.5),
    errors.QueueFullError("x", "maximum bytes exceeded"),
    errors.QueueFullError("x", "maximum bytes exceeded", 12.0),
    errors.MailboxFullError("echo", 10),
    errors.TooDeepError("a.b.c", 17, 16),
    errors.TooManyChildrenError("a.b.c", 10_000),
    errors.BudgetExceededError("tokens", 1000, 1020),
    errors.Retry(1.5, "later"),
    errors.TimeLimitError("echo", 30.0),
    errors.DeadlineExceededError("t1", 12.0),
    errors.WorkerDiedError("t1", 3),
    errors.TaskCancelledError("t1", "client a"),
    errors.DeliveriesExhaustedError("t1", 5),
    errors.SupersededError("t1", 1),
    errors.AttemptEndedError("t1"),
    errors.NoStewardError("cancel"),
    errors.PromptRefusedError("send a picture", 400),
    errors.RemoteError("oops", "it broke", True, {"n": 1}),
    errors.TaskFailedError("t1", "failed", "oops", "it broke", {"n": 1}),
    errors.ResultTimeoutError("t1", 2.0),
    errors.ResultsTimeoutError("t1", 3, 10, 2.0),
    answers.AnswerTooLargeError("hermes", 1_048_576),
    batch.BatchRefusedError("x", "a part is lost", 15.0),
    directory.NoSuchAgentError("zeus", ("hermes",)),
    forkserver.ForkServerLostError(),
    jetstream.JetStreamBusyError("x", "no leader"),
    prompting.UnansweredQueryError("hermes", "really?"),
    pull.ConsumerGoneError("echo-low", "deleted"),
    restore.StreamsStandError(("TASKS", "DEAD")),
    restore.AtWorkError(("echo-low",)),
    topology.PolicyConflictError("echo", "a", "b", ("ack_wait 5 and 6",)),
    topology.ForbiddenTopologyError("stream TASKS", "create"),
    worker.WorkerFaultError("a bug"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_survives_pickling_with_its_fields(error: BusError) -> None:
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301  (our own bytes)
    assert type(copy) is type(error)
    assert (str(copy), copy.code, copy.retryable) == (str(error), error.code, error.retryable)
    assert vars(copy) == vars(error)


def _all(root: type[BusError]) -> set[type[BusError]]:
    return {root}.union(*(_all(child) for child in root.__subclasses__()))


def test_every_error_class_has_an_example_here() -> None:
    abstract = {BusError, errors.CodecError, errors.TransportError}
    ours = {cls for cls in _all(BusError) if cls.__module__.startswith("bus.") and cls.__module__ != "bus.server"}
    assert ours - abstract == {type(error) for error in EXAMPLES}


def test_every_error_that_a_document_for_users_names_is_imported_from_revo() -> None:
    documents = Path(__file__).parents[2] / "docs"
    said = "".join((documents / f"{name}.md").read_text() for name in FOR_USERS)
    named = set(re.findall(r"\b[A-Z][A-Za-z]*Error\b", said)) & {cls.__name__ for cls in _all(BusError)}
    assert {"NoStewardError", "TooDeepError", "QueueFullError", "ResultsTimeoutError"} < named
    assert named <= set(revo.__all__)


def test_transport_errors_are_retryable_and_the_callers_mistakes_are_not() -> None:
    for error in EXAMPLES:
        if isinstance(error, errors.TransportError):
            assert error.retryable
        if isinstance(error, errors.ConfigError | errors.CodecError | errors.ServerError):
            assert not error.retryable


def test_a_full_queue_says_when_to_come_back_where_that_is_known() -> None:
    assert str(errors.QueueFullError("x", "full")) == "x was refused: full; try again when the queue has drained"
    assert str(errors.QueueFullError("x", "full", 11.7)) == "x was refused: full; come back in about 12 s"


def test_a_code_is_the_class_name_in_snake_case() -> None:
    assert errors.NoRespondersError("x").code == "no_responders"
    assert errors.Retry().code == "retry"


@pytest.mark.parametrize("delay", [-1, float("inf"), float("nan")])
def test_a_retry_with_an_impossible_delay_is_refused(delay: float) -> None:
    with pytest.raises(errors.ConfigError):
        errors.Retry(delay)
