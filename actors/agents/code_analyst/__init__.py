"""`code-analyst`: reviews Python source with ruff and measures its cognitive complexity with complexipy."""

from actors.agents.code_analyst.agent import CodeAnalyst

__all__ = ["CodeAnalyst"]
