"""Finds the class of an actor and reads what it is to be run with."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from actors.actor import Actor
from actors.parent import ACTOR_SETTINGS
from bus import subjects
from bus.errors import BusError, ConfigError
from bus.outcomes import Policy
from bus.settings import Settings


def load(target: str) -> type[Actor]:
    """The actor class that `package.module:Class` or `path/to/file.py:Class` names.

    Raises:
        ConfigError: there is no such module, file or class, or it is no actor.
    """
    where, colon, attribute = target.rpartition(":")
    if not colon or not where or not attribute:
        raise ConfigError(target, "an actor is named as package.module:Class or path/to/file.py:Class")
    try:
        module = _load_file(where) if where.endswith(".py") else importlib.import_module(where)
    except ModuleNotFoundError as error:
        raise ConfigError(target, f"{error.msg.lower()}") from error
    except BusError:
        raise
    except Exception as error:
        raise ConfigError(target, f"its module does not import: {type(error).__name__}: {error}") from error
    actor = getattr(module, attribute, None)
    if actor is None:
        raise ConfigError(target, f"{where} has no {attribute}")
    if not (isinstance(actor, type) and issubclass(actor, Actor)):
        raise ConfigError(target, f"{attribute} is not an actor; derive it from revo.Agent or revo.Actor")
    return actor


def _load_file(path: str) -> Any:
    file = Path(path)
    if not file.is_file():
        raise ConfigError(path, "no such file")
    name = f"revo_actor_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # annotations are resolved through it
    sys.path.insert(0, str(file.parent.resolve()))
    spec.loader.exec_module(module)
    return module


def actor_settings(actor: type[Actor]) -> Any:
    """The actor's own settings, from the environment; taken out of it, for what it starts has no use for them.

    Raises:
        ConfigError: they are not what its class declares; names the key.
    """
    raw = os.environ.pop(ACTOR_SETTINGS, "") or "{}"
    try:
        given = json.loads(raw)
    except ValueError as error:
        raise ConfigError(ACTOR_SETTINGS, f"is not JSON: {error}") from error
    if actor.Settings is None:
        if given:
            raise ConfigError(f"settings of {actor.name}", "this actor takes none")
        return None
    try:
        return actor.Settings.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"settings of {subjects.token(actor.name)}: {key}", first["msg"]) from error


def default_policy(settings: Settings) -> Policy:
    """How a capability is run when its agent says nothing."""
    return Policy(
        ack_wait=settings.ack_wait,
        max_attempts=settings.max_attempts,
        time_limit=settings.time_limit,
        backoff=settings.backoff,
        backoff_max=settings.backoff_max,
        max_deaths=settings.max_deaths,
    )
