"""Where the actors of a mesh on one machine come from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from bus import forkserver
from bus.forkserver import ForkServer
from bus.settings import Settings
from revo.cli.run import main
from revo.cli.whole import READY_FD

PRELOADED: Final = ("uvloop", "actors.host", "actors.registry", "actors.steward", "actors.memory")
"""What actors are made of. Not those of users: each process imports them anew, as they are by then."""


def fork_server(settings: Settings) -> ForkServer | None:
    """One of this process, which must be alone yet: no thread, no loop. None where forks are unsafe or unwanted."""
    if not (settings.forks and forkserver.usable()):
        return None
    ready = os.environ.get(READY_FD)
    return ForkServer.beside(_run, PRELOADED, without=[int(ready)] if ready else [])


def _run(arguments: Sequence[str]) -> int:
    return main(arguments[1:])
