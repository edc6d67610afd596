# SPDX-License-Identifier: Apache-2.0
"""Presence (client-server API, "Presence"): what users do, what they learn, and the rhythm of it.

What keeps a thousand online users cheap: a device's request is noted in memory and nothing else, and only a change of
state is news; who may know of whom is a set operation on rooms in memory (`sharing`); processes tell each other in
batches (`peers`), and wake who waits in batches (`publication`), each at its own pace.

How a person is changes for all processes in one order: as what was told of them is heard (`stream/ephemeral.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from homeserver.errors import Forbidden, InvalidParam
from homeserver.needs import Protocol
from homeserver.presence.board import Board
from homeserver.presence.messages import decode
from homeserver.presence.peers import Others, Peers
from homeserver.presence.person import STATES, UNSEEN, Device, Names, Person, Shown, State, View, content
from homeserver.presence.publication import PresenceElsewhere, Publication, restore
from homeserver.presence.sharing import Sharing
from homeserver.stream.ephemeral import EphemeralClock
from homeserver.stream.listeners import Listeners
from storage.presence import PresenceStore, SeenUser

logger = logging.getLogger(__name__)

CHANNEL = "presence_reports"
"""Named otherwise whenever its form changes: during a reload, processes of the release before are there too."""
TICK = 5.0
"""Seconds between looks at everybody: who is gone, who is idle."""
FIRST_WAIT = 0.2
"""Seconds from the first news to its publication, for what comes with it."""
SEEN_AGAIN = 1_000
"""Milliseconds within which nothing is new of a device that asks again."""
KEEP_EVERY = 60_000
FORGET_AFTER = 3_600_000
"""Milliseconds that an offline user is remembered, so that clients that come back are told they went."""
MAX_STATUS = 500
REPEAT_ELSEWHERE = 1_500_000
"""Milliseconds after which other servers are told again of a user who is about, since they take silence for absence."""
SAID_AGAIN = 60_000
"""Milliseconds after which processes tell each other again of a user of another server of whom nothing changed."""
REMOTE_GONE_AFTER = 2_100_000
"""Milliseconds of silence until a user of another server counts as gone."""
MOST_REMOTE = 50_000
"""Users of other servers remembered, some 1,800 bytes each."""


Notify = Callable[[str, Sequence[str]], Awaitable[object]]
"""`notify(channel, payloads)`: tells all processes, this one too."""


class Scheduler(Protocol):
    """The reactor's part that is needed here."""

    def callLater(self, delay: float, fn: Callable[..., object], /, *args: object) -> Any: ...  # noqa: N802


class RoomOfUser(Protocol):
    @property
    def room(self) -> int: ...


class RoomsOfUser(Protocol):
    async def joined(self, user_id: str) -> Sequence[RoomOfUser]: ...


class RemotePresence(NamedTuple):
    """How a user of another server is. `last_active_ago` in milliseconds."""

    user_id: str
    state: State
    status_msg: str | None
    last_active_ago: int | None


class Presence:
    """One per process. Unless `enabled` nothing is kept or told, and everybody is offline."""

    def __init__(
        self,
        *,
        enabled: bool,
        origin: str,
        board: Board,
        sharing: Sharing,
        store: PresenceStore,
        user_rooms: RoomsOfUser,
        listeners: Listeners,
        elsewhere: PresenceElsewhere,
        notify: Notify,
        others: Others,
        scheduler: Scheduler,
        clock: EphemeralClock,
        now: Callable[[], int],
        most_remote: int = MOST_REMOTE,
    ) -> None:
        """`sharing` must be subscribed to the stream, and `heard` be called with what the channel says.

        `origin` names this process; `now` gives the time in milliseconds; `most_remote` users of other servers are
        remembered.
        """
        self._enabled = enabled
        self._most_remote = most_remote
        self._board = board
        self._sharing = sharing
        self._clock = clock
        self._peers = Peers(
            origin=origin,
            board=board,
            notify=lambda payloads: notify(CHANNEL, payloads),
            others=others,
            propose=clock.propose,
            now=now,
        )
        self._publication = Publication(
            board=board,
            sharing=sharing,
            store=store,
            listeners=listeners,
            elsewhere=elsewhere,
            peers=self._peers,
            serial=clock.next,
            now=now,
        )
        self._store = store
        self._user_rooms = user_rooms
        self._listeners = listeners
        self._scheduler = scheduler
        self._now = now
        self._unkept: dict[str, Person] = {}
        self._kept_at = now()
        self._flush_call: Any = None
        self._tick_call: Any = None
        self._flushing = False

    # Life.

    async def start(self) -> None:
        """Begin. Whoever was online before a restart is taken for it until they would be gone."""
        if not self._enabled:
            return
        now = self._now()
        self._tick_call = self._scheduler.callLater(TICK, self._tick)
        for kept in await self._store.online():
            person = self._board.person(kept.user_id)
            restore(person, kept)
            person.devices[None] = Device(now, "online")
            self._sharing.track(kept.user_id)
            self._look_at(person)
        await self._peers.greet()

    async def stop(self) -> None:
        """End, and keep what is to outlive this process."""
        for call in (self._tick_call, self._flush_call):
            if call is not None and call.active():
                call.cancel()
        self._tick_call = self._flush_call = None
        await self._keep()

    # What users do.

    def seen(self, user_id: str, device_id: str | None, set_presence: str) -> None:
        """A device asks for news and wants to be shown so (`set_presence` of `/sync`)."""
        if not self._enabled:
            return
        now = self._now()
        person = self._board.person(user_id)
        device = person.devices.get(device_id)
        if device is not None and device.wanted == set_presence and now - device.seen < SEEN_AGAIN:
            return
        wanted: State = next((state for state in STATES if state == set_presence), "online")
        if wanted != "offline" and person.connected(now) == "offline":
            if person.elsewhere(self._peers.origin) != "offline":
                person.last_active = max(person.last_active, person.last_active_anywhere)
            else:
                # They come back: what they chose before they went does not hold any more, and to come is to be active.
                person.last_active = now
                if person.chosen.manual is not None:
                    person.choose(person.chosen.status_msg, None, now)
        person.devices[device_id] = Device(now, wanted)
        if self._sharing.track(user_id):
            self._flush_soon()
        self._look_at(person)

    def active(self, user_id: str) -> None:
        """The user did something that others notice."""
        person = self._board.get(user_id) if self._enabled else None
        if person is None or (not person.devices and person.elsewhere(self._peers.origin) == "offline"):
            return
        person.last_active = self._now()
        if person.chosen.manual == "unavailable":
            person.choose(person.chosen.status_msg, None, person.last_active)
        if person.published.state != "online":
            self._look_at(person)

    async def put(
        self,
        user_id: str,
        target: str,
        device_id: str | None,
        state: str,
        status_msg: str | None,
        *,
        keep_status: bool = False,
    ) -> None:
        """Set one's presence. Raises Forbidden, InvalidParam.

        `target`: whose it is, which must be the user. `keep_status`: leave the status message as it is. What is set
        holds while the user is connected: `online` until idle, `unavailable` until they do something, `offline` until
        they were gone and come back.
        """
        if target != user_id:
            raise Forbidden("You can only set your own presence")
        chosen: State | None = next((each for each in STATES if each == state), None)
        if chosen is None:
            raise InvalidParam(f"presence must be one of {', '.join(STATES)}")
        if status_msg is not None and (len(status_msg) > MAX_STATUS or "\0" in status_msg):
            raise InvalidParam(f"status_msg must be at most {MAX_STATUS} characters, none of them NUL")
        if not self._enabled:
            return
        person = self._board.person(user_id)
        if not person.chosen.set_at:
            kept = (await self._store.get([user_id])).get(user_id)
            person = self._board.person(user_id)  # who has no device yet may have been forgotten meanwhile
            if kept is not None:
                restore(person, kept)
        status = person.chosen.status_msg if keep_status else status_msg or None
        if status != person.chosen.status_msg:
            await self._store.set_status(user_id, status, self._now())
            person = self._board.person(user_id)
        now = self._now()
        person.choose(status, None if chosen == "online" else chosen, now)
        person.last_active = now
        person.devices[device_id] = Device(now, "online")
        if self._sharing.track(user_id):
            self._flush_soon()
        self._look_at(person)
        await self._peers.tell()  # whoever asks another process next is told so

    def profile_changed(self, user_id: str, names: Mapping[str, str | None]) -> None:
        """The user has another display name or avatar: presence tells of it too ("Events on change of profile")."""
        person = self._board.get(user_id) if self._enabled else None
        if person is not None:
            changed_at = max(self._now(), person.report.names.set_at + 1)
            person.own_names = Names(names.get("displayname"), names.get("avatar_url"), changed_at)
            self._look_at(person)

    async def depart(self, user_id: str, *, erase: bool) -> None:
        """The account was closed: nothing is kept in any case."""
        person = self._board.get(user_id)
        if person is not None:
            person.devices.clear()
            person.choose(None, None, self._now())
            self._look_at(person)
            await self._peers.tell()  # or the others would show for ever what was said of them last
            self._forget(person)
        self._unkept.pop(user_id, None)
        await self._store.delete(user_id)

    # What other servers tell.

    async def receive(self, told: Sequence[RemotePresence]) -> None:
        """How users of other servers are, as those say. Of users who share no room with one of ours nothing is kept."""
        if not self._enabled:
            return
        strangers = [each.user_id for each in told if self._board.get(each.user_id) is None]
        neighbours = await self._store.joined_rooms(strangers) if strangers else {}
        now = self._now()
        for each in told:
            if self._board.get(each.user_id) is None and (
                each.user_id not in neighbours or each.state == "offline"
            ):
                continue
            person = self._board.person(each.user_id)
            if not person.remote:
                continue
            before = person.chosen
            if (
                not self._peers.alone
                and (each.state, each.status_msg) == (before.manual, before.status_msg)
                and now - before.set_at < SAID_AGAIN
            ):
                continue
            person.choose(each.status_msg, each.state, now)
            active = now - max(0, each.last_active_ago) if each.last_active_ago is not None else 0
            person.last_active = max(0, active)
            person.said = View(each.state, person.last_active)
            self._sharing.track(each.user_id)
            self._peers.say(person)
            self._publication.note(person)
        self._make_room_for_remote()
        self._flush_soon()

    def _look_at_remote(self, person: Person, now: int) -> None:
        """A server that says nothing more of a user is taken to be gone, and they with it."""
        chosen = person.chosen
        if chosen.manual != "offline" and now - chosen.set_at >= REMOTE_GONE_AFTER:
            person.choose(chosen.status_msg, "offline", chosen.set_at)
        if person.is_unsaid(self._peers.origin):
            self._peers.say(person)
            self._publication.note(person)
        sharing = self._sharing
        told_nobody = not sharing.rooms(person.user_id) and not sharing.is_outdated(person.user_id)
        if told_nobody or (person.published.state == "offline" and now - chosen.set_at > FORGET_AFTER):
            self._forget(person)

    def _make_room_for_remote(self) -> None:
        """Bound how many are remembered: those go first of whom was heard the longest ago."""
        excess = self._board.remote_count - self._most_remote
        if excess > 0:
            remote = sorted((p for p in self._board if p.remote), key=lambda p: p.chosen.set_at)
            for person in remote[: excess + self._most_remote // 10]:
                self._forget(person)

    def _forget(self, person: Person) -> None:
        self._board.forget(person.user_id)
        self._sharing.untrack(person.user_id)
        self._publication.drop(person.user_id)
        self._peers.drop(person.user_id)

    @property
    def remembered_elsewhere(self) -> int:
        """Users of other servers who are remembered."""
        return self._board.remote_count

    # What users learn.

    def changed(self, user_id: str, since_ms: int, position: int | None = None) -> Sequence[dict[str, Any]]:
        """`m.presence` events published since a serial of those who share a room with the user, and of those who are
        about and share one since a position of the stream.
        """
        return self._board.events(user_id, since_ms, position) if self._enabled else ()

    def is_known(self, user_id: str, since_ms: int, *, moved: bool) -> bool:
        """Whether memory tells that. `moved`: whether rooms may have been joined since."""
        return not self._enabled or (
            not (moved and self._sharing.outdated) and self._board.is_known(user_id, since_ms)
        )

    async def learn(self) -> None:
        """Return once memory tells it. All who ask share two queries."""
        await self._publication.learn_rooms()
        if self._publication.pending:
            self._flush_soon()

    async def get(self, user_id: str, target: str) -> dict[str, Any]:
        """A user's presence as of now. Raises Forbidden for who shares no room with them."""
        if target != user_id:
            theirs = {standing.room for standing in await self._user_rooms.joined(target)}
            if not any(standing.room in theirs for standing in await self._user_rooms.joined(user_id)):
                raise Forbidden("You are not allowed to see their presence")
        if not self._enabled:
            return {"presence": "offline"}
        person = self._board.get(target)
        if person is not None:
            return content(person.expected(self._peers.origin), person.last_active_anywhere, self._now())
        kept = (await self._store.get([target])).get(target)
        if kept is None:
            return {"presence": "offline"}
        return content(Shown("offline", kept.status_msg), kept.last_active_ts, self._now())

    async def heard(self, payload: str) -> None:
        """A notification of the channel."""
        if not self._enabled:
            return
        message = decode(payload)
        serial = self._clock.apply(message.at)
        persons, wanted = self._peers.read(message, serial)
        for person in persons:
            self._sharing.track(person.user_id)
            if self._board.publish(person, serial):
                if message.origin == self._peers.origin:
                    self._publication.happened_here(person)
                else:
                    self._publication.note(person)
        self._make_room_for_remote()
        if self._publication.pending:
            self._flush_soon()
        if wanted:
            await self._peers.answer()

    async def missed(self) -> None:
        """Notifications of the channel may have got lost: have the others say again what they said."""
        if self._enabled:
            await self._peers.greet()

    # The rhythm.

    def _look_at(self, person: Person) -> None:
        """Something of a person may have changed."""
        view = person.view(self._now())
        if view != (person.said or UNSEEN):
            person.said = view
            self._unkept[person.user_id] = person
        if person.is_unsaid(self._peers.origin):
            self._peers.say(person)
        if person.expected(self._peers.origin) != person.published:
            self._publication.happened_here(person)
            self._flush_soon()

    def _flush_soon(self) -> None:
        if self._flush_call is None and self._tick_call is not None and not self._flushing:
            wait = max(FIRST_WAIT, (self._publication.not_before - self._now()) / 1000)
            self._flush_call = self._scheduler.callLater(wait, self._flush)

    def _flush(self) -> None:
        self._flush_call = None
        self._flushing = True

        async def publish() -> None:
            await self._publication.publish()
            await self._peers.tell()

        def done(result: object) -> None:
            self._flushing = False
            if isinstance(result, Failure):
                logger.error("presence could not be published", exc_info=result.value)
                self._publication.pause()
            if self._publication.pending:
                self._flush_soon()

        Deferred.fromCoroutine(publish()).addBoth(done)

    def _tick(self) -> None:
        now = self._now()
        self._tick_call = self._scheduler.callLater(TICK, self._tick)
        waiting = self._listeners.users
        for person in list(self._board):
            if person.remote:
                self._look_at_remote(person, now)
                continue
            if person.user_id in waiting:
                person.keep_alive(now)
            self._look_at(person)
            if person.devices and now - person.told_elsewhere_at >= REPEAT_ELSEWHERE:
                self._publication.happened_here(person)
            gone_since = now - max(person.published_at, person.last_active_anywhere)
            if not person.devices and person.published.state == "offline" and gone_since > FORGET_AFTER:
                self._forget(person)
        if self._publication.pending:
            self._flush_soon()
        Deferred.fromCoroutine(self._keep_house(now)).addErrback(
            lambda failure: logger.error("presence could not be kept", exc_info=failure.value)
        )

    async def _keep_house(self, now: int) -> None:
        if now - self._kept_at >= KEEP_EVERY:
            self._kept_at = now
            await self._keep()
        await self._peers.bury()
        await self._peers.tell_all()

    async def _keep(self) -> None:
        unkept, self._unkept = self._unkept, {}
        if unkept:
            await self._store.put(
                SeenUser(
                    person.user_id,
                    person.last_active,
                    person.expected(self._peers.origin).state != "offline",
                )
                for person in unkept.values()
            )
