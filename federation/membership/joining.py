# SPDX-License-Identifier: Apache-2.0
"""Joining rooms by way of other servers: make_join, send_join, and what the answer is worth.

Server-server API, "Joining Rooms", "Restricted rooms". Owns the handshake with one server after the other, that a room
is entered once however many users ask for it, and that nothing of an answer is believed unchecked; what a room makes of
it is `homeserver.rooms.arrival`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred

from federation.client.answers import JoinAnswer, MembershipTemplate
from federation.client.errors import BadAnswer
from federation.inbound.reading import Read
from federation.membership.asking import candidates, first_to_help
from federation.membership.progress import JoinProgress
from federation.membership.templates import AUTHORISER, Templates
from homeserver.errors import IncompatibleRoomVersion
from homeserver.needs import Protocol
from homeserver.protocol.building import BuiltEvent
from homeserver.protocol.errors import UnsupportedRoomVersionError
from homeserver.protocol.identifiers import is_valid_server_name
from homeserver.protocol.room_versions import ROOM_VERSIONS, RoomVersion, room_version
from homeserver.rooms.arrival import ArrivalRefused, Partial
from homeserver.rooms.engine import Room
from homeserver.rooms.intake.incoming import Incoming
from homeserver.rooms.refusals import unknown_room

logger = logging.getLogger(__name__)

MOST_SERVERS_IN_ROOM = 5_000
"""Names in a short answer that are believed: what is said here goes to them until the members are known, and whoever
let us in may have made them up. A room of more servers loses nothing but time: those left out hear of what was said by
what is said next, and by the others."""


class JoinCalls(Protocol):
    """The part of `FederationCalls` that is needed."""

    async def make_membership(
        self, destination: str, kind: Any, room_id: str, user_id: str, *, versions: Sequence[str] = ()
    ) -> MembershipTemplate: ...

    async def send_join(
        self,
        destination: str,
        room_id: str,
        event_id: str,
        pdu: Mapping[str, Any],
        *,
        omit_members: bool = False,
    ) -> JoinAnswer: ...


class Reader(Protocol):
    """Reads PDUs; `federation.inbound.reading.PduReader` is one."""

    async def read(
        self, version: RoomVersion, pdus: Sequence[Mapping[str, Any]], *, room_id: str | None = None
    ) -> list[Read]: ...


class Arriving(Protocol):
    """Makes rooms live; `RoomArrival` is one."""

    async def is_live(self, room_id: str) -> bool: ...

    async def arrive(
        self,
        room_id: str,
        version: RoomVersion,
        event: Incoming,
        state: Sequence[Incoming],
        auth_chain: Sequence[Incoming],
        *,
        partial: Partial | None = None,
        progress: Callable[[int], None] = ...,
    ) -> Room: ...


class Elsewhere(Protocol):
    """The joins of all processes; `JoinsElsewhere` is one."""

    async def tell(self, room_id: str, version: RoomVersion, handshake: object) -> None: ...
    def end(self, room_id: str, handshake: object) -> None: ...
    def under_way(self, room_id: str) -> Deferred[Any] | None: ...
    def version(self, room_id: str) -> RoomVersion | None: ...


class RemoteJoining:
    """One per process."""

    def __init__(
        self,
        *,
        calls: JoinCalls,
        reader: Reader,
        arrival: Arriving,
        templates: Templates,
        elsewhere: Elsewhere,
        server_name: str,
        acquaint: Callable[[str], Awaitable[object]],
        clock: Callable[[], float],
        entered: Callable[[str, int], None],
        entered_in_part: Callable[[], None],
    ) -> None:
        """`acquaint` has a server's keys fetched, ahead of need; `clock` gives seconds; `entered` hears of users of
        ours who came in, with the key of the room, and `entered_in_part` that there is one to be filled.
        """
        self._calls = calls
        self._reader = reader
        self._arrival = arrival
        self._templates = templates
        self._elsewhere = elsewhere
        self._server_name = server_name
        self._acquaint = acquaint
        self._clock = clock
        self._entered = entered
        self._entered_in_part = entered_in_part
        self._under_way: dict[str, JoinProgress] = {}

    def under_way(self, room_id: str) -> Awaitable[object] | None:
        """Something to wait for until whatever other servers were asked to let us in for has ended, well or not,
        whichever process asked; None if nothing is under way. What is only being drafted lets nobody in.
        """
        return self._elsewhere.under_way(room_id)

    def version(self, room_id: str) -> RoomVersion | None:
        """The version of such a room, by what was said of it."""
        return self._elsewhere.version(room_id)

    def progress(self) -> Iterable[JoinProgress]:
        """The joins under way."""
        return tuple(self._under_way.values())

    async def join(
        self, user_id: str, room_id: str, *, servers: Sequence[str], content: Mapping[str, Any]
    ) -> str | None:
        """As `RemoteRooms.join`. Who comes while another join of the room is under way here waits for that one."""
        under_way = self._under_way.get(room_id)
        if under_way is not None:
            await under_way.ended()
            return None
        progress = self._under_way[room_id] = JoinProgress(room_id, self._clock)
        outcome = "failed"
        try:
            event_id = await first_to_help(
                f"joining {room_id}",
                candidates(self._server_name, servers),
                lambda server: self._join_via(server, user_id, room_id, content, progress),
                nobody=unknown_room(room_id),
            )
            outcome = "joined"
        finally:
            del self._under_way[room_id]
            progress.end(outcome)
            self._elsewhere.end(room_id, progress)
        return event_id

    async def _join_via(
        self, server: str, user_id: str, room_id: str, content: Mapping[str, Any], progress: JoinProgress
    ) -> str:
        progress.enter("asking", server)
        # Its keys will be needed for what it answers, and at once for what it sends when it has let us in.
        Deferred.fromCoroutine(_awaited(self._acquaint(server))).addErrback(
            lambda failure: logger.info("the keys of %s: %s", server, failure.value)
        )
        template = await self._calls.make_membership(
            server, "join", room_id, user_id, versions=list(ROOM_VERSIONS)
        )
        version = spoken_version(template)
        join = self._templates.rebuild(
            server, template, version, room_id=room_id, user_id=user_id, content=content
        )
        progress.enter("sending", f"the join to {server}")
        # Into a room that is live the join goes as an event of its own, on the whole state before it.
        omit_members = not await self._arrival.is_live(room_id)
        if omit_members:
            # Whoever lets us in sends what follows before its answer is here, perhaps to another process.
            await self._elsewhere.tell(room_id, version, progress)
        answer = await self._calls.send_join(
            server, room_id, join.event.event_id, join.event.pdu, omit_members=omit_members
        )
        await self._enter(server, version, join, answer, progress)
        return join.event.event_id

    async def _enter(
        self,
        server: str,
        version: RoomVersion,
        join: BuiltEvent,
        answer: JoinAnswer,
        progress: JoinProgress,
    ) -> None:
        room_id = progress.room_id
        partial = _partial(server, answer)
        progress.enter(
            "reading",
            f"{len(answer.state)} events of state and {len(answer.auth_chain)} they stand on"
            + ("" if partial is None else ", members left out"),
        )
        event = await self._signed_join(server, room_id, version, join, answer.event)
        state, auth_chain = await self._read(room_id, version, answer)
        progress.expect(len(state) + len(auth_chain))
        progress.enter("storing", f"up to {progress.total} events")
        try:
            room = await self._arrival.arrive(
                room_id, version, event, state, auth_chain, partial=partial, progress=progress.store
            )
        except ArrivalRefused as refusal:
            raise BadAnswer(server, f"not a room to be in: {refusal}") from refusal
        self._entered(join.event.sender, room.key)
        if partial is not None:
            self._entered_in_part()

    async def _signed_join(
        self,
        server: str,
        room_id: str,
        version: RoomVersion,
        join: BuiltEvent,
        returned: Mapping[str, Any] | None,
    ) -> Incoming:
        """Our join, with the signature of whoever vouches for it.

        Where nobody has to, what was built here is good as it is; whatever signatures came with it are not needed.
        """
        ours = Incoming(join.event, join.json_bytes.decode())
        if AUTHORISER not in join.event.content:
            return ours
        if returned is None or _unsigned(returned) != _unsigned(join.event.pdu):
            raise BadAnswer(server, "the join came back as another event, or not at all")
        signatures = returned.get("signatures")
        theirs = signatures.get(server) if type(signatures) is dict else None
        signed = {**join.event.pdu, "signatures": {**join.event.pdu["signatures"], server: theirs}}
        (read,) = await self._reader.read(version, [signed], room_id=room_id)
        if read.incoming is None or read.event_id != join.event.event_id:
            raise BadAnswer(server, f"the join that came back is not signed: {read.refusal}")
        return read.incoming

    async def _read(
        self, room_id: str, version: RoomVersion, answer: JoinAnswer
    ) -> tuple[list[Incoming], list[Incoming]]:
        """State and auth chain without what is no good event of the room; each event is verified once."""
        chain_pdus = not_among(answer.auth_chain, answer.state)
        reads = await self._reader.read(version, [*answer.state, *chain_pdus], room_id=room_id)
        refused = [read for read in reads if read.incoming is None]
        for read in refused[:10]:
            logger.warning("joining %s: %s is refused: %s", room_id, read.event_id, read.refusal)
        if len(refused) > 10:
            logger.warning("joining %s: %d events are refused", room_id, len(refused))
        state = [read.incoming for read in reads[: len(answer.state)] if read.incoming is not None]
        chain = [read.incoming for read in reads[len(answer.state) :] if read.incoming is not None]
        return state, chain


async def _awaited(work: Awaitable[object]) -> None:
    await work


def spoken_version(template: MembershipTemplate) -> RoomVersion:
    """The version of a template's room. Raises IncompatibleRoomVersion."""
    try:
        return room_version(template.room_version)
    except UnsupportedRoomVersionError as error:
        raise IncompatibleRoomVersion(
            template.room_version[:255], "This server does not speak the room's version"
        ) from error


def _partial(server: str, answer: JoinAnswer) -> Partial | None:
    if not answer.members_omitted:
        return None
    servers = [name for name in answer.servers_in_room or () if is_valid_server_name(name)]
    return Partial(server, list(dict.fromkeys([server, *servers]))[:MOST_SERVERS_IN_ROOM])


def not_among(pdus: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Those of the PDUs that are not also among the others: many servers give the state twice."""
    known = {_digest(pdu): pdu for pdu in others}
    return [pdu for pdu in pdus if known.get(_digest(pdu)) != pdu]


def _digest(pdu: Mapping[str, Any]) -> str:
    hashes = pdu.get("hashes")
    digest = hashes.get("sha256") if type(hashes) is dict else None
    return digest if type(digest) is str else ""


def _unsigned(pdu: Mapping[str, Any]) -> dict[str, Any]:
    """All of an event but what others add to it."""
    return {key: value for key, value in pdu.items() if key not in ("signatures", "unsigned")}
