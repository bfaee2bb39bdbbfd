"""How an agent declares that it takes prompts: `@prompt` on one of its methods.

Must not know how prompts travel, nor how a method is run (`actors.runtime`).
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar, overload

from pydantic import BaseModel

from bus import subjects
from bus.errors import ConfigError, InvalidSubjectError
from bus.prompts import Prompt

__all__ = ["Prompt", "Prompted", "prompt", "prompted"]

F = TypeVar("F", bound=Callable[..., Any])

_MARK: Final = "__revo_prompt__"


@dataclass(frozen=True, slots=True)
class _Mark:
    attachments: bool


@overload
def prompt(method: F, /) -> F: ...
@overload
def prompt(*, attachments: bool = True) -> Callable[[F], F]: ...
def prompt(method: Any = None, /, *, attachments: bool = True) -> Any:
    """Declare that a method of an `Agent` answers prompts: of any client of the Synadia Agent Protocol for NATS.

    The method takes a `Prompt` and answers by what it returns (text, or a pydantic model, which travels as JSON), by
    what it yields as an `async def` with `yield`, and by `Prompt.send`. A plain `def` runs in a thread. What it raises
    is the caller's error; the agent lives on. An agent has one such method; with `attachments=False` it takes text
    alone.
    """

    def decorate(function: F) -> F:
        setattr(function, _MARK, _Mark(attachments))
        return function

    return decorate if method is None else decorate(method)


@dataclass(frozen=True, slots=True)
class Prompted:
    """The method of a class that answers prompts."""

    attribute: str
    attachments: bool
    streams: bool
    """It yields the parts of its answer."""
    in_thread: bool


def prompted(actor: type[Any], *, agent: bool) -> Prompted | None:
    """The method of an actor class, or of an `agent`, that answers prompts, its own or inherited; None without one.

    Raises:
        ConfigError: it cannot be served; names the method and what to do.
    """
    found = [
        (attribute, method, mark)
        for attribute, method in inspect.getmembers(actor, inspect.isfunction)
        if (mark := getattr(method, _MARK, None)) is not None
    ]
    if not found:
        return None
    attribute, method, mark = found[0]
    where = f"{actor.__name__}.{attribute}"
    if len(found) > 1:
        raise ConfigError(where, f"{found[1][0]} answers prompts, too; an agent has one method that does")
    if not agent:
        raise ConfigError(where, "only an Agent takes prompts; derive the class from revo.Agent")
    try:
        subjects.prompt_address(actor.name, "revo", "main")
    except InvalidSubjectError as error:
        raise ConfigError(f"{actor.__name__}.name", f"{error.reason}; {actor.name} is not") from error
    streams = _check(where, method)
    return Prompted(attribute, mark.attachments, streams, not streams and not inspect.iscoroutinefunction(method))


def _check(where: str, method: Callable[..., Any]) -> bool:
    """See that a method can be served; whether it yields its answer."""
    try:
        hints = typing.get_type_hints(method)
    except NameError as error:
        raise ConfigError(where, f"{error}; define the model at the top of the module") from error
    parameters = list(inspect.signature(method).parameters.values())[1:]
    if len(parameters) != 1 or parameters[0].kind not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        raise ConfigError(where, "takes one argument, a revo.Prompt")
    if hints.get(parameters[0].name, Prompt) is not Prompt:
        raise ConfigError(where, f"annotate {parameters[0].name} as revo.Prompt")
    if inspect.isgeneratorfunction(method):
        raise ConfigError(where, "yields in a thread; make it `async def` to stream its answer")
    if inspect.isasyncgenfunction(method):
        return True
    if not _answers(hints.get("return", str)):
        raise ConfigError(where, "returns text, a pydantic model or nothing, and its annotation says so")
    return False


def _answers(hint: Any) -> bool:
    options = typing.get_args(hint) or (hint,)
    return hint is Any or all(
        one in (str, type(None)) or (isinstance(one, type) and issubclass(one, BaseModel)) for one in options
    )
