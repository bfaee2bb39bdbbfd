"""What can go wrong on the bus, sorted by who broke it.

Every class answers three questions: who broke it (the branch it hangs on), does a retry help (`retryable`),
and with which data (its attributes). Fields go to `super().__init__`, so every error survives pickling; the
text is built in `__str__`. Must not know NATS: `bus.connection` turns NATS errors into these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class BusError(Exception):
    """Anything that the bus raises."""

    retryable: ClassVar[bool] = False

    @property
    def code(self) -> str:
        """The error's name on the wire, in snake case: `NoRespondersError` is `no_responders`."""
        name = type(self).__name__.removesuffix("Error")
        return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


# --- the caller's mistake, found before anything is sent -------------------------------------------------


class ConfigError(BusError):
    """A setting, file or argument that cannot be used."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(what, reason)
        self.what = what
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.what}: {self.reason}"


class InvalidSubjectError(ConfigError):
    """A name that may not stand in a subject."""

    @property
    def subject(self) -> str:
        """The refused name."""
        return self.what

    def __str__(self) -> str:
        return f"{self.what!r} cannot be used in a subject: {self.reason}"


class InvalidKeyError(ConfigError):
    """No entry of shared memory can be called so."""

    def __str__(self) -> str:
        return f"{self.what} is no key of shared memory: {self.reason}"


class CodecError(BusError):
    """Bytes and model do not fit; the same bytes fail every time."""

    def __init__(self, subject: str, reason: str) -> None:
        super().__init__(subject, reason)
        self.subject = subject
        self.reason = reason


class EncodeError(CodecError):
    """A value that cannot be written to the wire."""

    def __str__(self) -> str:
        return f"value for {self.subject} does not encode: {self.reason}"


class DecodeError(CodecError):
    """A body that cannot be read, or is not the message its handler declares."""

    def __str__(self) -> str:
        return f"message on {self.subject} does not decode: {self.reason}"


class PayloadTooLargeError(BusError):
    """Body plus headers are larger than the server takes, or than a setting allows. Nothing was sent."""

    def __init__(self, subject: str, size: int, limit: int, setting: str = "") -> None:
        super().__init__(subject, size, limit, setting)
        self.subject = subject
        self.size = size
        self.limit = limit
        self.setting = setting
        """The variable that sets the limit, where one does."""

    def __str__(self) -> str:
        tail = f" (setting {self.setting})" if self.setting else ""
        return f"message of {self.size} bytes for {self.subject} exceeds the limit of {self.limit} bytes{tail}"


class DamagedBlobError(DecodeError):
    """A large payload is not what its message says: a piece is gone or another, and no retry brings it back."""

    def __str__(self) -> str:
        return f"large payload {self.subject} cannot be read: {self.reason}"


class BatchTooLargeError(BusError):
    """More messages, or none, than can be stored at once. Nothing was sent."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(size, limit)
        self.size = size
        self.limit = limit

    def __str__(self) -> str:
        return f"{self.size} messages cannot be stored at once: 1 to {self.limit} can"


# --- we closed it -----------------------------------------------------------------------------------------


class BusClosedError(BusError):
    """The connection was closed, by us or for good by the server."""

    def __init__(self, reason: str = "the connection is closed") -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


# --- the server refuses us --------------------------------------------------------------------------------


class ServerError(BusError):
    """The server answered, and the answer is no: asking again changes nothing."""

    def __init__(self, what: str, reason: str, api_code: int = 0) -> None:
        super().__init__(what, reason, api_code)
        self.what = what
        self.reason = reason
        self.api_code = api_code

    def __str__(self) -> str:
        tail = f" (JetStream error {self.api_code})" if self.api_code else ""
        return f"{self.what}: {self.reason}{tail}"


class NotFoundError(ServerError):
    """The stream, consumer or message named does not exist."""


class WrongSequenceError(ServerError):
    """A compare-and-swap publish came too late: the subject holds something else by now."""


class PermissionDeniedError(ServerError):
    """The credentials in use may not publish to, or subscribe to, this subject."""

    def __init__(self, verb: str, subject: str) -> None:
        BusError.__init__(self, verb, subject)
        self.verb = verb
        self.subject = subject

    def __str__(self) -> str:
        return f"permission denied: may not {self.verb} {self.subject}"


class AuthenticationError(ServerError):
    """The server does not accept our credentials."""

    def __init__(self, url: str) -> None:
        BusError.__init__(self, url)
        self.url = url

    def __str__(self) -> str:
        return f"the server at {self.url} refused our credentials; REVO_CREDENTIALS names their file (`revo keys`)"


class ServerTooOldError(ServerError):
    """The server lacks a feature that Revo stands on."""

    def __init__(self, url: str, feature: str, needs: str, found: str) -> None:
        BusError.__init__(self, url, feature, needs, found)
        self.url = url
        self.feature = feature
        self.needs = needs
        self.found = found

    def __str__(self) -> str:
        return f"{self.feature} needs nats-server {self.needs} or newer; {self.url} runs {self.found}"


class NoJetStreamError(ServerError):
    """The server stores nothing, and Revo's work is stored."""

    def __init__(self, url: str) -> None:
        BusError.__init__(self, url)
        self.url = url

    def __str__(self) -> str:
        return f"the server at {self.url} runs without JetStream; start it with -js"


# --- the world broke it: the same call may work later -----------------------------------------------------


class TransportError(BusError):
    """The message did not get through, or no answer came back."""

    retryable = True


class ServerUnreachableError(TransportError):
    """No server answered at the address."""

    def __init__(self, url: str, seconds: float, reason: str = "") -> None:
        super().__init__(url, seconds, reason)
        self.url = url
        self.seconds = seconds
        self.reason = reason

    def __str__(self) -> str:
        tail = f" ({self.reason})" if self.reason else ""
        return (
            f"no NATS server at {self.url} within {self.seconds:g} s{tail}; "
            "start one with `revo up` or set REVO_NATS_URL"
        )


class NoMeshError(TransportError):
    """No server is named and no mesh runs here."""

    def __init__(self, looked_in: str) -> None:
        super().__init__(looked_in)
        self.looked_in = looked_in

    def __str__(self) -> str:
        return f"no mesh runs here (looked in {self.looked_in}); start one with `revo up` or set REVO_NATS_URL"


class ConnectionLostError(TransportError):
    """The connection broke while the call was under way; whether it arrived is not known."""

    def __init__(self, subject: str) -> None:
        super().__init__(subject)
        self.subject = subject

    def __str__(self) -> str:
        return f"the connection was lost while waiting for an answer on {self.subject}"


class NoRespondersError(TransportError):
    """Nobody is subscribed to the subject."""

    def __init__(self, subject: str) -> None:
        super().__init__(subject)
        self.subject = subject

    def __str__(self) -> str:
        return f"nobody answers on {self.subject}"


class NoStewardError(TransportError):
    """No steward runs, and this is for a steward to do."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return f"no steward runs to {self.what} it; `revo up` starts one, or `revo run actors.steward:Steward`"


class RequestTimeoutError(TransportError):
    """No reply came in time; the far side may still have acted."""

    def __init__(self, subject: str, seconds: float) -> None:
        super().__init__(subject, seconds)
        self.subject = subject
        self.seconds = seconds

    def __str__(self) -> str:
        return f"no reply on {self.subject} within {self.seconds:g} s"


class NoTimeLeftError(TransportError):
    """Whoever waits for the handler that wanted to send this has given up by now. Nothing was sent."""

    def __init__(self, what: str, late: float) -> None:
        super().__init__(what, late)
        self.what = what
        self.late = late

    @property
    def code(self) -> str:
        """As that of a task or a request whose own deadline passes."""
        return "deadline_exceeded"

    def __str__(self) -> str:
        return f"{self.what} was not sent: the deadline of the handler that wanted to passed {self.late:.3f} s ago"


class BreakerOpenError(TransportError):
    """What is asked has failed too often lately, so it was not asked. It is tried again in `retry_in` seconds."""

    def __init__(self, agent: str, capability: str, retry_in: float) -> None:
        super().__init__(agent, capability, retry_in)
        self.agent = agent
        self.capability = capability
        self.retry_in = retry_in

    def __str__(self) -> str:
        return (
            f"{self.agent}/{self.capability} failed too often lately and was not asked; "
            f"its breaker lets it be tried in {self.retry_in:.1f} s"
        )


class QueueFullError(TransportError):
    """The stream is at its limit and refused the message; nothing was stored."""

    def __init__(self, subject: str, reason: str, come_back: float | None = None) -> None:
        super().__init__(subject, reason, come_back)
        self.subject = subject
        self.reason = reason
        self.come_back = come_back
        """Seconds in which there will be room again, as far as anybody can tell; None: nobody can."""

    def __str__(self) -> str:
        when = "try again when the queue has drained"
        if self.come_back is not None:
            when = f"come back in about {max(1, round(self.come_back))} s"
        return f"{self.subject} was refused: {self.reason}; {when}"


class MailboxFullError(TransportError):
    """The actor's mailbox is full; it did not take the message."""

    def __init__(self, actor: str, capacity: int) -> None:
        super().__init__(actor, capacity)
        self.actor = actor
        self.capacity = capacity

    def __str__(self) -> str:
        return f"the mailbox of {self.actor} is full ({self.capacity} messages waiting)"


# --- a family of tasks is larger than it may be -----------------------------------------------------------


class TooDeepError(BusError):
    """A handler submits a task, and so do those above it, more generations than allowed. Nothing was sent."""

    def __init__(self, parent: str, depth: int, limit: int) -> None:
        super().__init__(parent, depth, limit)
        self.parent = parent
        self.depth = depth
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"a child of task {self.parent} would be {self.depth} generations deep, and {self.limit} are allowed: "
            "do its tasks submit one another without end? If not, raise REVO_MAX_DEPTH"
        )


class TooManyChildrenError(BusError):
    """One attempt of a task submits more tasks than allowed. Nothing was sent."""

    def __init__(self, parent: str, limit: int) -> None:
        super().__init__(parent, limit)
        self.parent = parent
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"task {self.parent} has submitted {self.limit} tasks in this attempt, as many as are allowed; "
            "let some of them submit the rest, or raise REVO_MAX_CHILDREN"
        )


class BudgetExceededError(BusError):
    """A family of tasks has used up what it may spend. A task that was to be submitted was not sent."""

    def __init__(self, unit: str, limit: float, spent: float) -> None:
        super().__init__(unit, limit, spent)
        self.unit = unit
        self.limit = limit
        self.spent = spent

    def __str__(self) -> str:
        return f"the budget of {self.limit:,.12g} {self.unit} is used up: {self.spent:,.12g} have been spent"


# --- what a handler says ------------------------------------------------------------------------------


class Retry(BusError):  # noqa: N818  (a handler says it, it is no fault)
    """Raise it in a handler: not now, again after `delay` seconds (default: the capability's backoff).

    It counts as an attempt; when the attempts are used up the task fails with `reason`.
    """

    retryable = True

    def __init__(self, delay: float | None = None, reason: str = "the handler asked for a retry") -> None:
        if delay is not None and not 0 <= delay < float("inf"):
            raise ConfigError("Retry.delay", f"{delay!r} is not a number of seconds, 0 or more")
        super().__init__(delay, reason)
        self.delay = delay
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class PromptRefusedError(BusError):
    """The prompt cannot be answered as it is: the caller's mistake (400), or a matter of time (429, 503)."""

    def __init__(self, reason: str, number: int = 400) -> None:
        super().__init__(reason, number)
        self.reason = reason
        self.number = number

    def __str__(self) -> str:
        return self.reason


class TimeLimitError(BusError):
    """One attempt of a handler took longer than its capability allows."""

    retryable = True

    def __init__(self, capability: str, seconds: float) -> None:
        super().__init__(capability, seconds)
        self.capability = capability
        self.seconds = seconds

    def __str__(self) -> str:
        return f"an attempt at {self.capability} took longer than its time limit of {self.seconds:g} s"


class DeadlineExceededError(BusError):
    """The task's deadline passed before it ended."""

    def __init__(self, task_id: str, deadline: float) -> None:
        super().__init__(task_id, deadline)
        self.task_id = task_id
        self.deadline = deadline

    def __str__(self) -> str:
        return f"the deadline of task {self.task_id} passed"


class TaskCancelledError(BusError):
    """Somebody cancelled the task before it ended."""

    def __init__(self, task_id: str, by: str) -> None:
        super().__init__(task_id, by)
        self.task_id = task_id
        self.by = by

    def __str__(self) -> str:
        return f"task {self.task_id} was cancelled by {self.by}"


class SupersededError(BusError):
    """Another attempt has taken the task over: this one was thought dead. What it has done since is kept nowhere."""

    def __init__(self, task_id: str, run: int) -> None:
        super().__init__(task_id, run)
        self.task_id = task_id
        self.run = run

    def __str__(self) -> str:
        return f"run {self.run} of task {self.task_id} is superseded: a later one goes on from its last checkpoint"


class AttemptEndedError(BusError):
    """The attempt that wanted to say or save something has ended before. Nothing was sent."""

    def __init__(self, task_id: str) -> None:
        super().__init__(task_id)
        self.task_id = task_id

    def __str__(self) -> str:
        return f"the attempt at task {self.task_id} has ended; nothing is said or saved in its name any more"


class DeliveriesExhaustedError(BusError):
    """The server delivers the task no more: its consumer allows only so many deliveries."""

    def __init__(self, task_id: str, deliveries: int) -> None:
        super().__init__(task_id, deliveries)
        self.task_id = task_id
        self.deliveries = deliveries

    def __str__(self) -> str:
        return f"task {self.task_id} was delivered {self.deliveries} times, as often as its consumer allows"


class WorkerDiedError(BusError):
    """Processes died with the task in hand, and with nothing else."""

    def __init__(self, task_id: str, deaths: int) -> None:
        super().__init__(task_id, deaths)
        self.task_id = task_id
        self.deaths = deaths

    def __str__(self) -> str:
        return f"{self.deaths} processes died while they ran task {self.task_id} and nothing else"


# --- the far handler failed -------------------------------------------------------------------------------


class RemoteError(BusError):
    """The handler on the other side failed; this is its error as it crossed the wire."""

    def __init__(
        self,
        code: str,
        message: str,
        retryable: bool = False,  # noqa: FBT001, FBT002  (by position, or it would not survive pickling)
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(code, message, retryable, dict(details or {}))
        self._code = code
        self.message = message
        self.retryable = retryable  # type: ignore[misc]  # of the one error, where the class cannot know
        self.details = dict(details or {})
        self.fault = ""
        """The class of the fault (`bus.faults`), where the other side says it."""

    @property
    def code(self) -> str:
        """The far error's name, in snake case."""
        return self._code

    def __str__(self) -> str:
        return f"{self._code}: {self.message}"


class TaskFailedError(RemoteError):
    """The task ended without a value: `failed`, `expired` or `cancelled`. Its result is stored."""

    def __init__(
        self,
        task_id: str,
        status: str,
        code: str,
        message: str,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(code, message, False, details)
        self.args = (task_id, status, code, message, self.details)
        self.task_id = task_id
        self.status = status

    def __str__(self) -> str:
        return f"task {self.task_id} {self.status}: {self._code}: {self.message}"


class ResultTimeoutError(BusError):
    """The task has no result yet. It goes on; ask again later."""

    def __init__(self, task_id: str, seconds: float) -> None:
        super().__init__(task_id, seconds)
        self.task_id = task_id
        self.seconds = seconds

    def __str__(self) -> str:
        return f"task {self.task_id} has no result after {self.seconds:g} s; it goes on"


class ResultsTimeoutError(ResultTimeoutError):
    """Some of several tasks have no result yet. They go on; `task_id` is one of them."""

    def __init__(self, task_id: str, missing: int, of: int, seconds: float) -> None:
        BusError.__init__(self, task_id, missing, of, seconds)
        self.task_id = task_id
        self.missing = missing
        self.of = of
        self.seconds = seconds

    def __str__(self) -> str:
        return (
            f"{self.missing} of {self.of} tasks have no result after {self.seconds:g} s, {self.task_id} among them; "
            "they go on"
        )
