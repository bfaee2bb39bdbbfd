"""`security-guardian`: looks for security risks in Python source with bandit."""

from actors.agents.security_guardian.agent import SecurityGuardian

__all__ = ["SecurityGuardian"]
