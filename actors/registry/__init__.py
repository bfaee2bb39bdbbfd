"""The registry: who lives, what they can do, and where."""

from actors.registry.actor import Registry

__all__ = ["Registry"]
