"""What the registry refuses, and how its clients hear of it."""

from __future__ import annotations

from bus.errors import BusError, ConfigError, TransportError


class LeaseTakenError(BusError):
    """Somebody else lives under this name. Nothing was changed."""

    def __init__(self, instance: str, holder: str) -> None:
        super().__init__(instance, holder)
        self.instance = instance
        self.holder = holder

    def __str__(self) -> str:
        return f"the lease of {self.instance} is held by {self.holder}; an instance registers under a name of its own"


class NotYourLeaseError(BusError):
    """The secret is not that of the instance's lease. Nothing was changed."""

    def __init__(self, instance: str, holder: str) -> None:
        super().__init__(instance, holder)
        self.instance = instance
        self.holder = holder

    def __str__(self) -> str:
        return f"the lease of {self.instance} is not yours but that of {self.holder}; only its holder gives it up"


class SchemaError(ConfigError):
    """What should be a JSON schema is none. Nothing was changed."""


class DefinitionConflictError(ConfigError):
    """Two agents define one capability in two ways, or one agent does within one `version`. What stands, stands as long
    as an instance with it lives.
    """

    def __init__(self, capability: str, ours: str, theirs: str, difference: str, version: str = "") -> None:
        BusError.__init__(self, capability, ours, theirs, difference, version)
        self.what = capability
        self.reason = difference
        self.capability = capability
        self.ours = ours
        self.theirs = theirs
        self.difference = difference
        self.version = version

    def __str__(self) -> str:
        if self.ours == self.theirs:
            return (
                f"{self.theirs} {self.version} lives with another schema of the capability {self.capability}: "
                f"{self.difference}; give the newer one another version"
            )
        return (
            f"agents {self.theirs} and {self.ours} disagree on the capability {self.capability}: {self.difference}; "
            f"give one of them another name"
        )


class NotYoursError(BusError):
    """Who asks has the credentials of another agent."""

    def __init__(self, agent: str, caller: str) -> None:
        super().__init__(agent, caller)
        self.agent = agent
        self.caller = caller

    def __str__(self) -> str:
        return f"{self.caller} may not speak for {self.agent}: its credentials are its own"


class RefusedError(BusError):
    """The registry refuses what it was asked; `code` is its error's name, such as `definition_conflict`."""

    def __init__(self, error_code: str, reason: str) -> None:
        super().__init__(error_code, reason)
        self._code = error_code
        self.reason = reason

    @property
    def code(self) -> str:
        """The name of the registry's own error."""
        return self._code

    def __str__(self) -> str:
        return self.reason


class NoRegistryError(TransportError):
    """No registry runs."""

    def __str__(self) -> str:
        return "no registry runs; `revo up` starts one, or `revo run actors.registry:Registry`"
