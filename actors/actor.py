"""How an actor is written: a class, typed methods, and decorators that say what it handles.

The message model is learnt from the annotations. Must not know how messages travel.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import threading
import time
import typing
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, TypeVar

from pydantic import BaseModel, PydanticSchemaGenerationError, TypeAdapter

from actors.context import Saying
from actors.prompting import Prompt, Prompted, prompt, prompted
from actors.ref import ActorRef
from bus import family, subjects
from bus.budgets import Budget
from bus.errors import ConfigError, InvalidSubjectError, Retry
from bus.mesh import Mesh
from bus.outcomes import Policy
from bus.workbench import Workbench

__all__ = ["Actor", "ActorRef", "Agent", "Handler", "Prompt", "Retry", "TaskContext", "prompt", "rpc", "task"]

F = TypeVar("F", bound=Callable[..., Any])

_MARK: Final = "__revo_handles__"
_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@dataclass(frozen=True, slots=True)
class TaskContext(Saying):
    """What a task handler may know of its task: declare a second parameter with this annotation."""

    task_id: str
    capability: str
    priority: str
    client: str
    attempt: int
    """1 is the first; only errors of the handler count."""
    deadline: float
    """Unix seconds; the task expires then, running or not."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Set when the attempt was cancelled. A plain `def` handler runs in a thread, which nobody can kill."""

    bench: Workbench | None = field(default=None, repr=False, compare=False)
    states: TypeAdapter[Any] | None = field(default=None, repr=False, compare=False)

    @property
    def remaining(self) -> float:
        """Seconds until the deadline, 0 when it has passed."""
        return max(0.0, self.deadline - time.time())

    def spend(self, *, tokens: int = 0, money: float = 0.0) -> Awaitable[None]:
        """Count what was spent, of the budgets that the task was given or its parents were; without one, do nothing.

        It is counted whether this is awaited or not, before the task ends. In a plain `def` handler the call waits.

        Raises:
            BudgetExceededError: one is used up. It is raised where this is awaited, else at the end of the handler;
                the whole family is being stopped.
        """
        return family.spend(tokens=tokens, money=money)

    async def budget(self) -> Budget | None:
        """What is left to be spent, by whichever budget has least; None where there is none."""
        return await family.left()


@dataclass(frozen=True, slots=True)
class _Mark:
    kind: str
    name: str
    policy: dict[str, float | int]
    topics: tuple[str, ...] = ()
    scoped: bool = False
    saves: Any = None


def task(
    capability: str,
    *,
    time_limit: float | None = None,
    max_attempts: int | None = None,
    ack_wait: float | None = None,
    backoff: float | None = None,
    topics: Sequence[str] = (),
    saves: Any = None,
) -> Callable[[F], F]:
    """Declare that a method of an `Agent` does the tasks of a capability.

    The method takes a pydantic model (and, if it likes, a `TaskContext`) and returns what its annotation says.
    `async def`, or plain `def`, which runs in a thread. It may run more than once for one task; only one result
    is ever stored. `time_limit` and `backoff` are seconds; what is not given is the mesh's setting.

    What is published on one of the `topics` is a task for it, too, one for each agent that subscribes. The agent does
    so from its first start on, also while none of its instances runs, until a version comes that does not declare it.

    `saves` is the type, as a pydantic model, of what it keeps for its next attempt by `TaskContext.save`.

    Raises:
        InvalidSubjectError: at import, when `capability` or a topic cannot stand in a subject.
    """
    subjects.token(capability, "capability")
    if isinstance(topics, str):
        raise ConfigError(f"@task({capability!r}): topics", f"is a list of names; write [{topics!r}]")
    for topic in topics:
        subjects.topic_method(topic)
    given = {"time_limit": time_limit, "max_attempts": max_attempts, "ack_wait": ack_wait, "backoff": backoff}
    policy = {key: value for key, value in given.items() if value is not None}
    for key, value in policy.items():
        if not 0 < value < float("inf"):
            raise ConfigError(f"@task({capability!r}): {key}", f"{value!r} is not above zero")
    return _marker(_Mark("task", capability, policy, tuple(topics), saves=saves))


def rpc(name: str, *, scoped: bool = False) -> Callable[[F], F]:
    """Declare that a method of an `Actor` answers requests: `ActorRef.ask(name, message)`.

    The method takes a pydantic model, or nothing, and returns what its annotation says. What it raises goes to
    the caller; the actor lives on. One that is `scoped` is asked within a scope, which stands in `bus.rpc.SCOPE`.

    Raises:
        InvalidSubjectError: at import, when `name` cannot stand in a subject.
    """
    subjects.token(name, "method")
    return _marker(_Mark("rpc", name, {}, scoped=scoped))


def _marker(mark: _Mark) -> Callable[[F], F]:
    def decorate(method: F) -> F:
        setattr(method, _MARK, mark)
        return method

    return decorate


class Actor:
    """One process, one address, one mailbox. It handles messages and keeps its own state.

    With `concurrency` 1 one message is handled at a time, so state needs no locks.
    """

    name: ClassVar[str] = ""
    """The address; by default the class's name in kebab case: `CodeAnalyst` is `code-analyst`."""
    concurrency: ClassVar[int] = 1
    """How many messages are handled at once."""
    version: ClassVar[str] = "0.1.0"
    """Of what it does; stands in the registry and in what NATS tools list (semantic versioning). Raise it when a
    message or a result changes: two versions may live side by side, two schemas in one version may not.
    """
    labels: ClassVar[dict[str, str]] = {}
    """What its instances can be found by, besides those of the setting `REVO_LABELS`."""
    submits: ClassVar[Sequence[str]] = ()
    """The capabilities, or agents as `@name`, that it submits tasks to. Where the server knows users, to no others."""
    asks: ClassVar[Sequence[str]] = ()
    """The requests that it makes of other actors, as `service.method`. Where the server knows users, no others."""
    broadcasts: ClassVar[Sequence[str]] = ()
    """The capabilities whose every instance it speaks to. Where the server knows users, of no others."""
    prompts: ClassVar[Sequence[str]] = ()
    """The agents that it prompts, by name. Where the server knows users, no others."""
    memory: ClassVar[Sequence[str]] = ()
    """The namespaces of shared memory that it reads and writes, or with `:ro` at the end only reads. Where the server
    knows users, no others."""
    Settings: ClassVar[type[BaseModel] | None] = None
    """The model of its table in the mesh file."""

    settings: Any
    """An instance of `Settings`, set before `on_start`."""
    mesh: Mesh
    """The mesh that it lives on, to submit and ask; set before `on_start`."""
    failed: asyncio.Future[BaseException]
    """Done when something that it spawned has failed; set before `on_start`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = _WORDS.sub("-", cls.__name__).lower()

    async def on_start(self) -> None:
        """Called once, before the first message."""

    async def on_stop(self) -> None:
        """Called once, after the last message."""

    async def on_probe(self) -> None:
        """Called about once a second while there is nothing to do: raise if it cannot work; then it is shown so.

        For what nobody else sees, as a licence that has run out. It takes a turn as a message does; keep it short.
        """

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something beside the handlers until the actor stops; it is cancelled then.

        Should it raise, the process ends, so that a new one takes over: nothing stops working without a word.
        """
        task = asyncio.get_running_loop().create_task(work)
        self.__dict__.setdefault("_spawned", set()).add(task)
        task.add_done_callback(self._on_spawned)
        return task

    def _on_spawned(self, task: asyncio.Task[None]) -> None:
        self.__dict__["_spawned"].discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not self.failed.done():
            self.failed.set_result(error)

    def ref(self, name: str) -> ActorRef:
        """The address of another actor."""
        return ActorRef(self.mesh, name)


class Agent(Actor):
    """An actor that does tasks for capabilities, in competition with its replicas."""


@dataclass(frozen=True, slots=True)
class Handler:
    """One typed method of an actor class."""

    kind: str
    """`task` or `rpc`."""
    name: str
    """The capability, or the method's name on the wire."""
    attribute: str
    message: TypeAdapter[Any] | None
    value: TypeAdapter[Any]
    wants_context: bool
    in_thread: bool
    policy: dict[str, float | int]
    topics: tuple[str, ...] = ()
    scoped: bool = False
    saves: TypeAdapter[Any] | None = None

    def policy_over(self, default: Policy) -> Policy:
        """How the capability is run: what the decorator says over the mesh's settings."""
        return Policy(**{**_fields(default), **self.policy})  # type: ignore[arg-type]


def _fields(policy: Policy) -> dict[str, float | int]:
    return {name: getattr(policy, name) for name in Policy.__dataclass_fields__}


def handlers(actor: type[Actor]) -> list[Handler]:
    """The handlers that an actor class declares, its own and inherited.

    Raises:
        ConfigError: when a method's signature cannot be served; names the method and what to do.
    """
    found: dict[tuple[str, str], Handler] = {}
    for attribute, method in inspect.getmembers(actor, inspect.isfunction):
        mark: _Mark | None = getattr(method, _MARK, None)
        if mark is None:
            continue
        where = f"{actor.__name__}.{attribute}"
        if mark.kind == "task" and not issubclass(actor, Agent):
            raise ConfigError(where, "only an Agent does tasks; derive the class from revo.Agent")
        if (mark.kind, mark.name) in found:
            other = found[mark.kind, mark.name].attribute
            raise ConfigError(where, f"{mark.name} is handled by {other} already; one method each")
        found[mark.kind, mark.name] = _handler(where, attribute, method, mark)
    return list(found.values())


def _handler(where: str, attribute: str, method: Callable[..., Any], mark: _Mark) -> Handler:
    try:
        hints = typing.get_type_hints(method)
    except NameError as error:
        raise ConfigError(where, f"{error}; define the model at the top of the module") from error
    parameters = list(inspect.signature(method).parameters.values())[1:]
    wants_context = bool(parameters) and hints.get(parameters[-1].name) is TaskContext
    if wants_context:
        parameters = parameters[:-1]
    if len(parameters) > 1 or (mark.kind == "task" and not parameters):
        raise ConfigError(where, "takes one message, and for a task a TaskContext if it likes")
    if wants_context and mark.kind != "task":
        raise ConfigError(where, "only a task has a TaskContext")
    if mark.saves is not None and not wants_context:
        raise ConfigError(where, "saves something, so it needs a TaskContext as its last parameter")
    try:
        message = None
        if parameters:
            if parameters[0].name not in hints:
                raise ConfigError(where, f"annotate {parameters[0].name} with its pydantic model")
            message = TypeAdapter(hints[parameters[0].name])
        value: TypeAdapter[Any] = TypeAdapter(hints.get("return", Any))
        saves = TypeAdapter(mark.saves) if mark.saves is not None else None
    except PydanticSchemaGenerationError as error:
        raise ConfigError(where, f"{error.message.splitlines()[0]}; use a pydantic model") from error
    return Handler(
        kind=mark.kind,
        name=mark.name,
        attribute=attribute,
        message=message,
        value=value,
        wants_context=wants_context,
        in_thread=not inspect.iscoroutinefunction(method),
        policy=mark.policy,
        topics=mark.topics,
        scoped=mark.scoped,
        saves=saves,
    )


def check_class(actor: type[Actor]) -> list[Handler]:
    """The handlers of a class that can be run.

    Raises:
        ConfigError: when its name, concurrency or a handler cannot be used.
    """
    try:
        subjects.token(actor.name, "actor name")
    except InvalidSubjectError as error:
        raise ConfigError(f"{actor.__name__}.name", str(error)) from error
    if not isinstance(actor.concurrency, int) or actor.concurrency < 1:
        raise ConfigError(f"{actor.__name__}.concurrency", f"{actor.concurrency!r} is not a number above zero")
    found, answers_prompts = handlers(actor), prompted_by(actor) is not None
    served = [one.name for one in found if one.kind == "rpc"]
    served += [subjects.topic_method(topic) for one in found for topic in one.topics]
    for name in served:
        if served.count(name) > 1:
            raise ConfigError(f"{actor.__name__}: {name}", "is handled by two methods; one method each")
    if not found and not answers_prompts:
        raise ConfigError(actor.__name__, "handles nothing; give a method @task(...), @rpc(...) or @prompt")
    return found


def prompted_by(actor: type[Actor]) -> Prompted | None:
    """The method of a class that answers prompts.

    Raises:
        ConfigError: when it cannot be served.
    """
    return prompted(actor, agent=issubclass(actor, Agent))
