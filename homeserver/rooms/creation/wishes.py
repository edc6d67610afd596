# SPDX-License-Identifier: Apache-2.0
"""What a user asks of a new room. Client-server API, `POST /createRoom`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct, field

Visibility = Literal["public", "private"]
Preset = Literal["private_chat", "trusted_private_chat", "public_chat"]
EncryptedByDefault = Literal["private", "all", "off"]


class InitialState(Struct, frozen=True):
    """A state event the room shall begin with."""

    type: str
    state_key: str
    content: Mapping[str, Any]


class RoomWishes(Struct, frozen=True, kw_only=True):
    """The request's fields, checked for their types only."""

    visibility: Visibility = "private"
    preset: Preset | None = None
    """None: `public_chat` for a published room, else `private_chat`."""
    alias_localpart: str | None = None
    name: str | None = None
    topic: str | None = None
    invite: Sequence[str] = ()
    is_direct: bool = False
    version: str | None = None
    """None: the server's default."""
    creation_content: Mapping[str, Any] = field(default_factory=dict)
    initial_state: Sequence[InitialState] = ()
    power_levels: Mapping[str, Any] = field(default_factory=dict)
    """`power_level_content_override`."""
    takes_encryption: bool = True
    """Whether the room may be encrypted although `initial_state` does not say so."""

    @property
    def effective_preset(self) -> Preset:
        if self.preset is not None:
            return self.preset
        return "public_chat" if self.visibility == "public" else "private_chat"

    @property
    def is_space(self) -> bool:
        return self.creation_content.get("type") == "m.space"
