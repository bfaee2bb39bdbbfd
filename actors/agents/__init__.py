"""The agents that come with Revo."""
