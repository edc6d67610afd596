# SPDX-License-Identifier: Apache-2.0
"""What the room services ask other servers to tell about rooms, and the answer of a server that talks to none.

Owns the interfaces only; `federation.queries` does it. Taking part in such rooms is `homeserver.rooms.remote`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from homeserver.errors import NotFound
from homeserver.needs import Protocol


class ListWish(Struct, frozen=True):
    """What is asked of a list of published rooms, in the words of `POST /publicRooms`."""

    term: str | None = None
    room_types: Sequence[str | None] | None = None
    limit: int | None = None
    since: str | None = None
    include_all_networks: bool = False
    third_party_instance_id: str | None = None


class RemoteDirectories(Protocol):
    """Lists of rooms that other servers publish."""

    async def page(self, server: str, wish: ListWish) -> Mapping[str, Any]:
        """A page in the form of the response of `/publicRooms`, every room in it checked.

        Raises InvalidParam for what names no server, Forbidden, NotFound, RemoteServerFailed, LimitExceeded.
        """
        ...


class NoRemoteDirectories:
    """For a server that does not federate."""

    async def page(self, server: str, wish: ListWish) -> Mapping[str, Any]:
        """Nobody is asked."""
        raise NotFound(f"The directory of {server[:255]} cannot be reached from here")


class RemoteTree(Struct, frozen=True):
    """What another server says of a room and of the rooms under it.

    Summaries are `RoomSummary` as the client-server API has it, of checked types; whether a user may know of a room is
    for the asking server to decide. `children_state` are stripped `m.space.child` events with `origin_server_ts`.
    """

    summary: Mapping[str, Any]
    children_state: Sequence[Mapping[str, Any]]
    children: Mapping[str, Mapping[str, Any]]
    """Summaries of rooms that `children_state` names, by id; not of all, perhaps."""
    inaccessible: frozenset[str]
    """Rooms of which the server says that nobody here could see them."""


class RemoteSummaries(Protocol):
    """Summaries of rooms that this server is not in."""

    async def trees(
        self, wanted: Mapping[str, Sequence[str]], *, suggested_only: bool = False
    ) -> Mapping[str, RemoteTree]:
        """For room ids with servers that may know them, the likeliest first: what the first of those says that says
        anything. Rooms of which nothing was heard in good time are absent; nothing is raised for what others do.
        """
        ...


class NoRemoteSummaries:
    """For a server that does not federate."""

    async def trees(
        self, wanted: Mapping[str, Sequence[str]], *, suggested_only: bool = False
    ) -> Mapping[str, RemoteTree]:
        """Nobody is asked."""
        return {}
