"""NATS keys: Ed25519 key pairs as NATS writes them (github.com/nats-io/nkeys, `README.md` and `crc16.go`).

A public key begins with `U` and may be shown to anybody. A seed begins with `SU` and is the secret. Must not know where
keys are kept.
"""

from __future__ import annotations

import base64
import binascii
import os
from typing import Final

_SEED: Final = 18 << 3  # 'S'
_USER: Final = 20 << 3  # 'U'
_RAW: Final = 32
"""Bytes of an Ed25519 seed, and of a public key."""


def new_seed() -> str:
    """A new user's seed, from the system's random numbers."""
    return _encode(bytes((_SEED | (_USER >> 5), (_USER & 31) << 3)) + os.urandom(_RAW))


def public_key(seed: str) -> str:
    """The public key that belongs to a user's seed.

    Raises:
        ValueError: it is no user's seed.
    """
    from nacl.bindings import crypto_sign_seed_keypair  # noqa: PLC0415  (only where there are keys)

    public, _ = crypto_sign_seed_keypair(_raw_seed(seed))
    return _encode(bytes((_USER,)) + public)


def sign(seed: str, text: str) -> str:
    """The signature of a text, in base64.

    Raises:
        ValueError: it is no user's seed.
    """
    from nacl.bindings import crypto_sign, crypto_sign_seed_keypair  # noqa: PLC0415  (as above)

    _, secret = crypto_sign_seed_keypair(_raw_seed(seed))
    return base64.b64encode(crypto_sign(text.encode(), secret)[:64]).decode()


def is_public_key(text: str) -> bool:
    """Whether it is a user's public key."""
    try:
        raw = _decode(text)
    except ValueError:
        return False
    return len(raw) == 1 + _RAW and raw[0] == _USER


def _raw_seed(seed: str) -> bytes:
    raw = _decode(seed)
    if len(raw) != 2 + _RAW or raw[0] & 0xF8 != _SEED or (raw[0] & 7) << 5 | raw[1] >> 3 != _USER:
        raise ValueError("not the seed of a NATS user")
    return raw[2:]


def _encode(raw: bytes) -> str:
    checked = raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")
    return base64.b32encode(checked).decode().rstrip("=")


def _decode(text: str) -> bytes:
    try:
        checked = base64.b32decode(text + "=" * (-len(text) % 8))
    except binascii.Error:
        raise ValueError("not a NATS key") from None
    raw, check = checked[:-2], checked[-2:]
    if binascii.crc_hqx(raw, 0).to_bytes(2, "little") != check:
        raise ValueError("not a NATS key: its checksum is wrong")
    return raw
