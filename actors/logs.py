"""How a process logs: one line of text for people, or one JSON object a line for what collects logs."""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from typing import Final

from bus.errors import ConfigError

VARIABLE: Final = "REVO_LOG"
"""The environment variable that names the level."""
_LEVELS: Final = ("debug", "info", "warning", "error", "critical")


class JsonFormatter(logging.Formatter):
    """`at` (RFC 3339, UTC), `level`, `logger`, `message`, and `error` (the traceback) where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever is in the message."""
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


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
