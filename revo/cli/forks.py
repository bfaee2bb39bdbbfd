"""Where the actors of a mesh on one machine come from."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

from bus import forkserver
from bus.forkserver import ForkServer
from bus.settings import Settings
from revo.cli.run import main

PRELOADED: Final = ("uvloop", "actors.host", "actors.registry", "actors.steward", "actors.memory")
"""What actors are made of. Not those of users: each process imports them anew, as they are by then."""


def fork_server(settings: Settings) -> ForkServer | None:
    """One of this process, which must be alone yet: no thread, no loop. None where forks are unsafe or unwanted."""
    if not (settings.forks and forkserver.usable()):
        return None
    try:
        return ForkServer.beside(_run, PRELOADED)
    except OSError:
        return None  # there may be room for the actors, or they say that there is none


def _run(arguments: Sequence[str]) -> int:
    sys.path[0] = os.getcwd()  # noqa: PTH109  (as `python -m` has it; ours is that of `revo up`)
    return main(arguments[1:])
