"""Who a process is to the server: a file with a user's name, its role and its seed.

It is read anew at every connect, so that a rotated key is taken up without a restart. Must not know
what a role may do (`bus.roles`).

The file is one that the ordinary NATS tools take, too (`nats --nkey FILE`): comments, and one line with the seed.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bus import nkeys
from bus.errors import ConfigError
from bus.subjects import is_token

OPERATOR: Final = "operator"
"""The role that may do everything in its tenant."""
TRUSTED: Final = frozenset({OPERATOR, "observer", "registry", "steward", "bridge", "memory"})
"""Roles that are granted streams; all others are granted subjects."""
OWN: Final = "own"
"""The user has an account of its own."""
SHARED: Final = "shared"
"""The user lives in its tenant's account, where the streams are."""
SHARED_INBOX: Final = "_INBOX_core"
"""Where those of the tenant's account are answered, each below its name."""
DEFAULT_INBOX: Final = "_INBOX"

_FIELDS: Final = ("user", "role", "tenant", "account", "secret")
_COMMENT: Final = re.compile(rf"# ({'|'.join(_FIELDS)}): (\S+)\s*\Z")


@dataclass(frozen=True, slots=True)
class Credentials:
    """One user, as its file has it. The seed is not kept.

    The `secret` is the user's own, and outlives its keys: the ids that its idempotency keys stand for come from it, so
    that nobody else can guess them.
    """

    path: Path
    user: str
    role: str
    tenant: str
    account: str
    secret: str = field(repr=False)

    @property
    def restricted(self) -> bool:
        """Whether the user is granted single subjects, and no stream."""
        return self.role not in TRUSTED

    @property
    def inbox(self) -> str:
        """What the subjects begin with on which the user is answered."""
        return DEFAULT_INBOX if self.account == OWN else f"{SHARED_INBOX}.{self.user}"

    def answer(self, nonce: str) -> tuple[str, str]:
        """The public key, and the signature that proves it, for a server's challenge; of the file as it is now.

        Raises:
            ConfigError: the file cannot be read any more.
        """
        seed = _read(self.path)[0]
        return nkeys.public_key(seed), nkeys.sign(seed, nonce)

    @classmethod
    def load(cls, path: Path) -> Credentials:
        """What a file says.

        Raises:
            ConfigError: it is not there, may be read by everybody, or holds no credentials of Revo.
        """
        _, said = _read(path)
        missing = [name for name in _FIELDS if not is_token(said.get(name, ""))]
        if missing:
            reason = f"has no line `# {missing[0]}: NAME`; `revo keys add` writes such files"
            raise ConfigError(f"credentials {path}", reason)
        return cls(path, *(said[name] for name in _FIELDS))


def write(path: Path, seed: str, *, user: str, role: str, tenant: str, account: str, secret: str) -> None:
    """Write a user's file."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    values = (user, role, tenant, account, secret)
    said = "".join(f"# {name}: {value}\n" for name, value in zip(_FIELDS, values, strict=True))
    write_text(path, f"# Credentials of Revo: keep them to yourself.\n{said}{seed}\n")


def write_text(path: Path, text: str) -> None:
    """Write a file for its owner alone; who reads at this moment gets the old one or the new one."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    temporary.replace(path)


def _read(path: Path) -> tuple[str, dict[str, str]]:
    """A file's seed, and what its comments say. Its text is in no error."""
    what = f"credentials {path}"
    try:
        with path.open(encoding="utf-8") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & stat.S_IROTH:
                raise ConfigError(what, f"may be read by everybody on this machine; chmod 600 {path}")
            lines = file.read(10_000).splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(what, "is not text") from error
    except OSError as error:
        raise ConfigError(what, (error.strerror or "cannot be read").lower()) from error
    seeds = [line.strip() for line in lines if line.startswith("SU")]
    try:
        nkeys.public_key(seeds[0])
    except (IndexError, ValueError):
        raise ConfigError(what, "holds no seed of a NATS user, a line that begins with SU") from None
    return seeds[0], {match[1]: match[2] for match in map(_COMMENT.match, lines) if match}
