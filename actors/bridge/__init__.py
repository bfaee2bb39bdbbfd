"""The bridge to foreign agents: they speak the Synadia Agent Protocol and are not ours."""

from actors.bridge.actor import Bridge

__all__ = ["Bridge"]
