# SPDX-License-Identifier: Apache-2.0
"""The room services on a real database, with stand-ins for what accounts and account data tell them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from homeserver.rooms.creation.wishes import RoomWishes
from homeserver.rooms.elsewhere import (
    NoRemoteDirectories,
    NoRemoteSummaries,
    RemoteDirectories,
    RemoteSummaries,
)
from homeserver.rooms.engine import Room, RoomHead
from homeserver.rooms.locating import LikelyServers
from homeserver.rooms.membership.departure import RoomDeparture
from homeserver.rooms.membership.propagation import ProfilePropagation
from homeserver.rooms.remote import NoRemoteRooms, RemoteRooms
from homeserver.rooms.services import RoomServices, build_room_services
from homeserver.rooms.whole_rooms import WholeRooms
from storage.database import Database
from storage.published_rooms import PublishedRoomStore
from storage.relations import RelationStore
from storage.room_aliases import RoomAliasStore
from tests.reactor import reactor
from tests.rooms.engine_fixture import ALICE, BOB, CAROL, Engine


@dataclass(frozen=True, slots=True)
class User:
    """An `Actor`."""

    user_id: str
    is_guest: bool = False
    is_admin: bool = False
    is_suspended: bool = False


@dataclass(slots=True)
class World:
    """What the services hear from elsewhere."""

    profiles: dict[str, dict[str, str]] = field(default_factory=dict)
    blocked: set[str] = field(default_factory=set)
    guests: set[str] = field(default_factory=set)
    carried: list[tuple[str, str, str]] = field(default_factory=list)
    closed: set[str] = field(default_factory=set)

    async def member_profiles(self, user_ids: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
        return {user: self.profiles[user] for user in user_ids if user in self.profiles}

    async def blocking(self, inviter: str, invited: Sequence[str]) -> Collection[str]:
        return self.blocked & set(invited)

    async def carry_over(self, user_id: str, old_room_id: str, new_room_id: str) -> None:
        self.carried.append((user_id, old_room_id, new_room_id))

    async def depart_again(self, user_id: str) -> bool:
        return user_id in self.closed

    async def guests_among(self, user_ids: Collection[str]) -> Collection[str]:
        return self.guests & set(user_ids)


alice, bob, carol = User(ALICE), User(BOB), User(CAROL)


@dataclass(frozen=True, slots=True)
class House:
    """One process's room services."""

    engine: Engine
    rooms: RoomServices
    world: World
    departure: RoomDeparture
    whole: WholeRooms
    propagation: ProfilePropagation

    @classmethod
    async def open(
        cls,
        database: Database,
        *,
        default_version: str = "12",
        encrypted_by_default: Literal["private", "all", "off"] = "off",
        publication: Literal["members", "admins", "nobody"] = "members",
        remote: RemoteRooms | None = None,
        remote_directories: RemoteDirectories | None = None,
        remote_summaries: RemoteSummaries | None = None,
        engine: Engine | None = None,
    ) -> House:
        """Put together as `homeserver/app` does."""
        engine = engine or await Engine.open(database)
        world = World()
        whole = WholeRooms(engine.cache, reactor)
        engine.stream.subscribe(whole)
        remote = NoRemoteRooms() if remote is None else remote
        rooms = build_room_services(
            engine=engine.engine,
            gate=engine.gate,
            user_rooms=engine.user_rooms,
            committer=engine.committer,
            events=engine.events,
            relations=RelationStore(database),
            alias_store=RoomAliasStore(database),
            published=PublishedRoomStore(database),
            profiles=world,
            permissions=world,
            settings=world,
            guests=world,
            accounts=world,
            publication=publication,
            remote=remote,
            remote_directories=remote_directories or NoRemoteDirectories(),
            remote_summaries=remote_summaries or NoRemoteSummaries(),
            whole=whole,
            default_version=default_version,
            encrypted_by_default=encrypted_by_default,
        )
        likely = LikelyServers(engine=engine.engine, user_rooms=engine.user_rooms)
        return cls(
            engine,
            rooms,
            world,
            RoomDeparture(engine=engine.engine, user_rooms=engine.user_rooms, remote=remote, likely=likely),
            whole,
            ProfilePropagation(engine=engine.engine, user_rooms=engine.user_rooms),
        )

    async def create(self, creator: User = alice, **wishes: Any) -> str:
        """A new room's id."""
        return await self.rooms.creation.create(creator, RoomWishes(**wishes))

    async def public(self, *members: User, version: str = "12") -> str:
        """A room of Alice's that all may join, and those members in it."""
        room_id = await self.create(preset="public_chat", version=version)
        for member in members:
            await self.rooms.joining.join(member, room_id)
        return room_id

    async def room(self, room_id: str) -> Room:
        found = await self.engine.cache.get(room_id)
        assert found is not None
        return found

    async def head(self, room_id: str) -> RoomHead:
        return (await self.room(room_id)).head

    async def member_content(self, room_id: str, user_id: str) -> Mapping[str, Any]:
        """The content of a member event as it stands."""
        return (await self.engine.gate.members(await self.room(room_id), [user_id]))[user_id].event.content

    async def set(
        self, actor: User, room_id: str, event_type: str, content: Mapping[str, Any], key: str = ""
    ) -> str:
        """Set state."""
        return await self.rooms.setting_state.set_state(actor, room_id, event_type, key, content)
