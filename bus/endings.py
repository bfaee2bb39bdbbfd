"""How a task ends: its one result, and its dead letter when it failed for good.

Whoever ends a task stores its result *first*; the first one stored is the result, for ever. Each step can be repeated
after a crash: a result stands once for each task id, and so does a dead letter, which result and task alone determine.
"""

from __future__ import annotations

import json
import re
import time
import traceback
from collections.abc import Mapping
from typing import Any, Final

from bus import codec, faults, jetstream, subjects
from bus.connection import Connection
from bus.errors import BusError, DecodeError, PayloadTooLargeError, TaskFailedError, WrongSequenceError
from bus.messages import (
    BLOB,
    CONTENT_TYPE,
    DEAD_LETTER,
    EXPECTED_SUBJECT_SEQUENCE,
    MSG_TTL,
    MSGPACK,
    STATUS,
    TASK_ID,
    TRACEPARENT,
    VERSION,
    WIRE_VERSION,
    DeadLetter,
    Envelope,
    ErrorInfo,
    Result,
    Status,
    without_control_headers,
)

MAX_TRACEBACK: Final = 4000
MAX_MESSAGE: Final = 2000
MAX_DETAILS: Final = 4000
"""Characters; together they fit in the headroom that every task leaves (`bus.messages.HEADROOM`)."""
FAILED_TASK: Final = "failed_task"
"""In the details of an error that a handler did not raise but passed on: the task that failed first."""

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


async def store_result(connection: Connection, envelope: Envelope, result: Result, *, within: bool = False) -> Result:
    """Store the task's result unless it has one, and return the one that stands. With `within`, its value may be as
    large as a message can.

    Raises:
        EncodeError, PayloadTooLargeError: this result cannot be stored, ever; its value may be beside it (`bus.blobs`).
        QueueFullError, TransportError: it could not be stored now; trying again is safe.
    """
    subject = subjects.result(envelope.client, envelope.capability, envelope.task_id)
    # What `model_dump` gives, for a tenth of its time: no field but the error is a model.
    plain = {**result.__dict__, "error": result.error.model_dump() if result.error else None}
    blob = plain.pop("blob", None)
    if blob is not None:
        plain["blob"] = blob.model_dump(exclude_defaults=True)
    if not result.chunks:
        del plain["chunks"]
    body = codec.encode(plain, envelope.content_type, subject=subject)
    if not within and len(body) > connection.settings.blob_above and result.value is not None:
        raise PayloadTooLargeError(subject, len(body), connection.settings.blob_above, "REVO_BLOB_ABOVE")
    headers = {
        EXPECTED_SUBJECT_SEQUENCE: "0",
        MSG_TTL: f"{int(result_ttl(connection, envelope)) + 1}s",
        TASK_ID: envelope.task_id,
        STATUS: result.status,
        VERSION: WIRE_VERSION,
        CONTENT_TYPE: envelope.content_type,
    }
    if TRACEPARENT in envelope.headers:
        headers[TRACEPARENT] = envelope.headers[TRACEPARENT]
    if blob is not None:
        headers[BLOB] = json.dumps(plain["blob"], separators=(",", ":"))
    while True:
        try:
            await jetstream.store(connection, subject, body, headers)
        except WrongSequenceError:
            standing = await stored_result(connection, subject)
            if standing is not None:
                return standing
            # Its time ran out between the refusal and our look: ours may stand now.
        else:
            return result


def result_ttl(connection: Connection, envelope: Envelope) -> float:
    """Seconds for which a task's result is kept: while the task may come again, at the least."""
    return max(connection.settings.result_ttl, envelope.deadline - time.time() + connection.settings.ack_wait)


def make_result(
    envelope: Envelope,
    status: Status,
    error: BaseException | None,
    value: object = None,
    *,
    agent: str,
    instance: str,
    started_at: float = 0.0,
    trace_id: str = "",
    chunks: int = 0,
) -> Result:
    """The end of a task, not yet stored. A task that nobody started began and ended at once."""
    now = time.time()
    fields = {
        "task_id": envelope.task_id,
        "capability": envelope.capability,
        "client": envelope.client,
        "status": status,
        "value": value,
        "error": error_info(error) if error is not None else None,
        "attempts": envelope.attempt,
        "deliveries": envelope.deliveries,
        "sequence": envelope.sequence,
        "agent": agent,
        "instance": instance,
        "submitted_at": envelope.stored_at,
        "started_at": started_at or now,
        "finished_at": now,
        "trace_id": trace_id,
        "blob": None,
        "chunks": chunks,
    }
    # What `model_construct` does at its end. Before it looks at every field; here all of them are given.
    result = Result.__new__(Result)
    set_on = object.__setattr__
    set_on(result, "__dict__", fields)
    set_on(result, "__pydantic_fields_set__", set(fields))
    set_on(result, "__pydantic_extra__", None)
    set_on(result, "__pydantic_private__", None)
    return result


async def stored_result(connection: Connection, subject: str) -> Result | None:
    """The result that stands on `subject` (which may hold wildcards), asked of the stream's leader, or None."""
    stored = await jetstream.last(connection, subjects.RESULTS, subject)
    return None if stored is None else read_result(stored.headers, stored.body, stored.subject)


def read_result(headers: Mapping[str, str], body: bytes, subject: str) -> Result:
    """The result in a message of RESULTS. One that cannot be read stands all the same: it is a failed one that says so.

    Whoever put it there, the task has ended with it, for the first result stands.
    """
    client, capability, task_id = subjects.parse_name(subject)
    try:
        result = codec.read(Result, headers, body, subject=subject)
        if (result.client, result.capability, result.task_id) != (client, capability, task_id):
            raise DecodeError(subject, f"it is the result of {result.client}.{result.capability}.{result.task_id}")
        return result
    except DecodeError as error:
        info = ErrorInfo(code="unreadable_result", message=f"{error}"[:MAX_MESSAGE])
        return Result(
            task_id=task_id,
            capability=capability,
            client=client,
            status="failed",
            error=info,
            attempts=0,
            deliveries=0,
            sequence=0,
            agent="",
            instance="",
            submitted_at=0.0,
            started_at=0.0,
            finished_at=0.0,
        )


async def bury(connection: Connection, envelope: Envelope, result: Result) -> None:
    """Make sure that the dead letter of a failed task stands: the original body, byte for byte, and why it failed.

    Its headers are the original's, less those that order the server about, and `Revo-Dead-Letter`.

    Raises:
        QueueFullError, TransportError: it could not be stored now; trying again is safe.
    """
    error = result.error or ErrorInfo(code="unknown", message="no error was given")
    letter = DeadLetter(
        task_id=envelope.task_id,
        capability=envelope.capability,
        client=envelope.client,
        subject=envelope.subject,
        sequence=envelope.sequence,
        reason=error.code,
        error=error,
        attempts=result.attempts,
        deliveries=result.deliveries,
        agent=result.agent,
        instance=result.instance,
        submitted_at=result.submitted_at,
        died_at=result.finished_at,
    )
    headers = without_control_headers(envelope.headers)
    headers[DEAD_LETTER] = json.dumps(letter.model_dump(), ensure_ascii=False)
    headers[TASK_ID] = envelope.task_id
    headers[EXPECTED_SUBJECT_SEQUENCE] = "0"
    subject = subjects.dead(envelope.client, envelope.capability, envelope.task_id)
    try:
        await jetstream.store(connection, subject, envelope.body, headers)
    except WrongSequenceError:
        return  # it stands already


async def note(connection: Connection, what: str, *names: str, body: object) -> bool:
    """Note something for the audit, once for each name; returns whether it is the first time."""
    headers = {CONTENT_TYPE: MSGPACK, EXPECTED_SUBJECT_SEQUENCE: "0"}
    try:
        await jetstream.store(connection, subjects.note(what, *names), codec.encode(body), headers)
    except WrongSequenceError:
        return False
    return True


async def note_double(connection: Connection, envelope: Envelope, standing: Result) -> None:
    """Note that a stored task has no result of its own: an earlier one of the same id has it."""
    body = {"task_id": envelope.task_id, "ended_by": standing.sequence}
    await note(connection, "double", str(envelope.sequence), body=body)


def error_info(error: BaseException) -> ErrorInfo:
    """An exception as it crosses the wire; long texts are cut, so that it always fits."""
    said = getattr(error, "details", None)
    details = _bounded(said) if isinstance(said, dict) else {}
    message = str(error)
    if isinstance(error, TaskFailedError):  # a child's; however many generations pass it on, the innermost is named
        message = error.message if FAILED_TASK in details else message
        details.setdefault(FAILED_TASK, error.task_id)
    frames = "" if isinstance(error, BusError) else "".join(traceback.format_exception(error))
    return ErrorInfo(
        code=error_code(error),
        message=message[:MAX_MESSAGE],
        retryable=is_retryable(error),
        type=f"{type(error).__module__}.{type(error).__qualname__}",
        details=details,
        traceback=frames[-MAX_TRACEBACK:],
        fault=faults.classify(error),
    )


def error_code(error: BaseException) -> str:
    """The error's name on the wire: what it says itself, or its type's in snake case."""
    code = getattr(error, "code", None)
    return code if isinstance(code, str) and code else _snake(type(error).__name__)


def is_retryable(error: BaseException) -> bool:
    """Whether a retry may help: what the error says of itself, and yes when it says nothing."""
    return bool(getattr(error, "retryable", True))


def _snake(name: str) -> str:
    return _CAMEL.sub("_", name).lower()


def _bounded(details: dict[str, Any]) -> dict[str, Any]:
    try:
        text = json.dumps(details, ensure_ascii=False)
    except (TypeError, ValueError):
        return {"omitted": "details that do not encode"}
    return json.loads(text) if len(text) <= MAX_DETAILS else {"omitted": f"{len(text)} characters of details"}
