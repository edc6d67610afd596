# SPDX-License-Identifier: Apache-2.0
"""The room services, built in the order of their needs."""

from __future__ import annotations

from msgspec import Struct

from homeserver.rooms.access import RoomGate
from homeserver.rooms.aliases import Aliases
from homeserver.rooms.creation.create import RoomCreation
from homeserver.rooms.creation.upgrade import RoomUpgrade
from homeserver.rooms.creation.wishes import EncryptedByDefault
from homeserver.rooms.directory import Publication, RoomDirectory
from homeserver.rooms.elsewhere import RemoteDirectories, RemoteSummaries
from homeserver.rooms.engine import RoomEngine
from homeserver.rooms.locating import LikelyServers, RoomLocator
from homeserver.rooms.membership.ban import Banning
from homeserver.rooms.membership.changes import MembershipChanges
from homeserver.rooms.membership.forget import Forgetting
from homeserver.rooms.membership.invite import InvitePermissions, Inviting
from homeserver.rooms.membership.join import ClosedAccounts, Joining
from homeserver.rooms.membership.kick import Kicking
from homeserver.rooms.membership.knock import Knocking
from homeserver.rooms.membership.leave import Leaving
from homeserver.rooms.membership.member_content import MemberProfiles
from homeserver.rooms.membership.personal_settings import PersonalSettings
from homeserver.rooms.membership.unban import Unbanning
from homeserver.rooms.remote import RemoteRooms
from homeserver.rooms.sending.messages import Sending
from homeserver.rooms.sending.redactions import Redacting
from homeserver.rooms.sending.relation_rules import RelationRules
from homeserver.rooms.sending.state import Guests, SettingState
from homeserver.rooms.spaces import SpaceHierarchies
from homeserver.rooms.summary import RoomSummaries
from homeserver.rooms.user_rooms import UserRooms
from homeserver.rooms.whole_rooms import WholeRooms
from homeserver.stream import Committer
from storage.events import EventStore
from storage.published_rooms import PublishedRoomStore
from storage.relations import RelationStore
from storage.room_aliases import RoomAliasStore


class RoomServices(Struct, frozen=True, kw_only=True):
    """What endpoints and other services call."""

    user_rooms: UserRooms
    aliases: Aliases
    locator: RoomLocator
    directory: RoomDirectory
    summaries: RoomSummaries
    spaces: SpaceHierarchies
    creation: RoomCreation
    upgrade: RoomUpgrade
    inviting: Inviting
    joining: Joining
    leaving: Leaving
    kicking: Kicking
    banning: Banning
    unbanning: Unbanning
    knocking: Knocking
    forgetting: Forgetting
    sending: Sending
    redacting: Redacting
    setting_state: SettingState


def build_room_services(
    *,
    engine: RoomEngine,
    gate: RoomGate,
    user_rooms: UserRooms,
    committer: Committer,
    events: EventStore,
    relations: RelationStore,
    alias_store: RoomAliasStore,
    published: PublishedRoomStore,
    profiles: MemberProfiles,
    permissions: InvitePermissions,
    settings: PersonalSettings,
    guests: Guests,
    accounts: ClosedAccounts,
    publication: Publication,
    remote: RemoteRooms,
    remote_directories: RemoteDirectories,
    remote_summaries: RemoteSummaries,
    whole: WholeRooms,
    default_version: str,
    encrypted_by_default: EncryptedByDefault,
    without_keys: frozenset[str] = frozenset(),
    group_calls: bool = False,
) -> RoomServices:
    """Build them all. `RoomDeparture` and `ProfilePropagation`, which accounts and profiles need, are made apart.

    `without_keys`: accounts of the server's own, for whom a room is not encrypted unless its creator says so.
    """
    aliases = Aliases(store=alias_store, engine=engine, gate=gate, committer=committer, remote=remote)
    directory = RoomDirectory(
        store=published, cache=engine.cache, publication=publication, remote=remote_directories
    )
    locator = RoomLocator(aliases=aliases, remote=remote, server_name=engine.server_name)
    likely = LikelyServers(engine=engine, user_rooms=user_rooms)
    inviting = Inviting(engine=engine, profiles=profiles, permissions=permissions, remote=remote, whole=whole)
    joining = Joining(
        engine=engine,
        profiles=profiles,
        user_rooms=user_rooms,
        settings=settings,
        remote=remote,
        likely=likely,
        accounts=accounts,
    )
    leaving, kicking = (
        Leaving(engine=engine, remote=remote, likely=likely),
        Kicking(engine=engine, whole=whole),
    )
    banning, unbanning = Banning(engine=engine), Unbanning(engine=engine, whole=whole)
    knocking = Knocking(engine=engine, profiles=profiles, remote=remote, likely=likely)
    redacting = Redacting(engine=engine, events=events)
    changes = MembershipChanges(
        cache=engine.cache,
        joining=joining,
        inviting=inviting,
        leaving=leaving,
        kicking=kicking,
        banning=banning,
        unbanning=unbanning,
        knocking=knocking,
    )
    summaries = RoomSummaries(
        cache=engine.cache,
        locator=locator,
        likely=likely,
        user_rooms=user_rooms,
        remote=remote_summaries,
        server_name=engine.server_name,
    )
    return RoomServices(
        user_rooms=user_rooms,
        aliases=aliases,
        locator=locator,
        directory=directory,
        summaries=summaries,
        spaces=SpaceHierarchies(
            cache=engine.cache,
            summaries=summaries,
            likely=likely,
            remote=remote_summaries,
            server_name=engine.server_name,
        ),
        creation=RoomCreation(
            engine=engine,
            profiles=profiles,
            inviting=inviting,
            aliases=alias_store,
            directory=directory,
            default_version=default_version,
            encrypted_by_default=encrypted_by_default,
            without_keys=without_keys,
            group_calls=group_calls,
        ),
        upgrade=RoomUpgrade(
            engine=engine,
            gate=gate,
            profiles=profiles,
            aliases=alias_store,
            committer=committer,
            settings=settings,
        ),
        inviting=inviting,
        joining=joining,
        leaving=leaving,
        kicking=kicking,
        banning=banning,
        unbanning=unbanning,
        knocking=knocking,
        forgetting=Forgetting(committer=committer, user_rooms=user_rooms),
        sending=Sending(
            engine=engine,
            redacting=redacting,
            rules=RelationRules(cache=engine.cache, events=events, relations=relations),
            events=events,
        ),
        redacting=redacting,
        setting_state=SettingState(engine=engine, changes=changes, aliases=aliases, guests=guests),
    )
