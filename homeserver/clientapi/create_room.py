# SPDX-License-Identifier: Apache-2.0
"""Making rooms. Client-server API, "Creation"."""

from typing import Any, Final, Literal

from msgspec import field

from homeserver.errors import ServerNotTrusted
from homeserver.rooms.creation.create import RoomCreation
from homeserver.rooms.creation.wishes import EncryptedByDefault, InitialState, RoomWishes
from homeserver.web.bodies import Struct
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Route

_PRESETS: Final = ("public", "private", "trusted_private")


def forced_encryption(by_default: EncryptedByDefault) -> tuple[str, ...]:
    """Flags of `/versions` by which clients' dialogs show which rooms will be encrypted anyway."""
    presets = {"all": _PRESETS, "private": _PRESETS[1:], "off": ()}[by_default]
    return tuple(f"io.element.e2ee_forced.{preset}" for preset in presets)


class StateBody(Struct, frozen=True):
    """An entry of `initial_state`."""

    type: str
    content: dict[str, Any]
    state_key: str = ""


class CreateRoomBody(Struct, frozen=True):
    """The body of `POST /createRoom`. Null is as good as absent."""

    visibility: Literal["public", "private"] | None = None
    preset: Literal["private_chat", "public_chat", "trusted_private_chat"] | None = None
    room_alias_name: str | None = None
    name: str | None = None
    topic: str | None = None
    invite: list[str] | None = None
    invite_3pid: list[dict[str, Any]] | None = None
    room_version: str | None = None
    creation_content: dict[str, Any] | None = None
    initial_state: list[StateBody] | None = None
    is_direct: bool | None = None
    power_levels: dict[str, Any] | None = field(name="power_level_content_override", default=None)


class CreateRoomEndpoints:
    """`/createRoom`."""

    def __init__(self, creation: RoomCreation) -> None:
        self._creation = creation

    def routes(self) -> tuple[Route, ...]:
        return (Route("POST", "/createRoom", self.create, limit="rooms", suspended_ok=False),)

    async def create(self, request: MatrixRequest) -> Reply:
        """`POST /createRoom`."""
        body = request.body(CreateRoomBody, empty_ok=True)
        if body.invite_3pid:
            raise ServerNotTrusted(
                "This server works with no identity server, so it cannot invite by address"
            )
        wishes = RoomWishes(
            visibility=body.visibility or "private",
            preset=body.preset,
            alias_localpart=body.room_alias_name,
            name=body.name,
            topic=body.topic,
            invite=tuple(dict.fromkeys(body.invite or ())),
            is_direct=bool(body.is_direct),
            version=body.room_version,
            creation_content=body.creation_content or {},
            initial_state=tuple(
                InitialState(state.type, state.state_key, state.content) for state in body.initial_state or ()
            ),
            power_levels=body.power_levels or {},
            # A bridge that cannot decrypt would be deaf in its own rooms; those that can ask for encryption.
            takes_encryption=request.requester.appservice_id is None,
        )
        return {"room_id": await self._creation.create(request.requester, wishes)}
