# SPDX-License-Identifier: Apache-2.0
"""The intake's door: events from outside into rooms, whatever way they came.

What goes in was checked for form, signatures and hash. Each call says of every event what became of it; an event that
is refused is no error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from homeserver.errors import NotFound
from homeserver.needs import Protocol
from homeserver.protocol.events import Event
from homeserver.protocol.policy_servers import needs_recommendation
from homeserver.protocol.room_versions import RoomVersion
from homeserver.protocol.visibility import HistoryVisibility
from homeserver.rooms.engine import Plan, Room, RoomEngine, RoomHead
from homeserver.rooms.engine.recommending import signed_form
from homeserver.rooms.engine.working import MissingEvents, WorkingRoom
from homeserver.rooms.intake.ground import Ground
from homeserver.rooms.intake.history import HistoryDeed
from homeserver.rooms.intake.incoming import Incoming, Outcome, Verdict
from homeserver.rooms.intake.knowledge import Knowledge, Lacking, States
from homeserver.rooms.intake.receiving import Receiving, Unasked
from homeserver.rooms.intake.recommending import ask_policy_servers
from homeserver.rooms.intake.resolving import MOST_CONTESTED
from homeserver.rooms.intake.restoring import Restoring
from storage.events import EventStore
from storage.received import ReceivedStore

PORTION = 50
"""Events received in one commit."""
MAX_HISTORY = 500
"""Events of the past in one call; they are placed together."""
PATIENCE = 6
"""Rounds of loading after which a portion is cut where it lacks something: beginning again and again costs more."""
MAX_ASKED = 10
"""Attempts at a portion between which a policy server is asked: two, but for one that is slow or replaced meanwhile."""
MAX_LOADS = 1000
"""Rounds of loading for one portion: a bound for what cannot happen."""


class Prepared(Struct, frozen=True):
    """An event of ours that is not written."""

    event: Event
    json: str
    """Its PDU as canonical JSON, signed by this server."""


class NotAsked(Exception):
    """Events cannot be judged before a policy server was asked about them. Nothing was written."""

    def __init__(self, unasked: Sequence[Unasked]) -> None:
        super().__init__(f"{len(unasked)} events are without a policy server's signature")
        self.unasked = unasked


class Judged(Protocol):
    """What was found of an event that is stored without its place."""

    @property
    def rejected(self) -> bool: ...


class Outliers(Protocol):
    """Stores events without their place; `rooms.arrival.outliers.Outliers` is one."""

    async def take_in(
        self,
        room: int,
        room_id: str,
        version: RoomVersion,
        events: Sequence[Incoming],
        *,
        visibility: int,
    ) -> Mapping[str, Judged]: ...


class RoomStubs(Protocol):
    """Keys of rooms of which nothing but the id need be known; `storage.arrivals.ArrivalStore` is one."""

    async def stub(self, room_id: str, version: str) -> int: ...


class RoomIntake:
    """One per process."""

    def __init__(
        self,
        *,
        engine: RoomEngine,
        events: EventStore,
        received: ReceivedStore,
        states: States,
        outliers: Outliers,
        stubs: RoomStubs,
    ) -> None:
        """`states` must be subscribed to the stream."""
        self._engine = engine
        self._events = events
        self._received = received
        self._states = states
        self._outliers = outliers
        self._stubs = stubs
        self._restoring = Restoring(cache=engine.cache, committer=engine.committer, events=events)

    async def standing(self, event_ids: Sequence[str]) -> dict[str, int]:
        """Flags of those of the events that are stored (`storage.events`), by id."""
        found = await self._received.named(list(event_ids))
        return {event_id: named.flags for event_id, named in found.items()}

    async def receive(
        self,
        room_id: str,
        events: Sequence[Incoming],
        *,
        outbound: bool = False,
        users: Sequence[str] = (),
    ) -> list[Verdict]:
        """Take events into a live room, in this order (what others build on first); their verdicts in the same order.

        Each is authorized by what it cites, by the state before it and by the present state; answered when durable.
        `outbound`: this server must spread them. `users`: whose member events will be needed. Raises NotFound for a
        room that is not known.
        """
        verdicts: list[Verdict] = []
        for start in range(0, len(events), PORTION):
            portion = events[start : start + PORTION]
            while portion:
                done, portion = await self._take_in(room_id, portion, outbound=outbound, users=users)
                verdicts.extend(done)
        await self._restore(room_id, events, verdicts)
        return verdicts

    async def _take_in(
        self, room_id: str, portion: Sequence[Incoming], *, outbound: bool, users: Sequence[str]
    ) -> tuple[list[Verdict], Sequence[Incoming]]:
        """Verdicts on the first of the events, and the others. A policy server is asked between two attempts, while
        others write the room.
        """
        for _ in range(MAX_ASKED):
            work = _Reception(self, portion, outbound=outbound)
            try:
                done: list[Verdict] = await self._engine.do(room_id, work, users=users)
            except NotAsked as lacking:
                portion = await ask_policy_servers(self._engine.policy_servers, portion, lacking.unasked)
            else:
                return done, portion[len(done) :]
        raise TimeoutError(
            f"the policy servers of {room_id} were asked {MAX_ASKED} times about {len(portion)} events"
        )

    async def receive_outliers(
        self, room_id: str, version: RoomVersion, events: Sequence[Incoming]
    ) -> list[Verdict]:
        """Store state events whose place in the room is not known, in any order: parts of auth chains and of states.

        Each is checked against the events that it cites, which must be stored or among them. The room need not be
        known.
        """
        cache = self._engine.cache
        room = await cache.get(room_id)
        key = await self._stubs.stub(room_id, str(version)) if room is None else room.key
        setting = HistoryVisibility.SHARED if room is None else room.head.history_visibility
        before = await self.standing([incoming.event.event_id for incoming in events])
        stand = await self._outliers.take_in(key, room_id, version, events, visibility=int(setting))
        cache.mark_stale(room_id)
        verdicts = [_outlier_verdict(incoming.event, before, stand) for incoming in events]
        await self._restore(room_id, events, verdicts)
        return verdicts

    async def receive_history(self, room_id: str, events: Sequence[Incoming]) -> list[Verdict]:
        """Place events of the past, at most `MAX_HISTORY`, in any order; their verdicts in the same order.

        Neither extremities nor the present state move, and nobody is told. The state before each is that after its
        previous events; or the one given with it; or, for a message, the one before its only child. Where none can be
        had the event is MISSING what comes before it. Raises NotFound.
        """
        if len(events) > MAX_HISTORY:
            raise ValueError(f"more than {MAX_HISTORY} events of the past at once")
        verdicts: dict[str, Verdict] = {}
        left: Sequence[Incoming] = events
        while left:
            deed = HistoryDeed(
                room_id,
                left,
                cache=self._engine.cache,
                member_events=self._engine.member_events,
                received=self._received,
                learn=self.knowledge,
                own_server=self._engine.server_name,
            )
            verdicts.update(await self._engine.do_alone(room_id, deed))
            left = deed.left
        found = [verdicts[incoming.event.event_id] for incoming in events]
        await self._restore(room_id, events, found)
        return found

    async def _restore(self, room_id: str, events: Sequence[Incoming], verdicts: Sequence[Verdict]) -> None:
        """What was stored before may be stored without its content (`restoring`)."""
        pairs = zip(events, verdicts, strict=True)
        again = [event for event, verdict in pairs if verdict.again or verdict.outcome is Outcome.KNOWN]
        if again:
            await self._restoring.restore(room_id, again)

    async def prepare(
        self, room_id: str, plan: Plan, users: Sequence[str] = (), *, recommended: bool = False
    ) -> Prepared:
        """The event of the plan's last draft, built, authorized and signed on the room's newest head; not written.

        `recommended`: signed by the room's policy server, too, as an event must be before anybody outside sees it.
        Raises what the plan raises, AuthError, EventFormatError, NotFound, then what `PolicyServers.sign` raises.
        """
        room = await self._engine.cache.get(room_id)
        if room is None:
            raise NotFound("Unknown room")
        head, members = room.head, self._engine.member_events
        wanted = {m.ordinal for m in map(head.members.get, users) if m is not None}
        loaded = {e.stored.ordinal: e for e in await members.load(room.key, room_id, head.version, wanted)}
        while True:
            working = self._engine.working(head, loaded.values())
            try:
                entries = [working.append(draft) for draft in plan(working.head)]
            except MissingEvents as missing:
                if loaded.keys() >= set(missing.ordinals):
                    raise AssertionError(
                        f"{missing.ordinals} of {room_id} are named but not stored"
                    ) from missing
                found = await members.load(room.key, room_id, head.version, missing.ordinals)
                loaded.update((entry.stored.ordinal, entry) for entry in found)
                if not loaded.keys() >= set(missing.ordinals):
                    raise AssertionError(
                        f"{missing.ordinals} of {room_id} are named but not stored"
                    ) from missing
            else:
                prepared = Prepared(entries[-1].event, entries[-1].stored.pdu)
                return await self._recommended(head, prepared) if recommended else prepared

    async def _recommended(self, head: RoomHead, prepared: Prepared) -> Prepared:
        policy_server, event = head.policy_server, prepared.event
        if policy_server is None or not needs_recommendation(event.type, event.state_key):
            return prepared
        signature = await self._engine.policy_servers.sign(policy_server, event)
        return Prepared(*signed_form(event, policy_server, signature))

    # For the works.

    def knowledge(self, head: RoomHead) -> Knowledge:
        """Of the room at a head, nothing known yet."""
        return Knowledge(head, events=self._events, received=self._received, states=self._states)

    def ground(self, room: Room, working: WorkingRoom, knowledge: Knowledge) -> Ground:
        known = (*room.head.state.values(), *room.recent)
        return Ground(working.moving, knowledge, self._engine.member_events, known)

    @property
    def generation(self) -> int:
        """Of the states that are known (`States.generation`)."""
        return self._states.generation

    def remember(self, room: Room, working: WorkingRoom, generation: int) -> None:
        """A batch stands: the states it made of what was known in that generation are stored."""
        self._states.put(room.key, working.moving.states.values(), generation)


class _Reception:
    """One portion on its way through the room's writer."""

    def __init__(self, intake: RoomIntake, events: Sequence[Incoming], *, outbound: bool) -> None:
        self._intake = intake
        self._events = events
        self._outbound = outbound
        self._head: RoomHead | None = None
        self._knowledge: Knowledge | None = None
        self._generation = 0
        """When `_knowledge` began."""
        self._loads = 0

    @property
    def weight(self) -> int:
        return len(self._events)

    def run(self, room: Room, working: WorkingRoom) -> list[Verdict]:
        """Verdicts on the first of the events, at least one."""
        if self._knowledge is None or self._head is not room.head:
            self._head, self._knowledge = room.head, self._intake.knowledge(room.head)
            self._generation = self._intake.generation
        ground = self._intake.ground(room, working, self._knowledge)
        self._ask_ahead(ground)
        receiving = Receiving(ground, working.own_server, outbound=self._outbound)
        verdicts: list[Verdict] = []
        for incoming in self._events:
            if verdicts and ground.contested >= MOST_CONTESTED:
                break
            mark = working.moving.mark() if verdicts and self._loads >= PATIENCE else None
            try:
                verdicts.append(receiving.receive(incoming))
            except Lacking:
                if mark is None:
                    raise
                working.moving.roll_back(mark)
                break
        if receiving.unasked:
            raise NotAsked(receiving.unasked)
        return verdicts

    def _ask_ahead(self, ground: Ground) -> None:
        """Have what will be asked of every event loaded together."""
        ends = {event_id for event_id, _ in ground.head.extremities}
        for incoming in self._events:
            event = incoming.event
            for event_id in (event.event_id, *event.auth_event_ids, *event.prev_event_ids):
                ground.event(event_id, (event.sender,))
            ground.knowledge.awaiting(event.event_id)
        if len(ends) > 1 or not ends.issuperset(self._events[0].event.prev_event_ids):
            for event_id in ends:
                ground.event(event_id)
        ground.check()

    async def load(self) -> None:
        self._loads += 1
        if self._knowledge is None or self._loads > MAX_LOADS:
            raise RuntimeError("no end of loading")
        await self._knowledge.load()

    def landed(self, room: Room, working: WorkingRoom) -> None:
        self._intake.remember(room, working, self._generation)


def _outlier_verdict(event: Event, before: Mapping[str, int], stand: Mapping[str, Judged]) -> Verdict:
    judged = stand.get(event.event_id)
    if judged is None:
        missing = tuple(event_id for event_id in event.auth_event_ids if event_id not in stand)
        if not missing:
            return Verdict(event.event_id, Outcome.REJECTED, "the event cannot stand without its place")
        return Verdict(event.event_id, Outcome.MISSING, missing_auth=missing)
    if event.event_id in before:
        return Verdict(event.event_id, Outcome.KNOWN)
    if judged.rejected:
        return Verdict(event.event_id, Outcome.REJECTED, "not allowed by the events it cites")
    return Verdict(event.event_id, Outcome.ACCEPTED)
