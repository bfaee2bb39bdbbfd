"""How a process logs: one line of text for people, or one JSON object a line for what collects logs."""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from typing import Final

from bus.errors import ConfigError
from bus.family import FAMILY
from bus.telemetry import current_ids

VARIABLE: Final = "REVO_LOG"
"""The environment variable that names the level."""
_who: dict[str, str] = {}
_LEVELS: Final = ("debug", "info", "warning", "error", "critical")


class JsonFormatter(logging.Formatter):
    """`at` (RFC 3339, UTC), `level`, `logger`, `message`, and `error` (the traceback) where there is one.

    Then whose process it is (`identify`); in the course of a task the task's `task_id`, `capability` and `client`; and
    where a span is recorded `trace_id` and `span_id`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever is in the message."""
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_who,
            **_where(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def identify(**who: str) -> None:
    """Have every line of JSON say whose process it is, from now on."""
    _who.update(who)


def _where() -> dict[str, str]:
    """In the course of what something was logged."""
    found: dict[str, str] = {}
    family = FAMILY.get()
    if family is not None:
        found["client"], found["capability"], found["task_id"] = family.parent.split(".")
    trace_id, span_id = current_ids()
    return found | ({"trace_id": trace_id, "span_id": span_id} if trace_id else {})


def configure(default: str, text: str, *, as_json: bool = False) -> None:
    """Log to stderr from the level that `REVO_LOG` names, else `default`, on; as JSON, or in the format `text`.

    Raises:
        ConfigError: there is no such level.
    """
    level = os.environ.get(VARIABLE, default)
    if level.lower() not in _LEVELS:
        raise ConfigError(f"{VARIABLE}={level}", f"must be one of {', '.join(_LEVELS)}")
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if as_json else logging.Formatter(text))
    logging.basicConfig(level=level.upper(), handlers=[handler])
