"""The steward: ends what no worker ends."""

from actors.steward.actor import Steward

__all__ = ["Steward"]
