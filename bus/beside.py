"""Messages whose payload stands beside them (`bus.blobs`): how a task and a result are sent and read so.

A task's message, and a result's value, that is larger than the setting `blob_above` is stored first, then the message
that names it. When either may go is a steward's to see; here it is only told what may be of no use any more.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping

from bus import blobs, codec, jetstream, rpc, subjects
from bus.blobs import Place
from bus.connection import Connection
from bus.errors import BusError, QueueFullError
from bus.messages import BLOB, CONTENT_TYPE, Envelope, Result
from bus.telemetry import Telemetry

log = logging.getLogger(__name__)


async def put(connection: Connection, telemetry: Telemetry, place: Place, subject: str, body: bytes) -> str:
    """Store the message of a task for `subject` beside it; returns the header that names it.

    Raises:
        PayloadTooLargeError: beyond the setting `blob_max`; nothing was sent.
        QueueFullError: there is no room for it.
        TransportError: as in `blobs.put`.
    """
    blobs.check_size(connection, subject, len(body))
    blob_id = blobs.new_id()
    try:
        return blobs.header(await blobs.put(connection, place, body, blob_id=blob_id))
    except QueueFullError:
        await not_needed(connection, telemetry, place, blob_id)
        raise


async def finish(
    connection: Connection, telemetry: Telemetry, place: Place, storing: jetstream.Storing
) -> jetstream.Stored:
    """What became of a task that is on its way, as `jetstream.finish`. A large message that it does not need goes."""
    named = BLOB in storing.headers if storing.headers else False
    try:
        stored = await jetstream.finish(connection, storing)
    except QueueFullError:
        if named:
            await not_needed(connection, telemetry, place, _id_in(storing.headers))
        raise
    if named and stored.duplicate:
        # Another may stand there, or ours was sent twice, for an answer was lost: a steward sees which.
        await not_needed(connection, telemetry, place, _id_in(storing.headers))
    return stored


def _id_in(headers: Mapping[str, str] | None) -> str:
    return blobs.id_in(headers or {})


async def not_needed(connection: Connection, telemetry: Telemetry, place: Place, blob_id: str) -> None:
    """Tell a steward of a large payload that may be of no use any more. It looks for itself. A word that is lost costs
    room for an hour or two: then its sweep finds what nothing names.
    """
    try:
        await rpc.tell(connection, telemetry, subjects.STEWARD, "release", {**place._asdict(), "blob": blob_id})
    except BusError as error:
        log.debug("blob %s of task %s stays for now: %s", blob_id, place.task_id, error)


async def whole(connection: Connection, envelope: Envelope) -> Envelope:
    """A task with its message in it, where that stands beside it. The envelope that is given stays as it is: it is the
    one that is buried and redriven.

    Raises:
        CodecError, PayloadTooLargeError: it cannot be had, ever.
        TransportError: nor now.
    """
    blob = blobs.named_in(envelope.headers, envelope.subject)
    if blob is None:
        return envelope
    return dataclasses.replace(envelope, body=await blobs.get(connection, Place.of(envelope), blob))


async def filled(connection: Connection, result: Result) -> Result:
    """A result with its value in it, where that stands beside it.

    Raises:
        CodecError, PayloadTooLargeError: it cannot be had, ever; one that is gone goes with its result.
        TransportError: nor now.
    """
    blob = result.blob
    if blob is None:
        return result
    place = Place.of(result)
    subject = place.piece(blob.id, "*")
    body = await blobs.get(connection, place, blob)
    kind = codec.content_type_of({CONTENT_TYPE: blob.content_type}, subject=subject)
    return result.model_copy(update={"value": codec.decode(body, kind, subject=subject), "blob": None})
