"""Names and labels of what is made in a cluster."""

from __future__ import annotations

import zlib
from typing import Final

PART_OF: Final = "revo"
ROLE: Final = "revo/role"
"""The label that network policies go by: `actor`, `nats`, `client`, `monitoring`, `tracing`."""


def dns_name(name: str) -> str:
    """A name as Kubernetes takes it, and of no two names the same."""
    plain = name.lower().replace("_", "-").replace(".", "-").strip("-")
    return plain if plain == name else f"{plain}-{zlib.crc32(name.encode()):08x}"


def key_secret(user: str) -> str:
    """The secret with a user's credentials; `revo keys show --kubernetes` writes it."""
    return f"revo-key-{dns_name(user)}"


def labels(name: str) -> dict[str, str]:
    """What everything of one actor carries."""
    return {"app.kubernetes.io/name": dns_name(name), "app.kubernetes.io/part-of": PART_OF}
