"""What a client knows of one method of one agent: whether it works, and how often it may be tried again."""

from __future__ import annotations

from bus import subjects
from bus.breaker import CLOSED, Breaker, State
from bus.budget import Budget
from bus.errors import BusError, ConnectionLostError, NoTimeLeftError, RemoteError, TransportError


class Line:
    """One of them."""

    __slots__ = ("breaker", "budget", "method", "name", "preferred", "service", "subject", "told", "undirected")

    def __init__(self, service: str, method: str, caller: str) -> None:
        """`caller` is as in `subjects.rpc`.

        Raises:
            InvalidSubjectError: there can be no such service, or method.
        """
        self.subject = subjects.rpc(service, method, caller)
        self.service = service
        self.method = method
        self.name = f"{service}/{method}"
        self.breaker = Breaker()
        self.budget = Budget()
        self.preferred = ""
        """How its instance is chosen where nothing else is said."""
        self.told: State = CLOSED
        """What was last told of its breaker."""
        self.undirected = False
        """Whether we may ask it only by its queue group."""


def judge(error: BusError, *, connected: bool) -> bool | None:
    """Whether who was asked works, by an error; None: that says nothing of it. `connected` is whether we are."""
    if isinstance(error, RemoteError):
        return not error.retryable
    if not connected or isinstance(error, ConnectionLostError | NoTimeLeftError):
        return None  # the fault is between us and the server, or our own
    return False if isinstance(error, TransportError) else None
