"""Two versions of Revo in two folders: the wheel of today, and what the next release might be.

The next one writes a field or a header more wherever something crosses the wire, and leaves one that may be absent.
"""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.wheels import build

MARK: Final = "zone"
"""The field that only the next version writes."""
HEADER: Final = "Revo-Zone"
"""The header that only the next version writes, instead of `Revo-Version`."""

Edit = tuple[str, str, str]
"""A file, a text that stands in it once, and what replaces it."""

_NO_MORE_VERSION = "        VERSION: WIRE_VERSION,\n        CONTENT_TYPE: "
_ZONE_HEADER = '        "Revo-Zone": "north",\n        CONTENT_TYPE: '
_RESTARTS = "    restarts: Count = 0\n    concurrency: Count = 1\n    labels: Labels = {}\n    capabilities: "
_ZONE = '    zone: str = ""\n    concurrency: Count = 1\n    labels: Labels = {}\n    capabilities: '

MODELS: Final[list[Edit]] = [
    # results, dead letters and errors
    ("bus/messages.py", '    trace_id: str = ""\n    blob', '    zone: str = ""\n    blob'),
    ("bus/messages.py", "    died_at: float\n", '    died_at: float\n    zone: str = "north"\n'),
    ("bus/messages.py", '    type: str = ""\n', '    zone: str = "north"\n'),
    # counts of attempts, heartbeats, spans
    ("bus/messages.py", "    alone: int = 0\n", '    zone: str = "north"\n    alone: int = 0\n'),
    ("bus/messages.py", '    parent_id: Hex = ""\n\n\nclass Beat', '    zone: str = ""\n\n\nclass Beat'),
    ("bus/messages.py", "    leaving: bool = False\n", '    zone: str = ""\n'),
    ("bus/messages.py", '    status_message: str = ""\n', '    status_message: str = ""\n    zone: str = "north"\n'),
    # what a steward answers, and how a capability is run
    ("bus/messages.py", "    children: int = 0\n", '    zone: str = "north"\n'),
    ("bus/outcomes.py", "    max_deaths: int = 3\n", "    max_deaths: int = 3\n    zone: float = 7.0\n"),
    # the registry
    ("actors/registry/messages.py", _RESTARTS + "Annotated", _ZONE + "Annotated"),
    ("actors/registry/model.py", _RESTARTS + "dict", _ZONE + "dict"),
    ("actors/registry/model.py", '    version: Text = ""\n    defined_at', '    zone: str = "north"\n    defined_at'),
    ("actors/registry/messages.py", "    ttl: float\n", '    ttl: float\n    zone: str = "north"\n'),
    ("actors/registry/messages.py", "    more: bool = False\n", '    more: bool = False\n    zone: str = "north"\n'),
]
WRITERS: Final[list[Edit]] = [
    ("bus/endings.py", '        "trace_id": trace_id,\n', '        "zone": "north",\n'),
    ("bus/endings.py", _NO_MORE_VERSION, _ZONE_HEADER),
    ("bus/tasks.py", _NO_MORE_VERSION, _ZONE_HEADER),
    ("bus/traces.py", "result.trace_id if result and result.trace_id else task_or_trace_id", "task_or_trace_id"),
    ("bus/stewards.py", '        "by": f"client {by}",\n', '        "zone": "north",\n'),
    ("bus/run.py", "            parent_id=parent_id,\n", '            zone="north",\n'),
    ("bus/obituary.py", "parent_id=task.parent_id", 'parent_id=""'),
    ("bus/worker.py", "            leaving=self._left,\n", '            zone="north",\n'),
    ("bus/heartbeat.py", "elif beat.leaving:", "elif beat.zone == 'none':"),
    (
        "bus/early.py",
        '"status": standing.status, "task": envelope.name}\n',
        '"status": standing.status, "zone": "north"}\n',
    ),
    ("bus/early.py", '"last": backlog.last, "ttl": ttl}', '"last": backlog.last, "zone": "north"}'),
    ("bus/events.py", '"by": by, "details": details}', '"zone": "north", "details": details}'),
    ("actors/enrolment.py", "restarts=int(restarts) if restarts.isdecimal() else 0", 'zone="north"'),
    ("actors/registry/definitions.py", "                version=registration.version,\n", ""),
]


@dataclass(frozen=True, slots=True)
class Trees:
    """Folders that a process can run Revo from."""

    now: Path
    next: Path


def make(folder: Path) -> Trees:
    """Build the wheel, unpack it twice and change one of the two; a text must stand exactly once in its file."""
    for name in ("source", "dist"):
        (folder / name).mkdir()
    trees = Trees(folder / "now", folder / "next")
    with zipfile.ZipFile(build(folder / "source", folder / "dist")) as wheel:
        wheel.extractall(trees.now)
    shutil.copytree(trees.now, trees.next)
    for file, original, replacement in (*MODELS, *WRITERS):
        text = (trees.next / file).read_text(encoding="utf-8")
        count = text.count(original)
        assert count == 1, f"{file} holds this {count} times; the table must follow the code:\n{original}"
        (trees.next / file).write_text(text.replace(original, replacement), encoding="utf-8")
    return trees
