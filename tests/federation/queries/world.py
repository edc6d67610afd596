# SPDX-License-Identifier: Apache-2.0
"""Room services that ask other servers in memory, and what these say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from federation.client.answers import AliasAnswer
from federation.client.availability import AlwaysAvailable
from federation.client.calls import FederationCalls
from federation.client.client import FederationClient
from federation.client.errors import RemoteFailure
from federation.client.metrics import ClientMetrics
from federation.membership.asking import as_told
from federation.queries.directories import FederatedDirectories
from federation.queries.profiles import FederatedProfiles
from federation.queries.spaces import FederatedSummaries
from homeserver.rooms.remote import FoundRoom, NoRemoteRooms
from storage.database import Database
from tests.federation.servers import Network, Received, Refused, RemoteServer, make_key
from tests.reactor import reactor
from tests.rooms.services_fixture import House

US = "localhost"
V1 = "/_matrix/federation/v1"


class AliasesElsewhere(NoRemoteRooms):
    """Resolves aliases over the network; nothing else is done with other servers' rooms."""

    def __init__(self, calls: FederationCalls) -> None:
        self._calls = calls

    async def resolve_alias(self, alias: str) -> FoundRoom:  # type: ignore[override]
        try:
            answer: AliasAnswer = await self._calls.query_directory(alias.partition(":")[2], alias)
        except RemoteFailure as failure:
            raise as_told(failure) from failure
        return FoundRoom(answer.room_id, answer.servers)


class Clock:
    """Seconds, moved by tests."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True, slots=True)
class Asking:
    """One process and the servers it can reach."""

    hydra: RemoteServer
    other: RemoteServer
    network: Network
    calls: FederationCalls
    clock: Clock
    profiles: FederatedProfiles
    directories: FederatedDirectories
    summaries: FederatedSummaries

    @classmethod
    def build(cls) -> Asking:
        """Without rooms."""
        hydra, other = RemoteServer("hydra.test"), RemoteServer("other.test")
        network = Network(hydra, other)
        client = FederationClient(
            server_name=US,
            signing_key=make_key("ours"),
            wire=network,
            availability=AlwaysAvailable(),
            metrics=ClientMetrics(),
        )
        calls, clock = FederationCalls(client), Clock()
        return cls(
            hydra,
            other,
            network,
            calls,
            clock,
            FederatedProfiles(calls=calls, clock=clock),
            FederatedDirectories(calls=calls, clock=clock),
            FederatedSummaries(reactor, server_name=US, calls=calls),
        )

    async def house(self, database: Database) -> House:
        """With rooms."""
        return await House.open(
            database,
            remote=AliasesElsewhere(self.calls),
            remote_directories=self.directories,
            remote_summaries=self.summaries,
        )


def summary(room_id: str, **fields: Any) -> dict[str, Any]:
    """What a server says of a public room."""
    return {
        "room_id": room_id,
        "num_joined_members": 2,
        "world_readable": False,
        "guest_can_join": False,
        "join_rule": "public",
        "room_version": "11",
        **fields,
    }


def child(room_id: str, *via: str, **content: Any) -> dict[str, Any]:
    """A space's child in stripped form."""
    return {
        "type": "m.space.child",
        "state_key": room_id,
        "sender": "@alice:hydra.test",
        "origin_server_ts": 1,
        "content": {"via": list(via) or ["hydra.test"], **content},
    }


def tell(server: RemoteServer, trees: Mapping[str, Mapping[str, Any]]) -> None:
    """Let a server answer for hierarchies by room id; it knows of no other."""

    def answer(request: Received) -> Any:
        room_id = request.parameters["room"]
        if room_id not in trees:
            return _not_found()
        return {"children": [], "inaccessible_children": [], **trees[room_id]}

    server.on("GET", V1 + "/hierarchy/{room}", answer)


def tree(room_id: str, children: Sequence[Any] = (), **fields: Any) -> dict[str, Any]:
    """A space with those `m.space.child` events."""
    return {"room": summary(room_id, room_type="m.space", children_state=list(children), **fields)}


def _not_found() -> NoReturn:
    raise Refused(404, "M_NOT_FOUND")
