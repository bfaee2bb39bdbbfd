"""What keeps a tool from more than its task: limits of the system, a folder of its own for what it writes, no network.

The limits are a shell's `ulimit`, which Linux and macOS have. The network is taken away by a namespace of Linux, where
an ordinary user may make one; elsewhere a tool has the network of its user, and `revo doctor` says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from bus.child import Child, uninterrupted

log = logging.getLogger(__name__)

MEMORY: Final = 4 * 1024 * 1024
"""KiB of address space; a tool of several threads reserves far more than it uses."""
FILE: Final = 128 * 1024
"""KiB that one file may have, in 1-KiB blocks (some shells count in half of them)."""
OPEN: Final = 256
"""Files that are open at once."""
_LIMIT: Final = (
    # What a system does not know it does not limit. The tool's own status is the shell's, for it takes its place.
    'mkdir -m 700 "$TMPDIR" || exit 126; '
    "ulimit -c 0; ulimit -t {cpu} 2>/dev/null; ulimit -f {file} 2>/dev/null; ulimit -n {open} 2>/dev/null; "
    'ulimit -v {memory} 2>/dev/null; exec "$@"'
)
_ALONE: Final = ("--user", "--map-current-user", "--net", "--")
_probes: dict[str, asyncio.Future[tuple[str, ...]]] = {}


def limited(argv: Sequence[str], seconds: float) -> list[str]:
    """The command that makes `$TMPDIR` and runs `argv` within the limits; of CPU it has `seconds`, and one more."""
    script = _LIMIT.format(cpu=math.ceil(seconds) + 1, file=FILE, open=OPEN, memory=MEMORY)
    return ["/bin/sh", "-c", script, "sh", *argv]


async def without_network() -> tuple[str, ...]:
    """What to put before a command so that it has no network; empty where the system does not let us."""
    unshare = shutil.which("unshare", path="/usr/bin:/bin")
    if unshare is None:
        return ()
    probe = _probes.get(unshare)
    if probe is None or probe.get_loop() is not asyncio.get_running_loop():
        probe = _probes[unshare] = asyncio.ensure_future(_probe(unshare))
    return await asyncio.shield(probe)


async def _probe(unshare: str) -> tuple[str, ...]:
    try:
        child = await Child.start([unshare, *_ALONE, "/bin/sh", "-c", ":"], group=True)
    except OSError as error:
        log.debug("%s does not start: %s", unshare, error)
        return ()
    status = await child.wait()
    await finish_group(child)
    if status != 0:
        log.info("this system lets us make no namespace: tools have the network of their user")
    return (unshare, *_ALONE) if status == 0 else ()


@asynccontextmanager
async def own_folder() -> AsyncIterator[Path]:
    """A folder for a tool, which `limited` makes; gone after the block with all that it left there."""
    folder = Path(tempfile.gettempdir()) / f"revo-tool-{secrets.token_hex(8)}"
    try:
        yield folder
    finally:
        await uninterrupted(asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True))


async def finish_group(process: Child) -> None:
    """Kill and reap a child with all of its group."""
    await process.finish()
    if _inherits(process.pid):
        await asyncio.to_thread(_reap, process.pid)


def _inherits(group: int) -> bool:
    """Whether the killed rest of a group is ours to reap: what its leader leaves goes to process 1, and in a container
    that is us. Unreaped, each tool would leave a zombie behind, until there are no process ids left.
    """
    try:
        os.waitpid(-group, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def _reap(group: int) -> None:
    with contextlib.suppress(ChildProcessError):
        while True:  # all of it is killed, so this ends
            os.waitpid(-group, 0)
