"""The face of Revo: write agents, use the mesh.

Names are loaded when they are first used, so that a process pays for what it needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from actors.actor import Actor, ActorRef, Agent, Prompt, TaskContext, prompt, rpc, task
    from actors.memory.client import Memory
    from actors.memory.errors import (
        ConflictError,
        DeadlockError,
        LockLostError,
        LockTimeoutError,
        NoSuchVersionError,
        StaleFenceError,
        TooManyConflictsError,
    )
    from actors.memory.merge import merger
    from actors.memory.model import Entry, Namespace
    from actors.registry.client import RegistryClient
    from bus.budgets import Budget
    from bus.errors import (
        BreakerOpenError,
        BudgetExceededError,
        BusError,
        ConfigError,
        DecodeError,
        NoStewardError,
        NoTimeLeftError,
        PayloadTooLargeError,
        PermissionDeniedError,
        PromptRefusedError,
        QueueFullError,
        ResultsTimeoutError,
        ResultTimeoutError,
        Retry,
        SupersededError,
        TaskFailedError,
        TooDeepError,
        TooManyChildrenError,
    )
    from bus.estimates import Estimate
    from bus.following import Chunk, Lost, Progress
    from bus.mesh import Handle, Mesh, Schedule
    from bus.messages import Result
    from bus.prompts import Attachment
    from bus.settings import Settings
    from bus.telemetry import span

    __version__: str

__all__ = [
    "Actor",
    "ActorRef",
    "Agent",
    "Attachment",
    "BreakerOpenError",
    "Budget",
    "BudgetExceededError",
    "BusError",
    "Chunk",
    "ConfigError",
    "ConflictError",
    "DeadlockError",
    "DecodeError",
    "Entry",
    "Estimate",
    "Handle",
    "LockLostError",
    "LockTimeoutError",
    "Lost",
    "Memory",
    "Mesh",
    "Namespace",
    "NoStewardError",
    "NoSuchVersionError",
    "NoTimeLeftError",
    "PayloadTooLargeError",
    "PermissionDeniedError",
    "Progress",
    "Prompt",
    "PromptRefusedError",
    "QueueFullError",
    "RegistryClient",
    "Result",
    "ResultTimeoutError",
    "ResultsTimeoutError",
    "Retry",
    "Schedule",
    "Settings",
    "StaleFenceError",
    "SupersededError",
    "TaskContext",
    "TaskFailedError",
    "TooDeepError",
    "TooManyChildrenError",
    "TooManyConflictsError",
    "__version__",
    "merger",
    "prompt",
    "rpc",
    "span",
    "task",
]

_HOMES: Final = {
    "actors.actor": ("Actor", "ActorRef", "Agent", "Prompt", "TaskContext", "prompt", "rpc", "task"),
    "actors.memory.client": ("Memory",),
    "actors.memory.errors": (
        "ConflictError",
        "DeadlockError",
        "LockLostError",
        "LockTimeoutError",
        "NoSuchVersionError",
        "StaleFenceError",
        "TooManyConflictsError",
    ),
    "actors.memory.merge": ("merger",),
    "actors.memory.model": ("Entry", "Namespace"),
    "actors.registry.client": ("RegistryClient",),
    "bus.budgets": ("Budget",),
    "bus.errors": (
        "BreakerOpenError",
        "BudgetExceededError",
        "BusError",
        "ConfigError",
        "DecodeError",
        "NoStewardError",
        "NoTimeLeftError",
        "PayloadTooLargeError",
        "PermissionDeniedError",
        "PromptRefusedError",
        "QueueFullError",
        "ResultTimeoutError",
        "ResultsTimeoutError",
        "Retry",
        "SupersededError",
        "TaskFailedError",
        "TooDeepError",
        "TooManyChildrenError",
    ),
    "bus.estimates": ("Estimate",),
    "bus.following": ("Chunk", "Lost", "Progress"),
    "bus.mesh": ("Handle", "Mesh", "Schedule"),
    "bus.messages": ("Result",),
    "bus.prompts": ("Attachment",),
    "bus.settings": ("Settings",),
    "bus.telemetry": ("span",),
}
_HOME_OF: Final = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("revo-mesh")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'revo' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
