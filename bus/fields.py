"""What fields of messages hold that name things: checked where a message is read, before anything is done with it."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from bus import subjects


def _token_or_empty(value: str) -> str:
    return value and subjects.token(value)


def _address_or_empty(value: str) -> str:
    return value and subjects.address(value)


Token = Annotated[str, AfterValidator(subjects.token)]
"""A name or an id: one token of a subject."""
TokenOrEmpty = Annotated[str, AfterValidator(_token_or_empty)]
Address = Annotated[str, AfterValidator(subjects.address)]
"""Where tasks are sent: a capability, or `@<agent>`."""
AddressOrEmpty = Annotated[str, AfterValidator(_address_or_empty)]
