"""What the process of an actor and the one that started it tell each other, beside signals."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from typing import Final

from bus import lifeline

SHED: Final = 75
"""The exit status of who was idle and left for the sake of others (EX_TEMPFAIL): start it again, and not at once."""
READY_FD: Final = "REVO_READY_FD"
LIFELINE_FD: Final = "REVO_LIFELINE_FD"
ACTOR_SETTINGS: Final = "REVO_ACTOR_SETTINGS"
"""The environment variable with the actor's own settings, as JSON."""
RESTARTS: Final = "REVO_RESTARTS"
"""The environment variable in which a supervisor says how often it has started this actor again."""


def say_ready(actor: str, instance: str) -> None:
    """Tell our parent, if one waits for it, that we are ready."""
    fd = os.environ.pop(READY_FD, "")
    if fd:
        line = {"actor": actor, "instance": instance, "pid": os.getpid()}
        with contextlib.suppress(BrokenPipeError), os.fdopen(int(fd), "w") as pipe:
            pipe.write(json.dumps(line) + "\n")


def watch(orphaned: Callable[[], None], *, grace: float) -> bool:
    """Have `orphaned` called, in a thread, when our parent is gone; see `lifeline.watch`. False: we have none."""
    fd = os.environ.pop(LIFELINE_FD, "")
    if fd:
        lifeline.watch(int(fd), orphaned, grace=grace)
    return bool(fd)
